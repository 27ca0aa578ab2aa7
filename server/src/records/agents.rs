//! Attested agents, under `agents/ID`.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use identity::selector::Selectors;
use identity::spiffe_id::SpiffeId;
use prost::Message;
use proto::records::StoredAgent;

use super::{CodecError, decode_selectors, encode_selectors, from_seconds, to_seconds};

/// An agent that attested and was not evicted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Agent {
    pub(crate) id: SpiffeId,
    pub(crate) attestation_type: Arc<str>,
    pub(crate) standing: Standing,
    /// When the SVID of `standing` expires; of a banned agent, when its last one did.
    pub(crate) expires_at: SystemTime,
    pub(crate) can_reattest: bool,
    pub(crate) selectors: Selectors,
    pub(crate) version: String,
}

/// Which SVIDs of an agent the server accepts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Standing {
    /// The SVID with this serial number (decimal), and its successor once it is used.
    Active { serial: String, next: Option<Next> },
    /// None, until the agent is evicted.
    Banned,
}

/// A renewed SVID that the agent has not used yet. The old one counts until it does: the answer
/// that carried the new one may have been lost.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Next {
    pub(crate) serial: String,
    pub(crate) expires_at: SystemTime,
}

impl Agent {
    pub(crate) fn is_banned(&self) -> bool {
        self.standing == Standing::Banned
    }

    /// The serial number of the SVID in use; none for a banned agent.
    pub(crate) fn serial(&self) -> &str {
        match &self.standing {
            Standing::Active { serial, .. } => serial,
            Standing::Banned => "",
        }
    }
}

pub(crate) fn encode(agent: &Agent) -> Bytes {
    let (serial, next, banned) = match &agent.standing {
        Standing::Active { serial, next } => (serial.clone(), next.as_ref(), false),
        Standing::Banned => (String::new(), None, true),
    };
    let stored = StoredAgent {
        spiffe_id: agent.id.as_str().to_owned(),
        attestation_type: agent.attestation_type.as_ref().to_owned(),
        serial,
        expires_at: to_seconds(agent.expires_at),
        new_serial: next.map(|next| next.serial.clone()),
        new_expires_at: next.map(|next| to_seconds(next.expires_at)),
        banned,
        can_reattest: agent.can_reattest,
        selectors: encode_selectors(&agent.selectors),
        agent_version: agent.version.clone(),
    };
    stored.encode_to_vec().into()
}

pub(crate) fn decode(value: &[u8]) -> Result<Agent, CodecError> {
    let stored = StoredAgent::decode(value)?;
    let next = stored.new_serial.map(|serial| Next {
        serial,
        expires_at: from_seconds(stored.new_expires_at.unwrap_or_default()),
    });
    // An agent without a serial number has nothing to be recognized by: that fails closed.
    let standing = if stored.banned || stored.serial.is_empty() {
        Standing::Banned
    } else {
        Standing::Active {
            serial: stored.serial,
            next,
        }
    };
    Ok(Agent {
        id: SpiffeId::parse(&stored.spiffe_id).map_err(CodecError::field("spiffe_id"))?,
        attestation_type: stored.attestation_type.into(),
        standing,
        expires_at: from_seconds(stored.expires_at),
        can_reattest: stored.can_reattest,
        selectors: decode_selectors(&stored.selectors)?,
        version: stored.agent_version,
    })
}
