//! The configuration file as it is written. Keys and their meaning are SPIRE's.

use std::path::PathBuf;

use runtime::config::{Body, HealthChecks, LogSettings, Telemetry};
use serde::Deserialize;

use super::limits::Limits;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct File {
    pub(super) agent: Option<Agent>,
    pub(super) plugins: Option<Body>,
    pub(super) telemetry: Telemetry,
    pub(super) health_checks: HealthChecks,
    pub(super) signet: Signet,
}

/// Our own keys. SPIRE's file has no such block.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Signet {
    pub(super) socket_aliases: Vec<String>,
    pub(super) server_addresses: Vec<String>,
    pub(super) sealed_cache: Option<bool>,
    pub(super) limits: Limits,
    pub(super) sandbox: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Agent {
    pub(super) data_dir: Option<PathBuf>,
    pub(super) trust_domain: Option<String>,
    pub(super) server_address: Option<String>,
    pub(super) server_port: Option<i64>,
    pub(super) socket_path: Option<PathBuf>,
    pub(super) insecure_bootstrap: Option<bool>,
    pub(super) trust_bundle_path: Option<PathBuf>,
    pub(super) trust_bundle_url: Option<String>,
    pub(super) trust_bundle_format: Option<String>,
    pub(super) rebootstrap_mode: Option<String>,
    pub(super) rebootstrap_delay: Option<String>,
    pub(super) join_token: Option<String>,
    pub(super) join_token_file: Option<PathBuf>,
    pub(super) workload_x509_svid_key_type: Option<String>,
    pub(super) availability_target: Option<String>,
    pub(super) x509_svid_cache_max_size: Option<i64>,
    pub(super) jwt_svid_cache_max_size: Option<i64>,
    pub(super) sds: Sds,
    pub(super) allow_unauthenticated_verifiers: Option<bool>,
    pub(super) allowed_foreign_jwt_claims: Vec<String>,
    pub(super) disable_workload_api: Option<bool>,
    pub(super) disable_sds_api: Option<bool>,
    pub(super) log_level: Option<String>,
    pub(super) log_format: Option<String>,
    pub(super) log_file: Option<PathBuf>,
    pub(super) log_source_location: Option<bool>,
    pub(super) log_selectors: Vec<String>,
    pub(super) experimental: Experimental,
    pub(super) admin_socket_path: Option<PathBuf>,
    pub(super) authorized_delegates: Vec<String>,
    pub(super) trust_bundle_unix_socket: Option<PathBuf>,
    pub(super) trust_bundle_spiffe_workload_api: Option<String>,
    // SPIRE's profiler has no counterpart here; its settings change nothing that is promised.
    pub(super) profiling_enabled: Option<bool>,
    pub(super) profiling_port: Option<Body>,
    pub(super) profiling_freq: Option<Body>,
    pub(super) profiling_names: Option<Body>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Sds {
    pub(super) default_svid_name: Option<String>,
    pub(super) default_bundle_name: Option<String>,
    pub(super) default_all_bundles_name: Option<String>,
    pub(super) disable_spiffe_cert_validation: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Experimental {
    pub(super) sync_interval: Option<String>,
    pub(super) jwt_svid_cache_hit_timeout: Option<String>,
    pub(super) use_sync_authorized_entries: Option<bool>,
    pub(super) require_pq_kem: Option<bool>,
    pub(super) ratelimit: Option<Body>,
    pub(super) broker: Option<Body>,
    pub(super) named_pipe_name: Option<Body>,
    pub(super) admin_named_pipe_name: Option<Body>,
    pub(super) feature_flags: Vec<String>,
}

impl Agent {
    pub(super) fn log(&self) -> LogSettings {
        LogSettings {
            level: self.log_level.clone(),
            format: self.log_format.clone(),
            file: self.log_file.clone(),
            source_location: self.log_source_location,
        }
    }
}
