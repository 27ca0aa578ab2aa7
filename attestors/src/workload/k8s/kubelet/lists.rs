//! Lists over HTTP: one request at a time, for all who wait.
//!
//! Requests are counted in rounds. Whoever needs a list asks for the next round and gets its outcome,
//! good or bad, the moment it is there. Callers that wait for a pod to appear make the rounds follow
//! each other, at first quickly: a container's id mostly comes within the first hundred milliseconds.

use std::sync::Arc;
use std::time::Duration;

use runtime::report;
use runtime::shutdown::Shutdown;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::http::Client;
use super::metrics::{KubeletMetrics, Source};
use super::snapshot::{Pods, Snapshot, Taken};
use super::{KubeletError, News};

/// The shortest pause between the beginnings of two requests.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// How often new callers may make the pause short again, so that many of them are no storm.
const HURRY_INTERVAL: Duration = Duration::from_secs(1);
/// How often a failure that goes on is a warning.
const WARNINGS: u32 = 3;

/// The callers' end.
#[derive(Debug)]
pub(super) struct Lists {
    demand: watch::Sender<Demand>,
    rounds: watch::Receiver<Round>,
}

/// What callers want.
#[derive(Clone, Copy, Debug, Default)]
struct Demand {
    /// The last round that somebody waits for.
    round: u64,
    /// How many callers have begun to look.
    callers: u64,
}

/// What has come of the last request.
#[derive(Clone, Debug, Default)]
struct Round {
    number: u64,
    outcome: Option<Result<Arc<Snapshot>, KubeletError>>,
    /// The last list that came, whatever came later.
    last: Option<Arc<Snapshot>>,
}

/// The requests' end.
#[derive(Debug)]
pub(super) struct Lister {
    pub(super) client: Client,
    pub(super) news: News,
    pub(super) metrics: KubeletMetrics,
    demand: watch::Receiver<Demand>,
    rounds: watch::Sender<Round>,
    pace: Pace,
    failures: u32,
    /// The list before the last one. Callers that waited for the last one let go of it by and by.
    replaced: Option<Arc<Snapshot>>,
}

/// When the next request may begin.
#[derive(Debug)]
struct Pace {
    longest: Duration,
    started: Option<Instant>,
    // How many requests followed each other since somebody new began to look.
    streak: u32,
    callers: u64,
    hurried: Option<Instant>,
}

/// Makes both ends.
pub(super) fn channel(
    client: Client,
    longest_pause: Duration,
    news: News,
    metrics: KubeletMetrics,
) -> (Lists, Lister) {
    let (demand, wanted) = watch::channel(Demand::default());
    let (told, rounds) = watch::channel(Round::default());
    let lister = Lister {
        client,
        news,
        metrics,
        demand: wanted,
        rounds: told,
        pace: Pace::new(longest_pause),
        failures: 0,
        replaced: None,
    };
    (Lists { demand, rounds }, lister)
}

impl Lists {
    /// The last list that came.
    pub(super) fn last(&self) -> Option<Arc<Snapshot>> {
        self.rounds.borrow().last.clone()
    }

    /// Says that somebody begins to look.
    pub(super) fn hurry(&self) {
        self.demand.send_modify(|demand| demand.callers += 1);
    }

    /// The outcome of the next request, or of the one that is on its way.
    pub(super) async fn next(&self) -> Result<Arc<Snapshot>, KubeletError> {
        let mut rounds = self.rounds.clone();
        let seen = rounds.borrow_and_update().number;
        self.demand
            .send_modify(|demand| demand.round = demand.round.max(seen + 1));
        let round = rounds.wait_for(|round| round.number > seen).await;
        let outcome = round.ok().and_then(|round| round.outcome.clone());
        outcome.unwrap_or(Err(KubeletError::Shutdown))
    }
}

