//! One entry, its X509-SVID, and what is being done about it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::entry::{Entry, EntryId};
use identity::selector::Selectors;
use identity::validity::{Renewal, Schedule};
use identity::x509::X509Svid;
use workload_api::source::Identity;

use super::account::Issued;
use super::signing::{BatchId, Lane, Ticket, in_time};
use super::trust::Standing;
use crate::sealed::Revision;

/// The wait after an entry was refused for the first time; it doubles with each further refusal.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait before a refused entry is tried again.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// One entry of the agent.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) entry: Arc<Entry>,
    /// The SVID that workloads get.
    served: Option<Box<Served>>,
    /// A signed SVID whose authority is not in the bundle yet: nobody could verify it.
    held: Option<Box<Held>>,
    pub(super) work: Work,
    // Refusals since the last success.
    failures: u32,
    /// The identity is new to the agent, and the server has not answered for it yet.
    pub(super) awaiting: bool,
    /// Nobody asked, but there is room.
    pub(super) prefetch: bool,
    /// The subscribers that it matches. Its SVID stays in the cache while there are any.
    pub(super) pins: BTreeSet<Selectors>,
    /// When it was last asked for, on the cache's own count.
    pub(super) used: u64,
}

#[derive(Debug)]
struct Served {
    identity: Arc<Identity>,
    schedule: Schedule,
    revision: (i64, SystemTime),
    standing: Standing,
}

#[derive(Debug)]
struct Held {
    signed: Signed,
    revision: (i64, SystemTime),
    // Bundles that came since, and did not have the authority either.
    misses: u32,
}

/// An X509-SVID that the server has just signed.
#[derive(Debug)]
pub struct Signed {
    pub svid: X509Svid,
    /// When to renew it.
    pub schedule: Schedule,
}

/// What is being done to get an SVID.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Work {
    /// Nothing.
    Idle,
    /// It waits for a batch.
    Queued(Ticket),
    /// It is in this batch, as the entry was then.
    InFlight {
        batch: BatchId,
        revision: (i64, SystemTime),
    },
    /// It failed, and is tried again at this time; earlier, if only the server was out of reach.
    Retry { at: SystemTime, unreachable: bool },
}

/// What became of a signed SVID.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Arrival {
    Served,
    /// Kept back until a bundle has its authority.
    Held,
    /// Useless: expired, for another identity, or of an authority that stays unknown.
    Dropped,
}

impl Slot {
    pub(super) fn new(entry: Arc<Entry>) -> Self {
        Self {
            entry,
            served: None,
            held: None,
            work: Work::Idle,
            failures: 0,
            awaiting: true,
            prefetch: false,
            pins: BTreeSet::new(),
            used: 0,
        }
    }

    /// The identity to serve now. Never an expired one.
    pub(super) fn identity(&self, now: SystemTime) -> Option<&Arc<Identity>> {
        let served = self.served.as_ref()?;
        (!served.identity.svid.validity().is_over(now)).then_some(&served.identity)
    }

    /// What is told of the X509-SVID that is served now.
    pub(super) fn issued(&self, now: SystemTime) -> Option<Issued> {
        let served = self.served.as_ref()?;
        let svid = &self.identity(now)?.svid;
        Some(Issued {
            serial: svid.leaf().serial_decimal().to_owned(),
            validity: svid.validity(),
            renews_at: served.schedule.due(),
        })
    }

    /// What is worth keeping over a restart: a trusted SVID that is not over.
    pub(super) fn keepsake(&self, now: SystemTime) -> Option<(Revision, &X509Svid)> {
        let served = self.served.as_ref()?;
        let is_good =
            served.standing == Standing::Trusted && !served.identity.svid.validity().is_over(now);
        is_good.then_some((served.revision, &served.identity.svid))
    }

    /// Whether it takes room in the cache.
    pub(super) fn has_svid(&self) -> bool {
        self.served.is_some() || self.held.is_some()
    }

    /// Whether an SVID waits for a bundle with its authority.
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Takes the entry's new content. `true` says that the SVID was withdrawn with the old one.
    pub(super) fn update(&mut self, entry: Arc<Entry>) -> bool {
        let renamed = self.entry.spiffe_id != entry.spiffe_id;
        self.entry = entry;
        self.failures = 0;
        if matches!(self.work, Work::Retry { .. }) {
            self.work = Work::Idle;
        }
        if renamed {
            self.awaiting = true;
            self.held = None;
            return self.served.take().is_some();
        }
        false
    }

    /// Drops what has expired. `true` says that workloads lose an SVID.
    pub(super) fn expire(&mut self, now: SystemTime) -> bool {
        self.held
            .take_if(|held| held.signed.svid.validity().is_over(now));
        self.served
            .take_if(|served| served.identity.svid.validity().is_over(now))
            .is_some()
    }

    /// Makes room. Its SVID can be signed again when somebody asks.
    pub(super) fn evict(&mut self) {
        self.served = None;
        self.held = None;
        self.prefetch = false;
    }

    /// Why an SVID has to be signed, if it has to.
    pub(super) fn wants(&self, now: SystemTime) -> Option<Lane> {
        if self.held.is_some() {
            return None;
        }
        let pinned = !self.pins.is_empty();
        match &self.served {
            None if pinned => Some(Lane::Urgent),
            None => self.prefetch.then_some(Lane::Prefetch),
            Some(served) if served.revision != self.revision() && pinned => Some(Lane::Urgent),
            Some(served) => served
                .has_to_go(self.revision(), now)
                .then_some(Lane::Renewal),
        }
    }

    /// Whether its SVID is due, and nobody asked for a successor.
    pub(super) fn is_unwanted(&self, now: SystemTime) -> bool {
        self.pins.is_empty() && self.entry.disable_x509_svid_prefetch && self.wants(now).is_some()
    }

