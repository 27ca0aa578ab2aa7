//! What an operator can say about a server: SPIRE's configuration file, read into what it means.
//!
//! What SPIRE knows and this server does not build is refused by name: an operator who relies on it
//! must not find out later. What has no effect here, because nothing here needs it, is a warning.

mod federation;
mod k8s_psat;
mod oidc;
mod plugins;
mod provisioned;
mod publish;
mod raw;
mod read;
#[cfg(test)]
mod tests;
mod x509pop;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use attestors::node::k8s_psat::Cluster;
use attestors::node::x509pop::Options;
use attestors::node::{http_challenge, sshpop};
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use runtime::config::{Document, HealthConfig, HostPort, LoadError, LogSettings, Warning};
use runtime::log::LogConfig;

use crate::authority::{CaSubject, Composer, UpstreamConfig};
use crate::federation::Endpoint;
use crate::keys::KeyType;
use crate::publish::TargetConfig;
use crate::web::CertificateFiles;

/// SPIRE's address, port and socket.
pub const DEFAULT_BIND_ADDRESS: &str = "0.0.0.0";
pub const DEFAULT_BIND_PORT: u16 = 8081;
pub const DEFAULT_SOCKET_PATH: &str = "/tmp/spire-server/private/api.sock";
/// SPIRE's lifetimes.
pub const DEFAULT_CA_TTL: Duration = Duration::from_secs(24 * 60 * 60);
pub const DEFAULT_X509_SVID_TTL: Duration = Duration::from_secs(60 * 60);
pub const DEFAULT_JWT_SVID_TTL: Duration = Duration::from_secs(5 * 60);
/// How many expired agents SPIRE removes at a time.
pub const DEFAULT_PRUNE_BATCH: usize = 1000;

/// How often an idle agent hears of its server. It costs one small message.
pub const DEFAULT_FEED_KEEPALIVE: Duration = Duration::from_secs(30);

/// A bundle is small, and an endpoint that hangs holds up its own relationship alone.
const DEFAULT_FETCH_DEADLINE: Duration = Duration::from_secs(10);

/// A server's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub trust_domain: TrustDomain,
    pub data_dir: PathBuf,
    /// The port for agents and remote administrators.
    pub bind: HostPort,
    /// The admin socket.
    pub socket_path: PathBuf,
    pub store: StoreConfig,
    pub keys: KeysConfig,
    pub authority: AuthorityConfig,
    pub default_x509_svid_ttl: Duration,
    pub default_jwt_svid_ttl: Duration,
    pub agent_ttl: Duration,
    pub disable_jwt_svids: bool,
    /// SPIFFE IDs that may administer the server, also from federated trust domains.
    pub admin_ids: BTreeSet<SpiffeId>,
    pub audit_log_enabled: bool,
    pub rate_limits: RateLimits,
    /// Whether an agent's own SPIFFE ID is one of its selectors.
    pub agent_id_as_selector: bool,
    /// The Kubernetes clusters whose pods may attest by `k8s_psat`.
    pub k8s_clusters: Option<BTreeMap<String, Cluster>>,
    /// How nodes may attest by `x509pop`.
    pub x509pop: Option<Options>,
    /// How hosts may attest by `sshpop`.
    pub sshpop: Option<sshpop::Options>,
    /// How hosts may attest by `http_challenge`.
    pub http_challenge: Option<http_challenge::Options>,
    pub prune_agents: Option<PruneConfig>,
    /// An agent that follows the server is never left without a word for longer.
    pub feed_keepalive: Duration,
    pub log: LogConfig,
    pub health: Option<HealthConfig>,
    pub prometheus: Option<HostPort>,
    /// Where the trust bundle is put.
    pub publish: Vec<TargetConfig>,
    pub federation: FederationConfig,
    pub oidc: Option<OidcConfig>,
}

/// How trust bundles are exchanged with other trust domains.
#[derive(Clone, Debug)]
pub struct FederationConfig {
    pub bundle_endpoint: Option<BundleEndpointConfig>,
    /// These win over relationships made through the API.
    pub federates_with: BTreeMap<TrustDomain, Endpoint>,
    /// A file with the authorities that `https_web` endpoints are checked by, instead of the system's.
    pub web_roots: Option<PathBuf>,
    /// How long a fetch of a bundle may take.
    pub fetch_deadline: Duration,
}

/// Our own bundle endpoint.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BundleEndpointConfig {
    pub address: HostPort,
    /// How often others are to ask.
    pub refresh_hint: Duration,
    pub serving: ServingConfig,
}

