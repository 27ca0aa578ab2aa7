//! SPIFFE IDs (SPIFFE-ID 2): the one parser, and the only place that builds one from parts.

use std::{fmt, str::FromStr, sync::Arc};

use crate::trust_domain::{TrustDomain, TrustDomainError, is_name_character};

/// The longest SPIFFE ID, in bytes, scheme included (SPIFFE-ID 2.3).
pub const MAX_BYTES: usize = 2048;

/// What every SPIFFE ID begins with.
pub(crate) const SCHEME: &str = "spiffe://";

/// A SPIFFE ID such as `spiffe://example.org/payments/mysql`. Cheap to clone.
///
/// It is kept byte for byte as it was written; nothing is decoded, folded or normalized, and two
/// IDs are equal when their bytes are.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SpiffeId {
    id: Arc<str>, // INVARIANT: SCHEME, then the name of `trust_domain`, then "" or a valid path.
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// Parses a whole SPIFFE ID of at most [`MAX_BYTES`] bytes.
    pub fn parse(id: &str) -> Result<Self, SpiffeIdError> {
        if id.is_empty() {
            return Err(SpiffeIdError::Empty);
        }
        check_length(id.len())?;
        // SPIFFE-ID 2: the scheme is `spiffe`. 2.4 calls it case-insensitive, but an authority
        // never emits upper case and two spellings of one ID invite confusion, so it is refused.
        let Some(rest) = id.strip_prefix(SCHEME) else {
            return Err(SpiffeIdError::Scheme);
        };
        let (name, path) = split_path(rest);
        let trust_domain = TrustDomain::from_name(name, SCHEME.len())?;
        check_path(path, SCHEME.len() + name.len())?;
        Ok(Self {
            id: id.into(),
            trust_domain,
        })
    }

    /// Joins a trust domain and a path, which is empty or begins with a slash.
    pub fn from_path(trust_domain: &TrustDomain, path: &str) -> Result<Self, SpiffeIdError> {
        let offset = SCHEME.len() + trust_domain.name().len();
        check_length(offset.saturating_add(path.len()))?;
        check_path(path, offset)?;
        let id = format!("{SCHEME}{trust_domain}{path}").into();
        Ok(Self {
            id,
            trust_domain: trust_domain.clone(),
        })
    }

    /// Joins the two halves of SPIRE's protobuf form: a trust domain name, and a path that is empty
    /// or begins with a slash.
    pub fn from_parts(trust_domain: &str, path: &str) -> Result<Self, SpiffeIdError> {
        Self::from_path(&TrustDomain::parse(trust_domain)?, path)
    }

    /// Joins a trust domain and path segments. A segment that is empty, a dot segment or contains
    /// a slash is refused; no segments make the ID of the trust domain.
    pub fn from_segments(
        trust_domain: &TrustDomain,
        segments: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, SpiffeIdError> {
        let offset = SCHEME.len() + trust_domain.name().len();
        let mut path = String::new();
        for segment in segments {
            let segment = segment.as_ref();
            path.push('/');
            if let Some(at) = segment.find('/') {
                let position = offset + path.len() + at;
                return Err(SpiffeIdError::PathCharacter {
                    position,
                    character: '/',
                });
            }
            if segment.is_empty() {
                return Err(SpiffeIdError::EmptySegment {
                    position: offset + path.len(),
                });
            }
            check_length(
                offset
                    .saturating_add(path.len())
                    .saturating_add(segment.len()),
            )?;
            path.push_str(segment);
        }
        Self::from_path(trust_domain, &path)
    }

    /// The ID of the trust domain itself.
    pub(crate) fn of_trust_domain(trust_domain: &TrustDomain) -> Self {
        // At most 264 bytes, so no check can fail.
        Self {
            id: format!("{SCHEME}{trust_domain}").into(),
            trust_domain: trust_domain.clone(),
        }
    }

    /// The ID of a trust domain's servers: `spiffe://TD/spire/server`.
    pub fn server(trust_domain: &TrustDomain) -> Self {
        // At most 264 + 13 bytes of valid characters, so no check can fail.
        let id = format!("{SCHEME}{trust_domain}{SERVER_PATH}").into();
        Self {
            id,
            trust_domain: trust_domain.clone(),
        }
    }

    /// The ID of an agent: `spiffe://TD/spire/agent/KIND/REST`, where KIND names the node attestor
    /// and REST (one or more segments) is what it proved.
    pub fn agent(
        trust_domain: &TrustDomain,
        kind: &str,
        rest: &str,
    ) -> Result<Self, SpiffeIdError> {
        let rest = rest.split('/');
        Self::from_segments(
            trust_domain,
            ["spire", "agent", kind].into_iter().chain(rest),
        )
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.id
    }

    /// The trust domain that the ID belongs to.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path: empty, or with a leading slash.
    pub fn path(&self) -> &str {
        self.id
            .get(SCHEME.len() + self.trust_domain.name().len()..)
            .unwrap_or_default()
    }

    /// Whether there is a path. X509-SVID 3.1 asks for one in every leaf.
    pub fn has_path(&self) -> bool {
        !self.path().is_empty()
    }

    /// Whether the ID belongs to `trust_domain`.
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain == *trust_domain
    }

    /// Whether this is the ID of a server.
    pub fn is_server(&self) -> bool {
        self.path() == SERVER_PATH
    }

    /// Whether this is the ID of an agent, that is, below `/spire/agent/`.
    pub fn is_agent(&self) -> bool {
        self.path().starts_with("/spire/agent/")
    }

    /// Whether the path is `/spire` or below it. No workload may have such an ID.
    pub fn is_reserved(&self) -> bool {
        let path = self.path();
        path == "/spire" || path.starts_with("/spire/")
    }
}

