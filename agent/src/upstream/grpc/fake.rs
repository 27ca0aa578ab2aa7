//! A small server that speaks SPIRE's protocol over real TLS, and fails as it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use identity::x509::{Certificate, Csr};
use parking_lot::Mutex;
use prost::Message as _;
use proto::spire::server::agent::{
    self, agent_server, attest_agent_request, attest_agent_response,
};
use proto::spire::server::bundle::{self, bundle_server};
use proto::spire::server::entry::{self, entry_server};
use proto::spire::server::svid::{self, svid_server};
use proto::spire::types;
use rcgen::{CertificateParams, KeyPair};
use runtime::listen::{self, Limits, ListenMetrics, Serve, TlsPeer};
use runtime::shutdown::{Reason, Shutdown, ShutdownTrigger};
use runtime::tasks::TaskGroup;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::upstream::fake::{self, Ca};

/// What the server does, and what it has seen.
#[derive(Debug, Default)]
pub(crate) struct Script {
    /// Join tokens that can be used.
    pub(crate) tokens: BTreeSet<String>,
    /// Answers to the next attestations, in place of SVIDs.
    pub(crate) refusals: Vec<(Code, &'static str)>,
    /// The evidence of pods, and whether the agent showed the SVID in use with it.
    pub(crate) evidence: Vec<(String, bool)>,
    /// Deny the agent, for this reason of SPIRE's, whatever it asks after attestation.
    pub(crate) deny: Option<i32>,
    /// The keys that joined, by their tokens.
    pub(crate) joined: BTreeMap<String, Vec<u8>>,
    /// The tokens that were shown, and the keys beside them.
    pub(crate) tried: Vec<(String, Vec<u8>)>,
    /// How many answers to attestations are lost after the server has done its part.
    pub(crate) lose_attestations: usize,
    /// How many answers to renewals are lost after the server has done its part.
    pub(crate) lose_renewals: usize,
    /// Answer GetBundle with an error after attestation.
    pub(crate) no_bundle: bool,
    /// How long agents' SVIDs last.
    pub(crate) lifetime: Duration,
    pub(crate) entries: Vec<types::Entry>,
    /// Send revisions first, this many at a time. 0 sends everything at once.
    pub(crate) page_size: usize,
    /// Put an entry among the revisions.
    pub(crate) mix: bool,
    pub(crate) tainted: bool,
    /// Which RPCs were called, in order.
    pub(crate) calls: Vec<&'static str>,
    /// The ids that the agent asked for, request by request.
    pub(crate) asked: Vec<Vec<String>>,
    /// Serials as SPIRE's server keeps them: the one in use, and the one that was issued last.
    pub(crate) serial: String,
    pub(crate) next_serial: String,
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) addr: SocketAddr,
    pub(crate) script: Arc<Mutex<Script>>,
    pub(crate) ca: Arc<Ca>,
    heard: watch::Sender<()>,
    trigger: ShutdownTrigger,
    tasks: TaskGroup,
}

/// An X509-SVID that begins a second ago and ends `lifetime` from now.
#[expect(
    clippy::disallowed_methods,
    reason = "the fake signs for the real time"
)]
fn leaf(id: &str, lifetime: Duration) -> CertificateParams {
    let slack = Duration::from_secs(1);
    fake::leaf(id, std::time::SystemTime::now() - slack, lifetime + slack)
}

impl Fake {
    /// A server of `example.org` with a new authority.
    pub(crate) fn start() -> Self {
        Self::start_as(Arc::new(Ca::new()), "spiffe://example.org/spire/server", 0)
    }

    /// The same with this authority, name and port.
    pub(crate) fn start_as(ca: Arc<Ca>, id: &str, port: u16) -> Self {
        let script = Script {
            lifetime: Duration::from_secs(3600),
            ..Script::default()
        };
        Self::start_with(ca, id, port, Arc::new(Mutex::new(script)))
    }

