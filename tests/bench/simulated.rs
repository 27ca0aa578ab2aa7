//! Agents without a node: each attests, has a certificate of its own, and follows the server's feed over
//! mutual TLS by the agent's own client. A process may have thousands of them.

use std::path::Path;
use std::sync::Arc;

use agent::bootstrap::Trust;
use agent::credentials::{AgentSvid, Credentials};
use agent::keys::{WorkloadKey, new_workload_key};
use agent::upstream::feed::{Feed as _, Followed, Part, Told};
use agent::upstream::grpc::{self, Attested, Evidence, Patience, Server, Target};
use agent::upstream::{SigningRequest, Upstream as _, UpstreamError};
use attestors::node::join_token;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use identity::bundle::Bundle;
use identity::entry::EntryId;
use identity::key::KeyAlgorithm;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::x509::X509Svid;
use proto::spire::server::agent::CreateJoinTokenRequest;
use proto::spire::server::agent::agent_client::AgentClient;
use proto::spire::server::bundle::GetBundleRequest;
use proto::spire::server::bundle::bundle_client::BundleClient;
use runtime::clock::Clock;
use tests::api::admin_channel;
use tonic::transport::Channel;

/// How many attest at the same time.
const AT_ONCE: usize = 32;

/// A server that agents are simulated for.
pub(crate) struct Site {
    admin: Channel,
    target: Target,
    bundle: Bundle,
}

impl Site {
    /// Asks the server's socket for what its agents have to know. They connect to `port` of this machine.
    pub(crate) async fn open(admin_socket: &Path, port: u16) -> Self {
        let admin = admin_channel(admin_socket).await;
        let request = GetBundleRequest::default();
        let bundle = BundleClient::new(admin.clone()).get_bundle(request).await;
        let bundle = bundle.unwrap().into_inner();
        let trust_domain = TrustDomain::parse(&bundle.trust_domain).unwrap();
        let authorities = bundle.x509_authorities.iter();
        let der = authorities.flat_map(|authority| authority.asn1.to_vec());
        let der: Vec<u8> = der.collect();
        Self {
            admin,
            bundle: Bundle::from_x509_der(trust_domain.clone(), &der).unwrap(),
            target: target(port, trust_domain),
        }
    }

    /// Has a new agent attest by a join token.
    pub(crate) async fn agent(&self) -> SimulatedAgent {
        let request = CreateJoinTokenRequest {
            ttl: 600,
            ..Default::default()
        };
        let mut client = AgentClient::new(self.admin.clone());
        let token = client.create_join_token(request).await.unwrap();
        let token = token.into_inner().value;
        let path = format!("/spire/agent/{}/{token}", join_token::NAME);
        let id = SpiffeId::from_path(&self.target.trust_domain, &path).unwrap();
        let WorkloadKey { key, csr } = new_workload_key(KeyAlgorithm::EcP256, &id).unwrap();
        let evidence = Evidence {
            kind: join_token::NAME,
            payload: token.into_bytes().into(),
            csr,
            shown: None,
        };
        let trust = Trust::Bundle(Box::new(self.bundle.clone()));
        let attested = grpc::attest(self.target.clone(), trust, evidence, Clock::system()).await;
        let Attested {
            chain,
            reattestable,
            bundle,
        } = attested.unwrap();
        let own = AgentSvid {
            svid: X509Svid::new(chain, key).unwrap(),
            reattestable,
        };
        SimulatedAgent::with(own, bundle, self.target.clone())
    }

    /// Has so many agents attest.
    pub(crate) async fn agents(&self, count: usize) -> Vec<SimulatedAgent> {
        let agents = stream::iter(0..count).map(|_| self.agent());
        agents.buffer_unordered(AT_ONCE).collect().await
    }
}

/// Where a server of the trust domain is, on this machine.
pub(crate) fn target(port: u16, trust_domain: TrustDomain) -> Target {
    Target {
        host: "127.0.0.1".to_owned(),
        port,
        more: Vec::new(),
        trust_domain,
        patience: Patience::USUAL,
        demands_pq: false,
    }
}

/// An agent that has attested. Its calls go over one connection, which is made by the first of them.
pub(crate) struct SimulatedAgent {
    pub(crate) id: SpiffeId,
    server: Server,
}

impl SimulatedAgent {
    pub(crate) fn with(own: AgentSvid, bundle: Bundle, target: Target) -> Self {
        let id = own.svid.id().clone();
        let credentials = Arc::new(Credentials::new(Arc::new(own), Arc::new(bundle)));
        Self {
            id,
            server: Server::new(target, credentials, Clock::system()),
        }
    }

    /// Opens the feed.
    pub(crate) async fn follow(&self) -> Result<Following, UpstreamError> {
        let followed = self.server.follow(None).await?;
        Ok(Following(followed.unwrap()))
    }

    /// Opens the feeds of all these agents, and takes the first change of each.
    pub(crate) async fn follow_all(agents: &[Self]) -> Vec<Following> {
        let opened = stream::iter(agents).map(|agent| async {
            let mut following = agent.follow().await?;
            following.change().await?;
            Ok::<_, UpstreamError>(following)
        });
        opened.buffered(AT_ONCE).try_collect().await.unwrap()
    }

    /// Has the key of an entry's new X509-SVID certified.
    pub(crate) async fn sign(&self, entry_id: EntryId, id: &SpiffeId) {
        let WorkloadKey { csr, .. } = new_workload_key(KeyAlgorithm::EcP256, id).unwrap();
        self.sign_all(vec![SigningRequest { entry_id, csr }]).await;
    }

    /// Has the keys of many certified, in one call.
    pub(crate) async fn sign_all(&self, requests: Vec<SigningRequest>) {
        let signed = self.server.sign_x509(requests).await.unwrap();
        assert!(signed.iter().all(Result::is_ok), "an entry was refused");
    }
}

/// An open feed.
pub(crate) struct Following(Followed);

/// A whole change.
#[derive(Default)]
pub(crate) struct Changed {
    pub(crate) told: Vec<(EntryId, Told)>,
    /// The bytes of its largest message.
    pub(crate) largest: usize,
}

impl Following {
    /// The next change, once all of it has come.
    pub(crate) async fn change(&mut self) -> Result<Changed, UpstreamError> {
        let mut changed = Changed::default();
        loop {
            // A feed ends with an error.
            if let Part::Piece(piece) = self.0.parts.next().await.unwrap()? {
                changed.told.extend(piece.told);
                changed.largest = changed.largest.max(piece.bytes);
                if piece.position.is_some() {
                    return Ok(changed);
                }
            }
        }
    }
}
