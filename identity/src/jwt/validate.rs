//! The verdict on somebody else's token.

use std::{
    borrow::Borrow,
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value};

use super::{JwtError, token::Token};
use crate::{bundle::Bundle, spiffe_id::SpiffeId, trust_domain::TrustDomain};

/// How far clocks may be apart, for `exp`, `nbf` and `iat` alike.
pub const LEEWAY: Duration = Duration::from_secs(60);

/// What a valid token says.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedJwt {
    /// Who the token is about.
    pub id: SpiffeId,
    /// Whom it is for; the validator's audience is among them.
    pub audience: Vec<String>,
    /// The claim `exp`.
    pub expires_at: SystemTime,
    /// The name of the JWT authority that signed it.
    pub key_id: String,
    /// All claims, those above included.
    pub claims: Map<String, Value>,
}

/// Validates a token for a validator that goes by `audience`.
///
/// `bundle_of` answers for the trust domain that the subject claims; its JWT authorities alone are
/// asked for the key. Times are held with [`LEEWAY`].
pub fn validate<B: Borrow<Bundle>>(
    token: &str,
    audience: &str,
    bundle_of: impl FnOnce(&TrustDomain) -> Option<B>,
    now: SystemTime,
) -> Result<ValidatedJwt, JwtError> {
    let token = Token::parse(token)?;
    let trust_domain = token.id.trust_domain();
    // JWT-SVID 3.1: the key belongs to the trust domain of `sub`; a key of the same id elsewhere
    // does not count.
    let bundle = bundle_of(trust_domain).ok_or_else(|| JwtError::NoBundle {
        trust_domain: trust_domain.clone(),
    })?;
    let authority = bundle
        .borrow()
        .jwt_authority(&token.key_id)
        .ok_or_else(|| {
            let (key_id, trust_domain) = (token.key_id.clone(), trust_domain.clone());
            JwtError::UnknownKey {
                key_id,
                trust_domain,
            }
        })?;
    // The key knows which algorithms fit it; the header cannot make it serve another.
    authority
        .public_key
        .verify(token.algorithm.scheme(), token.signed, &token.signature)
        .map_err(JwtError::Signature)?;
    check_times(&token, now)?;
    // JWT-SVID 3.2: the validator's audience is among the token's, byte for byte.
    if !token.audience.iter().any(|found| found == audience) {
        return Err(JwtError::Audience {
            expected: vec![audience.to_owned()],
            found: token.audience,
        });
    }
    Ok(ValidatedJwt {
        id: token.id,
        audience: token.audience,
        expires_at: token.expires_at,
        key_id: token.key_id,
        claims: token.claims,
    })
}

fn check_times(token: &Token<'_>, now: SystemTime) -> Result<(), JwtError> {
    // JWT-SVID 4: `exp` is processed as RFC 7519 4.1.4 says, and `nbf` as 4.1.5.
    let age = now.duration_since(token.expires_at).unwrap_or_default();
    if age > LEEWAY {
        return Err(JwtError::Expired);
    }
    let ahead = |time: Option<SystemTime>| {
        time.is_some_and(|time| time.duration_since(now).unwrap_or_default() > LEEWAY)
    };
    if ahead(token.not_before) {
        return Err(JwtError::NotYetValid);
    }
    if ahead(token.issued_at) {
        return Err(JwtError::IssuedInFuture);
    }
    Ok(())
}
