//! Finds out who a caller is, by all workload attestors at once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use attestors::workload::docker::{self, Docker, DockerError};
use attestors::workload::k8s::followers::Changes;
use attestors::workload::k8s::kubelet::KubeletOptions;
use attestors::workload::k8s::{self, Interest, K8s, K8sError};
use attestors::workload::systemd::{self, Systemd, SystemdError};
use attestors::workload::unix::{self, Unix, UnixError};
use attestors::workload::{Denial, Finding, Verdict};
use futures_util::future::join_all;
use identity::selector::{Selector, Selectors};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use runtime::quota::Quota;
use runtime::report;
use runtime::unix::Peer;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};
use workload_api::source::AttestError;

/// How long an attestor may take that asks this machine alone, and how long a caller waits for its
/// turn.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// How many callers an attestor looks at at once, if its looks keep threads busy.
const AT_ONCE: usize = 64;

/// An attested process: it is held, and what is known of it.
///
/// INVARIANT: made by [`Attestors::attest`] alone, so whoever holds one has attested.
#[derive(Debug)]
pub struct Caller {
    peer: Arc<Peer>,
    selectors: Selectors,
    // What each attestor found, in their order. `None` if it failed.
    found: Vec<Option<Selectors>>,
    // What may change about its pod.
    changes: Option<Changes>,
}

impl Caller {
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    pub fn selectors(&self) -> &Selectors {
        &self.selectors
    }

    /// Waits until something new was said of its pod, so that it is to be attested again; forever, if
    /// nobody says anything of it.
    pub async fn suspect(&self) {
        match &self.changes {
            Some(changes) => changes.changed().await,
            None => std::future::pending().await,
        }
    }
}

/// What one attestor saw of a process.
#[derive(Clone, Debug)]
pub struct Sight {
    pub attestor: String,
    pub seen: Seen,
}

/// What is seen when a process is looked at.
#[derive(Clone, Debug)]
pub enum Seen {
    Attested(Selectors),
    /// It is not to be attested.
    Denied {
        reason: &'static str,
        error: String,
    },
    /// Nothing could be found out.
    Failed {
        reason: &'static str,
        error: String,
    },
}

impl Seen {
    fn of(verdict: &Result<Verdict, AttestorError>) -> Self {
        match verdict {
            Ok(Verdict::Attested(found)) => Self::Attested(found.clone()),
            Ok(Verdict::Denied(denial)) => Self::Denied {
                reason: denial.reason(),
                error: denial.to_string(),
            },
            Err(error) => Self::Failed {
                reason: error.reason(),
                error: report::chain(error),
            },
        }
    }
}

/// One way to look at a process.
#[derive(Clone, Debug)]
pub enum WorkloadAttestor {
    Unix(Unix),
    K8s(K8s),
    Docker(Docker),
    Systemd(Systemd),
    #[cfg(test)]
    Fake(tests::Fake),
}

impl WorkloadAttestor {
    fn name(&self) -> Name {
        match self {
            Self::Unix(_) => Name::Unix,
            Self::K8s(_) => Name::K8s,
            Self::Docker(_) => Name::Docker,
            Self::Systemd(_) => Name::Systemd,
            #[cfg(test)]
            Self::Fake(_) => Name::Fake,
        }
    }

    /// How long an answer may take.
    fn deadline(&self) -> Duration {
        match self {
            Self::Unix(_) => DEADLINE,
            // It keeps its own time; this is for what it does not foresee.
            Self::K8s(k8s) => k8s.patience() + KubeletOptions::REQUEST_TIMEOUT + DEADLINE,
            // It asks twice, for the container and for its image.
            Self::Docker(_) => docker::Options::REQUEST_TIMEOUT * 2 + DEADLINE,
            Self::Systemd(_) => systemd::Options::TIMEOUT + DEADLINE,
            #[cfg(test)]
            Self::Fake(_) => DEADLINE,
        }
    }

