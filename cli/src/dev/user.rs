//! Who calls: the user whom `signet dev` makes an entry for.

use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use nix::unistd::{Uid, User};

use crate::failure::Failure;

/// The SPIFFE ID of the calling user, and the selector that finds their processes.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) uid: u32,
}

impl Caller {
    pub(crate) fn of_this_process(trust_domain: &TrustDomain) -> Result<Self, Failure> {
        let uid = Uid::effective();
        // A user without a name, as in many containers, goes by the number.
        let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
        Self::named(trust_domain, uid.as_raw(), name.as_deref())
    }

    fn named(trust_domain: &TrustDomain, uid: u32, name: Option<&str>) -> Result<Self, Failure> {
        let segment = name.map_or_else(|| format!("uid-{uid}"), segment);
        let spiffe_id = SpiffeId::from_segments(trust_domain, ["user", &segment])
            .map_err(|error| Failure::chain(&error))?;
        Ok(Self { spiffe_id, uid })
    }
}

/// A user's name as a path segment (SPIFFE-ID 2.2: letters, digits, dots, dashes, underscores).
fn segment(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let segment: String = name
        .chars()
        .map(|c| if fits(c) { c } else { '_' })
        .collect();
    match segment.as_str() {
        // Dot segments are not allowed.
        "" | "." | ".." => format!("_{segment}"),
        _ => segment,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_users_name_makes_a_spiffe_id() {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        for (name, path) in [
            (Some("ivan"), "/user/ivan"),
            (Some("first last@corp"), "/user/first_last_corp"),
            (Some(".."), "/user/_.."),
            (Some(""), "/user/_"),
            (Some("jürgen"), "/user/j_rgen"),
            (None, "/user/uid-7"),
        ] {
            let caller = Caller::named(&trust_domain, 7, name).unwrap();
            assert_eq!(caller.spiffe_id.path(), path);
        }
    }
}
