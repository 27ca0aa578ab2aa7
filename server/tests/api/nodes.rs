//! Facts about nodes that prove a key of their own, as far as the conversation goes.

use attestors::node::http_challenge::{self, AgentName, HostName};
use attestors::node::x509pop::{NAME, Options, Prover, Trust, template};
use identity::spiffe_id::SpiffeId;
use identity::x509::parse_pem_certificates;
use proto::spire::server::agent::agent_client::AgentClient;
use proto::spire::server::agent::attest_agent_request::Step;
use proto::spire::server::agent::attest_agent_response::Step as Answer;
use proto::spire::server::agent::{
    AttestAgentRequest, AttestAgentResponse, BanAgentRequest, DeleteAgentRequest, GetAgentRequest,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::support::{Server, attestation, csr, id, start_with};

/// A server that trusts a PKI, and a node of that PKI.
struct World {
    server: Server,
    prover: Prover,
    _folder: TempDir,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = root.self_signed(&root_key).unwrap().pem();
        let trust = Trust::Roots(parse_pem_certificates(&pem).unwrap());
        let mut leaf = CertificateParams::default();
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let issuer = Issuer::from_params(&root, &root_key);
        let leaf = leaf.signed_by(&key, &issuer).unwrap().pem();
        let (certificate_path, private_key_path) = (
            folder.path().join("leaf.pem"),
            folder.path().join("key.pem"),
        );
        std::fs::write(&certificate_path, leaf).unwrap();
        std::fs::write(&private_key_path, key.serialize_pem()).unwrap();
        let options = Options {
            template: template(None, &trust).unwrap(),
            trust,
            max_intermediates: 4,
            max_rsa_bits: 8192,
            verify_client_ip: false,
        };
        let server = start_with(|config| config.x509pop = Some(options)).await;
        let prover = Prover {
            private_key_path,
            certificate_path,
            intermediates_path: None,
        };
        Self {
            server,
            prover,
            _folder: folder,
        }
    }

    async fn talk(&self) -> Result<Talk, Status> {
        let holder = self.prover.load().unwrap();
        let payload = String::from_utf8(holder.payload().to_vec()).unwrap();
        Talk::begin(&self.server, NAME, &payload).await
    }

    /// Attests as an agent does, and tells its name and whether it may do so again.
    async fn attest(&self) -> Result<(SpiffeId, bool), Status> {
        let mut talk = self.talk().await?;
        let challenge = talk.challenge().await?;
        let answer = self.prover.load().unwrap().answer(&challenge).unwrap();
        talk.say(answer).await;
        talk.result().await
    }
}

/// One attestation, message by message.
struct Talk {
    requests: mpsc::Sender<AttestAgentRequest>,
    responses: Streaming<AttestAgentResponse>,
}

impl Talk {
    async fn begin(server: &Server, kind: &str, payload: &str) -> Result<Self, Status> {
        let channel = server.connect(None).await.unwrap();
        let csr = csr(&KeyPair::generate().unwrap(), &CertificateParams::default());
        let (requests, receiver) = mpsc::channel(4);
        requests
            .send(attestation(kind, payload, csr))
            .await
            .unwrap();
        let mut client = AgentClient::new(channel);
        let responses = client.attest_agent(ReceiverStream::new(receiver)).await?;
        let responses = responses.into_inner();
        Ok(Self {
            requests,
            responses,
        })
    }

    async fn next(&mut self) -> Result<Answer, Status> {
        let message = self.responses.message().await?;
        Ok(message.and_then(|message| message.step).unwrap())
    }

    async fn challenge(&mut self) -> Result<Vec<u8>, Status> {
        match self.next().await? {
            Answer::Challenge(challenge) => Ok(challenge.to_vec()),
            Answer::Result(_) => panic!("no challenge"),
        }
    }

    async fn say(&self, answer: Vec<u8>) {
        let step = Some(Step::ChallengeResponse(answer.into()));
        self.requests
            .send(AttestAgentRequest { step })
            .await
            .unwrap();
    }

