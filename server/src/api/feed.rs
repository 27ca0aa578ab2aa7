//! `signet.agent.v1.Feed`: agents are told what they may have, and each change of it.
//!
//! The peer's reading drives a stream: while it does not read, nothing is made for it and nothing is
//! queued. An idle stream costs a keepalive. A stream has no greatest age of its own: it ends when its
//! agent's X509-SVID is replaced or expires, and every agent draws the time of its renewal.

mod outgoing;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use prost::Message as _;
use proto::signet::agent::feed_server::Feed;
use proto::signet::agent::follow_response::Message as Content;
use proto::signet::agent::{FollowRequest, FollowResponse, Keepalive, Position, Start};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::Services;
use super::authorize::{denied, still_admitted};
use super::caller::{Caller, Svid};
use crate::feed::{Extent, Follower, Held, Kind, Told};
use crate::index::Snapshot;
use crate::store::Revision;

use self::outgoing::Outgoing;

const FOLLOW: &str = "/signet.agent.v1.Feed/Follow";

#[derive(Debug)]
pub(super) struct Service {
    services: Arc<Services>,
}

impl Service {
    pub(super) fn new(services: Arc<Services>) -> Self {
        Self { services }
    }
}

type Responses = Pin<Box<dyn Stream<Item = Result<FollowResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Feed for Service {
    type FollowStream = Responses;

    async fn follow(&self, request: Request<FollowRequest>) -> Result<Response<Responses>, Status> {
        let caller = Caller::of(&request)?;
        let svid = caller.svid().cloned();
        let svid =
            svid.ok_or_else(|| Status::internal("caller ID missing from request context"))?;
        let held = request.into_inner().held.map(held);
        let services = Arc::clone(&self.services);
        let (follower, resumed, told) = Follower::begin(
            &services.feed,
            &svid.id,
            services.index.snapshot(),
            held.as_ref(),
            services.clock.now(),
        );
        let start = start(resumed, services.feed_keepalive);
        let metrics = services.feed.metrics();
        metrics.begun(if resumed {
            Extent::Resumed
        } else {
            Extent::Full
        });
        metrics.sent(Kind::Start, start.encoded_len());
        let first = Outgoing::new(services.feed.lineage(), told);
        let conversation = Conversation {
            // The first keepalives of agents that came together are spread.
            silent_until: Instant::now() + runtime::random::jitter(services.feed_keepalive),
            services,
            caller,
            svid,
            follower,
            outgoing: Some(first),
        };
        let rest = stream::unfold(Some(conversation), |conversation| async move {
            let mut conversation = conversation?;
            match conversation.next().await {
                Ok(response) => Some((Ok(response), Some(conversation))),
                Err(status) => Some((Err(status), None)),
            }
        });
        let responses = stream::iter([Ok(start)]).chain(rest);
        Ok(Response::new(responses.boxed()))
    }
}

fn held(position: Position) -> Held {
    Held {
        lineage: position.lineage.into(),
        revision: Revision::new(position.revision),
        digest: position.digest.into(),
    }
}

fn start(resumed: bool, keepalive: Duration) -> FollowResponse {
    FollowResponse {
        message: Some(Content::Start(Start {
            resumed,
            keepalive: prost_types::Duration::try_from(keepalive).ok(),
        })),
    }
}

/// One stream.
#[derive(Debug)]
struct Conversation {
    services: Arc<Services>,
    caller: Caller,
    svid: Arc<Svid>,
    follower: Follower,
    /// The change that is being sent.
    outgoing: Option<Outgoing>,
    /// When the agent is to hear of us at the latest.
    silent_until: Instant,
}

impl Conversation {
    /// The next message, as soon as there is one; an error ends the stream.
    async fn next(&mut self) -> Result<FollowResponse, Status> {
        loop {
            if self.services.shutdown.is_requested() {
                return Err(Status::unavailable("the server is shutting down"));
            }
            if let Some(message) = self.outgoing.as_mut().and_then(Outgoing::next) {
                // A long change is cut short for an agent that may no longer have it.
                self.check(&self.services.index.snapshot())?;
                self.spoken();
                let metrics = self.services.feed.metrics();
                metrics.sent(Kind::Change, message.encoded_len());
                return Ok(message);
            }
            self.outgoing = None;
            let Some(told) = self.follower.catch_up(self.services.clock.now()) else {
                return Err(Status::aborted("the agent has opened another stream"));
            };
            self.check(&told.snapshot)?;
            if !told.delta.is_empty() {
                self.outgoing = Some(self.tell(told));
                continue;
            }
            if self.silent_until <= Instant::now() {
                self.spoken();
                let message = FollowResponse {
                    message: Some(Content::Keepalive(Keepalive {})),
                };
                let metrics = self.services.feed.metrics();
                metrics.sent(Kind::Keepalive, message.encoded_len());
                return Ok(message);
            }
            self.wait().await;
        }
    }

    fn tell(&self, told: Told) -> Outgoing {
        Outgoing::new(self.services.feed.lineage(), told)
    }

    /// Waits for a change, a time at which something is to be done, or the end.
    async fn wait(&self) {
        let expires = self.svid.leaf.validity().not_after();
        let at = self.follower.next_expiry();
        let at = at.map_or(expires, |entry| entry.min(expires));
        // Looked at again with each keepalive, so that a jump of the clock is noticed.
        let due = at.duration_since(self.services.clock.now());
        let due = Instant::now() + due.unwrap_or_default().min(self.services.feed_keepalive);
        tokio::select! {
            () = self.follower.changed() => {}
            () = tokio::time::sleep_until(due.min(self.silent_until)) => {}
            () = self.services.shutdown.requested() => {}
        }
    }

    /// Ends the stream of an agent that could not begin one now.
    fn check(&self, snapshot: &Snapshot) -> Result<(), Status> {
        still_admitted(snapshot, &self.svid, self.services.clock.now()).map_err(|denial| {
            self.services
                .audit
                .refused(&self.caller, FOLLOW, denial.reason());
            denied(FOLLOW, denial)
        })
    }

    /// Notes that the agent hears of us now, and we of it: its connection takes what is sent.
    fn spoken(&mut self) {
        let keepalive = self.services.feed_keepalive;
        // Never later than was promised, and not for all agents at the same time.
        self.silent_until = Instant::now() + keepalive - runtime::random::jitter(keepalive / 4);
        if let Some(addr) = self.caller.addr() {
            self.services.presence.note(&self.svid.id, addr);
        }
    }
}