    pub(crate) fn start_with(ca: Arc<Ca>, id: &str, port: u16, script: Arc<Mutex<Script>>) -> Self {
        let config = tls(&ca, id);
        let (trigger, shutdown) = Shutdown::new();
        let tasks = TaskGroup::new(trigger.clone());
        let bound = listen::bind_tcp(([127, 0, 0, 1], port).into()).unwrap();
        let addr = bound.addr();
        let heard = watch::Sender::new(());
        let service = Service {
            ca: Arc::clone(&ca),
            script: Arc::clone(&script),
            heard: heard.clone(),
        };
        let routes = Routes::new(agent_server::AgentServer::new(service.clone()))
            .add_service(bundle_server::BundleServer::new(service.clone()))
            .add_service(entry_server::EntryServer::new(service.clone()))
            .add_service(svid_server::SvidServer::new(service));
        let metrics =
            ListenMetrics::register(&mut prometheus_client::registry::Registry::default())
                .socket("fake");
        let serve = Serve {
            limits: Limits::server(),
            shutdown,
            tasks: tasks.clone(),
            metrics,
        };
        tasks.spawn("fake", async move {
            listen::serve_tls(bound, Arc::new(move || Arc::clone(&config)), routes, serve)
                .await
                .unwrap();
        });
        Self {
            addr,
            script,
            ca,
            heard,
            trigger,
            tasks,
        }
    }

    /// Ends it, connections included.
    pub(crate) async fn stop(self) {
        self.trigger.trigger(Reason::Requested("test"));
        self.tasks.drain(Duration::from_secs(10)).await;
    }

    /// Ends it, and starts it again at the same place.
    pub(crate) async fn restart(self) -> Self {
        let (ca, script, port) = (
            Arc::clone(&self.ca),
            Arc::clone(&self.script),
            self.addr.port(),
        );
        self.stop().await;
        Self::start_with(ca, "spiffe://example.org/spire/server", port, script)
    }

    pub(crate) fn token(&self, token: &str) {
        self.script.lock().tokens.insert(token.to_owned());
    }

    pub(crate) fn calls(&self, name: &str) -> usize {
        self.script
            .lock()
            .calls
            .iter()
            .filter(|call| **call == name)
            .count()
    }
}

impl Fake {
    /// Waits until this RPC was called that often.
    pub(crate) async fn called(&self, name: &str, times: usize) {
        let mut heard = self.heard.subscribe();
        let wait = async {
            while self.calls(name) < times {
                heard.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait)
            .await
            .expect(name);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.trigger.trigger(Reason::Requested("dropped"));
    }
}

fn tls(ca: &Ca, id: &str) -> Arc<rustls::ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let certificate = leaf(id, Duration::from_secs(3600))
        .signed_by(&key, &ca.issuer)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .unwrap();
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = listen::tls13().unwrap().with_client_cert_verifier(clients);
    let mut config = config.with_single_cert(chain, key).unwrap();
    listen::harden(&mut config);
    Arc::new(config)
}

#[derive(Clone)]
struct Service {
    ca: Arc<Ca>,
    script: Arc<Mutex<Script>>,
    heard: watch::Sender<()>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn denied(reason: i32) -> Status {
    let details = types::PermissionDeniedDetails { reason };
    let any = prost_types::Any {
        type_url: "type.googleapis.com/spire.api.types.PermissionDeniedDetails".to_owned(),
        value: details.encode_to_vec(),
    };
    let status = tonic_types::pb::Status {
        code: Code::PermissionDenied.into(),
        message: "no".to_owned(),
        details: vec![any],
    };
    Status::with_details(Code::PermissionDenied, "no", status.encode_to_vec().into())
}

impl Service {
    fn note(&self, call: &'static str) {
        self.script.lock().calls.push(call);
        self.heard.send_replace(());
    }

    /// Who calls, by SPIRE's rules: the issued serial becomes the current one when it is first used.
    fn caller<T>(&self, call: &'static str, request: &Request<T>) -> Result<String, Status> {
        self.note(call);
        let peer = request.extensions().get::<Arc<TlsPeer>>().unwrap();
        let leaf = peer
            .certificates
            .first()
            .ok_or_else(|| Status::permission_denied("no certificate"))?;
        let leaf = Certificate::parse(leaf).unwrap();
        let mut script = self.script.lock();
        if let Some(reason) = script.deny {
            return Err(denied(reason));
        }
        let serial = leaf.serial_decimal().to_owned();
        if serial == script.next_serial {
            script.serial = std::mem::take(&mut script.next_serial);
        }
        if serial != script.serial {
            return Err(denied(
                types::permission_denied_details::Reason::AgentNotActive.into(),
            ));
        }
        Ok(leaf.spiffe_id().unwrap().as_str().to_owned())
    }

