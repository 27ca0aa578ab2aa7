//! The file as written: every key that SPIRE knows, and our own block.

use std::path::PathBuf;

use runtime::config::{Body, HealthChecks, LogSettings, Telemetry};
use serde::Deserialize;

use super::federation::Federation;
use super::oidc::OidcDiscovery;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct File {
    pub(super) server: Option<Server>,
    pub(super) plugins: Option<Body>,
    pub(super) telemetry: Telemetry,
    pub(super) health_checks: HealthChecks,
    pub(super) signet: Signet,
}

/// Our own keys. SPIRE's file has no such block.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Signet {
    pub(super) store: Option<String>,
    pub(super) http_challenge_networks: Vec<String>,
    pub(super) oidc_discovery: Option<OidcDiscovery>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Server {
    pub(super) admin_ids: Vec<String>,
    pub(super) agent_ttl: Option<String>,
    pub(super) audit_log_enabled: Option<bool>,
    pub(super) bind_address: Option<String>,
    pub(super) bind_port: Option<i64>,
    pub(super) ca_key_type: Option<String>,
    pub(super) ca_subject: Option<CaSubject>,
    pub(super) ca_ttl: Option<String>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) default_x509_svid_ttl: Option<String>,
    pub(super) default_jwt_svid_ttl: Option<String>,
    pub(super) disable_jwt_svids: Option<bool>,
    pub(super) jwt_issuer: Option<String>,
    pub(super) jwt_key_type: Option<String>,
    pub(super) log_file: Option<PathBuf>,
    pub(super) log_level: Option<String>,
    pub(super) log_format: Option<String>,
    pub(super) log_source_location: Option<bool>,
    pub(super) prune_attested_nodes_expired_for: Option<String>,
    pub(super) prune_attested_nodes_batch_size: Option<i64>,
    pub(super) prune_tofu_nodes: Option<bool>,
    pub(super) socket_path: Option<PathBuf>,
    pub(super) trust_domain: Option<String>,
    pub(super) experimental: Experimental,
    pub(super) federation: Option<Federation>,
    // Known, and not built.
    pub(super) proxy_protocol_trusted_cidrs: Vec<String>,
    pub(super) ratelimit: Option<RateLimit>,
    // Known, and without effect.
    pub(super) max_attested_node_info_staleness: Option<String>,
    // SPIRE's profiler has no counterpart here.
    pub(super) profiling_enabled: Option<bool>,
    pub(super) profiling_port: Option<Body>,
    pub(super) profiling_freq: Option<Body>,
    pub(super) profiling_names: Option<Body>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CaSubject {
    pub(super) country: Vec<String>,
    pub(super) organization: Vec<String>,
    pub(super) common_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RateLimit {
    pub(super) attestation: Option<bool>,
    pub(super) signing: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Experimental {
    pub(super) agent_spiffe_id_as_selector: Option<bool>,
    // Known, and not built.
    pub(super) auth_opa_policy_engine: Option<Body>,
    pub(super) require_pq_kem: Option<bool>,
    pub(super) wit_key_type: Option<String>,
    pub(super) wit_issuer: Option<String>,
    pub(super) feature_flags: Vec<String>,
    pub(super) named_pipe_name: Option<String>,
    // Known, and without effect: the index here follows every commit.
    pub(super) cache_reload_interval: Option<String>,
    pub(super) full_cache_reload_interval: Option<String>,
    pub(super) events_based_cache: Option<bool>,
    pub(super) prune_events_older_than: Option<String>,
    pub(super) event_timeout: Option<String>,
    pub(super) sql_transaction_timeout: Option<String>,
}

impl Server {
    pub(super) fn log(&self) -> LogSettings {
        LogSettings {
            level: self.log_level.clone(),
            format: self.log_format.clone(),
            file: self.log_file.clone(),
            source_location: self.log_source_location,
        }
    }
}
