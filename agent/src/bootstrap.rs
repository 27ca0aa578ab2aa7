//! What the agent trusts before it has ever seen its server.
//!
//! Asked only while there is no bundle in the agent's state: a persisted bundle wins, for it came
//! over an authenticated connection, and follows every rotation of authorities.

mod socket;
mod web;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use identity::bundle::{Bundle, BundleError, MAX_BUNDLE_BYTES};
use identity::trust_domain::TrustDomain;
use runtime::files::{self, FileError};
use tokio::time::timeout;
use workload_api::client::{ClientError, Endpoint, WorkloadClient};

pub use self::socket::{SocketUrl, SocketUrlError};
pub use self::web::{Url, UrlError, WebError};

/// How long fetching a bundle may take, redirects included.
const DEADLINE: Duration = Duration::from_secs(10);

/// Where the first bundle comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TrustSource {
    File {
        path: PathBuf,
        format: BundleFormat,
    },
    /// From a web server that the Web PKI vouches for.
    Url {
        url: Url,
        format: BundleFormat,
    },
    /// From a program behind a Unix socket, by HTTP.
    Socket {
        socket: PathBuf,
        url: SocketUrl,
        format: BundleFormat,
    },
    /// From a Workload API that serves bundles to this agent.
    WorkloadApi(Endpoint),
    /// From whoever answers: the first connection is not authenticated.
    Insecure,
}

/// How a bundle is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BundleFormat {
    /// Certificates in PEM.
    Pem,
    /// A SPIFFE bundle, which is JSON.
    Spiffe,
}

/// Why a bundle is asked for. A program behind a socket is told, as SPIRE's agents do.
#[derive(Clone, Copy, Debug)]
pub struct Occasion<'a> {
    pub trust_domain: &'a TrustDomain,
    pub host: &'a str,
    pub port: u16,
    /// Whether the agent had a bundle before.
    pub is_again: bool,
    /// How often it has been asked for, this time included.
    pub attempts: u32,
    /// When that began.
    pub since: SystemTime,
}

/// What the agent trusts when it connects.
#[derive(Clone, Debug)]
pub enum Trust {
    /// The authorities of a bundle.
    Bundle(Box<Bundle>),
    /// Whoever calls itself the server of the trust domain.
    AnyServer,
}

/// Why there is nothing to trust.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("there is no trust bundle at `{}`; write one with `bundle show` on the server", .0.display())]
    Missing(PathBuf),
    #[error("could not fetch the trust bundle from `{url}`")]
    Web {
        url: String,
        #[source]
        source: WebError,
    },
    #[error("could not fetch the trust bundle over `{socket}`", socket = .socket.display())]
    Socket {
        socket: PathBuf,
        #[source]
        source: WebError,
    },
    #[error("could not fetch the trust bundle from the Workload API `{endpoint}`")]
    WorkloadApi {
        endpoint: Endpoint,
        #[source]
        source: ClientError,
    },
    #[error("the Workload API `{0}` did not answer in time")]
    Silent(Endpoint),
    #[error("the trust bundle from `{from}` cannot be read as {}", .format.name())]
    Malformed {
        from: String,
        format: BundleFormat,
        #[source]
        source: BundleError,
    },
    #[error("the trust bundle from `{from}` is not text")]
    NotText { from: String },
    #[error("the trust bundle from `{from}` has no X.509 authority")]
    Empty { from: String },
}

impl BundleFormat {
    /// The word in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pem => "pem",
            Self::Spiffe => "spiffe",
        }
    }
}

impl BootstrapError {
    /// The stable label of metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::File(error) => error.reason(),
            Self::Missing(_) => "bundle_missing",
            Self::Web { source, .. } | Self::Socket { source, .. } => source.reason(),
            Self::WorkloadApi { source, .. } => source.reason(),
            Self::Silent(_) => "workload_api_silent",
            Self::Malformed { source, .. } => source.reason(),
            Self::NotText { .. } => "bundle_not_text",
            Self::Empty { .. } => "bundle_empty",
        }
    }

    /// Whether the same try may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Web { source, .. } | Self::Socket { source, .. } => source.is_transient(),
            Self::WorkloadApi { .. } | Self::Silent(_) => true,
            _ => false,
        }
    }
}

