//! The server over SPIRE's protocol.
//!
//! Each connection shows the SVID that the agent had when it was made; a denial that comes over a
//! connection with an older one says nothing about the agent that has renewed meanwhile, nor about one
//! that the server has answered with another SVID, which is on its way.

mod attest;
mod connect;
mod convert;
mod entries;
#[cfg(test)]
pub(crate) mod fake;
mod feed;
mod status;
mod verify;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use identity::bundle::Bundle;
use identity::entry::EntryId;
use identity::jwt::JwtSvid;
use identity::trust_domain::TrustDomain;
use identity::x509::Certificate;
use parking_lot::Mutex;
use proto::spire::server::agent::agent_client::AgentClient;
use proto::spire::server::agent::{AgentX509svidParams, PostStatusRequest, RenewAgentRequest};
use proto::spire::server::bundle::bundle_client::BundleClient;
use proto::spire::server::bundle::{GetBundleRequest, GetFederatedBundleRequest};
use proto::spire::server::svid::batch_new_x509svid_response::Result as Item;
use proto::spire::server::svid::svid_client::SvidClient;
use proto::spire::server::svid::{BatchNewX509svidRequest, NewJwtsvidRequest, NewX509svidParams};
use runtime::clock::Clock;
use tokio::sync::watch;
use tonic::Code as Grpc;
use tonic::transport::Channel;

pub use self::attest::{Attested, Evidence, attest};
use self::connect::Dialer;
pub use self::connect::{Patience, Target};
use self::convert::protocol;
use self::verify::Anchor;
use super::feed::{Feed, Followed, Part, Position};
use super::{Denial, EntrySet, Refusal, SigningRequest, Upstream, UpstreamError};
use crate::credentials::{AgentSvid, Credentials};
use crate::lifecycle::Registrar;

/// gRPC's usual 4 MiB are too small for the first page of many large entries.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// The server, for an agent that has attested.
#[derive(Debug)]
pub struct Server {
    target: Target,
    credentials: Arc<Credentials>,
    clock: Clock,
    line: Mutex<Option<Arc<Line>>>,
    // Whether the server is one of ours, as far as is known: SPIRE's answers HTTP/2 pings with GOAWAY. Pings
    // are sent while a stream is open alone, so before the first feed none can be too many.
    is_signet: AtomicBool,
}

/// A channel, and the identity that its connections show.
#[derive(Debug)]
struct Line {
    channel: Channel,
    own: Arc<AgentSvid>,
}

impl Line {
    fn channel(&self) -> Channel {
        self.channel.clone()
    }
}

impl Server {
    pub fn new(target: Target, credentials: Arc<Credentials>, clock: Clock) -> Self {
        Self {
            target,
            credentials,
            clock,
            line: Mutex::new(None),
            is_signet: AtomicBool::new(true),
        }
    }

    /// Tells the server which version this agent is.
    pub async fn post_status(&self, version: &str) -> Result<(), UpstreamError> {
        self.call(|line| async move {
            let request = PostStatusRequest {
                agent_version: version.to_owned(),
                ..Default::default()
            };
            AgentClient::new(line.channel())
                .post_status(request)
                .await?;
            Ok(())
        })
        .await
    }

    /// Makes a call, and a second time when the first says nothing about the agent or the server as
    /// they are now: the connection was one that the server had closed, or of an older identity.
    async fn call<T, C>(&self, call: impl Fn(Arc<Line>) -> C) -> Result<T, UpstreamError>
    where
        C: Future<Output = Result<T, UpstreamError>>,
    {
        let (line, is_new) = self.line();
        let error = match self.attempt(&line, &call).await {
            Ok(answer) => return Ok(answer),
            Err(Failure {
                error,
                timed_out: false,
            }) => error,
            Err(Failure {
                error,
                timed_out: true,
            }) => return Err(error),
        };
        match error {
            UpstreamError::Unavailable(_) if !is_new => {}
            UpstreamError::Denied(denial) if self.is_outdated(denial, &line).await => {}
            error => return Err(error),
        }
        let (line, _) = self.line();
        self.attempt(&line, &call)
            .await
            .map_err(|failure| failure.error)
    }

    async fn attempt<T, C>(
        &self,
        line: &Arc<Line>,
        call: impl Fn(Arc<Line>) -> C,
    ) -> Result<T, Failure>
    where
        C: Future<Output = Result<T, UpstreamError>>,
    {
        let answer = tokio::time::timeout(self.target.patience.call, call(Arc::clone(line))).await;
        let timed_out = answer.is_err();
        answer
            .unwrap_or_else(|_late| Err(overdue()))
            .map_err(|error| {
                if matches!(
                    error,
                    UpstreamError::Unavailable(_) | UpstreamError::UnknownAuthority(_)
                ) {
                    self.forget(line);
                }
                Failure { error, timed_out }
            })
    }

    /// The line of the current identity, and whether it has just been made.
    fn line(&self) -> (Arc<Line>, bool) {
        let mut slot = self.line.lock();
        let own = self.credentials.own();
        if let Some(line) = slot.as_ref().filter(|line| Arc::ptr_eq(&line.own, &own)) {
            return (Arc::clone(line), false);
        }
        let dialer = Dialer {
            target: self.target.clone(),
            anchor: Anchor::Live(Arc::clone(&self.credentials)),
            own: Some(own.svid.clone()),
            clock: self.clock.clone(),
            pings: self.is_signet.load(Ordering::Relaxed),
        };
        let line = Arc::new(Line {
            channel: dialer.channel(),
            own,
        });
        *slot = Some(Arc::clone(&line));
        (line, true)
    }

