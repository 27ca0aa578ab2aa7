//! The server at the other end is the server of the trust domain, and nobody else.

use std::sync::Arc;

use identity::bundle::Bundle;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::x509::{
    Certificate, CertificateError, LeafError, NotThePeer, Purpose, VerifyError, check_peer_leaf,
    verify_named_peer_der,
};
use runtime::clock::Clock;
use runtime::dial::{Judge, refused};
use rustls_pki_types::CertificateDer;

use crate::credentials::Credentials;

/// What the agent checks its server against.
#[derive(Clone, Debug)]
pub(super) enum Anchor {
    /// The bundle as it is at the time of the handshake.
    Live(Arc<Credentials>),
    /// The bundle of the first attestation.
    Fixed(Arc<Bundle>),
    /// Nothing: insecure bootstrap.
    Nothing,
}

/// Why the other end is not the server.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum NotTheServer {
    #[error("its certificate is not signed by an authority of the trust bundle")]
    UnknownAuthority(#[source] VerifyError),
    #[error("its certificate is refused")]
    Refused(#[source] VerifyError),
    #[error("its certificate cannot be read")]
    Certificate(#[source] CertificateError),
    #[error("its certificate has no usable SPIFFE ID")]
    Leaf(#[source] LeafError),
    #[error(transparent)]
    OtherId(NotThePeer),
}

impl From<NotThePeer> for NotTheServer {
    fn from(error: NotThePeer) -> Self {
        match error {
            NotThePeer::Invalid(error @ VerifyError::Path(_)) if error.reason() == "no_path" => {
                Self::UnknownAuthority(error)
            }
            NotThePeer::Invalid(error) => Self::Refused(error),
            error => Self::OtherId(error),
        }
    }
}

/// Judges the server's certificate during the handshake.
#[derive(Debug)]
pub(super) struct OurServer {
    pub(super) trust_domain: TrustDomain,
    pub(super) anchor: Anchor,
    pub(super) clock: Clock,
}

impl OurServer {
    fn check(&self, chain: &[CertificateDer<'_>]) -> Result<(), NotTheServer> {
        match &self.anchor {
            Anchor::Live(credentials) => self.verify(chain, &credentials.trust()),
            Anchor::Fixed(bundle) => self.verify(chain, bundle),
            Anchor::Nothing => self.check_name(chain),
        }
    }

    fn verify(&self, chain: &[CertificateDer<'_>], bundle: &Bundle) -> Result<(), NotTheServer> {
        let expected = SpiffeId::server(&self.trust_domain);
        let (purpose, now) = (Purpose::ServerAuth, self.clock.now());
        Ok(verify_named_peer_der(
            chain, purpose, bundle, &expected, now,
        )?)
    }

    fn check_name(&self, chain: &[CertificateDer<'_>]) -> Result<(), NotTheServer> {
        let leaf = chain
            .first()
            .ok_or(NotTheServer::Refused(VerifyError::Empty))?;
        let leaf = Certificate::parse(leaf).map_err(NotTheServer::Certificate)?;
        let found = check_peer_leaf(&leaf).map_err(NotTheServer::Leaf)?;
        let expected = SpiffeId::server(&self.trust_domain);
        if found == expected {
            return Ok(());
        }
        Err(NotTheServer::OtherId(NotThePeer::OtherId {
            found,
            expected,
        }))
    }
}

impl Judge for OurServer {
    fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        self.check(chain).map_err(refused)
    }
}
