//! Who may call, decided before any handler runs.
//!
//! Every service of every listener stands behind a [`Gate`]. It looks up the RPC's row, makes out
//! the caller, and either lets the call through with a [`Caller`] in its extensions or answers
//! PERMISSION_DENIED. An RPC without a row is for nobody, also one that is not built.

mod moved;
mod service;
pub(crate) mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use prost::Message;
use proto::spire::types::PermissionDeniedDetails;
use proto::spire::types::permission_denied_details::Reason;
use runtime::clock::Clock;
use runtime::tasks::TaskGroup;
use tonic::{Code, Status};

use self::table::{Role, Rpc};
use super::caller::{AgentCaller, Caller, Connection, Svid};
use crate::audit::{Audit, Event};
use crate::errand;
use crate::index::agents::StoredAgent;
use crate::index::{Index, Snapshot};
use crate::presence::Presence;
use crate::records::agents::{Agent, Next, Standing, encode};
use crate::store::{Expect, Key, Txn};
use crate::writes::{Plan, WriteError, Writer};

pub(crate) use self::service::Gated;

/// Decides about calls.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) index: Index,
    pub(crate) writer: Writer,
    pub(crate) clock: Clock,
    pub(crate) admin_ids: BTreeSet<SpiffeId>,
    pub(crate) audit: Audit,
    pub(crate) metrics: super::metrics::RpcMetrics,
    pub(crate) presence: Presence,
    pub(crate) tasks: TaskGroup,
}

/// The outcome for a call that could be decided.
#[derive(Debug)]
pub(crate) enum Verdict {
    Admitted(Caller),
    Denied(Denial),
}

/// Why a call is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Denial {
    /// The table has no row for the RPC.
    NoRow,
    /// Neither a Unix socket's peer nor a TLS client, or a certificate that is no X509-SVID.
    CallerUnknown,
    /// The RPC is for others than this caller.
    NotForCaller,
    /// The caller's X509-SVID expired while its connection was open.
    SvidExpired,
    /// The agent's X509-SVID expired while its connection was open.
    AgentExpired,
    AgentNotAttested,
    AgentBanned,
    /// The agent uses an X509-SVID that was replaced.
    AgentNotActive,
}

impl Denial {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::NoRow => "no_row",
            Self::CallerUnknown => "caller_unknown",
            Self::NotForCaller => "not_for_caller",
            Self::SvidExpired => "svid_expired",
            Self::AgentExpired => "agent_expired",
            Self::AgentNotAttested => "agent_not_attested",
            Self::AgentBanned => "agent_banned",
            Self::AgentNotActive => "agent_not_active",
        }
    }

    /// What tells an agent how to go on.
    fn details(self) -> Option<Reason> {
        match self {
            Self::AgentExpired => Some(Reason::AgentExpired),
            Self::AgentNotAttested => Some(Reason::AgentNotAttested),
            Self::AgentBanned => Some(Reason::AgentBanned),
            Self::AgentNotActive => Some(Reason::AgentNotActive),
            Self::NoRow | Self::CallerUnknown | Self::NotForCaller | Self::SvidExpired => None,
        }
    }
}

impl Gate {
    /// Decides about a call. An error means that it could not be decided, and fails closed.
    async fn decide(
        self: &Arc<Self>,
        rpc: Option<Rpc>,
        connection: Connection,
    ) -> Result<Verdict, WriteError> {
        let Some(rpc) = rpc else {
            return Ok(Verdict::Denied(Denial::NoRow));
        };
        let admitted = |agent| {
            Ok(Verdict::Admitted(Caller {
                connection: connection.clone(),
                agent,
            }))
        };
        let allows = |role| rpc.roles.contains(&role);
        if allows(Role::Anyone) {
            return admitted(None);
        }
        let svid = match &connection {
            Connection::Local(_) if allows(Role::Local) => return admitted(None),
            Connection::Local(_) | Connection::Tls { svid: None, .. } => {
                return Ok(Verdict::Denied(Denial::NotForCaller));
            }
            Connection::Tls {
                svid: Some(svid), ..
            } => svid,
        };
        let expired = svid.leaf.validity().is_over(self.clock.now());
        if (allows(Role::Admin) && self.is_admin(&svid.id))
            || (allows(Role::Downstream) && self.is_downstream(&svid.id))
        {
            // The handshake saw it valid, but a connection may outlive its certificate.
            return if expired {
                Ok(Verdict::Denied(Denial::SvidExpired))
            } else {
                admitted(None)
            };
        }
        if !allows(Role::Agent) {
            return Ok(Verdict::Denied(Denial::NotForCaller));
        }
        if expired {
            return Ok(Verdict::Denied(Denial::AgentExpired));
        }
        match self.agent(svid).await? {
            Ok(agent) => {
                if let Some(addr) = connection.addr() {
                    self.presence.note(&agent.value.id, addr);
                }
                admitted(Some(AgentCaller::new(agent)))
            }
            Err(denial) => Ok(Verdict::Denied(denial)),
        }
    }

    fn is_admin(&self, id: &SpiffeId) -> bool {
        self.admin_ids.contains(id) || self.has_entry(id, |entry| entry.admin)
    }

    fn is_downstream(&self, id: &SpiffeId) -> bool {
        self.has_entry(id, |entry| entry.downstream)
    }

