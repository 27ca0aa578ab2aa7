//! The form of a token: what can be said before its signature is checked.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{JwtError, MAX_TOKEN_BYTES};
use crate::{
    bundle::MAX_KEY_ID_BYTES, json::parse_object, key::SignatureScheme, spiffe_id::SpiffeId,
};

/// The signature algorithms of JWT-SVIDs (JWT-SVID 2.1, RFC 7518 3.1).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Algorithm {
    /// RSA PKCS#1 v1.5 with SHA-256.
    Rs256,
    /// RSA PKCS#1 v1.5 with SHA-384.
    Rs384,
    /// RSA PKCS#1 v1.5 with SHA-512.
    Rs512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512.
    Es512,
    /// RSA PSS with SHA-256.
    Ps256,
    /// RSA PSS with SHA-384.
    Ps384,
    /// RSA PSS with SHA-512.
    Ps512,
}

impl Algorithm {
    /// Reads the name in a header, which is case-sensitive.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            _ => return None,
        })
    }

    /// The name as it stands in a header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
        }
    }

    /// How a signature of this algorithm is checked.
    pub fn scheme(self) -> SignatureScheme {
        match self {
            Self::Rs256 => SignatureScheme::RsaPkcs1Sha256,
            Self::Rs384 => SignatureScheme::RsaPkcs1Sha384,
            Self::Rs512 => SignatureScheme::RsaPkcs1Sha512,
            Self::Es256 => SignatureScheme::Es256,
            Self::Es384 => SignatureScheme::Es384,
            Self::Es512 => SignatureScheme::Es512,
            Self::Ps256 => SignatureScheme::RsaPssSha256,
            Self::Ps384 => SignatureScheme::RsaPssSha384,
            Self::Ps512 => SignatureScheme::RsaPssSha512,
        }
    }
}

/// A token whose form is right, and whose signature nobody has looked at.
#[derive(Debug)]
pub(super) struct Token<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: String,
    pub(super) id: SpiffeId,
    pub(super) audience: Vec<String>,
    pub(super) expires_at: SystemTime,
    pub(super) issued_at: Option<SystemTime>,
    pub(super) not_before: Option<SystemTime>,
    pub(super) claims: Map<String, Value>,
    /// What was signed: header, dot, payload.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
}

impl<'a> Token<'a> {
    pub(super) fn parse(token: &'a str) -> Result<Self, JwtError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwtError::TooLarge);
        }
        // JWT-SVID 5.1: the compact form alone: three parts in base64url, without padding.
        let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::NotCompact)?;
        let (header, payload) = signed.split_once('.').ok_or(JwtError::NotCompact)?;
        // JWT-SVID 4: `alg` is checked before anything else is done with the token.
        let (algorithm, key_id) = read_header(&decode(header)?)?;
        let signature = decode(signature)?;
        let claims = parse_object(&decode(payload)?).or(Err(JwtError::Claims))?;
        let expires_at = time(&claims, "exp")?.ok_or(JwtError::NoExpiry)?;
        let issued_at = time(&claims, "iat")?;
        if issued_at.is_some_and(|issued_at| issued_at > expires_at) {
            return Err(JwtError::Claim { claim: "exp" });
        }
        Ok(Self {
            algorithm,
            key_id,
            id: read_subject(&claims)?,
            audience: read_audience(&claims)?,
            expires_at,
            issued_at,
            not_before: time(&claims, "nbf")?,
            claims,
            signed: signed.as_bytes(),
            signature,
        })
    }
}

/// One part; none of the three is empty. A second dot within it fails here as well.
fn decode(part: &str) -> Result<Vec<u8>, JwtError> {
    if part.is_empty() {
        return Err(JwtError::NotCompact);
    }
    URL_SAFE_NO_PAD.decode(part).or(Err(JwtError::NotCompact))
}

fn read_header(json: &[u8]) -> Result<(Algorithm, String), JwtError> {
    let header = parse_object(json).or(Err(JwtError::Header))?;
    // JWT-SVID 2.1: an algorithm outside of the list is refused; among those are `none` and all
    // that share a secret.
    let algorithm = header
        .get("alg")
        .and_then(Value::as_str)
        .and_then(Algorithm::parse);
    let algorithm = algorithm.ok_or(JwtError::Algorithm)?;
    // JWT-SVID 2: no parameters but these three; so no key may come with the token, and nothing
    // that `crit` would have us understand.
    if header
        .keys()
        .any(|name| !matches!(name.as_str(), "alg" | "kid" | "typ"))
    {
        return Err(JwtError::HeaderParameter);
    }
    // JWT-SVID 2.3: `typ` is `JWT` or `JOSE` where present.
    match header.get("typ") {
        None => {}
        Some(Value::String(typ)) if matches!(typ.as_str(), "JWT" | "JOSE") => {}
        Some(_) => return Err(JwtError::Type),
    }
    // JWT-SVID 2.2 leaves `kid` optional; everybody asks for it, and so do we.
    match header.get("kid") {
        Some(Value::String(kid)) if (1..=MAX_KEY_ID_BYTES).contains(&kid.len()) => {
            Ok((algorithm, kid.clone()))
        }
        _ => Err(JwtError::KeyId),
    }
}

fn read_subject(claims: &Map<String, Value>) -> Result<SpiffeId, JwtError> {
    // JWT-SVID 3.1: `sub` is the SPIFFE ID.
    match claims.get("sub") {
        None => Err(JwtError::NoSubject),
        Some(Value::String(sub)) if sub.is_empty() => Err(JwtError::NoSubject),
        Some(Value::String(sub)) => SpiffeId::parse(sub).map_err(JwtError::Subject),
        Some(_) => Err(JwtError::Claim { claim: "sub" }),
    }
}

/// One text, or a list of at least one; no text is empty.
fn read_audience(claims: &Map<String, Value>) -> Result<Vec<String>, JwtError> {
    let values = match claims.get("aud") {
        // JWT-SVID 3.2: a token without an audience is refused.
        None => return Err(JwtError::NoAudience),
        Some(Value::Array(values)) => values.as_slice(),
        Some(value) => std::slice::from_ref(value),
    };
    if values.is_empty() {
        return Err(JwtError::NoAudience);
    }
    values
        .iter()
        .map(|value| match value {
            Value::String(audience) if !audience.is_empty() => Ok(audience.clone()),
            Value::String(_) => Err(JwtError::NoAudience),
            _ => Err(JwtError::Claim { claim: "aud" }),
        })
        .collect()
}

/// A claim in whole seconds since 1970. RFC 7519 2 allows fractions; nobody issues them in a
/// JWT-SVID, and integers cannot be rounded or overflow unseen.
fn time(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<SystemTime>, JwtError> {
    let Some(value) = claims.get(claim) else {
        return Ok(None);
    };
    value
        .as_u64()
        .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
        .map(Some)
        .ok_or(JwtError::Claim { claim })
}
