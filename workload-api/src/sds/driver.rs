//! Moves requests and updates into a machine, and its responses out.

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::stream::{self, Stream};
use tonic::{Status, Streaming};
use tracing::{debug, warn};

use super::machine::{Action, Dialect, Event, Remark};
use crate::session::Session;
use crate::source::IdentitySource;

/// Rejections in a row that are a warning each. An Envoy that rejects the same for days is known by
/// then, and one that rejects in a loop must not fill the log.
const WARNINGS: u32 = 3;

/// How many of the names that stand for nothing are logged.
const LOGGED_NAMES: usize = 8;

/// One stream.
pub(super) struct Driver<S: IdentitySource, D: Dialect> {
    pub(super) session: Session<S>,
    pub(super) requests: Streaming<D::Message>,
    pub(super) machine: D,
}

impl<S: IdentitySource, D: Dialect> Driver<S, D> {
    /// The responses, until the Envoy closes its side.
    pub(super) fn responses(self) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
        stream::try_unfold(self, Self::step)
    }

    async fn step(mut self) -> Result<Option<(Bytes, Self)>, Status> {
        loop {
            let event = {
                let request = std::pin::pin!(self.requests.message());
                let update = std::pin::pin!(self.session.next());
                match select(request, update).await {
                    Either::Left((request, _)) => match request?.map(D::Request::try_from) {
                        Some(request) => request.map(Event::Requested),
                        None => return Ok(None),
                    },
                    Either::Right((update, _)) => update.map(Event::Updated),
                }
            };
            let actions = event.and_then(|event| self.machine.apply(event));
            let actions = actions.map_err(|refusal| self.session.refused(refusal))?;
            let mut response = None;
            for action in actions {
                match action {
                    Action::Send(next) => response = Some(next),
                    Action::Remark(remark) => self.note(&remark),
                }
            }
            if let Some(response) = response {
                let metrics = &self.session.context().metrics;
                metrics.secrets_sent(D::METHOD, response.resources.len());
                return Ok(Some((D::encode(&response), self)));
            }
        }
    }

    fn note(&self, remark: &Remark) {
        match remark {
            Remark::StaleNonce => {
                debug!("Saw a request for secrets that answers an older response");
            }
            Remark::Rejected { error, times } => {
                self.session.context().metrics.secrets_rejected(D::METHOD);
                if *times <= WARNINGS {
                    warn!(error, "Envoy rejected secrets");
                } else {
                    debug!(error, "Envoy rejected secrets");
                }
            }
            Remark::Pending { names } => {
                let names: Vec<_> = names.iter().take(LOGGED_NAMES).collect();
                debug!(?names, "Secrets are asked for that do not exist");
            }
        }
    }
}
