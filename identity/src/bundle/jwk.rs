//! JSON Web Keys (RFC 7517, RFC 7518 6) and public keys.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{BundleError, JwtAuthority, X509Authority};
use crate::key::{KeyAlgorithm, KeyError, Material, PublicKey};

/// A JWK as it is written; the order of the fields is the order in the text.
#[derive(Debug, Default, Serialize)]
pub(super) struct Jwk {
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    usage: Option<&'static str>,
    kty: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alg: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x5c: Option<[String; 1]>,
}

impl Jwk {
    /// X509-SVID 6.1: `use` is `x509-svid`, there is no `kid`, and `x5c` has exactly the one
    /// certificate, in base64 with the standard alphabet.
    pub(super) fn of_x509(authority: &X509Authority) -> Self {
        Self {
            usage: Some("x509-svid"),
            ..Self::of_x509_without_use(authority)
        }
    }

    /// For readers who know RFC 7517 alone.
    pub(super) fn of_x509_without_use(authority: &X509Authority) -> Self {
        Self {
            x5c: Some([STANDARD.encode(authority.certificate.der())]),
            ..Self::of_key(authority.certificate.public_key())
        }
    }

    /// JWT-SVID 6.1: `use` is `jwt-svid`, and there is a `kid`.
    pub(super) fn of_jwt(authority: &JwtAuthority) -> Self {
        Self {
            usage: Some("jwt-svid"),
            ..Self::of_jwt_without_use(authority)
        }
    }

    /// For the Workload API, where every key of the set is for JWT-SVIDs.
    pub(super) fn of_jwt_without_use(authority: &JwtAuthority) -> Self {
        Self {
            kid: Some(authority.key_id.clone()),
            ..Self::of_key(&authority.public_key)
        }
    }

    /// For readers who know OpenID Connect alone: a key for signatures (RFC 7517 4.2, 4.4).
    pub(super) fn of_jwt_for_signatures(authority: &JwtAuthority) -> Self {
        let alg = match authority.public_key.algorithm() {
            KeyAlgorithm::Rsa(_) => "RS256",
            KeyAlgorithm::EcP256 => "ES256",
            KeyAlgorithm::EcP384 => "ES384",
            KeyAlgorithm::EcP521 => "ES512",
            KeyAlgorithm::Ed25519 => "EdDSA",
        };
        Self {
            usage: Some("sig"),
            alg: Some(alg),
            ..Self::of_jwt_without_use(authority)
        }
    }

    fn of_key(key: &PublicKey) -> Self {
        let number = |bytes: &[u8]| Some(URL_SAFE_NO_PAD.encode(bytes));
        match key.material() {
            Material::Ec { x, y } => {
                let crv = match key.algorithm() {
                    KeyAlgorithm::EcP384 => "P-384",
                    KeyAlgorithm::EcP521 => "P-521",
                    _ => "P-256",
                };
                Self {
                    kty: "EC",
                    crv: Some(crv),
                    x: number(x),
                    y: number(y),
                    ..Self::default()
                }
            }
            Material::Rsa { n, e } => Self {
                kty: "RSA",
                n: number(n),
                e: number(e),
                ..Self::default()
            },
            Material::Edwards { x } => Self {
                kty: "OKP",
                crv: Some("Ed25519"),
                x: number(x),
                ..Self::default()
            },
        }
    }
}

/// The public key of a JWK that is to check tokens. `None` for a kind of key that no JWT-SVID can
/// be signed with: RFC 7517 5 has readers pass over such an entry.
pub(super) fn public_key(jwk: &Map<String, Value>) -> Result<Option<PublicKey>, BundleError> {
    let key = match text(jwk, "kty")? {
        Some("RSA") => PublicKey::from_rsa(&number(jwk, "n")?, &number(jwk, "e")?),
        Some("EC") => {
            let algorithm = match text(jwk, "crv")? {
                Some("P-256") => KeyAlgorithm::EcP256,
                Some("P-384") => KeyAlgorithm::EcP384,
                Some("P-521") => KeyAlgorithm::EcP521,
                _ => return Ok(None),
            };
            PublicKey::from_ec(algorithm, &number(jwk, "x")?, &number(jwk, "y")?)
        }
        _ => return Ok(None),
    };
    match key {
        Ok(key) => Ok(Some(key)),
        Err(KeyError::Weak | KeyError::Algorithm) => Ok(None),
        Err(error) => Err(BundleError::Key(error)),
    }
}

/// A parameter that is a text where present.
pub(super) fn text<'a>(
    jwk: &'a Map<String, Value>,
    name: &'static str,
) -> Result<Option<&'a str>, BundleError> {
    match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(BundleError::Parameter { name }),
    }
}

/// A parameter that must be a number in base64url without padding.
fn number(jwk: &Map<String, Value>, name: &'static str) -> Result<Vec<u8>, BundleError> {
    let encoded = text(jwk, name)?.ok_or(BundleError::Parameter { name })?;
    URL_SAFE_NO_PAD
        .decode(encoded)
        .or(Err(BundleError::Parameter { name }))
}
