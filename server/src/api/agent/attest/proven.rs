//! Puts on record what a node attestor proved, unless the agent is banned or the proof is a replay.

use std::net::IpAddr;
use std::sync::Arc;

use attestors::node::{Attested, Lasting};
use identity::selector::Selectors;
use identity::spiffe_id::SpiffeId;
use identity::x509::Csr;
use proto::spire::types::permission_denied_details::Reason;
use tonic::Status;
use tracing::warn;

use super::super::super::authorize::with_reason;
use super::super::super::caller::Caller;
use super::super::super::{Services, status};
use super::replay::{Possession, Presented, Verdict, judge, remember};
use super::{Admitted, sign};
use crate::audit::{Doubt, Event};
use crate::authority::IssuedX509Svid;
use crate::index::Snapshot;
use crate::presence::Place;
use crate::records::agents::{Agent, Standing, encode};
use crate::store::{Expect, Key, Txn};
use crate::writes::Plan;
use crate::writes::agents::own_selectors;

/// What comes of an attestation.
enum Outcome {
    Recorded(Verdict),
    Replay,
    /// The proof counts once, and has made an agent already.
    Used,
    Banned,
}

/// An agent about to be recorded.
struct New<'a> {
    attestor: Arc<str>,
    attested: &'a Attested,
    selectors: Selectors,
    issued: &'a IssuedX509Svid,
    caller: &'a Caller,
    from: Option<IpAddr>,
    place: Option<Place>,
}

/// Signs the agent's SVID and records the agent with it. The record takes the place of the one
/// before: its serial number, so that the former SVID counts no more, and its selectors.
pub(super) async fn admit(
    services: &Services,
    caller: &Caller,
    attestor: &'static str,
    attested: Attested,
    csr: &Csr,
) -> Result<Admitted, Status> {
    let id = attested.agent_id();
    // A look before the signature: who gets nothing must not cost one.
    let snapshot = services.index.snapshot();
    if is_banned(&snapshot, id) {
        return Err(banned());
    }
    if is_used(&snapshot, &attested) {
        return Err(used(attestor));
    }
    let issued = sign(services, id, csr)?;
    let what = "failed to create attested agent";
    let mut selectors = attested.selectors().clone();
    if services.agent_id_as_selector {
        let own = own_selectors(id).map_err(|error| status::invalid(what, &error))?;
        selectors = selectors.iter().chain(own.iter()).cloned().collect();
    }
    let new = New {
        attestor: attestor.into(),
        attested: &attested,
        selectors,
        issued: &issued,
        caller,
        from: caller.addr(),
        place: services.presence.of(id),
    };
    let outcome = services.writer.write(|snapshot| plan(snapshot, &new)).await;
    match outcome.map_err(|error| status::write(what, &error))? {
        Outcome::Recorded(verdict) => {
            if verdict == Verdict::Suspicious {
                alarm(services, &new, Event::AgentDoubted(id, Doubt::Admitted));
            }
            Ok(Admitted {
                id: id.clone(),
                issued,
                reattestable: attested.lasting() == Lasting::Repeatable,
            })
        }
        Outcome::Replay => {
            alarm(services, &new, Event::AgentDoubted(id, Doubt::Refused));
            // Not PERMISSION_DENIED, which an agent takes for final: an owner who moved tries again.
            Err(Status::aborted(
                "failed to attest: the credential was used from another address, where the agent is alive",
            ))
        }
        Outcome::Used => Err(used(attestor)),
        Outcome::Banned => Err(banned()),
    }
}

/// Whether the first use was made of a proof that is trusted then alone.
fn is_used(snapshot: &Snapshot, attested: &Attested) -> bool {
    let known = snapshot.agents.get(attested.agent_id());
    attested.lasting() == Lasting::FirstUse && known.is_some()
}

/// SPIRE's words.
fn used(attestor: &'static str) -> Status {
    Status::permission_denied(format!(
        "nodeattestor({attestor}): attestation data has already been used to attest an agent"
    ))
}

fn is_banned(snapshot: &Snapshot, id: &SpiffeId) -> bool {
    let agent = snapshot.agents.get(id);
    agent.is_some_and(|agent| agent.value.is_banned())
}

/// SPIRE's words, and the detail that tells an agent of ours that this is final.
pub(super) fn banned() -> Status {
    let message = "failed to attest: agent is banned".to_owned();
    with_reason(message, Reason::AgentBanned)
}

fn plan(snapshot: &Snapshot, new: &New<'_>) -> Plan<Outcome> {
    let id = new.attested.agent_id();
    let before = snapshot.agents.get(id);
    if is_banned(snapshot, id) {
        return Plan::Nothing(Outcome::Banned);
    }
    // The record is put only where none was seen, so one of any number of racers is the first.
    if is_used(snapshot, new.attested) {
        return Plan::Nothing(Outcome::Used);
    }
    let last = before.and_then(|agent| agent.value.used.as_ref());
    let presented = new.attested.credential().map(|credential| Presented {
        credential,
        from: new.from,
        possession: possession(new.caller, before.map(|agent| &agent.value), id),
    });
    let verdict = presented.as_ref().map_or(Verdict::Ordinary, |presented| {
        judge(last, new.place, presented)
    });
    if verdict == Verdict::Replay {
        return Plan::Nothing(Outcome::Replay);
    }
    let used = presented.map(|presented| remember(last, verdict, &presented));
    let agent = Agent {
        id: id.clone(),
        attestation_type: Arc::clone(&new.attestor),
        standing: Standing::Active {
            serial: new.issued.serial.clone(),
            next: None,
        },
        expires_at: new.issued.not_after,
        can_reattest: new.attested.lasting() == Lasting::Repeatable,
        selectors: new.selectors.clone(),
        version: before.map_or_else(String::new, |agent| agent.value.version.clone()),
        used,
        joined_with: None,
        moved_from: Vec::new(),
    };
    let key = Key::agent(id);
    let seen = Expect::seen(before.map(|agent| agent.revision));
    let txn = Txn::new()
        .expect(key.clone(), seen)
        .put(key, encode(&agent));
    Plan::Commit(txn, Outcome::Recorded(verdict))
}

/// Which SVID of the agent the caller showed in the TLS handshake.
fn possession(caller: &Caller, agent: Option<&Agent>, id: &SpiffeId) -> Possession {
    match (caller.serial_as(id), agent) {
        (Some(serial), Some(agent)) if agent.serial() == serial => Possession::Current,
        (Some(_), _) => Possession::Former,
        (None, _) => Possession::None,
    }
}

fn alarm(services: &Services, new: &New<'_>, event: Event<'_>) {
    services.audit.record(new.caller, event);
    warn!(
        agent.id = %new.attested.agent_id(),
        attestor = %new.attestor,
        caller = %new.caller,
        agent.addr = ?new.place.map(|place| place.addr),
        event = event.name(),
        "The credential of an agent was used from another address than the agent's"
    );
}