    pub(super) fn revision(&self) -> (i64, SystemTime) {
        (self.entry.revision, self.entry.created_at)
    }

    /// When the SVID that workloads have is over.
    pub(super) fn served_until(&self) -> Option<SystemTime> {
        let served = self.served.as_ref()?;
        Some(served.identity.svid.validity().not_after())
    }

    pub(super) fn ticket(&self, lane: Lane) -> Ticket {
        Ticket {
            lane,
            served_until: self.served_until().unwrap_or(SystemTime::UNIX_EPOCH),
            entry_id: self.entry.id.clone(),
        }
    }

    /// Takes a signed SVID.
    pub(super) fn arrive(
        &mut self,
        signed: Signed,
        revision: (i64, SystemTime),
        standing: Standing,
        now: SystemTime,
    ) -> Arrival {
        let renamed = *signed.svid.id() != self.entry.spiffe_id;
        if renamed && revision != self.revision() {
            // The entry was renamed while this was under way: the right one is signed at once.
            self.work = Work::Idle;
            return Arrival::Dropped;
        }
        self.awaiting = false;
        if renamed || signed.svid.validity().is_over(now) {
            self.refuse(Duration::ZERO, now);
            return Arrival::Dropped;
        }
        if standing == Standing::Unknown {
            self.held = Some(Box::new(Held {
                signed,
                revision,
                misses: 0,
            }));
            self.work = Work::Idle;
            return Arrival::Held;
        }
        self.serve(signed, revision, standing, now);
        Arrival::Served
    }

    fn serve(
        &mut self,
        signed: Signed,
        revision: (i64, SystemTime),
        standing: Standing,
        now: SystemTime,
    ) {
        let Signed { svid, schedule } = signed;
        let identity = Arc::new(Identity::new(
            self.entry.id.clone(),
            self.entry.hint.clone(),
            self.entry.created_at,
            svid,
        ));
        self.served = Some(Box::new(Served {
            identity,
            schedule,
            revision,
            standing,
        }));
        self.held = None;
        self.prefetch = false;
        // An SVID that is due on arrival would be signed again and again without a pause.
        if standing == Standing::Tainted || !matches!(schedule.renewal(now), Renewal::At(_)) {
            self.refuse(Duration::ZERO, now);
        } else {
            self.failures = 0;
            self.work = Work::Idle;
        }
    }

    /// Judges the SVIDs by a new bundle.
    pub(super) fn judge(
        &mut self,
        standing: impl Fn(&X509Svid) -> Standing,
        now: SystemTime,
    ) -> Option<Arrival> {
        if let Some(served) = &mut self.served {
            served.standing = standing(&served.identity.svid);
        }
        let mut held = self.held.take()?;
        let found = standing(&held.signed.svid);
        if found != Standing::Unknown {
            let Held {
                signed, revision, ..
            } = *held;
            self.serve(signed, revision, found, now);
            return Some(Arrival::Served);
        }
        if held.misses > 0 {
            // The bundle was fetched after the SVID was signed, and still nobody could verify it.
            self.refuse(Duration::ZERO, now);
            return Some(Arrival::Dropped);
        }
        // This bundle may have been on its way before the SVID was signed.
        held.misses += 1;
        self.held = Some(held);
        Some(Arrival::Held)
    }

    /// The server does not sign it. Tried again later, for as long as the entry is there.
    pub(super) fn refuse(&mut self, spread: Duration, now: SystemTime) {
        let wait = FIRST_RETRY
            .saturating_mul(2_u32.saturating_pow(self.failures))
            .min(LONGEST_RETRY);
        // An SVID below an authority that nears its own end is due on arrival, time and again.
        let wait = in_time(wait, FIRST_RETRY, self.served_until(), now);
        self.failures = self.failures.saturating_add(1);
        self.awaiting = false;
        self.work = Work::Retry {
            at: now + wait + spread.min(wait),
            unreachable: false,
        };
    }

    /// The server could not be asked.
    pub(super) fn postpone(&mut self, at: SystemTime) {
        self.awaiting = false;
        self.work = Work::Retry {
            at,
            unreachable: true,
        };
    }

    /// Whether it waits for the server to be in reach again.
    pub(super) fn is_postponed(&self) -> bool {
        matches!(
            self.work,
            Work::Retry {
                unreachable: true,
                ..
            }
        )
    }

    /// When something changes by itself.
    pub(super) fn alarm(&self, now: SystemTime) -> Option<SystemTime> {
        let renewal = self
            .served
            .as_ref()
            .map(|served| match served.schedule.renewal(now) {
                Renewal::At(due) if self.work == Work::Idle => due,
                _ => served.identity.svid.validity().not_after(),
            });
        let held = self
            .held
            .as_ref()
            .map(|held| held.signed.svid.validity().not_after());
        let retry = match self.work {
            Work::Retry { at, .. } => Some(at),
            _ => None,
        };
        [renewal, held, retry].into_iter().flatten().min()
    }

    /// The revision that was sent in this batch, if the slot still waits for it.
    pub(super) fn is_in(&self, batch: BatchId) -> Option<(i64, SystemTime)> {
        match self.work {
            Work::InFlight {
                batch: sent,
                revision,
            } if sent == batch => Some(revision),
            _ => None,
        }
    }

    pub(super) fn id(&self) -> &EntryId {
        &self.entry.id
    }
}

impl Served {
    fn has_to_go(&self, revision: (i64, SystemTime), now: SystemTime) -> bool {
        self.revision != revision
            || self.standing != Standing::Trusted
            || !matches!(self.schedule.renewal(now), Renewal::At(_))
    }
}