    fn has_entry(&self, id: &SpiffeId, flag: impl Fn(&identity::entry::Entry) -> bool) -> bool {
        let now = self.clock.now();
        // An entry of ours says nothing about who has the same path in another trust domain.
        id.is_member_of(&self.trust_domain)
            && self
                .index
                .snapshot()
                .entries
                .of_spiffe_id(id)
                .any(|entry| flag(&entry.value) && !entry.value.is_expired(now))
    }

    /// The agent of this SVID, if the SVID is the one in use. The first call with a renewed SVID promotes it.
    async fn agent(
        self: &Arc<Self>,
        svid: &Arc<Svid>,
    ) -> Result<Result<StoredAgent, Denial>, WriteError> {
        let seen = standing(&self.index.snapshot(), svid);
        match seen {
            Seen::Current(agent) => Ok(Ok(agent)),
            Seen::Denied(denial) => Ok(Err(denial)),
            Seen::Next(..) => {
                let (gate, svid) = (Arc::clone(self), Arc::clone(svid));
                let promotion = async move { gate.promoted(&svid).await };
                let promoted = errand::run(&self.tasks, "promotion", promotion).await;
                promoted.unwrap_or(Err(WriteError::CutShort))
            }
        }
    }

    /// A compare-and-set: whoever loses it looks again, and finds that another call of the same agent has
    /// done it.
    async fn promoted(&self, svid: &Svid) -> Result<Result<StoredAgent, Denial>, WriteError> {
        let serial = svid.leaf.serial_decimal();
        let promoted = self
            .writer
            .write(|snapshot| match standing(snapshot, svid) {
                Seen::Current(agent) => Plan::Nothing(Ok(agent)),
                Seen::Denied(denial) => Plan::Nothing(Err(denial)),
                Seen::Next(agent, next) => {
                    let key = Key::agent(&svid.id);
                    let promoted = promote(&agent.value, next);
                    let txn = Txn::new()
                        .expect(key.clone(), Expect::At(agent.revision))
                        .put(key, encode(&promoted));
                    Plan::Commit(txn, Ok(agent))
                }
            })
            .await?;
        if let Ok(agent) = &promoted
            && agent.value.serial() != serial
        {
            let id = &agent.value.id;
            // What we signed for it ended its belonging to another server.
            let event = match agent.value.moved_from.is_empty() {
                true => Event::AgentPromoted { id, serial },
                false => Event::AgentFollowed { id, serial },
            };
            self.audit.record(&svid.id, event);
        }
        Ok(promoted)
    }
}

/// Whether an agent that was let through still would be: for calls that go on for long.
pub(super) fn still_admitted(
    snapshot: &Snapshot,
    svid: &Svid,
    now: SystemTime,
) -> Result<(), Denial> {
    if svid.leaf.validity().is_over(now) {
        return Err(Denial::AgentExpired);
    }
    match standing(snapshot, svid) {
        Seen::Current(_) | Seen::Next(..) => Ok(()),
        Seen::Denied(denial) => Err(denial),
    }
}

/// What the index shows of the caller's SVID.
enum Seen {
    Current(StoredAgent),
    Next(StoredAgent, Next),
    Denied(Denial),
}

fn standing(snapshot: &Snapshot, svid: &Svid) -> Seen {
    let Some(agent) = snapshot.agents.get(&svid.id) else {
        return Seen::Denied(Denial::AgentNotAttested);
    };
    let presented = svid.leaf.serial_decimal();
    match &agent.value.standing {
        Standing::Banned => Seen::Denied(Denial::AgentBanned),
        Standing::Active { serial, .. } if serial == presented => {
            Seen::Current(StoredAgent::clone(agent))
        }
        Standing::Active {
            next: Some(next), ..
        } if next.serial == presented => Seen::Next(StoredAgent::clone(agent), next.clone()),
        Standing::Active { .. } if moved::follows(&agent.value, svid, snapshot) => {
            let next = Next {
                serial: presented.to_owned(),
                expires_at: svid.leaf.validity().not_after(),
            };
            Seen::Next(StoredAgent::clone(agent), next)
        }
        Standing::Active { .. } => Seen::Denied(Denial::AgentNotActive),
    }
}

fn promote(agent: &Agent, next: Next) -> Agent {
    Agent {
        standing: Standing::Active {
            serial: next.serial,
            next: None,
        },
        expires_at: next.expires_at,
        joined_with: None,
        ..agent.clone()
    }
}

/// The answer to a refused call, as agents of SPIRE expect it.
pub(crate) fn denied(path: &str, denial: Denial) -> Status {
    let message = format!("authorization denied for method {path}");
    match denial.details() {
        None => Status::permission_denied(message),
        Some(reason) => with_reason(message, reason),
    }
}

/// PERMISSION_DENIED with the detail that tells an agent how to go on.
pub(crate) fn with_reason(message: String, reason: Reason) -> Status {
    let details = PermissionDeniedDetails {
        reason: reason.into(),
    };
    let any = prost_types::Any {
        type_url: "type.googleapis.com/spire.api.types.PermissionDeniedDetails".to_owned(),
        value: details.encode_to_vec(),
    };
    let code = Code::PermissionDenied;
    let status = tonic_types::Status {
        code: code.into(),
        message: message.clone(),
        details: vec![any],
    };
    Status::with_details(code, message, Bytes::from(status.encode_to_vec()))
}

/// Puts a service behind the gate.
pub(crate) fn gated<S>(gate: &Arc<Gate>, service: S) -> Gated<S> {
    Gated::new(Arc::clone(gate), service)
}
