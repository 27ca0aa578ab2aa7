//! Attested agents, under `agents/ID`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use identity::selector::Selectors;
use identity::spiffe_id::SpiffeId;
use prost::Message;
use proto::records::{StoredAgent, UsedCredential};

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
    /// The credential that it attested with last, where it can do so again.
    pub(crate) used: Option<Used>,
    /// SHA-256 of the public key that joined by a token, until the agent is first heard with its SVID.
    pub(crate) joined_with: Option<Bytes>,
    /// The X.509 authorities of the server that it was taken over from, by name, until this one has
    /// signed for it. An SVID that one of them signed later than the one that is known is the agent's.
    pub(crate) moved_from: Vec<String>,
}

/// A credential that was used, as far as it must be known to judge the next one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Used {
    pub(crate) fingerprint: [u8; 32],
    pub(crate) issued_at: Option<SystemTime>,
    /// What it is bound to, such as a pod.
    pub(crate) holder: String,
    /// Where it came from. Unknown for one that came over a Unix socket.
    pub(crate) from: Option<IpAddr>,
    /// Whether it came while the agent was elsewhere, so that nobody can say who is the rightful one.
    pub(crate) disputed: bool,
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

    /// The agent with another SVID beside the one in use; none for a banned one.
    pub(crate) fn with_next(&self, next: Next) -> Option<Self> {
        let Standing::Active { serial, .. } = &self.standing else {
            return None;
        };
        Some(Self {
            standing: Standing::Active {
                serial: serial.clone(),
                next: Some(next),
            },
            ..self.clone()
        })
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
        used: agent.used.as_ref().map(encode_used),
        joined_with: agent.joined_with.clone(),
        moved_from: agent.moved_from.clone(),
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
        used: stored.used.and_then(decode_used),
        joined_with: stored.joined_with,
        moved_from: stored.moved_from,
    })
}

fn encode_used(used: &Used) -> UsedCredential {
    UsedCredential {
        fingerprint: Bytes::copy_from_slice(&used.fingerprint),
        issued_at: used.issued_at.map(to_seconds),
        holder: used.holder.clone(),
        from: used.from.map_or_else(String::new, |from| from.to_string()),
        disputed: used.disputed,
    }
}

/// What cannot be read is as if it had never been seen: it only serves to raise an alarm.
fn decode_used(stored: UsedCredential) -> Option<Used> {
    Some(Used {
        fingerprint: stored.fingerprint.as_ref().try_into().ok()?,
        issued_at: stored.issued_at.map(from_seconds),
        holder: stored.holder,
        from: stored.from.parse().ok(),
        disputed: stored.disputed,
    })
}
