//! What an operator can set about the sockets. Names and defaults are SPIRE's where SPIRE has them.

use std::collections::BTreeSet;
use std::time::Duration;

/// The settings of one socket.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// Whether `SpiffeWorkloadAPI` is served.
    pub workload_api: bool,
    /// Whether Envoy's secret discovery is served, and how.
    pub sds: Option<SdsOptions>,
    /// Gives the own bundle to callers that have no identity.
    pub allow_unauthenticated_verifiers: bool,
    /// The claims of a foreign JWT-SVID that are told, beside `sub`, `aud` and `exp`.
    pub allowed_foreign_jwt_claims: BTreeSet<String>,
    /// How long an open stream lives on one attestation: what a caller was when it connected is no
    /// proof of what it is now.
    pub reattest_every: Duration,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            workload_api: true,
            sds: Some(SdsOptions::default()),
            allow_unauthenticated_verifiers: false,
            allowed_foreign_jwt_claims: BTreeSet::new(),
            reattest_every: Duration::from_secs(60),
        }
    }
}

/// What Envoy calls things.
#[derive(Clone, Debug)]
pub struct SdsOptions {
    /// The name of the caller's first identity.
    pub default_svid_name: String,
    /// The name of the own bundle.
    pub default_bundle_name: String,
    /// The name of all bundles in one validation context.
    pub default_all_bundles_name: String,
    /// Sends plain authorities instead of a validator that knows SPIFFE. Envoy's node metadata may
    /// overrule it either way.
    pub disable_spiffe_cert_validation: bool,
}

impl Default for SdsOptions {
    fn default() -> Self {
        Self {
            default_svid_name: "default".to_owned(),
            default_bundle_name: "ROOTCA".to_owned(),
            default_all_bundles_name: "ALL".to_owned(),
            disable_spiffe_cert_validation: false,
        }
    }
}
