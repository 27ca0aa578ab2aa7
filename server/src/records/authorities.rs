//! The journal of one server's authorities, under `authorities/SERVER/KIND-SLOT`.
//!
//! One record for each slot. Private keys are not in it, only their names in key custody.

use std::time::SystemTime;

use bytes::Bytes;
use prost::Message;
use proto::records::{StoredAuthority, stored_authority as stored};

use super::{CodecError, from_seconds, to_seconds};
use crate::authority::{Kind, SlotId, State};

/// What the journal knows of the authority in a slot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) slot: SlotId,
    pub(crate) state: State,
    pub(crate) authority_id: String,
    pub(crate) issued_at: SystemTime,
    pub(crate) not_after: SystemTime,
    /// X.509 only: the certificate, then what leads to the root.
    pub(crate) certificates: Vec<Bytes>,
    /// The name of the private key in custody.
    pub(crate) key_id: String,
}

/// The field holds a value that this version does not know, or none.
#[derive(Debug, thiserror::Error)]
#[error("value is not known")]
struct Unknown;

pub(crate) fn encode(entry: &Entry) -> Bytes {
    let kind = match entry.kind {
        Kind::X509 => stored::Kind::X509,
        Kind::Jwt => stored::Kind::Jwt,
    };
    let slot = match entry.slot {
        SlotId::A => stored::Slot::A,
        SlotId::B => stored::Slot::B,
    };
    let state = match entry.state {
        State::Prepared => stored::State::Prepared,
        State::Active => stored::State::Active,
        State::Old => stored::State::Old,
    };
    let stored = StoredAuthority {
        kind: kind.into(),
        slot: slot.into(),
        state: state.into(),
        authority_id: entry.authority_id.clone(),
        issued_at: to_seconds(entry.issued_at),
        not_after: to_seconds(entry.not_after),
        certificate_chain: entry.certificates.clone(),
        key_id: entry.key_id.clone(),
        upstream_authority_id: String::new(),
    };
    stored.encode_to_vec().into()
}

pub(crate) fn decode(value: &[u8]) -> Result<Entry, CodecError> {
    let stored = StoredAuthority::decode(value)?;
    let kind = match stored.kind() {
        stored::Kind::X509 => Kind::X509,
        stored::Kind::Jwt => Kind::Jwt,
        stored::Kind::Unspecified => return Err(CodecError::field("kind")(Unknown)),
    };
    let slot = match stored.slot() {
        stored::Slot::A => SlotId::A,
        stored::Slot::B => SlotId::B,
        stored::Slot::Unspecified => return Err(CodecError::field("slot")(Unknown)),
    };
    let state = match stored.state() {
        stored::State::Prepared => State::Prepared,
        stored::State::Active => State::Active,
        stored::State::Old => State::Old,
        stored::State::Unspecified => return Err(CodecError::field("state")(Unknown)),
    };
    Ok(Entry {
        kind,
        slot,
        state,
        authority_id: stored.authority_id,
        issued_at: from_seconds(stored.issued_at),
        not_after: from_seconds(stored.not_after),
        certificates: stored.certificate_chain,
        key_id: stored.key_id,
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    fn entries() -> impl Strategy<Value = Entry> {
        let kind = prop::sample::select(vec![Kind::X509, Kind::Jwt]);
        let slot = prop::sample::select(vec![SlotId::A, SlotId::B]);
        let state = prop::sample::select(vec![State::Prepared, State::Active, State::Old]);
        let times = (0..4_000_000_000_u64, 0..4_000_000_000_u64);
        (
            kind,
            slot,
            state,
            ".{0,40}",
            times,
            prop::collection::vec(any::<u8>(), 0..40),
        )
            .prop_map(
                |(kind, slot, state, authority_id, (issued_at, not_after), certificate)| Entry {
                    kind,
                    slot,
                    state,
                    key_id: format!("key-{authority_id}"),
                    authority_id,
                    issued_at: UNIX_EPOCH + Duration::from_secs(issued_at),
                    not_after: UNIX_EPOCH + Duration::from_secs(not_after),
                    certificates: vec![certificate.into()],
                },
            )
    }

    proptest! {
        #[test]
        fn an_entry_comes_back_as_it_was_stored(entry in entries()) {
            prop_assert_eq!(decode(&encode(&entry)).unwrap(), entry);
        }

        #[test]
        fn any_bytes_are_an_entry_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
