//! `RenewAgent`: a new SVID for an agent that cannot attest again.
//!
//! The new serial number stands beside the old one until the agent first calls with it, so an agent
//! that never saw the answer goes on with what it has.

use identity::spiffe_id::SpiffeId;
use identity::x509::Csr;
use proto::spire::server::agent::{RenewAgentRequest, RenewAgentResponse};
use proto::spire::types::permission_denied_details::Reason;
use tonic::Status;
use tracing::info;

use super::super::Services;
use super::super::authorize::with_reason;
use super::super::status;
use super::{attest, not_found, replace};
use crate::audit::Event;
use crate::authority::IssuedX509Svid;
use crate::index::Snapshot;
use crate::records::agents::{Agent, Next};
use crate::writes::Plan;

pub(super) async fn renew(
    services: &Services,
    id: &SpiffeId,
    request: RenewAgentRequest,
) -> Result<RenewAgentResponse, Status> {
    {
        let snapshot = services.index.snapshot();
        let agent = snapshot.agents.get(id).ok_or_else(not_found)?;
        if agent.value.can_reattest {
            let message = "agent must reattest instead of renew".to_owned();
            return Err(with_reason(message, Reason::AgentMustReattest));
        }
    }
    let params = request
        .params
        .ok_or_else(|| Status::invalid_argument("params cannot be nil"))?;
    if params.csr.is_empty() {
        return Err(Status::invalid_argument("missing CSR"));
    }
    let admitted = services.limits.sign(id, 1);
    admitted.map_err(|exceeded| status::limited(&exceeded))?;
    let csr = Csr::parse_and_verify(&params.csr)
        .map_err(|error| status::invalid("failed to parse CSR", &error))?;
    let issued = attest::sign(services, id, &csr)?;
    let outcome = services
        .writer
        .write(|snapshot| plan(snapshot, id, &issued))
        .await;
    match outcome.map_err(|error| status::write("failed to update agent", &error))? {
        Outcome::Renewed => {}
        Outcome::Gone => return Err(not_found()),
        // Banned between the gate and here.
        Outcome::Banned => {
            return Err(with_reason(
                format!("agent {id} is banned"),
                Reason::AgentBanned,
            ));
        }
    }
    services.audit.record(
        id,
        Event::AgentRenewed {
            id,
            serial: &issued.serial,
        },
    );
    info!(agent.id = %id, svid.serial = %issued.serial, "Renewed the SVID of an agent");
    Ok(RenewAgentResponse {
        svid: Some(attest::svid(id, &issued)),
    })
}

enum Outcome {
    Renewed,
    Gone,
    Banned,
}

fn plan(snapshot: &Snapshot, id: &SpiffeId, issued: &IssuedX509Svid) -> Plan<Outcome> {
    let Some(agent) = snapshot.agents.get(id) else {
        return Plan::Nothing(Outcome::Gone);
    };
    let next = Next {
        serial: issued.serial.clone(),
        expires_at: issued.not_after,
    };
    let Some(with_next) = agent.value.with_next(next) else {
        return Plan::Nothing(Outcome::Banned);
    };
    // It was heard with its SVID: the token that it came by is done, and so is the server that it came from.
    let renewed = Agent {
        joined_with: None,
        moved_from: Vec::new(),
        ..with_next
    };
    Plan::Commit(replace(agent, &renewed), Outcome::Renewed)
}