    /// How many callers it looks at at once. Who waits for the kubelet or a container engine costs no
    /// thread, must keep nobody else waiting, and there are no more of them than the socket lets in. A
    /// bus has few connections for one user.
    fn at_once(&self) -> usize {
        match self {
            Self::K8s(_) | Self::Docker(_) => Semaphore::MAX_PERMITS,
            Self::Unix(_) | Self::Systemd(_) => AT_ONCE,
            #[cfg(test)]
            Self::Fake(_) => AT_ONCE,
        }
    }

    async fn attest(
        &self,
        peer: &Arc<Peer>,
        interest: &dyn Interest,
    ) -> Result<Finding, AttestorError> {
        match self {
            Self::Unix(unix) => Ok(unix.attest(peer).await?.into()),
            Self::K8s(k8s) => Ok(k8s.attest(peer, interest).await?),
            Self::Docker(docker) => Ok(docker.attest(peer).await?.into()),
            Self::Systemd(systemd) => Ok(systemd.attest(peer).await?.into()),
            #[cfg(test)]
            Self::Fake(fake) => Ok(fake.attest().await?.into()),
        }
    }
}

#[derive(Clone, Copy, Debug, EncodeLabelValue, Eq, Hash, PartialEq)]
enum Name {
    Unix,
    K8s,
    Docker,
    Systemd,
    #[cfg(test)]
    Fake,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unix => unix::NAME,
            Self::K8s => k8s::NAME,
            Self::Docker => docker::NAME,
            Self::Systemd => systemd::NAME,
            #[cfg(test)]
            Self::Fake => "fake",
        })
    }
}

/// Why one attestor gave no answer.
#[derive(Debug, thiserror::Error)]
enum AttestorError {
    #[error("the attestor `unix` failed")]
    Unix(#[from] UnixError),
    #[error("the attestor `k8s` failed")]
    K8s(#[from] K8sError),
    #[error("the attestor `docker` failed")]
    Docker(#[from] DockerError),
    #[error("the attestor `systemd` failed")]
    Systemd(#[from] SystemdError),
    #[error("the attestor did not answer in time")]
    Deadline,
    #[error("the attestor looks at too many callers")]
    Overloaded,
    #[cfg(test)]
    #[error("the fake was told to fail")]
    Fake,
}

impl AttestorError {
    /// Whether nothing was learned, not even that there is nothing to learn.
    fn is_unasked(&self) -> bool {
        match self {
            Self::K8s(error) => error.is_unasked(),
            Self::Docker(error) => error.is_unasked(),
            Self::Systemd(error) => error.is_unasked(),
            Self::Deadline | Self::Overloaded => true,
            Self::Unix(_) => false,
            #[cfg(test)]
            Self::Fake => true,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Unix(error) => error.reason(),
            Self::K8s(error) => error.reason(),
            Self::Docker(error) => error.reason(),
            Self::Systemd(error) => error.reason(),
            Self::Deadline => "attestor_deadline",
            Self::Overloaded => "attestor_overloaded",
            #[cfg(test)]
            Self::Fake => "fake",
        }
    }
}

/// How often each attestor gave which kind of answer.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Family<Answer, Counter>);

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Answer {
    attestor: Name,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, EncodeLabelValue, Eq, Hash, PartialEq)]
enum Outcome {
    Attested,
    Denied,
    Failed,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "agent_workload_attestations",
            "Answers of workload attestors",
            metrics.0.clone(),
        );
        metrics
    }
}

/// The configured attestors.
#[derive(Debug)]
pub struct Attestors {
    all: Vec<Desk>,
    // Prefixes, such as `k8s:ns`, of the selectors that may be logged: others may be sensitive.
    log_selectors: Vec<String>,
    metrics: Metrics,
    // Anybody on the node can be denied as often as it likes.
    quota: Quota,
}

/// An attestor, and the callers that it looks at now.
#[derive(Debug)]
struct Desk {
    attestor: WorkloadAttestor,
    permits: Semaphore,
}

impl Desk {
    fn new(attestor: WorkloadAttestor) -> Self {
        let permits = Semaphore::new(attestor.at_once());
        Self { attestor, permits }
    }

