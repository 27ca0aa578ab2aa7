//! In which order, and how many at once, X509-SVIDs are signed.
//!
//! A workload that waits comes first and does not queue behind a renewal, a renewal comes before an
//! SVID that nobody has asked for. Batches shrink while the server fails on them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use identity::entry::EntryId;

use crate::upstream::MAX_BATCH;

/// How many batches for waiting workloads may be under way at once.
const URGENT_BATCHES: usize = 4;
/// The largest batch that nobody waits for. A workload whose entry is in it waits for all of it.
const BACKGROUND_BATCH: usize = 100;
/// The wait after the first failed batch; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest wait between two tries of a server that fails.
const LONGEST_PAUSE: Duration = Duration::from_secs(240);

/// A pause before the next try, cut to half of what is left of what is served until `end`: it is not to be over while
/// its successor waits for its turn. None is cut below `least`.
pub(super) fn in_time(
    pause: Duration,
    least: Duration,
    end: Option<SystemTime>,
    now: SystemTime,
) -> Duration {
    let left = end.and_then(|end| end.duration_since(now).ok());
    left.map_or(pause, |left| pause.min(least.max(left / 2)))
}

/// Names one batch.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct BatchId(u64);

/// Why an SVID is wanted, the most pressing reason first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Lane {
    /// A workload waits for it.
    Urgent,
    /// It replaces one that is still served.
    Renewal,
    /// Nobody has asked for it yet.
    Prefetch,
}

/// A place in the queue: within a lane, what ends first is signed first.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Ticket {
    pub(super) lane: Lane,
    pub(super) served_until: SystemTime,
    pub(super) entry_id: EntryId,
}

/// The queue and what has been taken from it.
#[derive(Debug)]
pub(super) struct Signing {
    queue: BTreeSet<Ticket>,
    flights: BTreeMap<BatchId, Flight>,
    limit: usize,
    failures: u32,
    // No background batch before this time, because the last one failed.
    paused_until: Option<SystemTime>,
    last: u64,
}

#[derive(Debug)]
struct Flight {
    urgent: bool,
    entry_ids: Vec<EntryId>,
}

impl Default for Signing {
    fn default() -> Self {
        Self {
            queue: BTreeSet::new(),
            flights: BTreeMap::new(),
            limit: MAX_BATCH,
            failures: 0,
            paused_until: None,
            last: 0,
        }
    }
}

impl Signing {
    pub(super) fn push(&mut self, ticket: Ticket) {
        self.queue.insert(ticket);
    }

    pub(super) fn withdraw(&mut self, ticket: &Ticket) {
        self.queue.remove(ticket);
    }

    /// The next batch to send, if one may be sent now.
    pub(super) fn next_batch(&mut self, now: SystemTime) -> Option<(BatchId, Vec<EntryId>)> {
        let urgent = self
            .queue
            .first()
            .is_some_and(|ticket| ticket.lane == Lane::Urgent);
        let under_way = |urgent| {
            self.flights
                .values()
                .filter(|flight| flight.urgent == urgent)
                .count()
        };
        if urgent && under_way(true) < URGENT_BATCHES {
            let taken = self.take(self.limit, |lane| lane == Lane::Urgent);
            return self.depart(true, taken);
        }
        if under_way(false) > 0 || self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        let taken = self.take(self.limit.min(BACKGROUND_BATCH), |lane| {
            lane != Lane::Urgent
        });
        self.depart(false, taken)
    }

    fn take(&mut self, most: usize, lanes: impl Fn(Lane) -> bool) -> Vec<EntryId> {
        let taken: Vec<_> = self
            .queue
            .iter()
            .filter(|ticket| lanes(ticket.lane))
            .take(most)
            .cloned()
            .collect();
        for ticket in &taken {
            self.queue.remove(ticket);
        }
        taken.into_iter().map(|ticket| ticket.entry_id).collect()
    }

    fn depart(&mut self, urgent: bool, entry_ids: Vec<EntryId>) -> Option<(BatchId, Vec<EntryId>)> {
        if entry_ids.is_empty() {
            return None;
        }
        self.last += 1;
        let id = BatchId(self.last);
        self.flights.insert(
            id,
            Flight {
                urgent,
                entry_ids: entry_ids.clone(),
            },
        );
        Some((id, entry_ids))
    }

    /// A batch has been answered. Returns its entries, or none for a batch that is not under way.
    pub(super) fn answered(&mut self, id: BatchId) -> Vec<EntryId> {
        let Some(flight) = self.flights.remove(&id) else {
            return Vec::new();
        };
        self.limit = (self.limit * 2).min(MAX_BATCH);
        self.resume();
        flight.entry_ids
    }

    /// A batch has failed as a whole. Returns its entries, and when they may be tried again: `ends` tells when what
    /// is served for one of them is over, and until then it is tried several times, however long the server was away.
    pub(super) fn failed(
        &mut self,
        id: BatchId,
        spread: Duration,
        now: SystemTime,
        ends: impl Fn(&EntryId) -> Option<SystemTime>,
    ) -> (Vec<EntryId>, SystemTime) {
        let pause = FIRST_PAUSE
            .saturating_mul(2_u32.saturating_pow(self.failures))
            .min(LONGEST_PAUSE);
        let pause = pause + spread.min(pause);
        let Some(flight) = self.flights.remove(&id) else {
            return (Vec::new(), now + pause);
        };
        let first_end = flight.entry_ids.iter().filter_map(ends).min();
        let again = now + in_time(pause, FIRST_PAUSE, first_end, now);
        self.limit = (self.limit / 2).max(1);
        self.failures = self.failures.saturating_add(1);
        self.paused_until = Some(again);
        (flight.entry_ids, again)
    }

    /// The server has answered something: nothing needs to be held back.
    pub(super) fn resume(&mut self) {
        self.failures = 0;
        self.paused_until = None;
    }

    /// When the queue has to be looked at again, if no answer comes before.
    pub(super) fn alarm(&self, now: SystemTime) -> Option<SystemTime> {
        self.paused_until
            .filter(|until| *until > now && !self.queue.is_empty())
    }

    /// How many SVIDs wait for a batch.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self {
            last: self.last,
            ..Self::default()
        };
    }
}
