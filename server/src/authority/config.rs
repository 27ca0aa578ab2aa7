//! What the authorities are to be.

use std::time::Duration;

use identity::trust_domain::TrustDomain;

use super::{Composer, Upstream};
use crate::keys::KeyType;

/// What the authorities are to be.
#[derive(Clone, Debug)]
pub struct Config {
    pub trust_domain: TrustDomain,
    pub ca_subject: CaSubject,
    /// The lifetime of both kinds of authorities.
    pub ca_ttl: Duration,
    pub ca_key_type: KeyType,
    pub jwt_key_type: KeyType,
    /// The lifetime of this server's own SVID.
    pub server_svid_ttl: Duration,
    pub jwt_issuer: Option<String>,
    /// Who signs the X.509 authorities; they sign themselves where there is nobody.
    pub upstream: Option<Upstream>,
    pub composer: Option<Composer>,
}

impl Config {
    /// SPIRE's defaults.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            ca_subject: CaSubject::default(),
            ca_ttl: Duration::from_secs(24 * 60 * 60),
            ca_key_type: KeyType::default(),
            jwt_key_type: KeyType::default(),
            server_svid_ttl: Duration::from_secs(60 * 60),
            jwt_issuer: None,
            upstream: None,
            composer: None,
        }
    }
}

/// The name in the certificate of an X.509 authority; its serial number is added.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CaSubject {
    pub country: Option<String>,
    pub organization: Option<String>,
    pub common_name: Option<String>,
}

impl Default for CaSubject {
    fn default() -> Self {
        Self {
            country: Some("US".to_owned()),
            organization: Some("SPIFFE".to_owned()),
            common_name: None,
        }
    }
}
