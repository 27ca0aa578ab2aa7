//! What the agent trusts before it has ever seen its server.
//!
//! Asked only while there is no bundle in the agent's state: a persisted bundle wins, for it came
//! over an authenticated connection, and follows every rotation of authorities.

mod web;

use std::path::{Path, PathBuf};
use std::time::Duration;

use identity::bundle::{Bundle, BundleError, MAX_BUNDLE_BYTES};
use identity::trust_domain::TrustDomain;
use runtime::files::{self, FileError};

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
            Self::Web { source, .. } => source.reason(),
            Self::Malformed { source, .. } => source.reason(),
            Self::NotText { .. } => "bundle_not_text",
            Self::Empty { .. } => "bundle_empty",
        }
    }

    /// Whether the same try may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Web { source, .. } if source.is_transient())
    }
}

impl TrustSource {
    /// Obtains what to trust.
    pub async fn obtain(&self, trust_domain: &TrustDomain) -> Result<Trust, BootstrapError> {
        let bundle = match self {
            Self::Insecure => return Ok(Trust::AnyServer),
            Self::File { path, format } => {
                let content = read(path)?;
                parse(trust_domain, &content, *format, &path.display().to_string())?
            }
            Self::Url { url, format } => {
                let fetched = tokio::time::timeout(
                    DEADLINE,
                    web::fetch(url, web::public_roots(), MAX_BUNDLE_BYTES),
                );
                let content = fetched.await.unwrap_or(Err(WebError::Deadline));
                let content = content.map_err(|source| BootstrapError::Web {
                    url: url.to_string(),
                    source,
                })?;
                parse(trust_domain, &content, *format, &url.to_string())?
            }
        };
        Ok(Trust::Bundle(Box::new(bundle)))
    }
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
