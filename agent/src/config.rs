//! What an operator can say about an agent: SPIRE's configuration file, read into what it means.
//!
//! What SPIRE knows and this agent does not build is refused by name: an operator who relies on it
//! must not find out later.

mod docker;
mod k8s;
mod limits;
mod node;
mod plugins;
mod raw;
mod read;
mod sockets;
#[cfg(test)]
mod tests;
mod trust;
mod unbuilt;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use identity::key::KeyAlgorithm;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use runtime::config::{Document, HealthConfig, HostPort, LoadError, LogSettings, Warning};
use runtime::log::LogConfig;

pub use self::k8s::K8sConfig;
pub use self::limits::Shares;
pub use self::plugins::{NodeAttestor, WorkloadAttestorConfig};
use crate::bootstrap::TrustSource;
use crate::custody::CustodyConfig;
use crate::rebootstrap::Rebootstrap;

/// Where SPIRE's agent keeps its data.
pub const DEFAULT_DATA_DIR: &str = ".";
/// Where SPIRE's agent opens its socket.
pub const DEFAULT_SOCKET_PATH: &str = "/tmp/spire-agent/public/api.sock";
/// SPIRE's interval between two synchronizations.
pub const DEFAULT_SYNC_INTERVAL: Duration = Duration::from_secs(5);
/// How many SVIDs of a kind SPIRE's agent keeps.
pub const DEFAULT_CACHE_SIZE: usize = 1000;

/// An agent's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub trust_domain: TrustDomain,
    pub server: ServerAddress,
    /// Where else a server of the trust domain is, in the order in which they are tried.
    pub more_servers: Vec<ServerAddress>,
    /// Whether the server is spoken to by post-quantum key exchanges alone.
    pub demands_pq: bool,
    /// The folder of `agent-data.json`.
    pub data_dir: PathBuf,
    pub custody: CustodyConfig,
    /// What is trusted before the first attestation.
    pub trust_source: TrustSource,
    /// When that is fetched again.
    pub rebootstrap: Rebootstrap,
    pub node_attestor: NodeAttestor,
    pub join_token: Option<TokenSource>,
    /// `None` opens no socket.
    pub socket: Option<SocketConfig>,
    /// `None` opens no admin socket.
    pub admin_socket: Option<PathBuf>,
    /// Who may be given the identities of others on the admin socket.
    pub delegates: BTreeSet<SpiffeId>,
    pub workload_attestors: Vec<WorkloadAttestorConfig>,
    pub cache: CacheConfig,
    /// Whether what is served is kept on disk over a restart. It never is while the agent's own key is in
    /// memory alone.
    pub sealed_cache: bool,
    /// Whether the process gives up what it does not need, where the kernel knows how.
    pub sandbox: bool,
    pub sync_interval: Duration,
    /// Prefixes of the selectors that may be logged.
    pub log_selectors: Vec<String>,
    pub log: LogConfig,
    pub health: Option<HealthConfig>,
    pub prometheus: Option<HostPort>,
}

/// Where the server is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerAddress {
    /// A name or an IP address, without brackets.
    pub host: String,
    pub port: u16,
}

/// Where a join token comes from. It is read when it is needed, so that a file may be gone once the
/// agent has its identity.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TokenSource {
    Value(attestors::node::join_token::Token),
    File(PathBuf),
}

/// The socket of the workloads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SocketConfig {
    pub path: PathBuf,
    /// Further names in the same folder.
    pub aliases: Vec<String>,
    pub workload_api: bool,
    /// `None` serves no secret discovery.
    pub sds: Option<SdsConfig>,
    pub allow_unauthenticated_verifiers: bool,
    pub allowed_foreign_jwt_claims: BTreeSet<String>,
    /// What each peer may have of it.
    pub shares: Shares,
}

/// What Envoy calls things.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SdsConfig {
    pub default_svid_name: String,
    pub default_bundle_name: String,
    pub default_all_bundles_name: String,
    pub disable_spiffe_cert_validation: bool,
}

/// What is kept for workloads, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CacheConfig {
    pub x509_svids: usize,
    pub jwt_svids: usize,
    pub key_algorithm: KeyAlgorithm,
    pub availability_target: Option<Duration>,
    /// How long a caller waits for a fresh JWT-SVID while a valid one is cached.
    pub jwt_hit_timeout: Option<Duration>,
}

/// What the command line says. It wins over the file, where it says something.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pub data_dir: Option<PathBuf>,
    pub join_token: Option<String>,
    pub join_token_file: Option<PathBuf>,
    pub log: LogSettings,
    pub server_address: Option<String>,
    pub server_port: Option<i64>,
    pub socket_path: Option<PathBuf>,
    pub trust_domain: Option<String>,
    pub trust_bundle_path: Option<PathBuf>,
    pub trust_bundle_url: Option<String>,
    pub trust_bundle_format: Option<String>,
    pub insecure_bootstrap: Option<bool>,
    pub rebootstrap_mode: Option<String>,
    pub rebootstrap_delay: Option<String>,
    pub allow_unauthenticated_verifiers: Option<bool>,
    pub disable_workload_api: Option<bool>,
    pub disable_sds_api: Option<bool>,
    /// Passes over keys that nobody knows, with a warning.
    pub allow_unknown_config: bool,
}

/// The environment, as `main` has read it: a setting may name a variable.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Config {
    /// Reads a document. All that is wrong with it is told at once.
    pub fn load(
        document: &Document,
        overrides: Overrides,
        variables: Variables<'_>,
    ) -> Result<(Self, Vec<Warning>), LoadError> {
        let (file, unknown) = runtime::config::decode::<raw::File>(document)?;
        Ok(read::read(file, unknown, overrides, variables)?)
    }
}