    fn issue(&self, csr: &[u8], id: &str) -> (types::X509svid, String) {
        let lifetime = self.script.lock().lifetime;
        let svid = self.ca.certify(csr, leaf(id, lifetime));
        let cert_chain = vec![svid.der().to_vec().into()];
        (
            types::X509svid {
                cert_chain,
                ..Default::default()
            },
            svid.serial_decimal().to_owned(),
        )
    }

    fn own_bundle(&self) -> types::Bundle {
        let asn1 = self.ca.certificate.der().to_vec().into();
        let tainted = self.script.lock().tainted;
        types::Bundle {
            trust_domain: "example.org".to_owned(),
            x509_authorities: vec![types::X509Certificate { asn1, tainted }],
            ..Default::default()
        }
    }
}

/// An implementation with the methods that are given; the others are never called.
macro_rules! service {
    (impl $service:path { $($name:ident($request:ty) -> $response:ty;)* } with { $($given:tt)* }) => {
        #[tonic::async_trait]
        impl $service for Service {
            $($given)*
            $(async fn $name(&self, _request: Request<$request>) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented(stringify!($name)))
            })*
        }
    };
}

service! {
    impl agent_server::Agent {
        create_join_token(agent::CreateJoinTokenRequest) -> types::JoinToken;
        get_agent(agent::GetAgentRequest) -> types::Agent;
        list_agents(agent::ListAgentsRequest) -> agent::ListAgentsResponse;
        count_agents(agent::CountAgentsRequest) -> agent::CountAgentsResponse;
        ban_agent(agent::BanAgentRequest) -> ();
        delete_agent(agent::DeleteAgentRequest) -> ();
    } with {
        type AttestAgentStream = Answers<agent::AttestAgentResponse>;

        async fn attest_agent(
            &self,
            request: Request<Streaming<agent::AttestAgentRequest>>,
        ) -> Result<Response<Self::AttestAgentStream>, Status> {
            self.note("attest");
            let peer = request.extensions().get::<Arc<TlsPeer>>().unwrap();
            let shown = peer.certificates.first().map(|leaf| Certificate::parse(leaf).unwrap());
            let first = request.into_inner().message().await?;
            let Some(attest_agent_request::Step::Params(params)) = first.and_then(|first| first.step) else {
                return Err(Status::invalid_argument("malformed param: missing params"));
            };
            let data = params.data.unwrap();
            let csr = params.params.unwrap().csr;
            let token = String::from_utf8(data.payload.to_vec()).unwrap();
            let reattestable = data.r#type == "k8s_psat";
            let id = if reattestable {
                let mut script = self.script.lock();
                let shown = shown.is_some_and(|leaf| leaf.serial_decimal() == script.serial);
                script.evidence.push((token, shown));
                if let Some((code, message)) = script.refusals.pop() {
                    return Err(Status::new(code, message));
                }
                "spiffe://example.org/spire/agent/k8s_psat/prod/node".to_owned()
            } else {
                let key = Csr::parse_and_verify(&csr).unwrap().public_key().spki_der().to_vec();
                let fresh = self.script.lock().tokens.remove(&token);
                let repeated = self.script.lock().joined.get(&token) == Some(&key);
                self.script.lock().tried.push((token.clone(), key.clone()));
                if fresh {
                    self.script.lock().joined.insert(token.clone(), key);
                }
                if !fresh && !repeated {
                    let message = "failed to attest: join token does not exist or has already been used";
                    return Err(Status::invalid_argument(message));
                }
                format!("spiffe://example.org/spire/agent/join_token/{token}")
            };
            let (svid, serial) = self.issue(&csr, &id);
            let mut script = self.script.lock();
            script.serial = serial;
            script.next_serial.clear();
            script.deny = None;
            if script.lose_attestations > 0 {
                script.lose_attestations -= 1;
                return Err(Status::unavailable("the answer was lost"));
            }
            let result = attest_agent_response::Result { svid: Some(svid), reattestable };
            let step = Some(attest_agent_response::Step::Result(result));
            let answer = agent::AttestAgentResponse { step };
            Ok(Response::new(Box::pin(tokio_stream::once(Ok(answer)))))
        }

        async fn renew_agent(
            &self,
            request: Request<agent::RenewAgentRequest>,
        ) -> Result<Response<agent::RenewAgentResponse>, Status> {
            let id = self.caller("renew", &request)?;
            let (svid, serial) = self.issue(&request.into_inner().params.unwrap().csr, &id);
            let mut script = self.script.lock();
            script.next_serial = serial;
            if script.lose_renewals > 0 {
                script.lose_renewals -= 1;
                return Err(Status::unavailable("the answer was lost"));
            }
            Ok(Response::new(agent::RenewAgentResponse { svid: Some(svid) }))
        }

        async fn post_status(
            &self,
            request: Request<agent::PostStatusRequest>,
        ) -> Result<Response<agent::PostStatusResponse>, Status> {
            self.caller("post_status", &request)?;
            Ok(Response::new(agent::PostStatusResponse {}))
        }
    }
}