    async fn result(&mut self) -> Result<(SpiffeId, bool), Status> {
        match self.next().await? {
            Answer::Result(result) => {
                let id = result.svid.unwrap().id.unwrap();
                let id = format!("spiffe://{}{}", id.trust_domain, id.path);
                Ok((SpiffeId::parse(&id).unwrap(), result.reattestable))
            }
            Answer::Challenge(_) => panic!("another challenge"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_answers_its_challenge_is_attested_and_may_attest_again() {
    let world = World::start().await;
    let (agent, reattestable) = world.attest().await.unwrap();
    assert!(reattestable);
    let request = GetAgentRequest {
        id: id(&agent),
        output_mask: None,
    };
    let record = world.server.agents().get_agent(request).await.unwrap();
    let record = record.into_inner();
    assert_eq!(record.attestation_type, NAME);
    assert!(record.can_reattest);
    assert_eq!(world.attest().await.unwrap().0, agent);
    let request = BanAgentRequest { id: id(&agent) };
    world.server.agents().ban_agent(request).await.unwrap();
    let status = world.attest().await.unwrap_err();
    assert_eq!(status.message(), "failed to attest: agent is banned");
}

#[tokio::test(flavor = "multi_thread")]
async fn adv_an_answer_counts_for_its_own_challenge_alone() {
    let world = World::start().await;
    let mut first = world.talk().await.unwrap();
    let challenge = first.challenge().await.unwrap();
    let answer = world.prover.load().unwrap().answer(&challenge).unwrap();
    let mut second = world.talk().await.unwrap();
    second.challenge().await.unwrap();
    second.say(answer.clone()).await;
    let status = second.result().await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(
        status.message(),
        "nodeattestor(x509pop): challenge response verification failed: ECDSA signature verify failed: signature is invalid"
    );
    // A wrong answer uses the challenge up, and the conversation with it.
    assert!(!matches!(second.responses.message().await, Ok(Some(_))));
    first.say(answer).await;
    assert!(first.result().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_answer_gets_nothing() {
    let world = World::start().await;
    for (answer, code) in [
        (&b""[..], Code::InvalidArgument),
        (b"{}", Code::PermissionDenied),
        (b"[", Code::InvalidArgument),
    ] {
        let mut talk = world.talk().await.unwrap();
        talk.challenge().await.unwrap();
        talk.say(answer.to_vec()).await;
        assert_eq!(talk.result().await.unwrap_err().code(), code, "{answer:?}");
    }
    let mut silent = world.talk().await.unwrap();
    silent.challenge().await.unwrap();
    let (requests, _) = mpsc::channel(1);
    drop(std::mem::replace(&mut silent.requests, requests));
    assert_eq!(silent.result().await.unwrap_err().code(), Code::Internal);
    let status = Talk::begin(&world.server, "tpm_devid", "{}").await;
    let status = status.err().unwrap();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
}

/// A server that takes hosts of this machine.
async fn challenging() -> Server {
    let options = http_challenge::Options {
        allowed_dns_patterns: Vec::new(),
        required_port: None,
        allow_non_root_ports: true,
        tofu: true,
        networks: vec!["127.0.0.1".parse().unwrap()],
    };
    start_with(|config| config.http_challenge = Some(options)).await
}

async fn attest_by_name(server: &Server) -> Result<(SpiffeId, bool), Status> {
    let prover = http_challenge::Prover {
        hostname: Some(HostName::parse("127.0.0.1").unwrap()),
        agent: AgentName::parse("default").unwrap(),
        port: 0,
        advertised_port: None,
    };
    let listening = prover.open().unwrap();
    let payload = String::from_utf8(listening.payload().to_vec()).unwrap();
    let mut talk = Talk::begin(server, http_challenge::NAME, &payload).await?;
    let challenge = talk.challenge().await?;
    talk.say(listening.answer(&challenge).unwrap()).await;
    listening.serve_during(talk.result()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn adv_who_comes_second_is_refused_until_an_operator_evicts_the_first() {
    let server = challenging().await;
    let (agent, reattestable) = attest_by_name(&server).await.unwrap();
    assert!(!reattestable);
    let status = attest_by_name(&server).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(
        status.message(),
        "nodeattestor(http_challenge): attestation data has already been used to attest an agent"
    );
    let request = DeleteAgentRequest { id: id(&agent) };
    server.agents().delete_agent(request).await.unwrap();
    assert!(attest_by_name(&server).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn adv_a_caller_is_not_told_what_the_server_found_where_it_was_sent() {
    let server = challenging().await;
    let payload = r#"{"hostname":"10.0.0.1","agentname":"default","port":80}"#;
    let mut talk = Talk::begin(&server, http_challenge::NAME, payload)
        .await
        .unwrap();
    talk.challenge().await.unwrap();
    talk.say(b"\n".to_vec()).await;
    let status = talk.result().await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(
        status.message(),
        "nodeattestor(http_challenge): challenge verification failed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn adv_of_eight_who_come_at_once_one_is_the_first() {
    let server = challenging().await;
    let all = (0..8).map(|_| attest_by_name(&server));
    let outcomes = futures_util::future::join_all(all).await;
    let admitted = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(admitted, 1, "{outcomes:?}");
}
