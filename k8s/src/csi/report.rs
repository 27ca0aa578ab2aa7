//! Tells the agent which pods have a volume, over its admin socket.
//!
//! Volumes do not wait for it: a pod gets its folder whether or not the agent is there. Whenever the
//! agent is, it is told everything that it does not know, and then each change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::signet::node::report_request::Change;
use proto::signet::node::volumes_client::VolumesClient;
use proto::signet::node::{Complete, ReportRequest, Unpublished};
use runtime::backoff::Backoff;
use runtime::clock::Clock;
use runtime::report;
use runtime::shutdown::Shutdown;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};
use tracing::{debug, info, warn};

use super::volumes::{Snapshot, Volume};

/// The pause before the next try: short at first, since an agent restarts within moments.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// How many failures are warned of; later ones are for debugging.
const WARNED: u32 = 3;
/// How many messages may wait for the agent to read.
const AHEAD: usize = 16;

/// The driver's end of the line.
#[derive(Debug)]
pub(crate) struct Reporter {
    pub(crate) socket: PathBuf,
    pub(crate) volumes: watch::Receiver<Snapshot>,
    pub(crate) clock: Clock,
}

/// Why the agent could not be told.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error("could not connect to the agent's admin socket `{}`", .path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("the agent did not take the volumes")]
    Refused(#[source] Box<Status>),
    #[error("the agent closed the stream")]
    Closed,
}

impl ReportError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "agent_unreachable",
            Self::Refused(_) => "agent_refused",
            Self::Closed => "agent_closed",
        }
    }
}

fn refused(status: Status) -> ReportError {
    ReportError::Refused(Box::new(status))
}

impl Reporter {
    /// Tells until shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let (first, longest) = PAUSE;
        let mut backoff = Backoff::new(first, longest);
        loop {
            let told = tokio::select! {
                () = shutdown.requested() => return,
                told = self.tell(&mut backoff) => told,
            };
            if let Err(error) = told {
                complain(&error, backoff.failures());
            }
            tokio::select! {
                () = shutdown.requested() => return,
                () = self.clock.sleep(backoff.next_delay()) => {}
            }
        }
    }

    /// Tells over one connection, for as long as it lasts.
    async fn tell(&mut self, backoff: &mut Backoff) -> Result<(), ReportError> {
        let mut client = VolumesClient::new(connect(&self.socket).await?);
        let (changes, queued) = mpsc::channel(AHEAD);
        let mut told = Snapshot::default();
        let mut all = self.volumes.clone();
        let now = Snapshot::clone(&all.borrow_and_update());
        let mut begin = difference(&told, &now);
        begin.push(Change::Complete(Complete {}));
        // The agent answers when it has read the first message, so the sending goes beside the call.
        let (answers, ()) = tokio::join!(
            client.report(ReceiverStream::new(queued)),
            send(&changes, begin)
        );
        let mut answers = answers.map_err(refused)?.into_inner();
        told = now;
        info!(listener.path = %self.socket.display(), count = told.len(), "Told the agent of all volumes");
        loop {
            tokio::select! {
                answer = answers.message() => match answer.map_err(refused)? {
                    Some(_) => backoff.reset(),
                    None => return Err(ReportError::Closed),
                },
                // The sender lives as long as the driver.
                Ok(()) = all.changed() => {
                    let now = Snapshot::clone(&all.borrow_and_update());
                    send(&changes, difference(&told, &now)).await;
                    told = now;
                }
            }
        }
    }
}

/// Hands messages on as fast as the agent reads. Once nobody reads, the stream of answers tells.
async fn send(changes: &mpsc::Sender<ReportRequest>, all: Vec<Change>) {
    for change in all {
        let change = Some(change);
        if changes.send(ReportRequest { change }).await.is_err() {
            return;
        }
    }
}

/// What leads from one state to the other.
fn difference(from: &Snapshot, to: &Snapshot) -> Vec<Change> {
    let gone = from.keys().filter(|id| !to.contains_key(*id));
    let gone = gone.map(|id| {
        Change::Unpublished(Unpublished {
            volume_id: id.as_str().to_owned(),
        })
    });
    let new = to
        .iter()
        .filter(|(id, volume)| from.get(*id) != Some(volume));
    gone.chain(new.map(|(_, volume)| Change::Published(encode(volume))))
        .collect()
}

fn encode(volume: &Volume) -> proto::signet::node::Volume {
    proto::signet::node::Volume {
        volume_id: volume.id.as_str().to_owned(),
        pod_uid: volume.target.pod_uid().to_owned(),
        pod_name: volume.pod_name.clone(),
        namespace: volume.namespace.clone(),
        service_account: volume.service_account.clone(),
    }
}

async fn connect(path: &Path) -> Result<Channel, ReportError> {
    let socket = path.to_owned();
    // The name is not used: a Unix socket has no host.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|source| ReportError::Connect {
            path: path.to_owned(),
            source,
        })
}

fn complain(error: &ReportError, failures: u32) {
    let chain = report::chain(error);
    if failures < WARNED {
        warn!(error.reason = error.reason(), error = %chain, "Could not tell the agent of the volumes, and will try on");
    } else {
        debug!(error.reason = error.reason(), error = %chain, "Could not tell the agent of the volumes");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::volumes::tests::volume;
    use super::*;

    fn state(ids: &[&str]) -> Snapshot {
        let volumes = ids.iter().map(|id| volume(id));
        Arc::new(volumes.map(|volume| (volume.id.clone(), volume)).collect())
    }

    #[test]
    fn a_difference_has_what_came_what_went_and_what_changed() {
        let (from, mut to) = (state(&["a", "b", "c"]), state(&["b", "c", "d"]));
        let all = Arc::make_mut(&mut to);
        all.get_mut("c").unwrap().pod_name = "web-1".to_owned();
        let names: Vec<_> = difference(&from, &to)
            .into_iter()
            .map(|change| match change {
                Change::Published(volume) => format!("+{}", volume.volume_id),
                Change::Unpublished(gone) => format!("-{}", gone.volume_id),
                Change::Complete(_) => "complete".to_owned(),
            })
            .collect();
        assert_eq!(names, ["-a", "+c", "+d"]);
        assert!(difference(&to, &to).is_empty());
    }
}
