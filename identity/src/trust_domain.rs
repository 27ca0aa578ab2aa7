//! Trust domain names (SPIFFE-ID 2.1).

use std::{fmt, str::FromStr, sync::Arc};

use crate::spiffe_id::{SCHEME, SpiffeId};

/// The longest trust domain name, in bytes (SPIFFE-ID 2.3).
pub const MAX_BYTES: usize = 255;

/// The name of a trust domain: 1 to 255 of `a-z`, `0-9`, `.`, `-` and `_`.
///
/// A name is never treated as a DNS name or an address, even when it looks like one
/// (SPIFFE-ID 2.1); names are equal when their bytes are.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses `example.org` or `spiffe://example.org`, and nothing else: a path, a trailing slash
    /// or a port is refused rather than dropped.
    pub fn parse(name_or_id: &str) -> Result<Self, TrustDomainError> {
        match name_or_id.strip_prefix(SCHEME) {
            Some(name) => Self::from_name(name, SCHEME.len()),
            None if name_or_id.contains(":/") => Err(TrustDomainError::Scheme),
            None => Self::from_name(name_or_id, 0),
        }
    }

    /// Checks `name`, which stands `offset` bytes into the text that a person sees.
    pub(crate) fn from_name(name: &str, offset: usize) -> Result<Self, TrustDomainError> {
        // SPIFFE-ID 2.1: the host is not empty.
        if name.is_empty() {
            return Err(TrustDomainError::Missing);
        }
        // SPIFFE-ID 2.1: lower-case letters, digits, dot, dash and underscore only, which leaves
        // no room for userinfo, a port or percent-encoding. Upper case is refused, not folded: a
        // signing authority never emits it, and two spellings of one name invite confusion.
        if let Some((at, character)) = name.char_indices().find(|(_, c)| !is_name_character(*c)) {
            return Err(TrustDomainError::Character {
                position: offset + at,
                character,
            });
        }
        // SPIFFE-ID 2.3: a name has at most 255 bytes.
        if name.len() > MAX_BYTES {
            return Err(TrustDomainError::TooLong { length: name.len() });
        }
        Ok(Self(name.into()))
    }

    /// The bare name, such as `example.org`.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID of the trust domain itself, which has no path: `spiffe://example.org`.
    pub fn id(&self) -> SpiffeId {
        SpiffeId::of_trust_domain(self)
    }
}

/// Whether SPIFFE-ID 2.1 allows `c` in a trust domain name.
pub(crate) fn is_name_character(c: char) -> bool {
    matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_')
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;

    fn from_str(name_or_id: &str) -> Result<Self, Self::Err> {
        Self::parse(name_or_id)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}

/// Why a text is not a trust domain. The messages are those that operators of SPIRE know.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustDomainError {
    /// There is no name (SPIFFE-ID 2.1).
    #[error("trust domain is missing")]
    Missing,
    /// The text has a scheme other than `spiffe` (SPIFFE-ID 2).
    #[error("scheme is missing or invalid")]
    Scheme,
    /// A character outside of the set (SPIFFE-ID 2.1), and the byte where it stands.
    #[error(
        "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores"
    )]
    Character {
        /// The byte offset in the text.
        position: usize,
        /// The offending character.
        character: char,
    },
    /// More than [`MAX_BYTES`] bytes (SPIFFE-ID 2.3).
    #[error("trust domain is {length} bytes long, the maximum is {MAX_BYTES}")]
    TooLong {
        /// The length of the name in bytes.
        length: usize,
    },
}

impl TrustDomainError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "trust_domain_missing",
            Self::Scheme => "scheme_invalid",
            Self::Character { .. } => "trust_domain_character",
            Self::TooLong { .. } => "trust_domain_too_long",
        }
    }

    /// The byte offset of the offence, where one place can be named.
    pub fn position(&self) -> Option<usize> {
        match self {
            Self::Character { position, .. } => Some(*position),
            Self::Scheme => Some(0),
            Self::Missing | Self::TooLong { .. } => None,
        }
    }

    /// The offending character, where there is one.
    pub fn character(&self) -> Option<char> {
        match self {
            Self::Character { character, .. } => Some(*character),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
