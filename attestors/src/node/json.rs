//! How attestors say what they have to say in JSON: within a limit, with bytes in base64 as Go writes them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Bytes that are base64 in JSON.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl TryFrom<String> for Bytes {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let decoded = STANDARD.decode(text);
        Ok(Self(decoded.map_err(|_not_base64| "no base64")?))
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        STANDARD.encode(bytes.0)
    }
}

/// Why a message was not read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unread {
    TooLong,
    /// Where it is not the JSON that it should be, from 1.
    Json {
        line: usize,
        column: usize,
    },
}

/// Reads a message of at most `limit` bytes; a longer one is not looked at.
pub(super) fn read<'a, T: Deserialize<'a>>(message: &'a [u8], limit: usize) -> Result<T, Unread> {
    if message.len() > limit {
        return Err(Unread::TooLong);
    }
    serde_json::from_slice(message).map_err(|error| Unread::Json {
        line: error.line(),
        column: error.column(),
    })
}

pub(super) fn write(message: &impl Serialize) -> Vec<u8> {
    // Texts, numbers and lists of them always have a JSON form.
    serde_json::to_vec(message).unwrap_or_default()
}