    /// Whether a denial was meant for an identity that the agent does not have any more.
    async fn is_outdated(&self, denial: Denial, line: &Line) -> bool {
        if is_of_the_old(denial) {
            self.credentials.settled().await;
        }
        !Arc::ptr_eq(&line.own, &self.credentials.own())
    }

    /// Forgets the line, unless another one has taken its place. Calls in flight keep theirs.
    fn forget(&self, line: &Arc<Line>) {
        let mut slot = self.line.lock();
        if slot
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, line))
        {
            *slot = None;
        }
    }
}

struct Failure {
    error: UpstreamError,
    timed_out: bool,
}

fn overdue() -> UpstreamError {
    UpstreamError::Unavailable("the server did not answer in time".into())
}

impl Upstream for Server {
    async fn sync_entries(&self, known: &EntrySet) -> Result<EntrySet, UpstreamError> {
        self.call(
            |line| async move { entries::sync(line.channel(), line.own.svid.id(), known).await },
        )
        .await
    }

    async fn bundle(&self, of: &TrustDomain) -> Result<Option<Bundle>, UpstreamError> {
        self.call(|line| async move {
            let mut client =
                BundleClient::new(line.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES);
            let answer = if *of == self.target.trust_domain {
                client.get_bundle(GetBundleRequest::default()).await
            } else {
                let request = GetFederatedBundleRequest {
                    trust_domain: of.name().to_owned(),
                    output_mask: None,
                };
                match client.get_federated_bundle(request).await {
                    Err(status) if status.code() == Grpc::NotFound => return Ok(None),
                    answer => answer,
                }
            };
            convert::bundle(answer?.get_ref(), of).map(Some)
        })
        .await
    }

    async fn sign_x509(
        &self,
        requests: Vec<SigningRequest>,
    ) -> Result<Vec<Result<Vec<Certificate>, Refusal>>, UpstreamError> {
        let count = requests.len();
        let param = |request: SigningRequest| NewX509svidParams {
            entry_id: request.entry_id.as_str().to_owned(),
            csr: request.csr.into(),
        };
        let request = BatchNewX509svidRequest {
            params: requests.into_iter().map(param).collect(),
        };
        self.call(|line| {
            let request = request.clone();
            async move {
                let mut client =
                    SvidClient::new(line.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES);
                let response = client.batch_new_x509svid(request).await?.into_inner();
                if response.results.len() != count {
                    return Err(protocol(
                        "it answers to fewer or more requests than there were",
                    ));
                }
                response.results.iter().map(answer).collect()
            }
        })
        .await
    }

    async fn sign_jwt(
        &self,
        entry_id: &EntryId,
        audience: &[String],
    ) -> Result<JwtSvid, UpstreamError> {
        self.call(|line| async move {
            let request = NewJwtsvidRequest {
                entry_id: entry_id.as_str().to_owned(),
                audience: audience.to_vec(),
            };
            let response = SvidClient::new(line.channel())
                .new_jwtsvid(request)
                .await?
                .into_inner();
            let svid = response
                .svid
                .ok_or_else(|| protocol("the answer has no JWT-SVID"))?;
            JwtSvid::parse_unverified(&svid.token).map_err(|error| UpstreamError::Protocol {
                what: "the JWT-SVID is malformed",
                source: Some(error.into()),
            })
        })
        .await
    }
}

impl Registrar for Server {
    async fn renew(&self, csr: Vec<u8>) -> Result<Vec<Certificate>, UpstreamError> {
        let csr = bytes::Bytes::from(csr);
        self.call(|line| {
            let params = AgentX509svidParams { csr: csr.clone() };
            async move {
                let request = RenewAgentRequest {
                    params: Some(params),
                };
                let response = AgentClient::new(line.channel())
                    .renew_agent(request)
                    .await?
                    .into_inner();
                convert::chain(response.svid.as_ref())
            }
        })
        .await
    }
}

impl Feed for Server {
    async fn follow(&self, held: Option<Position>) -> Result<Option<Followed>, UpstreamError> {
        let followed = self
            .call(|line| {
                let held = held.clone();
                async move { feed::follow(line.channel(), line.own.svid.id(), held).await }
            })
            .await?;
        let was_signet = self.is_signet.swap(followed.is_some(), Ordering::Relaxed);
        if was_signet && followed.is_none() {
            // The line at hand pings.
            self.hang_up();
        }
        let credentials = &self.credentials;
        Ok(followed.map(|followed| Followed {
            parts: after_replacement(followed.parts, Arc::clone(credentials)),
            ..followed
        }))
    }

    fn renewals(&self) -> watch::Receiver<()> {
        self.credentials.renewals()
    }

    fn hang_up(&self) {
        *self.line.lock() = None;
    }
}

/// Whether the server may say so of an identity because it has just given the agent another one.
fn is_of_the_old(denial: Denial) -> bool {
    denial == Denial::NotActive
}

/// Tells of the end of an identity that is being replaced when it is known whether another has come: the follower
/// passes over what was meant for the one before.
fn after_replacement(
    parts: BoxStream<'static, Result<Part, UpstreamError>>,
    credentials: Arc<Credentials>,
) -> BoxStream<'static, Result<Part, UpstreamError>> {
    let told = parts.then(move |part| {
        let credentials = Arc::clone(&credentials);
        async move {
            if matches!(part, Err(UpstreamError::Denied(denial)) if is_of_the_old(denial)) {
                credentials.settled().await;
            }
            part
        }
    });
    told.boxed()
}

fn answer(item: &Item) -> Result<Result<Vec<Certificate>, Refusal>, UpstreamError> {
    match &item.status {
        Some(status) if status.code != 0 => Ok(Err(status::refusal(status))),
        _ => convert::chain(item.svid.as_ref()).map(Ok),
    }
}

#[cfg(test)]
mod tests;
