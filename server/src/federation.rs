//! Federation: whose trust bundles this server fetches, and from where (SPIFFE Federation 5 and 6).

mod endpoint;
mod fetch;
mod judge;
mod refresh;
mod roots;
mod url;

pub(crate) use self::endpoint::BundleDocument;
pub(crate) use self::refresh::{Metrics, RefreshError, Refreshed, Refresher, Settings};
pub use self::url::{EndpointUrl, UrlError};

use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;

/// A federation relationship: it is one-way, ours with another trust domain.
///
/// SPIFFE Federation 5.1: trust domain, URL and profile are all given, and none is guessed from
/// another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Relationship {
    /// Whose bundle is fetched.
    pub trust_domain: TrustDomain,
    pub endpoint: Endpoint,
}

/// Where a bundle is fetched from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    pub url: EndpointUrl,
    pub profile: Profile,
}

/// How a bundle endpoint shows that it is the right one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Profile {
    /// By a certificate of the Web PKI for the host of the URL.
    HttpsWeb,
    /// By an X509-SVID with this SPIFFE ID.
    HttpsSpiffe(SpiffeId),
}

impl Profile {
    /// The name in configuration and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::HttpsWeb => "https_web",
            Self::HttpsSpiffe(_) => "https_spiffe",
        }
    }
}
