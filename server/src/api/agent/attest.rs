//! `AttestAgent`: an agent proves which node it is, and gets its first SVID.

use std::time::SystemTime;

use attestors::node::join_token::{self, Token};
use identity::selector::Selectors;
use identity::spiffe_id::SpiffeId;
use identity::x509::Csr;
use proto::spire::server::agent::attest_agent_request::{Params, Step};
use proto::spire::server::agent::{
    AgentX509svidParams, AttestAgentRequest, AttestAgentResponse, attest_agent_response,
};
use proto::spire::types;
use tonic::{Status, Streaming};
use tracing::info;

use super::super::Services;
use super::super::caller::Caller;
use super::super::convert::id_to_proto;
use super::super::status;
use crate::audit::Event;
use crate::authority::{IssuedX509Svid, Subject, X509SvidRequest};
use crate::index::Snapshot;
use crate::records::agents::{Agent, Standing, encode};
use crate::records::to_seconds;
use crate::store::{Expect, Key, Txn};
use crate::writes::Plan;
use crate::writes::agents::own_selectors;

const UNKNOWN_TOKEN: &str = "failed to attest: join token does not exist or has already been used";

pub(super) async fn attest(
    services: &Services,
    caller: &Caller,
    mut requests: Streaming<AttestAgentRequest>,
) -> Result<AttestAgentResponse, Status> {
    let first = requests.message().await?.and_then(|request| request.step);
    let params = match first {
        Some(Step::Params(params)) => params,
        Some(Step::ChallengeResponse(_)) | None => return Err(malformed("missing params")),
    };
    let (data, svid) = check(params)?;
    if data.r#type != join_token::NAME {
        return Err(Status::failed_precondition(format!(
            "error getting node attestor: could not find node attestor type {:?}",
            data.r#type
        )));
    }
    let csr = Csr::parse_and_verify(&svid.csr)
        .map_err(|error| status::invalid("failed to parse CSR", &error))?;
    let token = Token::parse(&data.payload)
        .map_err(|_not_a_token| Status::invalid_argument(UNKNOWN_TOKEN))?;
    // The id is made of the very bytes whose hash is looked up.
    let id = join_token::agent_id(&services.trust_domain, &token)
        .map_err(|error| status::invalid("failed to create join token ID", &error))?;
    let issued = join(services, &token, &id, &csr).await?;
    let serial = &issued.serial;
    let event = Event::AgentAttested {
        id: &id,
        attestor: join_token::NAME,
        serial,
    };
    services.audit.record(caller, event);
    info!(agent.id = %id, attestor = join_token::NAME, svid.serial = %serial, "Attested an agent");
    Ok(response(&id, &issued))
}

/// Looks for what is missing, in SPIRE's order.
fn check(params: Params) -> Result<(types::AttestationData, AgentX509svidParams), Status> {
    let data = params
        .data
        .ok_or_else(|| malformed("missing attestation data"))?;
    let svid = params
        .params
        .ok_or_else(|| malformed("missing X509-SVID parameters"))?;
    if svid.csr.is_empty() {
        return Err(malformed("missing CSR"));
    }
    if data.r#type.is_empty() {
        return Err(malformed("missing attestation data type"));
    }
    if data.payload.is_empty() {
        return Err(malformed("missing attestation data payload"));
    }
    Ok((data, svid))
}

fn malformed(what: &str) -> Status {
    Status::invalid_argument(format!("malformed param: {what}"))
}

/// What a token turned out to be.
enum Spent {
    Joined,
    Unknown,
    Expired,
    Banned,
}

