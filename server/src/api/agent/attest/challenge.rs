//! Attestation with a challenge: one question, one answer, and within a time.

use std::time::Duration;

use attestors::node::{Attested, Circumstances, http_challenge, sshpop, x509pop};
use bytes::Bytes;
use identity::x509::Certificate;
use proto::spire::server::agent::attest_agent_request::Step;
use proto::spire::server::agent::{AttestAgentRequest, AttestAgentResponse, attest_agent_response};
use tonic::{Status, Streaming};

use super::super::super::caller::Caller;
use super::super::super::{Services, status};

/// How long an agent may take to answer. SPIRE's agent gives the whole attestation half a minute.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// A node that has been asked something, by attestor. Each is used up by the one answer to it.
#[derive(Debug)]
pub(super) enum Challenged {
    X509pop(x509pop::Challenged),
    Sshpop(sshpop::Challenged),
    HttpChallenge(http_challenge::Challenged),
}

impl Challenged {
    /// Checks what an attestor can before it asks anything. None is an attestor that is not configured
    /// or has no challenges.
    pub(super) fn begin(
        services: &Services,
        caller: &Caller,
        kind: &str,
        payload: &[u8],
    ) -> Option<Result<Self, Status>> {
        let verifiers = &services.verifiers;
        let authorities = own_authorities(services);
        let at = Circumstances {
            now: services.clock.now(),
            from: caller.addr(),
            authorities: &authorities,
        };
        match kind {
            x509pop::NAME => verifiers.x509pop.as_ref().map(|verifier| {
                let begun = verifier.begin(payload, at).map(Self::X509pop);
                begun.map_err(|error| status::not_attested(caller, x509pop::NAME, &error))
            }),
            sshpop::NAME => verifiers.sshpop.as_ref().map(|verifier| {
                let begun = verifier.begin(payload, at).map(Self::Sshpop);
                begun.map_err(|error| status::not_attested(caller, sshpop::NAME, &error))
            }),
            http_challenge::NAME => verifiers.http_challenge.as_ref().map(|verifier| {
                let begun = verifier.begin(payload).map(Self::HttpChallenge);
                begun.map_err(|error| status::not_attested(caller, http_challenge::NAME, &error))
            }),
            _ => None,
        }
    }

    pub(super) fn attestor(&self) -> &'static str {
        match self {
            Self::X509pop(_) => x509pop::NAME,
            Self::Sshpop(_) => sshpop::NAME,
            Self::HttpChallenge(_) => http_challenge::NAME,
        }
    }

    /// What the agent is sent.
    pub(super) fn message(&self) -> AttestAgentResponse {
        let challenge = match self {
            Self::X509pop(challenged) => challenged.challenge(),
            Self::Sshpop(challenged) => challenged.challenge(),
            Self::HttpChallenge(challenged) => challenged.challenge(),
        };
        let step = attest_agent_response::Step::Challenge(challenge.into());
        AttestAgentResponse { step: Some(step) }
    }

    /// Judges the answer.
    pub(super) async fn conclude(self, caller: &Caller, answer: &[u8]) -> Result<Attested, Status> {
        let attestor = self.attestor();
        match self {
            Self::X509pop(challenged) => challenged
                .conclude(answer)
                .map_err(|error| status::not_attested(caller, attestor, &error)),
            Self::Sshpop(challenged) => challenged
                .conclude(answer)
                .map_err(|error| status::not_attested(caller, attestor, &error)),
            // What the agent says is that it has put the nonce there.
            Self::HttpChallenge(challenged) => challenged
                .conclude(caller.addr())
                .await
                .map_err(|error| status::not_attested(caller, attestor, &error)),
        }
    }
}

/// Waits for the answer to a challenge. Whatever comes after it is not read.
pub(super) async fn answer(requests: &mut Streaming<AttestAgentRequest>) -> Result<Bytes, Status> {
    let next = tokio::time::timeout(ANSWER_TIME, requests.message()).await;
    let next = next.map_err(|_late| {
        Status::deadline_exceeded("failed to receive challenge from agent: it took too long")
    })?;
    match next?.and_then(|request| request.step) {
        Some(Step::ChallengeResponse(answer)) => Ok(answer),
        Some(Step::Params(_)) | None => Err(Status::internal(
            "failed to receive challenge from agent: no challenge response",
        )),
    }
}

fn own_authorities(services: &Services) -> Vec<Certificate> {
    let snapshot = services.index.snapshot();
    let own = snapshot.bundles.get(&services.trust_domain);
    own.map(|stored| stored.value.certificates().cloned().collect())
        .unwrap_or_default()
}