impl Lister {
    /// Asks whenever somebody wants to know, until the process ends.
    pub(super) async fn run(mut self, shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.requested() => {}
            () = self.rounds() => {}
        }
    }

    async fn rounds(&mut self) {
        let mut number = 0;
        while self.wanted(number).await {
            number += 1;
            let started = Instant::now();
            // Of the request and not of its answer: what the stream tells meanwhile is newer than a list that was
            // asked for before.
            let version = self.news.versions.next();
            self.pace.begin(started);
            // Otherwise each list would be read into new memory, and of a large one an allocator gives none back.
            let replaced = self.replaced.take().and_then(Arc::into_inner);
            if let Some(list) = replaced.and_then(Snapshot::into_list) {
                self.client.reuse(list);
            }
            let outcome = self.client.list().await.map(|list| {
                Arc::new(Snapshot {
                    version,
                    pods: Pods::Listed(Arc::new(list)),
                    taken: Taken::At(started),
                })
            });
            self.tell(&outcome);
            let before = self.rounds.borrow().last.clone();
            let changed = outcome
                .as_ref()
                .ok()
                .filter(|now| !is_same(before.as_deref(), now));
            let changed = changed.map(Arc::clone);
            self.rounds.send_modify(|round| {
                round.number = number;
                if let Ok(snapshot) = &outcome {
                    round.last = Some(Arc::clone(snapshot));
                }
                round.outcome = Some(outcome);
            });
            if let Some(now) = changed {
                self.news.versions.changed(now.version);
                let lists = before
                    .as_deref()
                    .and_then(Snapshot::listed)
                    .zip(now.listed());
                if let Some((before, now)) = lists {
                    (self.news.followers).changed_if(|pod| before.text(pod) != now.text(pod));
                }
            }
            self.replaced = before;
        }
    }

    /// Waits until a round after `number` is wanted and due. `false` when nobody is left to want one.
    async fn wanted(&mut self, number: u64) -> bool {
        loop {
            let demand = *self.demand.borrow_and_update();
            self.pace.hear(demand.callers, Instant::now());
            if demand.round <= number {
                if self.demand.changed().await.is_err() {
                    return false;
                }
                continue;
            }
            let Some(due) = self.pace.due().filter(|due| *due > Instant::now()) else {
                return true;
            };
            tokio::select! {
                () = tokio::time::sleep_until(due) => return true,
                changed = self.demand.changed() => if changed.is_err() {
                    return false;
                }
            }
        }
    }

    fn tell(&mut self, outcome: &Result<Arc<Snapshot>, KubeletError>) {
        let reason = outcome.as_ref().err().map_or("ok", KubeletError::reason);
        self.metrics.answered(Source::List, reason);
        match outcome {
            Ok(snapshot) => {
                self.metrics.taken(Source::List, snapshot.len());
                if std::mem::take(&mut self.failures) > 0 {
                    info!("Kubelet lists its pods again");
                }
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                let text = report::chain(error);
                if self.failures <= WARNINGS {
                    warn!(error = %text, error.reason = reason, "Kubelet does not list its pods");
                } else {
                    debug!(error = %text, error.reason = reason, "Kubelet does not list its pods");
                }
            }
        }
    }
}

fn is_same(before: Option<&Snapshot>, now: &Snapshot) -> bool {
    match (before.map(|before| &before.pods), &now.pods) {
        (Some(Pods::Listed(before)), Pods::Listed(now)) => before.is_same(now),
        _ => false,
    }
}

impl Pace {
    fn new(longest: Duration) -> Self {
        Self {
            longest,
            started: None,
            streak: 0,
            callers: 0,
            hurried: None,
        }
    }

    fn begin(&mut self, now: Instant) {
        self.started = Some(now);
        self.streak = self.streak.saturating_add(1);
    }

    /// Takes in how many callers have begun to look.
    fn hear(&mut self, callers: u64, now: Instant) {
        let is_quiet = self.hurried.is_none_or(|at| now - at >= HURRY_INTERVAL);
        if callers != self.callers && is_quiet {
            self.callers = callers;
            self.hurried = Some(now);
            self.streak = 0;
        }
    }

    /// `None` is at once.
    fn due(&self) -> Option<Instant> {
        let doubled =
            SHORTEST_PAUSE.saturating_mul(2_u32.saturating_pow(self.streak.saturating_sub(1)));
        Some(self.started? + doubled.min(self.longest))
    }
}
