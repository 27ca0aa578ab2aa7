//! Whether the other end is this node's kubelet.

use runtime::clock::Clock;
use runtime::dial::{self, Judge};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::credentials::Material;

/// What the kubelet's certificate is checked against.
#[derive(Debug)]
pub(super) enum Trust {
    /// The cluster's authorities, or one of the certificates that lie on this node.
    These {
        authorities: RootCertStore,
        pinned: Vec<CertificateDer<'static>>,
        /// `None` where the operator has not said which node this is.
        name: Option<ServerName<'static>>,
    },
    /// Nothing: the operator wants it so.
    Anybody,
}

/// The configuration of connections that show `material`.
pub(super) fn client_config(
    material: Material,
    clock: Clock,
) -> Result<ClientConfig, rustls::Error> {
    let provider = aws_lc_rs::default_provider();
    let kubelet = Kubelet {
        trust: material.trust,
        clock,
        algorithms: provider.signature_verification_algorithms,
    };
    dial::client_config(provider, kubelet, material.own)
}

#[derive(Debug)]
struct Kubelet {
    trust: Trust,
    clock: Clock,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Judge for Kubelet {
    fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let Trust::These {
            authorities,
            pinned,
            name,
        } = &self.trust
        else {
            return Ok(());
        };
        let (leaf, rest) = chain
            .split_first()
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        // A file on this node says more than a name and a date: it is this very kubelet's.
        if pinned.iter().any(|certificate| certificate == leaf) {
            return Ok(());
        }
        let now = self.clock.now().duration_since(std::time::UNIX_EPOCH);
        let now = UnixTime::since_unix_epoch(now.unwrap_or_default());
        let leaf = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, authorities, rest, now, algorithms)?;
        match name {
            Some(name) => verify_server_name(&leaf, name),
            None => Ok(()),
        }
    }
}
