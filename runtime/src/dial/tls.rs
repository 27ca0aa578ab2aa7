//! TLS of connections that we make: 1.3 alone, no resumption, and a judge of the other end.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// The certificates that we show, leaf first, and the key of the leaf.
pub type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Decides by its certificates whether the other end is the one that is meant.
pub trait Judge: fmt::Debug + Send + Sync {
    /// Judges a chain, leaf first, which nobody has looked at before. That the other end has the key of the
    /// leaf is checked after it. See [`refused`].
    fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error>;
}

/// What a judge says of an other end that is not the one.
pub fn refused(why: impl Error + Send + Sync + 'static) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

/// Finds what a judge said in what the library made of it.
pub(super) fn refusal_in(error: &io::Error) -> Option<&Arc<dyn Error + Send + Sync>> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => Some(&other.0),
        _ => None,
    }
}

/// The configuration of connections to whom `judge` takes, which show `shown`.
///
/// No resumption: a resumed session would outlive what its first handshake was judged by.
pub fn client_config(
    provider: CryptoProvider,
    judge: impl Judge + 'static,
    shown: Option<Shown>,
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(provider);
    let verifier = Verifier {
        judge,
        provider: Arc::clone(&provider),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match shown {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[derive(Debug)]
struct Verifier<J> {
    judge: J,
    provider: Arc<CryptoProvider>,
}

impl<J: Judge> ServerCertVerifier for Verifier<J> {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain: Vec<_> = std::iter::once(leaf).chain(rest).cloned().collect();
        self.judge.judge(&chain)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