/// How it shows that it is the right one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ServingConfig {
    /// By the X509-SVID of the server.
    HttpsSpiffe,
    /// By a certificate that somebody else keeps in files.
    HttpsWeb(CertificateFiles),
}

/// OpenID Connect discovery by the server itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OidcConfig {
    pub address: HostPort,
    /// The names that it may be asked by, in lower case.
    pub domains: BTreeSet<String>,
    pub certificate: CertificateFiles,
}

impl Default for FederationConfig {
    fn default() -> Self {
        Self {
            bundle_endpoint: None,
            federates_with: BTreeMap::new(),
            web_roots: None,
            fetch_deadline: DEFAULT_FETCH_DEADLINE,
        }
    }
}

/// Where records are kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StoreConfig {
    /// In a file below `data_dir`.
    Embedded,
    /// Nowhere: they are gone with the process.
    Memory,
}

/// Where the private keys of the authorities are kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeysConfig {
    Disk { path: PathBuf },
    Memory,
}

/// What the authorities are like.
#[derive(Clone, Debug)]
pub struct AuthorityConfig {
    pub ca_ttl: Duration,
    pub ca_key_type: KeyType,
    pub jwt_key_type: KeyType,
    pub ca_subject: CaSubject,
    pub jwt_issuer: Option<String>,
    /// Whose key signs the X.509 authorities; they sign themselves where there is none.
    pub upstream: Option<UpstreamConfig>,
    /// What SVIDs say beside what their entries say.
    pub composer: Option<Composer>,
}

/// What is limited, as SPIRE's block `ratelimit` has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RateLimits {
    /// Attestations from one address.
    pub attestation: bool,
    /// Signatures for one caller.
    pub signing: bool,
}

/// When the records of agents that expired are removed. Banned agents never are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PruneConfig {
    pub expired_for: Duration,
    pub batch: usize,
    /// Whether those too that cannot attest again.
    pub non_reattestable: bool,
}

/// What the command line says. It wins over the file, where it says something.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pub bind_address: Option<String>,
    pub server_port: Option<i64>,
    pub data_dir: Option<PathBuf>,
    pub socket_path: Option<PathBuf>,
    pub trust_domain: Option<String>,
    pub log: LogSettings,
    /// A file with the authorities of the Web PKI, instead of the system's.
    pub web_roots: Option<PathBuf>,
    /// Passes over keys that nobody knows, with a warning.
    pub allow_unknown_config: bool,
}

impl Config {
    /// SPIRE's defaults, with the embedded store and keys on disk, both in `data_dir`.
    pub fn new(trust_domain: TrustDomain, data_dir: PathBuf) -> Self {
        let keys = KeysConfig::Disk {
            path: data_dir.join("keys.json"),
        };
        Self {
            trust_domain,
            data_dir,
            bind: HostPort {
                host: DEFAULT_BIND_ADDRESS.to_owned(),
                port: DEFAULT_BIND_PORT,
            },
            socket_path: PathBuf::from(DEFAULT_SOCKET_PATH),
            store: StoreConfig::Embedded,
            keys,
            authority: AuthorityConfig::default(),
            default_x509_svid_ttl: DEFAULT_X509_SVID_TTL,
            default_jwt_svid_ttl: DEFAULT_JWT_SVID_TTL,
            agent_ttl: DEFAULT_X509_SVID_TTL,
            disable_jwt_svids: false,
            admin_ids: BTreeSet::new(),
            audit_log_enabled: true,
            rate_limits: RateLimits {
                attestation: true,
                signing: true,
            },
            agent_id_as_selector: false,
            k8s_clusters: None,
            x509pop: None,
            sshpop: None,
            http_challenge: None,
            prune_agents: None,
            feed_keepalive: DEFAULT_FEED_KEEPALIVE,
            log: LogConfig::default(),
            health: None,
            prometheus: None,
            publish: Vec::new(),
            federation: FederationConfig::default(),
            oidc: None,
        }
    }

    /// Reads a document. All that is wrong with it is told at once.
    pub fn load(
        document: &Document,
        overrides: Overrides,
    ) -> Result<(Self, Vec<Warning>), LoadError> {
        let (file, unknown) = runtime::config::decode::<raw::File>(document)?;
        Ok(read::read(file, unknown, overrides)?)
    }
}

impl Default for AuthorityConfig {
    fn default() -> Self {
        Self {
            ca_ttl: DEFAULT_CA_TTL,
            ca_key_type: KeyType::default(),
            jwt_key_type: KeyType::default(),
            ca_subject: CaSubject::default(),
            jwt_issuer: None,
            upstream: None,
            composer: None,
        }
    }
}
