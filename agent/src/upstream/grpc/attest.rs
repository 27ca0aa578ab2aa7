//! Node attestation: how the agent comes by its first SVID.

use std::time::Duration;

use identity::bundle::Bundle;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::x509::{Certificate, X509Svid};
use proto::spire::server::agent::agent_client::AgentClient;
use proto::spire::server::agent::attest_agent_request::{Params, Step};
use proto::spire::server::agent::attest_agent_response::{Result as Attestation, Step as Answer};
use proto::spire::server::agent::{AgentX509svidParams, AttestAgentRequest};
use proto::spire::server::bundle::GetBundleRequest;
use proto::spire::server::bundle::bundle_client::BundleClient;
use proto::spire::types::AttestationData;
use runtime::clock::Clock;
use runtime::report;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tracing::warn;

use super::connect::{Dialer, Target};
use super::convert::{self, protocol};
use super::verify::Anchor;
use super::{MAX_MESSAGE_BYTES, overdue};
use crate::bootstrap::Trust;
use crate::proof::Answerer;
use crate::upstream::{Denial, UpstreamError};

/// What SPIRE's server says to a banned agent that attests.
const BANNED: &str = "failed to attest: agent is banned";

/// The most challenges that are answered in one attestation; no attestor has more than one.
const MAX_CHALLENGES: usize = 4;

/// What the agent proves itself by.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The name of the node attestor.
    pub kind: &'static str,
    pub payload: zeroize::Zeroizing<Vec<u8>>,
    /// What answers the server's challenges, where the attestor has some.
    pub answerer: Option<Answerer>,
    /// The request to have the agent's new key certified, DER.
    pub csr: Vec<u8>,
    /// What the agent shows itself by, if it is one already.
    pub shown: Option<X509Svid>,
}

/// What the server made of it.
#[derive(Clone, Debug)]
pub struct Attested {
    /// The agent's new X509-SVID, leaf first.
    pub chain: Vec<Certificate>,
    pub reattestable: bool,
    /// What the agent trusts from now on.
    pub bundle: Bundle,
}

/// Attests, and fetches the bundle on the same connection.
pub async fn attest(
    target: Target,
    trust: Trust,
    evidence: Evidence,
    clock: Clock,
) -> Result<Attested, UpstreamError> {
    let (trust_domain, patience) = (target.trust_domain.clone(), target.patience);
    let (anchor, known) = match trust {
        Trust::AnyServer => {
            warn!("Insecure bootstrap: whoever answers is taken for the server");
            (Anchor::Nothing, None)
        }
        Trust::Bundle(bundle) => (Anchor::Fixed((*bundle).clone().into()), Some(*bundle)),
    };
    let dialer = Dialer {
        target,
        anchor,
        own: evidence.shown.clone(),
        clock,
        pings: false,
    };
    let channel = if known.is_some() {
        dialer.channel()
    } else {
        dialer.channel_of_one_connection()
    };
    let answerer = evidence.answerer.clone();
    let presented = in_time(patience.call, present(channel.clone(), evidence));
    let svid = match answerer {
        Some(answerer) => answerer.attend(presented).await,
        None => presented.await,
    }?;
    let fetched = in_time(patience.call, fetch(channel, &trust_domain)).await;
    let bundle = match (fetched, known) {
        (Ok(bundle), _) => bundle,
        // The token is spent: an SVID with the bundle that the server was checked against is better
        // than none.
        (Err(error), Some(known)) => {
            warn!(error.reason = error.reason(), error = %report::chain(&error), "Could not fetch the bundle, going on with the configured one");
            known
        }
        (Err(error), None) => return Err(error),
    };
    let chain = convert::chain(svid.svid.as_ref())?;
    check(&chain, &trust_domain)?;
    Ok(Attested {
        chain,
        reattestable: svid.reattestable,
        bundle,
    })
}

async fn in_time<T>(
    time: Duration,
    call: impl Future<Output = Result<T, UpstreamError>>,
) -> Result<T, UpstreamError> {
    tokio::time::timeout(time, call)
        .await
        .unwrap_or_else(|_late| Err(overdue()))
}

async fn present(channel: Channel, evidence: Evidence) -> Result<Attestation, UpstreamError> {
    let Evidence {
        kind,
        payload,
        answerer,
        csr,
        ..
    } = evidence;
    let data = AttestationData {
        r#type: kind.to_owned(),
        payload: payload.to_vec().into(),
    };
    let params = Params {
        data: Some(data),
        params: Some(AgentX509svidParams { csr: csr.into() }),
    };
    let (requests, receiver) = mpsc::channel(1);
    let first = AttestAgentRequest {
        step: Some(Step::Params(params)),
    };
    requests
        .send(first)
        .await
        .map_err(|_closed| protocol("the attestation ended before it began"))?;
    let mut client = AgentClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let responses = client.attest_agent(ReceiverStream::new(receiver)).await;
    let mut responses = responses.map_err(refused)?.into_inner();
    // The request half stays open until the answer is there.
    for _ in 0..=MAX_CHALLENGES {
        let response = responses.message().await.map_err(refused)?;
        match response.and_then(|response| response.step) {
            Some(Answer::Result(result)) => return Ok(result),
            Some(Answer::Challenge(challenge)) => {
                let step = answer(answerer.as_ref(), &challenge)?;
                let request = AttestAgentRequest { step: Some(step) };
                let sent = requests.send(request).await;
                // A server that closed its half has said why in what is read next.
                sent.unwrap_or_default();
            }
            None => return Err(protocol("the attestation ended without a result")),
        }
    }
    Err(protocol("it does not come to an end of its challenges"))
}

/// Answers a challenge, if the attestor that is used has any.
fn answer(answerer: Option<&Answerer>, challenge: &[u8]) -> Result<Step, UpstreamError> {
    let Some(answerer) = answerer else {
        let what = "it challenges an attestation that has no challenges";
        return Err(protocol(what));
    };
    match answerer.answer(challenge) {
        Ok(answer) => Ok(Step::ChallengeResponse(answer.into())),
        Err(error) => Err(UpstreamError::Protocol {
            what: "its challenge cannot be answered",
            source: Some(Box::new(error)),
        }),
    }
}

/// A ban is final, also where the server says so in words alone, as SPIRE's does here.
fn refused(status: Status) -> UpstreamError {
    if status.code() == Code::PermissionDenied && status.message() == BANNED {
        return UpstreamError::Denied(Denial::Banned);
    }
    status.into()
}

async fn fetch(channel: Channel, trust_domain: &TrustDomain) -> Result<Bundle, UpstreamError> {
    let mut client = BundleClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let bundle = client
        .get_bundle(GetBundleRequest::default())
        .await?
        .into_inner();
    let bundle = convert::bundle(&bundle, trust_domain)?;
    if bundle.x509_authorities.is_empty() {
        return Err(protocol("its bundle has no X.509 authority"));
    }
    Ok(bundle)
}

/// The name is the server's to give, within the trust domain.
fn check(chain: &[Certificate], trust_domain: &TrustDomain) -> Result<(), UpstreamError> {
    let id = chain.first().and_then(|leaf| leaf.spiffe_id().ok());
    match id {
        Some(id) if !id.is_member_of(trust_domain) || id == SpiffeId::server(trust_domain) => Err(
            protocol("the agent's SVID is for somebody who is no agent of this trust domain"),
        ),
        Some(_) => Ok(()),
        None => Err(protocol("the agent's SVID has no SPIFFE ID")),
    }
}
