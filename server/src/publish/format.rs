//! How a trust bundle is written for others.

use std::time::Duration;

use identity::bundle::Bundle;

/// SPIRE's formats of a published bundle.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// SPIFFE Trust Domain and Bundle 4: all authorities, with sequence number and refresh hint. The
    /// hint, if given, replaces that of the bundle.
    Spiffe { refresh_hint: Option<Duration> },
    /// RFC 7517: all authorities, without what SPIFFE adds.
    Jwks,
    /// The X.509 authorities, as certificates.
    Pem,
}

impl Format {
    /// Reads SPIRE's word for a format, in any case.
    pub fn parse(word: &str, refresh_hint: Option<Duration>) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "spiffe" => Some(Self::Spiffe { refresh_hint }),
            "jwks" => Some(Self::Jwks),
            "pem" => Some(Self::Pem),
            _ => None,
        }
    }

    /// The bundle in this format.
    pub(super) fn write(self, bundle: &Bundle) -> String {
        match self {
            Self::Spiffe { refresh_hint: None } => bundle.to_spiffe_json(),
            Self::Spiffe {
                refresh_hint: Some(hint),
            } => {
                let mut bundle = bundle.clone();
                bundle.refresh_hint = Some(hint);
                bundle.to_spiffe_json()
            }
            Self::Jwks => bundle.plain_jwks_json(),
            Self::Pem => bundle.x509_pem(),
        }
    }
}