    async fn finding(
        &self,
        peer: &Arc<Peer>,
        interest: &dyn Interest,
    ) -> Result<Finding, AttestorError> {
        let Ok(Ok(_permit)) = timeout(DEADLINE, self.permits.acquire()).await else {
            return Err(AttestorError::Overloaded);
        };
        let look = self.attestor.attest(peer, interest);
        timeout(self.attestor.deadline(), look)
            .await
            .unwrap_or(Err(AttestorError::Deadline))
    }
}

impl Attestors {
    pub fn new(all: Vec<WorkloadAttestor>, log_selectors: Vec<String>, metrics: Metrics) -> Self {
        Self {
            all: all.into_iter().map(Desk::new).collect(),
            log_selectors,
            metrics,
            quota: Quota::default(),
        }
    }

    /// Asks all attestors at once, and waits for all, each for as long as it may take. One that fails
    /// is left out, and its selectors are missing, which can only take identities away; what it found
    /// of the same process `before` stands, if it could not even be asked.
    pub async fn attest(
        &self,
        peer: &Arc<Peer>,
        interest: &dyn Interest,
        before: Option<&Caller>,
    ) -> Result<Caller, AttestError> {
        let answers = join_all(self.all.iter().map(|desk| self.ask(desk, peer, interest))).await;
        let (mut verdicts, changes): (Vec<_>, Vec<_>) = answers.into_iter().map(apart).unzip();
        let mut changes = changes.into_iter().flatten().next();
        // The answers count only if they are about the process that still holds the connection.
        if !peer.is_alive() {
            return Err(AttestError::PeerChanged);
        }
        // INVARIANT: the handle of a process is made once, so this is the same process.
        if let Some(before) = before.filter(|before| Arc::ptr_eq(&before.peer, peer)) {
            stand(&mut verdicts, &before.found);
            // Who could not be asked is asked again in time, and not at once because of the same change.
            changes = changes.or_else(|| before.changes.as_ref().map(Changes::without_past));
        }
        let found = verdicts.iter().map(found).collect();
        let selectors = combine(verdicts)?;
        self.log(peer, &selectors);
        Ok(Caller {
            peer: Arc::clone(peer),
            selectors,
            found,
            changes,
        })
    }

    /// What each attestor sees of a process, for those who ask why.
    pub async fn look(&self, peer: &Arc<Peer>, interest: &dyn Interest) -> Vec<Sight> {
        let sights = self.all.iter().map(|desk| async move {
            Sight {
                attestor: desk.attestor.name().to_string(),
                seen: Seen::of(&apart(self.ask(desk, peer, interest).await).0),
            }
        });
        join_all(sights).await
    }

    /// The attestor that knows pods, if it is configured.
    pub fn k8s(&self) -> Option<&K8s> {
        self.all.iter().find_map(|desk| match &desk.attestor {
            WorkloadAttestor::K8s(k8s) => Some(k8s),
            _ => None,
        })
    }

    /// What each attestor had seen of a caller. Why one failed is in the log of that time.
    pub fn sights_of(&self, caller: &Caller) -> Vec<Sight> {
        let sights = self.all.iter().zip(&caller.found).map(|(desk, found)| {
            let failed = || Seen::Failed {
                reason: "failed",
                error: "the log tells why".to_owned(),
            };
            Sight {
                attestor: desk.attestor.name().to_string(),
                seen: found.clone().map_or_else(failed, Seen::Attested),
            }
        });
        sights.collect()
    }

    /// Whether the operator allows a selector in logs.
    pub fn may_log(&self, selector: &Selector) -> bool {
        is_loggable(&selector.to_string(), &self.log_selectors)
    }

