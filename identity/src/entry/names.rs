//! The small texts of an entry: its id, its hint, its DNS names.

use std::{fmt, str::FromStr, sync::Arc};

/// The longest entry id, in bytes.
pub const MAX_ID_BYTES: usize = 255;
/// The longest hint, in bytes.
pub const MAX_HINT_BYTES: usize = 1024;
/// The longest DNS name, in bytes (RFC 1035 2.3.4, without the root's dot).
pub const MAX_DNS_NAME_BYTES: usize = 253;
/// The longest label of a DNS name, in bytes (RFC 1035 2.3.4).
pub const MAX_DNS_LABEL_BYTES: usize = 63;

macro_rules! text {
    ($type:ident, $error:ty) => {
        impl $type {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($type), self.0)
            }
        }
    };
}

/// The id of an entry: 1 to 255 of letters, digits, `-`, `.` and `_`. Cheap to clone.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EntryId(Arc<str>);

text!(EntryId, EntryIdError);

impl EntryId {
    /// Parses an id that is not empty.
    pub fn parse(id: &str) -> Result<Self, EntryIdError> {
        if id.is_empty() {
            return Err(EntryIdError::Missing);
        }
        if id.len() > MAX_ID_BYTES {
            return Err(EntryIdError::TooLong);
        }
        if !id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        {
            return Err(EntryIdError::Character);
        }
        Ok(Self(id.into()))
    }
}

/// Why a text is not an entry id. The messages are those that operators of SPIRE know.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryIdError {
    /// The id is empty.
    #[error("missing entry ID")]
    Missing,
    /// The id is above [`MAX_ID_BYTES`].
    #[error("invalid registration entry: entry ID too long")]
    TooLong,
    /// A character outside of the set.
    #[error("invalid registration entry: entry ID contains invalid characters")]
    Character,
}

impl EntryIdError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "entry_id_missing",
            Self::TooLong => "entry_id_too_long",
            Self::Character => "entry_id_character",
        }
    }
}

/// A hint: 1 to 1024 bytes that tell a workload which of its identities this is. Cheap to clone.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Hint(Arc<str>);

text!(Hint, HintError);

impl Hint {
    /// Takes a hint that is not empty; an entry without one has `None`.
    pub fn parse(hint: &str) -> Result<Self, HintError> {
        if hint.is_empty() {
            return Err(HintError::Empty);
        }
        if hint.len() > MAX_HINT_BYTES {
            return Err(HintError::TooLong);
        }
        Ok(Self(hint.into()))
    }

    /// Reads the wire form, where the empty text means no hint.
    pub fn from_wire(hint: &str) -> Result<Option<Self>, HintError> {
        if hint.is_empty() {
            Ok(None)
        } else {
            Self::parse(hint).map(Some)
        }
    }
}

/// Why a text is not a hint. The messages are those that operators of SPIRE know.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HintError {
    /// The hint is empty.
    #[error("hint is empty")]
    Empty,
    /// The hint is above [`MAX_HINT_BYTES`].
    #[error("hint is too long, max length is {MAX_HINT_BYTES} characters")]
    TooLong,
}

impl HintError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "hint_empty",
            Self::TooLong => "hint_too_long",
        }
    }
}

/// A DNS name for an X509-SVID, with a wildcard in place of the left-most label at most.
///
/// Labels have 1 to 63 letters, digits, dashes or underscores, no dash at either end, and dashes
/// in the third and fourth place only in the form `xn--…`; the name has at most 253 bytes, no dot
/// at its end, and a last label that is no number, so that it is no address. The case is kept.
/// Cheap to clone.
///
/// SPIRE also lets numbers, spaces and other printable characters pass. TLS libraries do not match
/// such names, and some refuse the whole certificate, so they are refused here.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DnsName(Arc<str>);

text!(DnsName, DnsNameError);

impl DnsName {
    /// Parses a DNS name.
    pub fn parse(name: &str) -> Result<Self, DnsNameError> {
        if !name.is_ascii() {
            return Err(DnsNameError::NotAscii);
        }
        let labels = match name.bytes().filter(|b| *b == b'*').count() {
            0 => name,
            1 => name
                .strip_prefix("*.")
                .ok_or(DnsNameError::WildcardNotFirst)?,
            _ => return Err(DnsNameError::TooManyWildcards),
        };
        if labels.trim().is_empty() {
            return Err(DnsNameError::Empty);
        }
        if labels.ends_with('.') {
            return Err(DnsNameError::EndsWithDot);
        }
        if name.len() > MAX_DNS_NAME_BYTES {
            return Err(DnsNameError::TooLong);
        }
        if !labels.split('.').all(is_label) || labels.rsplit('.').next().is_some_and(is_number) {
            return Err(DnsNameError::Label);
        }
        Ok(Self(name.into()))
    }

    /// Whether the left-most label is a wildcard.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }
}

fn is_label(label: &str) -> bool {
    let punycode = label
        .get(..4)
        .is_some_and(|start| start.eq_ignore_ascii_case("xn--"));
    let reserved = label.get(2..4) == Some("--") && !punycode;
    (1..=MAX_DNS_LABEL_BYTES).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && !reserved
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// Whether the last label makes the name an address (RFC 1123 2.1; readers take the hexadecimal form
/// for one as well).
fn is_number(label: &str) -> bool {
    let hex = label
        .strip_prefix("0x")
        .or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|b| b.is_ascii_digit())
        || hex.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Why a text is not a DNS name. The messages are those that operators of SPIRE know.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DnsNameError {
    /// There is nothing, or only white space.
    #[error("empty or only whitespace")]
    Empty,
    /// A character is not ASCII; internationalized names are written in Punycode.
    #[error("name must be ascii")]
    NotAscii,
    /// More than one star.
    #[error("too many wildcards")]
    TooManyWildcards,
    /// A star that is not the whole left-most label.
    #[error("wildcard must be first label")]
    WildcardNotFirst,
    /// The name ends with the root's dot.
    #[error("domain ends with dot")]
    EndsWithDot,
    /// The name is above [`MAX_DNS_NAME_BYTES`].
    #[error("idna error: name is longer than {MAX_DNS_NAME_BYTES} bytes")]
    TooLong,
    /// A label is empty, too long, has odd characters or dashes, or makes the name an address.
    #[error("idna error: invalid label")]
    Label,
}

impl DnsNameError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "dns_name_empty",
            Self::NotAscii => "dns_name_not_ascii",
            Self::TooManyWildcards => "dns_name_wildcards",
            Self::WildcardNotFirst => "dns_name_wildcard_place",
            Self::EndsWithDot => "dns_name_dot",
            Self::TooLong => "dns_name_too_long",
            Self::Label => "dns_name_label",
        }
    }
}
