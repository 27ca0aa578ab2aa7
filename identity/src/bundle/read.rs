//! Reading bundles from JSON Web Key Sets.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::{
    Bundle, JwtAuthority, MAX_BUNDLE_BYTES, MAX_KEY_ID_BYTES, X509Authority,
    jwk::{public_key, text},
};
use crate::{
    json::parse_object,
    key::KeyError,
    trust_domain::TrustDomain,
    x509::{Certificate, CertificateError},
};

impl Bundle {
    /// Parses a SPIFFE bundle (SPIFFE Trust Domain and Bundle 4) of at most [`MAX_BUNDLE_BYTES`].
    ///
    /// Entries of an unknown kind or use, and those that we cannot use, are passed over; a bundle
    /// without `keys`, with a name twice, with two keys of one id, or with a malformed entry is
    /// refused. An empty list of keys is a bundle: nobody is trusted.
    pub fn from_spiffe_json(trust_domain: TrustDomain, json: &[u8]) -> Result<Self, BundleError> {
        let document = parse_document(json)?;
        let mut bundle = Self::new(trust_domain);
        for entry in keys(&document)? {
            // SPIFFE Trust Domain and Bundle 4.2.2: an unknown or missing `use` is passed over.
            match text(entry, "use")? {
                Some("x509-svid") => bundle.read_x509(entry)?,
                Some("jwt-svid") => bundle.read_jwt(entry)?,
                _ => {}
            }
        }
        bundle.sequence = integer(&document, "spiffe_sequence")?.unwrap_or_default();
        bundle.refresh_hint = integer(&document, "spiffe_refresh_hint")?
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs);
        Ok(bundle)
    }

    /// Parses the JWK Set of a Workload API response: every key in it is for JWT-SVIDs, whether or
    /// not it says so.
    pub fn from_jwks(trust_domain: TrustDomain, json: &[u8]) -> Result<Self, BundleError> {
        let document = parse_document(json)?;
        let mut bundle = Self::new(trust_domain);
        for entry in keys(&document)? {
            match text(entry, "use")? {
                None | Some("jwt-svid") => bundle.read_jwt(entry)?,
                Some(_) => {}
            }
        }
        Ok(bundle)
    }

    fn read_x509(&mut self, entry: &Map<String, Value>) -> Result<(), BundleError> {
        // SPIFFE Trust Domain and Bundle 4.2.1: an unknown kind of key is passed over.
        if !matches!(text(entry, "kty")?, Some("RSA" | "EC" | "OKP")) {
            return Ok(());
        }
        let chain = match entry.get("x5c") {
            None => return Ok(()),
            Some(Value::Array(chain)) => chain,
            Some(_) => return Err(BundleError::Parameter { name: "x5c" }),
        };
        // X509-SVID 6.2: without a certificate the entry is passed over; of several the first
        // alone counts.
        let encoded = match chain.first() {
            None => return Ok(()),
            Some(Value::String(encoded)) => encoded,
            Some(_) => return Err(BundleError::Parameter { name: "x5c" }),
        };
        let der = STANDARD
            .decode(encoded)
            .or(Err(BundleError::Parameter { name: "x5c" }))?;
        match Certificate::parse(&der) {
            Ok(certificate) => {
                self.add_x509_authority(X509Authority::new(certificate));
                Ok(())
            }
            Err(CertificateError::PublicKey(KeyError::Algorithm | KeyError::Weak)) => Ok(()),
            Err(error) => Err(BundleError::Certificate(error)),
        }
    }

    fn read_jwt(&mut self, entry: &Map<String, Value>) -> Result<(), BundleError> {
        // JWT-SVID 6.1 has every key carry a `kid`. One without cannot be found by any token.
        let Some(key_id) = text(entry, "kid")?.filter(|id| !id.is_empty()) else {
            return Ok(());
        };
        if key_id.len() > MAX_KEY_ID_BYTES {
            return Err(BundleError::Parameter { name: "kid" });
        }
        let Some(public_key) = public_key(entry)? else {
            return Ok(());
        };
        match self.jwt_authority(key_id) {
            None => self.jwt_authorities.push(JwtAuthority {
                key_id: key_id.to_owned(),
                public_key,
                expires_at: None,
                tainted: false,
            }),
            Some(known) if known.public_key == public_key => {}
            Some(_) => {
                return Err(BundleError::DuplicateKeyId {
                    key_id: key_id.to_owned(),
                });
            }
        }
        Ok(())
    }
}

fn parse_document(json: &[u8]) -> Result<Map<String, Value>, BundleError> {
    if json.len() > MAX_BUNDLE_BYTES {
        return Err(BundleError::TooLarge);
    }
    parse_object(json).map_err(BundleError::Json)
}

/// SPIFFE Trust Domain and Bundle 4.1.3: `keys` must be there.
fn keys(
    document: &Map<String, Value>,
) -> Result<impl Iterator<Item = &Map<String, Value>>, BundleError> {
    let Some(Value::Array(keys)) = document.get("keys") else {
        return Err(BundleError::NoKeys);
    };
    if !keys.iter().all(Value::is_object) {
        return Err(BundleError::Parameter { name: "keys" });
    }
    Ok(keys.iter().filter_map(Value::as_object))
}

/// SPIFFE Trust Domain and Bundle 4.1.1, 4.1.2: sequence and hint are integers, at least 64 bits.
fn integer(document: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, BundleError> {
    match document.get(name) {
        None => Ok(None),
        Some(value) => value
            .as_u64()
            .map(Some)
            .ok_or(BundleError::Parameter { name }),
    }
}

/// Why bytes are not a bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The bytes are above [`MAX_BUNDLE_BYTES`].
    #[error("bundle is larger than {MAX_BUNDLE_BYTES} bytes")]
    TooLarge,
    /// The bytes are not a JSON object whose names are unique.
    #[error("bundle is not a JSON object")]
    Json(#[source] serde_json::Error),
    /// There is no list `keys` (SPIFFE Trust Domain and Bundle 4.1.3).
    #[error("bundle has no keys")]
    NoKeys,
    /// A parameter has the wrong type or encoding.
    #[error("bundle has a malformed parameter {name:?}")]
    Parameter {
        /// The name of the parameter.
        name: &'static str,
    },
    /// A certificate is malformed.
    #[error("bundle has an invalid certificate")]
    Certificate(#[source] CertificateError),
    /// A public key is malformed.
    #[error("bundle has an invalid key")]
    Key(#[source] KeyError),
    /// Two different keys have one id.
    #[error("bundle has two keys with the id {key_id:?}")]
    DuplicateKeyId {
        /// The id.
        key_id: String,
    },
}

impl BundleError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge => "bundle_too_large",
            Self::Json(_) => "bundle_json",
            Self::NoKeys => "bundle_no_keys",
            Self::Parameter { .. } => "bundle_parameter",
            Self::Certificate(error) => error.reason(),
            Self::Key(error) => error.reason(),
            Self::DuplicateKeyId { .. } => "bundle_duplicate_key_id",
        }
    }
}
