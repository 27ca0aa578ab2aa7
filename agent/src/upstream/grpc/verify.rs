//! The server at the other end is the server of the trust domain, and nobody else.

use std::error::Error;
use std::io;
use std::sync::Arc;

use identity::bundle::Bundle;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::x509::{
    Certificate, CertificateError, LeafError, Purpose, VerifyError, check_peer_leaf,
    verify_peer_der,
};
use runtime::clock::Clock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::{DigitallySignedStruct, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

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
    #[error("it is `{found}`, not `{expected}`")]
    OtherId { found: SpiffeId, expected: SpiffeId },
}

impl NotTheServer {
    /// Finds it in what the TLS library made of it.
    pub(super) fn find(error: &io::Error) -> Option<&Self> {
        let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = tls else {
            return None;
        };
        other.0.downcast_ref()
    }
}

/// Checks the server's certificate during the handshake.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) trust_domain: TrustDomain,
    pub(super) anchor: Anchor,
    pub(super) clock: Clock,
    pub(super) provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
    ) -> Result<(), NotTheServer> {
        let found = match &self.anchor {
            Anchor::Live(credentials) => self.verify_chain(leaf, rest, &credentials.trust())?,
            Anchor::Fixed(bundle) => self.verify_chain(leaf, rest, bundle)?,
            Anchor::Nothing => {
                let leaf = Certificate::parse(leaf).map_err(NotTheServer::Certificate)?;
                check_peer_leaf(&leaf).map_err(NotTheServer::Leaf)?
            }
        };
        let expected = SpiffeId::server(&self.trust_domain);
        if found == expected {
            Ok(())
        } else {
            Err(NotTheServer::OtherId { found, expected })
        }
    }

    // X509-SVID 5.1: the path ends at an authority of the trust domain that the leaf claims.
    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        bundle: &Bundle,
    ) -> Result<SpiffeId, NotTheServer> {
        let chain: Vec<_> = std::iter::once(leaf).chain(rest).cloned().collect();
        let bundle_of =
            |trust_domain: &TrustDomain| (*trust_domain == self.trust_domain).then_some(bundle);
        verify_peer_der(&chain, Purpose::ServerAuth, bundle_of, self.clock.now()).map_err(|error| {
            match error {
                VerifyError::Path(_) if error.reason() == "no_path" => {
                    NotTheServer::UnknownAuthority(error)
                }
                error => NotTheServer::Refused(error),
            }
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates).map_err(|error| {
            let error: Arc<dyn Error + Send + Sync> = Arc::new(error);
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(OtherError(error)))
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