service! {
    impl bundle_server::Bundle {
        append_bundle(bundle::AppendBundleRequest) -> types::Bundle;
        count_bundles(bundle::CountBundlesRequest) -> bundle::CountBundlesResponse;
        publish_jwt_authority(bundle::PublishJwtAuthorityRequest) -> bundle::PublishJwtAuthorityResponse;
        publish_wit_authority(bundle::PublishWitAuthorityRequest) -> bundle::PublishWitAuthorityResponse;
        list_federated_bundles(bundle::ListFederatedBundlesRequest) -> bundle::ListFederatedBundlesResponse;
        batch_create_federated_bundle(bundle::BatchCreateFederatedBundleRequest) -> bundle::BatchCreateFederatedBundleResponse;
        batch_update_federated_bundle(bundle::BatchUpdateFederatedBundleRequest) -> bundle::BatchUpdateFederatedBundleResponse;
        batch_set_federated_bundle(bundle::BatchSetFederatedBundleRequest) -> bundle::BatchSetFederatedBundleResponse;
        batch_delete_federated_bundle(bundle::BatchDeleteFederatedBundleRequest) -> bundle::BatchDeleteFederatedBundleResponse;
    } with {
        async fn get_bundle(&self, _request: Request<bundle::GetBundleRequest>) -> Result<Response<types::Bundle>, Status> {
            self.note("bundle");
            if self.script.lock().no_bundle {
                return Err(Status::internal("no bundle today"));
            }
            Ok(Response::new(self.own_bundle()))
        }

        async fn get_federated_bundle(
            &self,
            request: Request<bundle::GetFederatedBundleRequest>,
        ) -> Result<Response<types::Bundle>, Status> {
            self.caller("federated_bundle", &request)?;
            match request.get_ref().trust_domain.as_str() {
                // A server that mixes bundles up.
                "mixed.up" => Ok(Response::new(self.own_bundle())),
                _ => Err(Status::not_found("bundle not found")),
            }
        }
    }
}

