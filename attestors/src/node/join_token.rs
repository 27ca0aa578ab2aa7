//! The join token: a secret that a server hands out once and takes back once.
//!
//! The agent's half is the [`Token`] it was started with, which is also the payload on the wire. The
//! server's half parses the payload, spends the token of that [`TokenHash`] by an atomic
//! compare-and-delete, and derives the agent's SPIFFE ID from the very bytes it parsed.

use std::fmt;

use aws_lc_rs::digest;
use identity::spiffe_id::{SpiffeId, SpiffeIdError};
use identity::trust_domain::TrustDomain;
use zeroize::Zeroizing;

/// The name of this attestor in configuration, on the wire and in agent ids.
pub const NAME: &str = "join_token";

/// Longer tokens are refused before they are looked at; SPIRE's own are 36 bytes.
pub const MAX_TOKEN_BYTES: usize = 255;

/// A join token. It is a secret until it is spent, so nothing prints it.
#[derive(Clone, Eq, PartialEq)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// Takes a token from an operator, or from the payload of an attestation request.
    pub fn parse(payload: &[u8]) -> Result<Self, TokenError> {
        if payload.is_empty() {
            return Err(TokenError::Empty);
        }
        if payload.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        // SPIFFE-ID 2.2: the token becomes the last segment of the agent's path.
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
        if !payload.iter().all(allowed) || matches!(payload, b"." | b"..") {
            return Err(TokenError::NotAPathSegment);
        }
        let Ok(text) = str::from_utf8(payload) else {
            return Err(TokenError::NotAPathSegment);
        };
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// The bytes that the agent sends: the token itself.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The token as text, for the operator who asked for it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What a server stores instead of the token.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        let mut hash = [0; 32];
        let sum = digest::digest(&digest::SHA256, self.0.as_bytes());
        hash.copy_from_slice(sum.as_ref());
        TokenHash(hash)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(<{} bytes>)", self.0.len())
    }
}

/// The SHA-256 of a token: enough to recognize it, useless to whoever reads the store.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The digest.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The SPIFFE ID of the agent that joined with this token.
pub fn agent_id(trust_domain: &TrustDomain, token: &Token) -> Result<SpiffeId, SpiffeIdError> {
    SpiffeId::from_segments(trust_domain, ["spire", "agent", NAME, token.reveal()])
}

/// Why some bytes are not a join token.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    /// There is nothing.
    #[error("the join token is empty")]
    Empty,
    /// It is longer than [`MAX_TOKEN_BYTES`].
    #[error("the join token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// It cannot stand in a SPIFFE ID.
    #[error(
        "the join token has characters other than letters, digits, dots, dashes and underscores"
    )]
    NotAPathSegment,
}

impl TokenError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "token_empty",
            Self::TooLong => "token_too_long",
            Self::NotAPathSegment => "token_not_a_path_segment",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    #[test]
    fn the_token_is_the_last_segment_of_the_agent_id() {
        let token = Token::parse(b"6e7ca5e0-8e56-4b5c-8b8d-92a5a3f1f8d5").unwrap();
        assert_eq!(
            agent_id(&example(), &token).unwrap().as_str(),
            "spiffe://example.org/spire/agent/join_token/6e7ca5e0-8e56-4b5c-8b8d-92a5a3f1f8d5"
        );
    }

    #[test]
    fn refuses_what_could_not_stand_in_a_spiffe_id() {
        for (payload, error) in [
            (&b""[..], TokenError::Empty),
            (b".", TokenError::NotAPathSegment),
            (b"..", TokenError::NotAPathSegment),
            (b"a/b", TokenError::NotAPathSegment),
            (b"a b", TokenError::NotAPathSegment),
            (b"a\n", TokenError::NotAPathSegment),
            (b"%2e", TokenError::NotAPathSegment),
            ("\u{e9}".as_bytes(), TokenError::NotAPathSegment),
            (b"\xff", TokenError::NotAPathSegment),
            (&[b'a'; MAX_TOKEN_BYTES + 1], TokenError::TooLong),
        ] {
            assert_eq!(Token::parse(payload), Err(error));
        }
    }

    #[test]
    fn debug_shows_no_token() {
        let token = Token::parse(b"secret-token").unwrap();
        assert_eq!(format!("{token:?}"), "Token(<12 bytes>)");
    }

    #[test]
    fn the_hash_is_sha256() {
        assert_eq!(
            Token::parse(b"abc").unwrap().hash().to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    proptest! {
        #[test]
        fn whatever_parses_gives_an_agent_id_and_comes_back(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(token) = Token::parse(&payload) {
                prop_assert_eq!(token.payload(), &payload[..]);
                prop_assert!(agent_id(&example(), &token).unwrap().is_agent());
            }
        }

        #[test]
        fn every_path_segment_is_a_token(text in "[a-zA-Z0-9_-]{1,255}") {
            prop_assert!(Token::parse(text.as_bytes()).is_ok());
        }
    }
}