const SERVER_PATH: &str = "/spire/server";

/// Cuts at the first slash, which stays with the path.
fn split_path(rest: &str) -> (&str, &str) {
    rest.split_at_checked(rest.find('/').unwrap_or(rest.len()))
        .unwrap_or((rest, ""))
}

fn check_length(length: usize) -> Result<(), SpiffeIdError> {
    // SPIFFE-ID 2.3: IDs up to 2048 bytes work everywhere; longer ones are not made, and we take
    // none either, so that one limit holds everywhere.
    if length > MAX_BYTES {
        Err(SpiffeIdError::TooLong { length })
    } else {
        Ok(())
    }
}

/// Checks `path`, which stands `offset` bytes into the ID.
fn check_path(path: &str, offset: usize) -> Result<(), SpiffeIdError> {
    if path.is_empty() {
        return Ok(());
    }
    let Some(inner) = path.strip_prefix('/') else {
        return Err(SpiffeIdError::LeadingSlash { position: offset });
    };
    let mut position = offset + 1;
    let mut segments = inner.split('/').peekable();
    while let Some(segment) = segments.next() {
        // SPIFFE-ID 2.2: letters, digits, dot, dash and underscore only, so no percent-encoding,
        // query or fragment; and no empty, `.` or `..` segment: refused, never normalized.
        if let Some((at, character)) = segment.char_indices().find(|(_, c)| !is_path_character(*c))
        {
            return Err(SpiffeIdError::PathCharacter {
                position: position + at,
                character,
            });
        }
        match segment {
            "" if segments.peek().is_some() => {
                return Err(SpiffeIdError::EmptySegment { position });
            }
            // SPIFFE-ID 2.2: no trailing slash.
            "" => {
                return Err(SpiffeIdError::TrailingSlash {
                    position: position - 1,
                });
            }
            "." | ".." => return Err(SpiffeIdError::DotSegment { position }),
            _ => position += segment.len() + 1,
        }
    }
    Ok(())
}

fn is_path_character(c: char) -> bool {
    is_name_character(c) || c.is_ascii_uppercase()
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(id: &str) -> Result<Self, Self::Err> {
        Self::parse(id)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.id)
    }
}

/// Why a text is not a SPIFFE ID. The messages are those that operators of SPIRE know; where the
/// offence stands is told by [`SpiffeIdError::position`] and [`SpiffeIdError::character`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpiffeIdError {
    /// The text is empty.
    #[error("cannot be empty")]
    Empty,
    /// The scheme is not `spiffe`, or no authority follows it (SPIFFE-ID 2).
    #[error("scheme is missing or invalid")]
    Scheme,
    /// The trust domain is not valid (SPIFFE-ID 2.1).
    #[error(transparent)]
    TrustDomain(#[from] TrustDomainError),
    /// A path that was given alone does not begin with a slash.
    #[error("path must have a leading slash")]
    LeadingSlash {
        /// The byte offset in the ID.
        position: usize,
    },
    /// The path ends in a slash (SPIFFE-ID 2.2).
    #[error("path cannot have a trailing slash")]
    TrailingSlash {
        /// The byte offset of the slash in the ID.
        position: usize,
    },
    /// Two slashes in a row (SPIFFE-ID 2.2).
    #[error("path cannot contain empty segments")]
    EmptySegment {
        /// The byte offset in the ID where the segment should be.
        position: usize,
    },
    /// A segment `.` or `..` (SPIFFE-ID 2.2).
    #[error("path cannot contain dot segments")]
    DotSegment {
        /// The byte offset of the segment in the ID.
        position: usize,
    },
    /// A character outside of the set (SPIFFE-ID 2.2).
    #[error(
        "path segment characters are limited to letters, numbers, dots, dashes, and underscores"
    )]
    PathCharacter {
        /// The byte offset in the ID.
        position: usize,
        /// The offending character.
        character: char,
    },
    /// More than [`MAX_BYTES`] bytes (SPIFFE-ID 2.3).
    #[error("SPIFFE ID is {length} bytes long, the maximum is {MAX_BYTES}")]
    TooLong {
        /// The length of the ID in bytes.
        length: usize,
    },
}

impl SpiffeIdError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Scheme => "scheme_invalid",
            Self::TrustDomain(error) => error.reason(),
            Self::LeadingSlash { .. } => "path_leading_slash",
            Self::TrailingSlash { .. } => "path_trailing_slash",
            Self::EmptySegment { .. } => "path_empty_segment",
            Self::DotSegment { .. } => "path_dot_segment",
            Self::PathCharacter { .. } => "path_character",
            Self::TooLong { .. } => "spiffe_id_too_long",
        }
    }

    /// The byte offset of the offence in the ID, where one place can be named.
    pub fn position(&self) -> Option<usize> {
        match self {
            Self::Scheme => Some(0),
            Self::TrustDomain(error) => error.position(),
            Self::LeadingSlash { position }
            | Self::TrailingSlash { position }
            | Self::EmptySegment { position }
            | Self::DotSegment { position }
            | Self::PathCharacter { position, .. } => Some(*position),
            Self::Empty | Self::TooLong { .. } => None,
        }
    }

    /// The offending character, where there is one.
    pub fn character(&self) -> Option<char> {
        match self {
            Self::TrustDomain(error) => error.character(),
            Self::PathCharacter { character, .. } => Some(*character),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