service! {
    impl entry_server::Entry {
        get_entry(entry::GetEntryRequest) -> types::Entry;
        list_entries(entry::ListEntriesRequest) -> entry::ListEntriesResponse;
        count_entries(entry::CountEntriesRequest) -> entry::CountEntriesResponse;
        batch_create_entry(entry::BatchCreateEntryRequest) -> entry::BatchCreateEntryResponse;
        batch_update_entry(entry::BatchUpdateEntryRequest) -> entry::BatchUpdateEntryResponse;
        batch_delete_entry(entry::BatchDeleteEntryRequest) -> entry::BatchDeleteEntryResponse;
        get_authorized_entries(entry::GetAuthorizedEntriesRequest) -> entry::GetAuthorizedEntriesResponse;
    } with {
        type SyncAuthorizedEntriesStream = Answers<entry::SyncAuthorizedEntriesResponse>;

        async fn sync_authorized_entries(
            &self,
            request: Request<Streaming<entry::SyncAuthorizedEntriesRequest>>,
        ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
            self.caller("sync", &request)?;
            let (entries, page_size, mix) = {
                let script = self.script.lock();
                (script.entries.clone(), script.page_size, script.mix)
            };
            let mut requests = request.into_inner();
            let first = requests.message().await?.unwrap();
            assert!(first.output_mask.is_some_and(|mask| mask.revision_number) && first.ids.is_empty());
            let (answers, receiver) = tokio::sync::mpsc::channel(64);
            if page_size == 0 {
                let whole = entry::SyncAuthorizedEntriesResponse { entries, ..Default::default() };
                answers.send(Ok(whole)).await.unwrap();
                return Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))));
            }
            let pages = entries.chunks(page_size).count();
            for (index, page) in entries.chunks(page_size).enumerate() {
                let revision = |entry: &types::Entry| entry::EntryRevision {
                    id: entry.id.clone(),
                    revision_number: entry.revision_number,
                    created_at: entry.created_at,
                };
                let page = entry::SyncAuthorizedEntriesResponse {
                    entry_revisions: page.iter().map(revision).collect(),
                    entries: if mix && index == 1 { vec![page[0].clone()] } else { Vec::new() },
                    more: index + 1 < pages,
                };
                answers.send(Ok(page)).await.unwrap();
            }
            let script = Arc::clone(&self.script);
            let stream = async_stream(requests, answers, entries, script);
            TaskGroup::new(Shutdown::new().0).spawn("fake.sync", stream);
            Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
        }
    }
}

/// Answers requests for entries, each in two pages.
async fn async_stream(
    mut requests: Streaming<entry::SyncAuthorizedEntriesRequest>,
    answers: tokio::sync::mpsc::Sender<Result<entry::SyncAuthorizedEntriesResponse, Status>>,
    entries: Vec<types::Entry>,
    script: Arc<Mutex<Script>>,
) {
    while let Ok(Some(request)) = requests.message().await {
        script.lock().asked.push(request.ids.clone());
        let found: Vec<_> = entries
            .iter()
            .filter(|entry| request.ids.contains(&entry.id))
            .cloned()
            .collect();
        let (first, second) = found.split_at(found.len() / 2);
        for (page, more) in [(first, true), (second, false)] {
            let page = entry::SyncAuthorizedEntriesResponse {
                entries: page.to_vec(),
                more,
                ..Default::default()
            };
            let _ = answers.send(Ok(page)).await;
        }
    }
}

service! {
    impl svid_server::Svid {
        new_jwtsvid(svid::NewJwtsvidRequest) -> svid::NewJwtsvidResponse;
        batch_new_witsvid(svid::BatchNewWitsvidRequest) -> svid::BatchNewWitsvidResponse;
        mint_x509svid(svid::MintX509svidRequest) -> svid::MintX509svidResponse;
        mint_jwtsvid(svid::MintJwtsvidRequest) -> svid::MintJwtsvidResponse;
        mint_witsvid(svid::MintWitsvidRequest) -> svid::MintWitsvidResponse;
        new_downstream_x509ca(svid::NewDownstreamX509caRequest) -> svid::NewDownstreamX509caResponse;
    } with {
        async fn batch_new_x509svid(
            &self,
            request: Request<svid::BatchNewX509svidRequest>,
        ) -> Result<Response<svid::BatchNewX509svidResponse>, Status> {
            self.caller("sign", &request)?;
            let entries = self.script.lock().entries.clone();
            let sign = |params: svid::NewX509svidParams| {
                let Some(entry) = entries.iter().find(|entry| entry.id == params.entry_id) else {
                    let status = types::Status { code: Code::NotFound.into(), message: "entry not found or not authorized".to_owned() };
                    return svid::batch_new_x509svid_response::Result { status: Some(status), svid: None };
                };
                let id = entry.spiffe_id.clone().unwrap();
                let (svid, _) = self.issue(&params.csr, &format!("spiffe://{}{}", id.trust_domain, id.path));
                svid::batch_new_x509svid_response::Result { status: Some(types::Status::default()), svid: Some(svid) }
            };
            let results = request.into_inner().params.into_iter().map(sign).collect();
            Ok(Response::new(svid::BatchNewX509svidResponse { results }))
        }
    }
}
