//! Unused join tokens, under `tokens/HASH`: the token itself is never stored.

use std::time::SystemTime;

use bytes::Bytes;
use identity::spiffe_id::SpiffeId;
use prost::Message;
use proto::records::StoredToken;

use super::{CodecError, from_seconds, to_seconds};

/// What is known of a token besides its hash.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct JoinToken {
    pub(crate) expires_at: SystemTime,
    /// The further identity of the agent that uses the token.
    pub(crate) agent_id: Option<SpiffeId>,
}

pub(crate) fn encode(token: &JoinToken) -> Bytes {
    let stored = StoredToken {
        expires_at: to_seconds(token.expires_at),
        agent_id: token.agent_id.as_ref().map(|id| id.as_str().to_owned()),
    };
    stored.encode_to_vec().into()
}

pub(crate) fn decode(value: &[u8]) -> Result<JoinToken, CodecError> {
    let stored = StoredToken::decode(value)?;
    Ok(JoinToken {
        expires_at: from_seconds(stored.expires_at),
        agent_id: stored
            .agent_id
            .as_deref()
            .map(SpiffeId::parse)
            .transpose()
            .map_err(CodecError::field("agent_id"))?,
    })
}