impl TrustSource {
    /// Obtains what to trust.
    pub async fn obtain(&self, occasion: Occasion<'_>) -> Result<Trust, BootstrapError> {
        let trust_domain = occasion.trust_domain;
        let bundle = match self {
            Self::Insecure => return Ok(Trust::AnyServer),
            Self::File { path, format } => {
                let content = read(path)?;
                parse(trust_domain, &content, *format, &path.display().to_string())?
            }
            Self::Url { url, format } => {
                let roots = web::public_roots();
                let fetched = timeout(DEADLINE, web::fetch(url, roots, MAX_BUNDLE_BYTES)).await;
                let fetched = fetched.unwrap_or(Err(WebError::Deadline));
                let content = fetched.map_err(|source| BootstrapError::Web {
                    url: url.to_string(),
                    source,
                })?;
                parse(trust_domain, &content, *format, &url.to_string())?
            }
            Self::Socket {
                socket,
                url,
                format,
            } => {
                let fetched = socket::fetch(socket, url, occasion, MAX_BUNDLE_BYTES);
                let fetched = timeout(DEADLINE, fetched).await;
                let fetched = fetched.unwrap_or(Err(WebError::Deadline));
                let content = fetched.map_err(|source| BootstrapError::Socket {
                    socket: socket.clone(),
                    source,
                })?;
                parse(
                    trust_domain,
                    &content,
                    *format,
                    &socket.display().to_string(),
                )?
            }
            Self::WorkloadApi(endpoint) => of_workload_api(trust_domain, endpoint).await?,
        };
        Ok(Trust::Bundle(Box::new(bundle)))
    }
}

async fn of_workload_api(
    trust_domain: &TrustDomain,
    endpoint: &Endpoint,
) -> Result<Bundle, BootstrapError> {
    let fetch = async {
        let client = WorkloadClient::connect(endpoint).await?;
        client.fetch_x509_bundles().await
    };
    let fetched = timeout(DEADLINE, fetch).await;
    let fetched = fetched.map_err(|_late| BootstrapError::Silent(endpoint.clone()))?;
    let mut bundles = fetched.map_err(|source| BootstrapError::WorkloadApi {
        endpoint: endpoint.clone(),
        source,
    })?;
    let own = bundles.remove(trust_domain);
    own.filter(|own| !own.x509_authorities.is_empty())
        .ok_or_else(|| BootstrapError::Empty {
            from: endpoint.to_string(),
        })
}

fn read(path: &Path) -> Result<Vec<u8>, BootstrapError> {
    let limit = u64::try_from(MAX_BUNDLE_BYTES).unwrap_or(u64::MAX);
    files::read_limited(path, limit)?.ok_or_else(|| BootstrapError::Missing(path.to_owned()))
}

fn parse(
    trust_domain: &TrustDomain,
    content: &[u8],
    format: BundleFormat,
    from: &str,
) -> Result<Bundle, BootstrapError> {
    let bundle = match format {
        BundleFormat::Pem => {
            let text = str::from_utf8(content).map_err(|_not_utf8| BootstrapError::NotText {
                from: from.to_owned(),
            })?;
            Bundle::from_pem(trust_domain.clone(), text)
        }
        BundleFormat::Spiffe => Bundle::from_spiffe_json(trust_domain.clone(), content),
    };
    let bundle = bundle.map_err(|source| BootstrapError::Malformed {
        from: from.to_owned(),
        format,
        source,
    })?;
    if bundle.x509_authorities.is_empty() {
        return Err(BootstrapError::Empty {
            from: from.to_owned(),
        });
    }
    Ok(bundle)
}

#[cfg(test)]
mod tests;
