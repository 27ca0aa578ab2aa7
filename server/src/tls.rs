//! TLS of the port for agents: 1.3 alone, no tickets, our own SVID, and clients that may show one.
//!
//! A client without a certificate may attest and read our bundle; the gate sees to that. A client
//! with one is checked in the handshake against the bundle that the index shows then, so that a
//! revoked authority counts for nobody who connects after.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use identity::bundle::Bundle;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::x509::{Purpose, VerifyError, X509Svid, verify_named_peer_der, verify_peer_der};
use runtime::clock::Clock;
use runtime::dial::{self, Judge};
use runtime::listen::{TlsConfigSource, harden, tls13};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use tracing::{error, warn};

use crate::index::Index;

/// Makes the TLS configuration of the port. The certificate follows `svid`.
pub(crate) fn server_config(
    svid: watch::Receiver<Arc<X509Svid>>,
    clients: Clients,
) -> Result<TlsConfigSource, Error> {
    let provider = aws_lc_rs::default_provider();
    let verifier = Verifier { clients, provider };
    let resolver = Resolver::new(svid);
    let mut config = tls13()?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(resolver));
    harden(&mut config);
    let config = Arc::new(config);
    Ok(Arc::new(move || Arc::clone(&config)))
}

/// Whose certificates are taken.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    pub(crate) trust_domain: TrustDomain,
    /// Administrators, who may be of a trust domain that we have a bundle of.
    pub(crate) admin_ids: BTreeSet<SpiffeId>,
    pub(crate) index: Index,
    pub(crate) clock: Clock,
}

/// Why a client's certificate is not taken.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Invalid(#[from] VerifyError),
    #[error("`{0}` is neither of our trust domain nor one of `admin_ids`")]
    Foreign(SpiffeId),
}

impl Refused {
    fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(error) => error.reason(),
            Self::Foreign(_) => "foreign",
        }
    }
}

impl Clients {
    fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<SpiffeId, Refused> {
        let snapshot = self.index.snapshot();
        let bundle_of = |trust_domain: &TrustDomain| {
            let known = *trust_domain == self.trust_domain
                || self
                    .admin_ids
                    .iter()
                    .any(|id| id.is_member_of(trust_domain));
            let stored = snapshot.bundles.get(trust_domain).filter(|_| known);
            stored.map(|stored| &stored.value as &Bundle)
        };
        let id = verify_peer_der(chain, Purpose::ClientAuth, bundle_of, self.clock.now())?;
        if id.is_member_of(&self.trust_domain) || self.admin_ids.contains(&id) {
            Ok(id)
        } else {
            Err(Refused::Foreign(id))
        }
    }
}

/// Judges a server that is to have this SPIFFE ID, by the bundle of its trust domain.
#[derive(Debug)]
pub(crate) struct NamedPeer {
    pub(crate) expected: SpiffeId,
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) clock: Clock,
}

impl Judge for NamedPeer {
    fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<(), Error> {
        let (purpose, now) = (Purpose::ServerAuth, self.clock.now());
        verify_named_peer_der(chain, purpose, &self.bundle, &self.expected, now)
            .map_err(dial::refused)
    }
}

#[derive(Debug)]
struct Verifier {
    clients: Clients,
    provider: CryptoProvider,
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Authorities share their subjects, so a hint would help nobody.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain: Vec<_> = std::iter::once(end_entity)
            .chain(intermediates)
            .cloned()
            .collect();
        match self.clients.verify(&chain) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(refused) => {
                warn!(
                    error = runtime::report::chain(&refused),
                    error.reason = refused.reason(),
                    "Refused a client certificate"
                );
                Err(dial::refused(refused))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // TLS 1.2 is not offered.
        Err(Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Shows the newest SVID of this server. Its key is made ready once for each SVID.
pub(crate) struct Resolver {
    svid: watch::Receiver<Arc<X509Svid>>,
    made: ArcSwapOption<(Arc<X509Svid>, Arc<CertifiedKey>)>,
}

impl Resolver {
    pub(crate) fn new(svid: watch::Receiver<Arc<X509Svid>>) -> Self {
        Self {
            svid,
            made: ArcSwapOption::empty(),
        }
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let svid = Arc::clone(&self.svid.borrow());
        if let Some(made) = &*self.made.load()
            && Arc::ptr_eq(&made.0, &svid)
        {
            return Some(Arc::clone(&made.1));
        }
        match certified(&svid) {
            Ok(key) => {
                let key = Arc::new(key);
                self.made.store(Some(Arc::new((svid, Arc::clone(&key)))));
                Some(key)
            }
            Err(cause) => {
                error!(error = %cause, "Could not use the SVID of the server");
                None
            }
        }
    }
}

fn certified(svid: &X509Svid) -> Result<CertifiedKey, Error> {
    let (chain, der) = svid.to_tls();
    let key = aws_lc_rs::sign::any_supported_type(&der)?;
    Ok(CertifiedKey::new(chain, key))
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}
