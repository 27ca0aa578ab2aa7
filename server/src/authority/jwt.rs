//! The JWT authority, and the tokens that it signs.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use identity::{
    bundle::{Bundle, JwtAuthority},
    spiffe_id::SpiffeId,
};
use serde::Serialize;

use super::{Config, CreateError, Kind, SignError, Unusable, journal::Authority, slots::Term};
use crate::{
    keys::{KeyType, Signer},
    records::authorities::Entry,
};

/// A token to be signed. The caller has authorized it.
#[derive(Clone, Debug)]
pub struct JwtSvidRequest<'a> {
    pub id: &'a SpiffeId,
    /// Empty names are dropped; one must be left.
    pub audience: &'a [String],
    pub ttl: Duration,
    /// Whether the token gets a name of its own, for audits.
    pub include_jti: bool,
}

/// A signed JWT-SVID.
#[derive(Clone)]
pub struct IssuedJwtSvid {
    pub token: String,
    pub issued_at: SystemTime,
    pub expires_at: SystemTime,
}

impl std::fmt::Debug for IssuedJwtSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedJwtSvid")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// An authority that signs JWT-SVIDs. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct JwtKey(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    key_id: String,
    issued_at: SystemTime,
    not_after: SystemTime,
    signer: Signer,
    /// The encoded header, which all its tokens share, with the dot after it.
    header: String,
}

// In the order of SPIRE's tokens, which Go sorts.
#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a [&'a str],
    exp: u64,
    iat: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    sub: &'a str,
}

impl JwtKey {
    fn new(key_id: String, issued_at: SystemTime, not_after: SystemTime, signer: Signer) -> Self {
        // INVARIANT: a key id that we make, or that a bundle held, needs no escapes.
        let header = serde_json::json!({
            "alg": signer.jws_algorithm(), "kid": key_id, "typ": "JWT",
        });
        let mut header = URL_SAFE_NO_PAD.encode(header.to_string());
        header.push('.');
        Self(Arc::new(Inner {
            key_id,
            issued_at,
            not_after,
            signer,
            header,
        }))
    }

    pub(crate) fn sign(
        &self,
        request: &JwtSvidRequest<'_>,
        config: &Config,
        now: SystemTime,
    ) -> Result<IssuedJwtSvid, SignError> {
        request.check(config)?;
        let audience: Vec<&str> = request
            .audience
            .iter()
            .map(String::as_str)
            .filter(|name| !name.is_empty())
            .collect();
        // JWT-SVID 3.2: the audience is there, and names somebody.
        if audience.is_empty() {
            return Err(SignError::NoAudience);
        }
        let key_ends = self.0.not_after;
        let expires_at = now
            .checked_add(request.ttl)
            .map_or(key_ends, |end| end.min(key_ends));
        if expires_at <= now {
            return Err(SignError::AuthorityEnded);
        }
        let (iat, exp) = (seconds(now), seconds(expires_at));
        let claims = Claims {
            aud: &audience,
            exp,
            iat,
            iss: config.jwt_issuer.as_deref(),
            jti: request
                .include_jti
                .then(|| URL_SAFE_NO_PAD.encode(uuid::Uuid::new_v4())),
            sub: request.id.as_str(),
        };
        let token = self.token(&claims)?;
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        Ok(IssuedJwtSvid {
            token,
            issued_at: at(iat),
            expires_at: at(exp),
        })
    }

    /// What the bundle has of it.
    fn in_bundle(&self) -> JwtAuthority {
        JwtAuthority {
            key_id: self.0.key_id.clone(),
            public_key: self.0.signer.public_key().clone(),
            expires_at: Some(self.0.not_after),
            tainted: false,
        }
    }

    fn token(&self, claims: &Claims<'_>) -> Result<String, SignError> {
        let claims = serde_json::to_vec(claims).map_err(SignError::Claims)?;
        let mut token = String::with_capacity(self.0.header.len() + claims.len() * 4 / 3 + 352);
        token.push_str(&self.0.header);
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature = self.0.signer.sign_jws(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

impl JwtSvidRequest<'_> {
    /// What must hold before a signature is made, in every build.
    fn check(&self, config: &Config) -> Result<(), SignError> {
        // JWT-SVID 3.1: the subject is the SPIFFE ID of the workload that it was issued to.
        if !self.id.is_member_of(&config.trust_domain) {
            return Err(SignError::NotMember {
                id: self.id.clone(),
            });
        }
        if !self.id.has_path() || self.id.is_reserved() {
            return Err(SignError::Reserved {
                id: self.id.clone(),
            });
        }
        Ok(())
    }
}

impl Term for JwtKey {
    fn authority_id(&self) -> &str {
        &self.0.key_id
    }

    fn issued_at(&self) -> SystemTime {
        self.0.issued_at
    }

    fn not_after(&self) -> SystemTime {
        self.0.not_after
    }
}

impl Authority for JwtKey {
    const KIND: Kind = Kind::Jwt;

    fn key_type(config: &Config) -> KeyType {
        config.jwt_key_type
    }

    async fn create(signer: Signer, config: &Config, now: SystemTime) -> Result<Self, CreateError> {
        // In whole seconds, as the bundle keeps it.
        let not_after = UNIX_EPOCH + Duration::from_secs(seconds(now + config.ca_ttl));
        let key = Self::new(new_key_id(), now, not_after, signer);
        if let Some(upstream) = &config.upstream {
            upstream.publish(&key.in_bundle()).await?;
        }
        Ok(key)
    }

    fn restore(
        entry: &Entry,
        signer: Signer,
        bundle: &Bundle,
        _now: SystemTime,
    ) -> Result<Self, Unusable> {
        let published = bundle
            .jwt_authority(&entry.authority_id)
            .ok_or(Unusable::NotInBundle)?;
        if published.public_key != *signer.public_key() {
            return Err(Unusable::OtherKey);
        }
        Ok(Self::new(
            entry.authority_id.clone(),
            entry.issued_at,
            entry.not_after,
            signer,
        ))
    }

    fn certificates(&self) -> Vec<Bytes> {
        Vec::new()
    }

    fn publish(&self, bundle: &mut Bundle) -> bool {
        if bundle.jwt_authority(&self.0.key_id).is_some() {
            return false;
        }
        bundle.jwt_authorities.push(self.in_bundle());
        true
    }
}

/// 32 random letters and digits, as SPIRE names its keys. Six bits choose one, so two stand twice.
fn new_key_id() -> String {
    const ALPHABET: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ab";
    let drawn: [u8; 32] = runtime::random::bytes();
    let letter = |byte: &u8| {
        ALPHABET
            .get(usize::from(byte & 63))
            .copied()
            .map_or('a', char::from)
    };
    drawn.iter().map(letter).collect()
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