/// Spends the token. The token's deletion and the agent's record are one transaction that expects
/// the token as it was seen: of any number of racers exactly one commits, and a server that dies
/// here has done either both or neither. The SVID is signed before and handed out after.
async fn join(
    services: &Services,
    token: &Token,
    id: &SpiffeId,
    csr: &Csr,
) -> Result<IssuedX509Svid, Status> {
    let hash = token.hash().to_string();
    // A look before the signature: a guess must not cost one.
    if services.index.snapshot().tokens.get(&hash).is_none() {
        return Err(Status::invalid_argument(UNKNOWN_TOKEN));
    }
    let issued = sign(services, id, csr)?;
    let now = services.clock.now();
    let what = "failed to create attested agent";
    let selectors = match services.agent_id_as_selector {
        true => own_selectors(id).map_err(|error| status::invalid(what, &error))?,
        false => Selectors::default(),
    };
    let new = New {
        id,
        selectors,
        issued: &issued,
    };
    let spent = services
        .writer
        .write(|snapshot| plan(snapshot, now, &hash, &new))
        .await;
    match spent.map_err(|error| status::write(what, &error))? {
        Spent::Joined => Ok(issued),
        Spent::Unknown => Err(Status::invalid_argument(UNKNOWN_TOKEN)),
        Spent::Expired => Err(Status::invalid_argument("join token expired")),
        Spent::Banned => Err(Status::permission_denied(
            "failed to attest: agent is banned",
        )),
    }
}

/// An agent about to be recorded.
struct New<'a> {
    id: &'a SpiffeId,
    selectors: Selectors,
    issued: &'a IssuedX509Svid,
}

fn plan(snapshot: &Snapshot, now: SystemTime, hash: &str, new: &New<'_>) -> Plan<Spent> {
    let Some(token) = snapshot.tokens.get(hash) else {
        return Plan::Nothing(Spent::Unknown);
    };
    let key = Key::token(hash);
    let txn = Txn::new()
        .expect(key.clone(), Expect::At(token.revision))
        .delete(key);
    // A token that came too late is spent all the same.
    if token.value.expires_at <= now {
        return Plan::Commit(txn, Spent::Expired);
    }
    let New {
        id,
        selectors,
        issued,
    } = new;
    let before = snapshot.agents.get(id);
    if before.is_some_and(|agent| agent.value.is_banned()) {
        return Plan::Commit(txn, Spent::Banned);
    }
    let agent = Agent {
        id: SpiffeId::clone(id),
        attestation_type: join_token::NAME.into(),
        standing: Standing::Active {
            serial: issued.serial.clone(),
            next: None,
        },
        expires_at: issued.not_after,
        can_reattest: false,
        selectors: selectors.clone(),
        version: before.map_or_else(String::new, |agent| agent.value.version.clone()),
    };
    let key = Key::agent(id);
    let txn = txn
        .expect(
            key.clone(),
            Expect::seen(before.map(|agent| agent.revision)),
        )
        .put(key, encode(&agent));
    Plan::Commit(txn, Spent::Joined)
}

/// Signs an agent's SVID. Nothing of the CSR but its public key is used.
pub(super) fn sign(
    services: &Services,
    id: &SpiffeId,
    csr: &Csr,
) -> Result<IssuedX509Svid, Status> {
    let request = X509SvidRequest {
        id,
        public_key: csr.public_key(),
        dns_names: &[],
        ttl: services.ttls.agent,
        subject: Subject::Agent,
    };
    let issued = services
        .authorities
        .sign_x509_svid(&request, services.clock.now());
    issued.map_err(|error| status::sign("failed to sign X509 SVID", &error))
}

fn response(id: &SpiffeId, issued: &IssuedX509Svid) -> AttestAgentResponse {
    let result = attest_agent_response::Result {
        svid: Some(svid(id, issued)),
        reattestable: false,
    };
    AttestAgentResponse {
        step: Some(attest_agent_response::Step::Result(result)),
    }
}

pub(super) fn svid(id: &SpiffeId, issued: &IssuedX509Svid) -> types::X509svid {
    types::X509svid {
        cert_chain: issued.chain.clone(),
        id: Some(id_to_proto(id)),
        expires_at: to_seconds(issued.not_after),
        hint: String::new(),
    }
}
