//! `AttestAgent`: an agent proves which node it is, and gets its first SVID.

mod challenge;
mod join;
mod proven;
mod replay;

use std::pin::Pin;
use std::sync::Arc;

use attestors::node::{join_token, k8s_psat};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use identity::spiffe_id::SpiffeId;
use identity::x509::Csr;
use proto::spire::server::agent::attest_agent_request::{Params, Step};
use proto::spire::server::agent::{
    AgentX509svidParams, AttestAgentRequest, AttestAgentResponse, attest_agent_response,
};
use proto::spire::types;
use tonic::{Status, Streaming};
use tracing::info;

use self::challenge::Challenged;
use super::super::Services;
use super::super::caller::Caller;
use super::super::convert::id_to_proto;
use super::super::status;
use crate::audit::Event;
use crate::authority::{IssuedX509Svid, Subject, X509SvidRequest};
use crate::errand;
use crate::records::to_seconds;

/// An agent that proved itself and is on record.
struct Admitted {
    id: SpiffeId,
    issued: IssuedX509Svid,
    reattestable: bool,
}

/// The path of the RPC, for the audit trail.
const ATTEST: &str = "/spire.api.server.agent.v1.Agent/AttestAgent";

/// What an agent is answered: a challenge, if its attestor has one, and the SVID.
pub(super) type Answers = Pin<Box<dyn Stream<Item = Result<AttestAgentResponse, Status>> + Send>>;

pub(super) async fn attest(
    services: &Arc<Services>,
    caller: Caller,
    mut requests: Streaming<AttestAgentRequest>,
) -> Result<Answers, Status> {
    let first = requests.message().await?.and_then(|request| request.step);
    let params = match first {
        Some(Step::Params(params)) => params,
        Some(Step::ChallengeResponse(_)) | None => return Err(malformed("missing params")),
    };
    let (data, svid) = check(params)?;
    let admitted = services.limits.attest(caller.addr());
    admitted.map_err(|exceeded| status::limited(&exceeded))?;
    let csr = || {
        let csr = Csr::parse_and_verify(&svid.csr);
        csr.map_err(|error| status::invalid("failed to parse CSR", &error))
    };
    let kind = data.r#type.as_str();
    let (attestor, admitted) = match (kind, &services.verifiers.k8s_psat) {
        (join_token::NAME, _) => {
            let admitted = join::join(services, &data.payload, &csr()?).await?;
            (join_token::NAME, admitted)
        }
        (k8s_psat::NAME, Some(verifier)) => {
            // A request that cannot be signed is not worth a question to the API server.
            let csr = csr()?;
            let attested = verifier.verify(&data.payload).await;
            let attested =
                attested.map_err(|error| status::not_attested(&caller, k8s_psat::NAME, &error))?;
            let admitted = proven::admit(services, &caller, k8s_psat::NAME, attested, &csr);
            (k8s_psat::NAME, admitted.await?)
        }
        _ => {
            let begun = Challenged::begin(services, &caller, kind, &data.payload);
            let challenged = begun.unwrap_or_else(|| {
                Err(Status::failed_precondition(format!(
                    "error getting node attestor: could not find node attestor type {kind:?}"
                )))
            })?;
            return Ok(challenge(services, caller, challenged, csr()?, requests));
        }
    };
    record(services, &caller, attestor, &admitted);
    Ok(Box::pin(stream::iter([Ok(response(&admitted))])))
}

/// Asks the agent what its attestor wants to know, and goes on with the answer. The stream is all that
/// there is of it: who does not read it to its end leaves nothing behind.
fn challenge(
    services: &Arc<Services>,
    caller: Caller,
    challenged: Challenged,
    csr: Csr,
    mut requests: Streaming<AttestAgentRequest>,
) -> Answers {
    let services = Arc::clone(services);
    let question = challenged.message();
    let conclusion = async move {
        let tasks = services.tasks.clone();
        let answer = challenge::answer(&mut requests).await;
        let conclusion = async move {
            let concluded = conclude(&services, &caller, challenged, answer, &csr).await;
            concluded.inspect_err(|status| {
                services
                    .audit
                    .record(&caller, status::refusal(ATTEST, status));
            })
        };
        // The stream may be dropped between the commit and its line in the audit trail.
        let concluded = errand::run(&tasks, "attestation", conclusion).await;
        concluded.unwrap_or_else(|| Err(Status::internal("the attestation was cut short")))
    };
    Box::pin(stream::iter([Ok(question)]).chain(stream::once(conclusion)))
}

async fn conclude(
    services: &Services,
    caller: &Caller,
    challenged: Challenged,
    answer: Result<Bytes, Status>,
    csr: &Csr,
) -> Result<AttestAgentResponse, Status> {
    let attestor = challenged.attestor();
    let attested = challenged.conclude(caller, &answer?).await?;
    let admitted = proven::admit(services, caller, attestor, attested, csr).await?;
    record(services, caller, attestor, &admitted);
    Ok(response(&admitted))
}

fn record(services: &Services, caller: &Caller, attestor: &'static str, admitted: &Admitted) {
    let Admitted { id, issued, .. } = admitted;
    let serial = &issued.serial;
    let event = Event::AgentAttested {
        id,
        attestor,
        serial,
    };
    services.audit.record(caller, event);
    info!(agent.id = %id, attestor, svid.serial = %serial, "Attested an agent");
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
        name: None,
    };
    let issued = services
        .authorities
        .sign_x509_svid(&request, services.clock.now());
    issued.map_err(|error| status::sign("failed to sign X509 SVID", &error))
}

fn response(admitted: &Admitted) -> AttestAgentResponse {
    let result = attest_agent_response::Result {
        svid: Some(svid(&admitted.id, &admitted.issued)),
        reattestable: admitted.reattestable,
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
