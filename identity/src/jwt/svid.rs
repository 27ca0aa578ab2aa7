//! A JWT-SVID that was issued for us.

use std::{fmt, sync::Arc, time::SystemTime};

use super::{JwtError, token::Token};
use crate::{spiffe_id::SpiffeId, validity::Validity};

/// A JWT-SVID in hand: a bearer token, so its `Debug` does not show it. Cheap to clone.
#[derive(Clone, Eq, PartialEq)]
pub struct JwtSvid {
    token: Arc<str>,
    id: SpiffeId,
    audience: Arc<[String]>,
    issued_at: Option<SystemTime>,
    expires_at: SystemTime,
    key_id: Arc<str>,
}

impl JwtSvid {
    /// Reads a token without checking its signature or its times: for one that our own server just
    /// issued. Its form is held to the same rules as in [`super::validate()`].
    pub fn parse_unverified(token: &str) -> Result<Self, JwtError> {
        let parsed = Token::parse(token)?;
        Ok(Self {
            token: token.into(),
            id: parsed.id,
            audience: parsed.audience.into(),
            issued_at: parsed.issued_at,
            expires_at: parsed.expires_at,
            key_id: parsed.key_id.into(),
        })
    }

    /// The token in compact form: a secret.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The claim `sub`.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The claim `aud`, in order; at least one.
    pub fn audience(&self) -> &[String] {
        &self.audience
    }

    /// The claim `iat`.
    pub fn issued_at(&self) -> Option<SystemTime> {
        self.issued_at
    }

    /// The claim `exp`.
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }

    /// From `iat` to `exp`, for a token that says both.
    pub fn validity(&self) -> Option<Validity> {
        Validity::new(self.issued_at?, self.expires_at).ok()
    }

    /// The header's `kid`: the name of the JWT authority.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid")
            .field("id", &self.id)
            .field("audience", &self.audience)
            .field("expires_at", &self.expires_at)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}
