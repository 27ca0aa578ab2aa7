//! TLS of our listeners: 1.3 only, HTTP/2 only, no resumption.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::server::NoServerSessionStorage;
use rustls::{ConfigBuilder, ServerConfig, WantsVerifier};
use rustls_pki_types::CertificateDer;

/// The ALPN name of HTTP/2.
pub(super) const H2: &[u8] = b"h2";

/// Who is at the other end of a TLS connection. In requests' extensions as `Arc<TlsPeer>`.
#[derive(Clone, Debug)]
pub struct TlsPeer {
    /// The client's chain, leaf first, as the verifier of the configuration passed it; empty if the
    /// client has shown none.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Where it connects from.
    pub addr: SocketAddr,
}

/// Begins a server configuration with TLS 1.3 and aws-lc-rs. The caller adds who may connect, and
/// the certificates, and passes the result through [`harden`].
pub fn tls13() -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])
}

/// Allows HTTP/2 alone, and no resumption: a resumed session would outlive the certificate, the
/// bundle and the ban that its first handshake was checked against.
pub fn harden(config: &mut ServerConfig) {
    config.alpn_protocols = vec![H2.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
}
