//! The service `signet.node.v1.Volumes`: a storage driver reports which pods have a volume.

use std::sync::Arc;

use attestors::workload::cgroup::PodUid;
use attestors::workload::k8s::volumes::{News, Report, ReportError, Volume, Volumes};
use proto::signet::node::report_request::Change;
use proto::signet::node::volumes_server;
use proto::signet::node::{ReportRequest, ReportResponse};
use runtime::listen::Serve;
use runtime::shutdown::Shutdown;
use runtime::tasks::TaskGroup;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use super::{Services, Starts, authorize};

/// The service.
pub(super) struct Service {
    volumes: Arc<Volumes>,
    starts: Starts,
    shutdown: Shutdown,
    tasks: TaskGroup,
}

impl Service {
    pub(super) fn new<U>(services: &Services<U>, serve: &Serve) -> Self {
        Self {
            volumes: Arc::clone(&services.volumes),
            starts: Arc::clone(&services.starts),
            shutdown: serve.shutdown.clone(),
            tasks: serve.tasks.clone(),
        }
    }
}

/// How many messages have taken effect, or why no more will.
type Sender = watch::Sender<Result<u64, Status>>;
type Answers = std::pin::Pin<Box<dyn Stream<Item = Result<ReportResponse, Status>> + Send>>;

#[tonic::async_trait]
impl volumes_server::Volumes for Service {
    type ReportStream = Answers;

    async fn report(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Answers>, Status> {
        authorize(&request)?;
        info!("Storage driver reports its volumes");
        let listener = Listener {
            report: self.volumes.report(),
            volumes: Arc::clone(&self.volumes),
            starts: Arc::clone(&self.starts),
        };
        // A driver may read no answer before it has sent everything, so the reading does not wait for
        // the answers: one that nobody has taken yet is replaced by the next.
        let (answers, answered) = watch::channel(Ok(0));
        let shutdown = self.shutdown.clone();
        self.tasks.spawn_contained("agent.volumes", async move {
            tokio::select! {
                () = shutdown.requested() => {}
                () = listener.read(request.into_inner(), answers) => {}
            }
        });
        let answers = WatchStream::from_changes(answered)
            .map(|answer| answer.map(|applied| ReportResponse { applied }));
        Ok(Response::new(Box::pin(answers)))
    }
}

/// One driver, for as long as its stream is open.
struct Listener {
    report: Report,
    volumes: Arc<Volumes>,
    starts: Starts,
}

impl Listener {
    /// Reads until the driver ends the stream, or shutdown.
    async fn read(mut self, mut changes: Streaming<ReportRequest>, answers: Sender) {
        let mut applied = 0;
        while let Some(change) = changes.message().await.transpose() {
            let taken = change.and_then(|change| self.apply(change.change));
            applied += 1;
            let failed = taken.is_err();
            // Nobody may be there to read it any more; what was told counts all the same.
            let _ = answers.send(taken.map(|()| applied));
            if failed {
                return;
            }
        }
    }

    fn apply(&mut self, change: Option<Change>) -> Result<(), Status> {
        let applied = match change {
            Some(Change::Published(volume)) => match decode(volume) {
                Some(volume) => self.published(volume),
                None => Err(ReportError::Name),
            },
            Some(Change::Unpublished(gone)) => {
                debug!(volume.id = gone.volume_id, "Volume is gone");
                self.report.unpublished(&gone.volume_id)
            }
            Some(Change::Complete(_)) => {
                let complete = self.report.complete();
                info!(
                    count = self.volumes.count(),
                    "Storage driver has reported all volumes"
                );
                complete
            }
            // A change that a later driver knows.
            None => Ok(()),
        };
        match applied {
            Ok(()) => Ok(()),
            Err(error @ ReportError::Superseded) => Err(Status::aborted(error.to_string())),
            // One volume that cannot be kept is no reason to lose the others.
            Err(error @ (ReportError::Full | ReportError::Name)) => {
                warn!(error.reason = error.reason(), %error, "Could not take a reported volume");
                Ok(())
            }
        }
    }

    fn published(&mut self, volume: Volume) -> Result<(), ReportError> {
        let start = volume.clone();
        if self.report.published(volume)? == News::New {
            debug!(volume.id = start.id, pod.uid = %start.pod, pod.namespace = start.namespace, pod.service_account = start.service_account, "Pod has a volume");
            (self.starts)(&start);
        }
        Ok(())
    }
}

/// Takes the changes of one driver, as far as it is listened to, and returns what is known then; for
/// fuzzing.
pub fn replay(changes: impl IntoIterator<Item = ReportRequest>) -> Arc<Volumes> {
    let volumes = Volumes::new();
    let mut listener = Listener {
        report: volumes.report(),
        volumes: Arc::clone(&volumes),
        starts: Arc::new(|_| {}),
    };
    let _ended = changes
        .into_iter()
        .try_for_each(|change| listener.apply(change.change));
    volumes
}

fn decode(volume: proto::signet::node::Volume) -> Option<Volume> {
    Some(Volume {
        id: volume.volume_id,
        pod: PodUid::parse(&volume.pod_uid)?,
        pod_name: volume.pod_name,
        namespace: volume.namespace,
        service_account: volume.service_account,
    })
}
