//! Agents without a node: each attests, has a certificate of its own, and follows the server's feed over
//! mutual TLS, as an agent does. A process may have thousands of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent::bootstrap::Trust;
use agent::credentials::{AgentSvid, Credentials};
use agent::keys::{WorkloadKey, new_workload_key};
use agent::upstream::feed::{Feed, Followed, Part, Position, Told};
use agent::upstream::grpc::{self, Attested, Evidence, Patience, Server, Target};
use agent::upstream::{SigningRequest, Upstream, UpstreamError};
use attestors::node::join_token;
use futures_util::{StreamExt, TryStreamExt, stream};
use identity::bundle::Bundle;
use identity::entry::EntryId;
use identity::key::KeyAlgorithm;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::x509::{Certificate, X509Svid};
use proto::spire::server::agent::CreateJoinTokenRequest;
use proto::spire::server::agent::agent_client::AgentClient;
use proto::spire::server::bundle::GetBundleRequest;
use proto::spire::server::bundle::bundle_client::BundleClient;
use runtime::clock::Clock;
use tonic::transport::Channel;

use crate::api::admin_channel;

/// How many attest at the same time.
const AT_ONCE: usize = 32;

/// A server that agents are simulated for.
#[derive(Clone, Debug)]
pub struct Site {
    admin: Channel,
    target: Target,
    bundle: Bundle,
}

impl Site {
    /// Asks the server's socket for what its agents have to know. They connect to `port` of this machine.
    pub async fn open(admin_socket: &Path, port: u16) -> Self {
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
    pub async fn agent(&self) -> SimulatedAgent {
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
            answerer: None,
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
    pub async fn agents(&self, count: usize) -> Vec<SimulatedAgent> {
        let agents = stream::iter(0..count).map(|_| self.agent());
        agents.buffer_unordered(AT_ONCE).collect().await
    }
}

/// Where a server of the trust domain is, on this machine.
pub fn target(port: u16, trust_domain: TrustDomain) -> Target {
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
#[derive(Debug)]
pub struct SimulatedAgent {
    pub id: SpiffeId,
    credentials: Arc<Credentials>,
    server: Server,
}

impl SimulatedAgent {
    /// An agent that got its identity elsewhere.
    pub fn with(own: AgentSvid, bundle: Bundle, target: Target) -> Self {
        let id = own.svid.id().clone();
        let credentials = Arc::new(Credentials::new(Arc::new(own), Arc::new(bundle)));
        Self {
            id,
            credentials: Arc::clone(&credentials),
            server: Server::new(target, credentials, Clock::system()),
        }
    }

    /// Its own X509-SVID.
    pub fn own(&self) -> X509Svid {
        self.credentials.own().svid.clone()
    }

    /// Opens the feed at the position that was reached before, if any.
    pub async fn follow(&self, held: Option<Position>) -> Result<Following, UpstreamError> {
        let followed = self.server.follow(held).await?;
        Ok(Following {
            followed: followed.expect("a server of ours has a feed"),
            keepalives: 0,
        })
    }

    /// Opens the feeds of all these agents, and takes the first change of each.
    pub async fn follow_all(agents: &[Self]) -> Vec<Following> {
        let opened = stream::iter(agents).map(|agent| async {
            let mut following = agent.follow(None).await?;
            following.change().await?;
            Ok::<_, UpstreamError>(following)
        });
        opened.buffered(AT_ONCE).try_collect().await.unwrap()
    }

    /// Has the key of an entry's new X509-SVID certified.
    pub async fn sign(&self, entry: &EntryId, id: &SpiffeId) -> Vec<Certificate> {
        let WorkloadKey { csr, .. } = new_workload_key(KeyAlgorithm::EcP256, id).unwrap();
        let request = SigningRequest {
            entry_id: entry.clone(),
            csr,
        };
        self.sign_all(vec![request]).await.remove(0)
    }

    /// Has the keys of many certified, in one call.
    pub async fn sign_all(&self, requests: Vec<SigningRequest>) -> Vec<Vec<Certificate>> {
        let signed = self.server.sign_x509(requests).await.unwrap();
        signed.into_iter().map(Result::unwrap).collect()
    }
}

/// An open feed.
#[derive(Debug)]
pub struct Following {
    followed: Followed,
    /// How often the server has shown that it is there.
    pub keepalives: usize,
}

/// A whole change.
#[derive(Debug)]
pub struct Changed {
    pub told: BTreeMap<EntryId, Told>,
    pub bundles: BTreeMap<TrustDomain, Option<Arc<Bundle>>>,
    /// Where the agent is with it.
    pub position: Position,
    /// The bytes of its largest message.
    pub largest: usize,
}

impl Following {
    /// Whether the server goes on from the position that the agent gave.
    pub fn is_resumed(&self) -> bool {
        self.followed.resumed
    }

    /// How long the server is silent at most.
    pub fn keepalive(&self) -> Duration {
        self.followed.keepalive
    }

    /// The next change, once all of it has come.
    pub async fn change(&mut self) -> Result<Changed, UpstreamError> {
        let (mut told, mut bundles, mut largest) = (BTreeMap::new(), BTreeMap::new(), 0);
        loop {
            let part = self.followed.parts.next().await;
            match part.expect("a feed ends with an error")? {
                Part::Keepalive => self.keepalives += 1,
                Part::Piece(piece) => {
                    told.extend(piece.told);
                    bundles.extend(piece.bundles);
                    largest = largest.max(piece.bytes);
                    if let Some(position) = piece.position {
                        return Ok(Changed {
                            told,
                            bundles,
                            position,
                            largest,
                        });
                    }
                }
            }
        }
    }
}
