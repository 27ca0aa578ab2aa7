//! The values of the store: our own protobuf, versioned by its field numbers.
//!
//! A codec is the only place where a stored message meets the type that the rest of the server
//! knows. What was stored was valid when it was written; a record that does not decode is damage,
//! and is reported with its key, never skipped.

pub(crate) mod agents;
pub(crate) mod authorities;
pub(crate) mod bundles;
pub(crate) mod entries;
pub(crate) mod relationships;
pub(crate) mod tokens;

use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use identity::selector::{Selector, Selectors};
use proto::records::StoredSelector;

/// Why the bytes of a record are not one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("the bytes are not a record of this kind")]
    Protobuf(#[from] prost::DecodeError),
    #[error("the field `{field}` does not hold what it should")]
    Field {
        field: &'static str,
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
}

impl CodecError {
    /// Blames a field.
    pub(crate) fn field<E: Error + Send + Sync + 'static>(
        field: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |cause| Self::Field {
            field,
            cause: Box::new(cause),
        }
    }
}

/// A time as whole seconds since 1970. Times before are not written by us, and become 0.
pub(crate) fn to_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The time of whole seconds since 1970. Before 1970 there is nothing of ours.
pub(crate) fn from_seconds(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

fn encode_selectors(selectors: &Selectors) -> Vec<StoredSelector> {
    selectors
        .iter()
        .map(|selector| StoredSelector {
            kind: selector.kind().to_owned(),
            value: selector.value().to_owned(),
        })
        .collect()
}

fn decode_selectors(stored: &[StoredSelector]) -> Result<Selectors, CodecError> {
    stored
        .iter()
        .map(|selector| Selector::new(&selector.kind, &selector.value))
        .collect::<Result<_, _>>()
        .map_err(CodecError::field("selectors"))
}

#[cfg(test)]
mod tests;