    async fn ask(
        &self,
        desk: &Desk,
        peer: &Arc<Peer>,
        interest: &dyn Interest,
    ) -> Result<Finding, AttestorError> {
        let name = desk.attestor.name();
        let finding = desk.finding(peer, interest).await;
        let outcome = match finding.as_ref().map(|finding| &finding.verdict) {
            Ok(Verdict::Attested(_)) => Outcome::Attested,
            Ok(Verdict::Denied(denial)) => {
                if let Some(passed_over) = self.quota.take() {
                    warn!(attestor = %name, peer.pid = peer.pid(), error.reason = denial.reason(), passed_over, "Workload attestor denied the caller");
                }
                Outcome::Denied
            }
            Err(error) => {
                if let Some(passed_over) = self.quota.take() {
                    let chain = report::chain(error);
                    warn!(attestor = %name, peer.pid = peer.pid(), error.reason = error.reason(), error = %chain, passed_over, "Workload attestor failed");
                }
                Outcome::Failed
            }
        };
        self.metrics
            .0
            .get_or_create(&Answer {
                attestor: name,
                outcome,
            })
            .inc();
        finding
    }

    fn log(&self, peer: &Peer, selectors: &Selectors) {
        let shown = loggable(selectors, &self.log_selectors);
        debug!(peer.pid = peer.pid(), peer.uid = peer.uid(), selectors = %shown, "Attested caller");
    }
}

fn apart(
    answer: Result<Finding, AttestorError>,
) -> (Result<Verdict, AttestorError>, Option<Changes>) {
    match answer {
        Ok(Finding { verdict, changes }) => (Ok(verdict), changes),
        Err(error) => (Err(error), None),
    }
}

/// Puts what was found before in place of the answers of those that could not be asked.
fn stand(verdicts: &mut [Result<Verdict, AttestorError>], before: &[Option<Selectors>]) {
    for (verdict, before) in verdicts.iter_mut().zip(before) {
        if let (Err(error), Some(before)) = (&*verdict, before)
            && error.is_unasked()
        {
            *verdict = Ok(Verdict::Attested(before.clone()));
        }
    }
}

fn found(verdict: &Result<Verdict, AttestorError>) -> Option<Selectors> {
    match verdict {
        Ok(Verdict::Attested(found)) => Some(found.clone()),
        Ok(Verdict::Denied(_)) | Err(_) => None,
    }
}

/// Joins the answers. A contradiction that one attestor saw is not outvoted by the others.
fn combine(verdicts: Vec<Result<Verdict, AttestorError>>) -> Result<Selectors, AttestError> {
    let asked = verdicts.len();
    let mut selectors = Vec::new();
    let mut failures = Vec::new();
    for verdict in verdicts {
        match verdict {
            Ok(Verdict::Attested(found)) => selectors.extend(found.iter().cloned()),
            Ok(Verdict::Denied(denial)) => return Err(denied(denial)),
            // Not even one attestor's selectors may be missing for want of time: the caller would be
            // told that it has no identity, where it only has to come again.
            Err(AttestorError::Overloaded) => return Err(AttestError::Overloaded),
            Err(error) => failures.push(error),
        }
    }
    let all_failed = asked > 0 && failures.len() == asked;
    match failures.pop() {
        Some(AttestorError::Deadline) if all_failed => Err(AttestError::Deadline),
        Some(error) if all_failed => Err(AttestError::NoAttestor(Box::new(error))),
        _ => Ok(selectors.into_iter().collect()),
    }
}

fn denied(denial: Denial) -> AttestError {
    match denial {
        Denial::Exited | Denial::CredentialsChanged | Denial::ExecutableChanged => {
            AttestError::PeerChanged
        }
        Denial::CgroupContradiction
        | Denial::ContainerOfAnotherPod
        | Denial::PodOnAnotherNode
        | Denial::PodContradiction
        | Denial::PodAmbiguous
        | Denial::EphemeralContainer
        | Denial::ContainerMismatch => AttestError::Denied(Box::new(denial)),
    }
}

/// The selectors that an operator allows in logs.
fn loggable(selectors: &Selectors, prefixes: &[String]) -> Selectors {
    selectors
        .iter()
        .filter(|selector| is_loggable(&selector.to_string(), prefixes))
        .cloned()
        .collect()
}

fn is_loggable(selector: &str, prefixes: &[String]) -> bool {
    let begins = |prefix: &String| {
        selector
            .strip_prefix(prefix.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    };
    prefixes.iter().any(begins)
}

#[cfg(test)]
pub(crate) mod tests;
