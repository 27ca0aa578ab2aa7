//! Finds out who a caller is, by all workload attestors at once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use attestors::workload::unix::{self, Unix, UnixError};
use attestors::workload::{Denial, Verdict};
use futures_util::future::join_all;
use identity::selector::Selectors;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use runtime::report;
use runtime::unix::Peer;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};
use workload_api::source::AttestError;

/// How long one attestor may take.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// How many callers are attested at once; others wait for as long as an attestor may take.
const AT_ONCE: usize = 64;

/// An attested process: it is held, and what is known of it.
///
/// INVARIANT: made by [`Attestors::attest`] alone, so whoever holds one has attested.
#[derive(Debug)]
pub struct Caller {
    peer: Arc<Peer>,
    selectors: Selectors,
}

impl Caller {
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    pub fn selectors(&self) -> &Selectors {
        &self.selectors
    }
}

/// One way to look at a process.
#[derive(Clone, Debug)]
pub enum WorkloadAttestor {
    Unix(Unix),
    #[cfg(test)]
    Fake(tests::Fake),
}

impl WorkloadAttestor {
    fn name(&self) -> Name {
        match self {
            Self::Unix(_) => Name::Unix,
            #[cfg(test)]
            Self::Fake(_) => Name::Fake,
        }
    }

    async fn attest(&self, peer: &Arc<Peer>) -> Result<Verdict, AttestorError> {
        match self {
            Self::Unix(unix) => Ok(unix.attest(peer).await?),
            #[cfg(test)]
            Self::Fake(fake) => fake.attest().await,
        }
    }
}

#[derive(Clone, Copy, Debug, EncodeLabelValue, Eq, Hash, PartialEq)]
enum Name {
    Unix,
    #[cfg(test)]
    Fake,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unix => unix::NAME,
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
    #[error("the attestor did not answer in time")]
    Deadline,
    #[cfg(test)]
    #[error("the fake was told to fail")]
    Fake,
}

impl AttestorError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Unix(error) => error.reason(),
            Self::Deadline => "attestor_deadline",
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
    all: Vec<WorkloadAttestor>,
    // Prefixes, such as `k8s:ns`, of the selectors that may be logged: others may be sensitive.
    log_selectors: Vec<String>,
    permits: Semaphore,
    metrics: Metrics,
}

impl Attestors {
    pub fn new(all: Vec<WorkloadAttestor>, log_selectors: Vec<String>, metrics: Metrics) -> Self {
        Self {
            all,
            log_selectors,
            permits: Semaphore::new(AT_ONCE),
            metrics,
        }
    }

    /// Asks all attestors. One that fails is left out, and its selectors are missing, which can only
    /// take identities away.
    pub async fn attest(&self, peer: &Arc<Peer>) -> Result<Caller, AttestError> {
        let Ok(Ok(_permit)) = timeout(DEADLINE, self.permits.acquire()).await else {
            return Err(AttestError::Overloaded);
        };
        let verdicts = join_all(self.all.iter().map(|attestor| self.ask(attestor, peer))).await;
        // The answers count only if they are about the process that still holds the connection.
        if !peer.is_alive() {
            return Err(AttestError::PeerChanged);
        }
        let selectors = combine(verdicts)?;
        self.log(peer, &selectors);
        Ok(Caller {
            peer: Arc::clone(peer),
            selectors,
        })
    }

    async fn ask(
        &self,
        attestor: &WorkloadAttestor,
        peer: &Arc<Peer>,
    ) -> Result<Verdict, AttestorError> {
        let name = attestor.name();
        let verdict = timeout(DEADLINE, attestor.attest(peer))
            .await
            .unwrap_or(Err(AttestorError::Deadline));
        let outcome = match &verdict {
            Ok(Verdict::Attested(_)) => Outcome::Attested,
            Ok(Verdict::Denied(denial)) => {
                warn!(attestor = %name, peer.pid = peer.pid(), error.reason = denial.reason(), "Workload attestor denied the caller");
                Outcome::Denied
            }
            Err(error) => {
                let chain = report::chain(error);
                warn!(attestor = %name, peer.pid = peer.pid(), error.reason = error.reason(), error = %chain, "Workload attestor failed");
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
        verdict
    }

    fn log(&self, peer: &Peer, selectors: &Selectors) {
        let shown = loggable(selectors, &self.log_selectors);
        debug!(peer.pid = peer.pid(), peer.uid = peer.uid(), selectors = %shown, "Attested caller");
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
            Ok(Verdict::Denied(
                Denial::Exited | Denial::CredentialsChanged | Denial::ExecutableChanged,
            )) => {
                return Err(AttestError::PeerChanged);
            }
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

/// The selectors that an operator allows in logs.
fn loggable(selectors: &Selectors, prefixes: &[String]) -> Selectors {
    let allowed = |text: &str| {
        let begins = |prefix: &String| {
            text.strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        };
        prefixes.iter().any(begins)
    };
    selectors
        .iter()
        .filter(|selector| allowed(&selector.to_string()))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests;
