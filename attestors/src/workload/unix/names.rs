//! The names of users and groups, remembered for a moment.
//!
//! A name comes from files, or from a directory on the network, and costs more than all the rest that
//! is found out about a caller. What was asked a moment ago is not asked again.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::unistd::{Gid, Group, Uid, User};
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a name counts. A user who is renamed keeps the old one for so long.
const FRESH: Duration = Duration::from_secs(10);

/// So many names are remembered. A node has fewer users and groups that call.
const MAX_REMEMBERED: usize = 4096;

/// What has a name.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Id {
    User(u32),
    Group(u32),
}

/// The names of some ids. One that has none is there as `None`, or not at all.
pub(super) type Named = BTreeMap<Id, Option<String>>;

/// The names that were asked for lately.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<BTreeMap<Id, (Option<String>, Instant)>>);

impl Names {
    /// The names of all these, if all are remembered. Never waits for a directory.
    pub(super) fn remembered(&self, ids: &[Id]) -> Option<Named> {
        let now = Instant::now();
        let known = self.0.lock();
        ids.iter()
            .map(|id| {
                let (name, asked) = known.get(id)?;
                (now.duration_since(*asked) < FRESH).then(|| (*id, name.clone()))
            })
            .collect()
    }

    /// Asks for the names of all these. Blocks for as long as the directory takes.
    pub(super) fn ask(&self, ids: &[Id]) -> Named {
        // An id whose name cannot be had now gives no selector, and is asked for again next time.
        let answers = ids.iter().filter_map(|id| Some((*id, id.name().ok()?)));
        let named: Named = answers.collect();
        let now = Instant::now();
        let mut known = self.0.lock();
        if known.len() + named.len() > MAX_REMEMBERED {
            known.clear();
        }
        known.extend(named.iter().map(|(id, name)| (*id, (name.clone(), now))));
        named
    }
}

impl Id {
    fn name(self) -> nix::Result<Option<String>> {
        Ok(match self {
            Self::User(uid) => User::from_uid(Uid::from_raw(uid))?.map(|user| user.name),
            Self::Group(gid) => Group::from_gid(Gid::from_raw(gid))?.map(|group| group.name),
        })
    }
}
