//! Which of our authorities the old server lacks.

use identity::bundle::X509Authority;
use identity::x509::Certificate;
use proto::spire::server::bundle::AppendBundleRequest;
use proto::spire::server::bundle::bundle_client::BundleClient;
use proto::spire::types::{Bundle, JwtKey, X509Certificate};
use tonic::transport::Channel;

use super::state::Authorities;
use crate::failure::Failure;
use crate::rpc;

/// Authorities of ours that the old server's bundle lacks.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// By name.
    x509: Vec<(String, X509Certificate)>,
    jwt: Vec<JwtKey>,
}

impl Missing {
    /// Lets them join the bundle of the old server.
    pub(super) async fn append_to(self, theirs: &Channel) -> Result<(), Failure> {
        let request = AppendBundleRequest {
            x509_authorities: self.x509.into_iter().map(|(_, x509)| x509).collect(),
            jwt_authorities: self.jwt,
            ..AppendBundleRequest::default()
        };
        let mut client = BundleClient::new(theirs.clone());
        let answer = client.append_bundle(request).await;
        answer.map_err(|status| rpc::failed(&status).context("the old server's bundle"))?;
        Ok(())
    }

    pub(super) fn names(&self) -> Vec<String> {
        let x509 = self.x509.iter().map(|(name, _)| format!("X.509 {name}"));
        let jwt = self.jwt.iter().map(|key| format!("JWT {}", key.key_id));
        x509.chain(jwt).collect()
    }
}

/// What of our bundle the old server lacks and we sign with. What else is in ours came from there, and may
/// have been revoked there since.
pub(super) fn missing(ours: &Bundle, theirs: &Bundle, signs: &Authorities) -> Missing {
    let (x509, jwt) = unknown(ours, theirs);
    Missing {
        x509: x509
            .filter(|(name, _)| signs.x509.contains(name))
            .map(|(name, authority)| (name, authority.clone()))
            .collect(),
        jwt: jwt
            .filter(|key| signs.jwt.contains(&key.key_id))
            .cloned()
            .collect(),
    }
}

/// The names of those that neither we sign with nor the old server has any more.
pub(super) fn strangers(ours: &Bundle, theirs: &Bundle, signs: &Authorities) -> Vec<String> {
    let (x509, jwt) = unknown(ours, theirs);
    let x509 = x509.map(|(name, _)| name);
    let x509 = x509.filter(|name| !signs.x509.contains(name));
    let jwt = jwt.map(|key| key.key_id.clone());
    let jwt = jwt.filter(|id| !signs.jwt.contains(id));
    let x509 = x509.map(|name| format!("X.509 {name}"));
    x509.chain(jwt.map(|id| format!("JWT {id}"))).collect()
}

/// The authorities of our bundle that the other one has not; those for X.509 by name.
fn unknown<'a>(
    ours: &'a Bundle,
    theirs: &'a Bundle,
) -> (
    impl Iterator<Item = (String, &'a X509Certificate)>,
    impl Iterator<Item = &'a JwtKey>,
) {
    let has = |der: &[u8]| {
        theirs
            .x509_authorities
            .iter()
            .any(|known| known.asn1 == der)
    };
    let x509 = ours.x509_authorities.iter();
    let x509 = x509.filter(move |authority| !has(&authority.asn1));
    let has = |id: &str| {
        theirs
            .jwt_authorities
            .iter()
            .any(|known| known.key_id == id)
    };
    let jwt = ours.jwt_authorities.iter();
    (
        x509.map(|authority| (authority_name(authority), authority)),
        jwt.filter(move |key| !has(&key.key_id)),
    )
}

fn authority_name(authority: &X509Certificate) -> String {
    let certificate = Certificate::parse(&authority.asn1);
    // Our own server sends none that cannot be read.
    certificate.map_or_else(
        |_unreadable| String::new(),
        |certificate| X509Authority::new(certificate).authority_id(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adv_what_was_revoked_there_is_not_given_back_to_the_old_server() {
        let key = |id: &str| JwtKey {
            key_id: id.to_owned(),
            ..JwtKey::default()
        };
        let ours = Bundle {
            jwt_authorities: vec![key("ours"), key("theirs"), key("revoked")],
            ..Bundle::default()
        };
        let theirs = Bundle {
            jwt_authorities: vec![key("theirs")],
            ..Bundle::default()
        };
        let signs = Authorities {
            x509: Vec::new(),
            jwt: vec!["ours".to_owned()],
            signing: Vec::new(),
        };
        assert_eq!(missing(&ours, &theirs, &signs).jwt, [key("ours")]);
        assert_eq!(strangers(&ours, &theirs, &signs), ["JWT revoked"]);
    }
}
