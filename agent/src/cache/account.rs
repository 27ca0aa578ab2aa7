//! What the cache can tell of one caller: which entries match, which nearly do, and what became of them.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use identity::entry::{Entry, EntryId};
use identity::selector::{Selector, Selectors};
use identity::validity::Validity;

use super::slot::{Slot, Work};
use super::{Phase, State};

/// How many entries are told that nearly match, and how many that are gone.
const CLOSEST: usize = 3;
/// How many of the entries that the server took away are remembered.
const REMEMBERED: usize = 64;
/// How many selectors are told in place of a missing one.
const INSTEAD: usize = 3;

/// What there is to say of callers with the same selectors.
#[derive(Clone, Debug)]
pub struct Account {
    pub phase: Phase,
    /// How many entries there are.
    pub entries: usize,
    pub matching: Vec<Match>,
    /// The closest first.
    pub nearest: Vec<Near>,
    /// The last one first.
    pub withdrawn: Vec<Gone>,
}

/// An entry whose selectors the caller has.
#[derive(Clone, Debug)]
pub struct Match {
    pub entry: Arc<Entry>,
    /// The X509-SVID that is served.
    pub issued: Option<Issued>,
    pub progress: Progress,
}

/// An X509-SVID that is served.
#[derive(Clone, Debug)]
pub struct Issued {
    pub serial: String,
    pub validity: Validity,
    pub renews_at: SystemTime,
}

/// What is being done for an entry's X509-SVID.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    Idle,
    /// It waits for a batch.
    Waiting,
    /// The server was asked.
    Requested,
    /// It is signed, and waits for a bundle that has its authority.
    Unverifiable,
    /// The server did not sign it; it is asked again then.
    Refused {
        retries_at: SystemTime,
    },
    /// The server could not be asked; it is tried again then.
    Unreachable {
        retries_at: SystemTime,
    },
}

/// An entry that asks for more than the caller has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Near {
    pub entry: Arc<Entry>,
    pub missing: Vec<Missing>,
}

/// A selector that the caller does not have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Missing {
    pub selector: Selector,
    /// What the caller has of that name.
    pub instead: Vec<Selector>,
}

/// An entry that the server took away.
#[derive(Clone, Debug)]
pub struct Gone {
    pub entry: Arc<Entry>,
    pub at: SystemTime,
    pub missing: Vec<Missing>,
}

impl Gone {
    /// Whether it went because its time was over.
    pub fn is_expired(&self) -> bool {
        self.entry.is_expired(self.at)
    }
}

impl State {
    /// What there is to say of callers with these selectors. It walks all entries.
    pub fn account(&self, caller: &Selectors, now: SystemTime) -> Account {
        let ids = self.index.matching(caller);
        let matching = ids.iter().filter_map(|id| self.slots.get(id));
        let others = self.slots.iter().filter(|slot| !ids.contains(slot.id()));
        Account {
            phase: self.phase,
            entries: self.slots.len(),
            matching: matching.map(|slot| matched(slot, now)).collect(),
            nearest: nearest(others.map(|slot| &slot.entry), caller),
            withdrawn: self.gone.concerning(caller),
        }
    }
}

fn matched(slot: &Slot, now: SystemTime) -> Match {
    let progress = match &slot.work {
        _ if slot.is_held() => Progress::Unverifiable,
        Work::Idle => Progress::Idle,
        Work::Queued(_) => Progress::Waiting,
        Work::InFlight { .. } => Progress::Requested,
        Work::Retry {
            at,
            unreachable: true,
        } => Progress::Unreachable { retries_at: *at },
        Work::Retry {
            at,
            unreachable: false,
        } => Progress::Refused { retries_at: *at },
    };
    Match {
        entry: Arc::clone(&slot.entry),
        issued: slot.issued(now),
        progress,
    }
}

/// The entries that the caller comes closest to: with the fewest selectors missing, then with the most
/// that it has. One of which the caller has nothing is told only if it asks for another value of
/// something that the caller has, such as another uid.
fn nearest<'a>(entries: impl Iterator<Item = &'a Arc<Entry>>, caller: &Selectors) -> Vec<Near> {
    let names: BTreeSet<_> = caller.iter().map(name).collect();
    let mut closest: Vec<(usize, Reverse<usize>, &'a Arc<Entry>)> = Vec::new();
    for entry in entries {
        let missing = lacking(entry, caller).count();
        let present = entry.selectors.len() - missing;
        if present == 0 && !entry.selectors.iter().any(|s| names.contains(&name(s))) {
            continue;
        }
        let rank = (missing, Reverse(present));
        let at = closest.partition_point(|(missing, present, _)| (*missing, *present) <= rank);
        if at < CLOSEST {
            closest.insert(at, (missing, Reverse(present), entry));
            closest.truncate(CLOSEST);
        }
    }
    let near = closest.into_iter().map(|(_, _, entry)| Near {
        entry: Arc::clone(entry),
        missing: missing(entry, caller),
    });
    near.collect()
}

fn lacking<'a>(entry: &'a Entry, caller: &Selectors) -> impl Iterator<Item = &'a Selector> {
    let selectors = entry.selectors.iter();
    selectors.filter(|selector| !caller.contains(selector))
}

fn missing(entry: &Entry, caller: &Selectors) -> Vec<Missing> {
    let missing = lacking(entry, caller).map(|selector| Missing {
        selector: selector.clone(),
        instead: instead(selector, caller),
    });
    missing.collect()
}

/// What the caller has of the same name: `unix:uid:1` for `unix:uid:2`, and for a pod's label the same
/// label first.
fn instead(missing: &Selector, caller: &Selectors) -> Vec<Selector> {
    let same = |of: fn(&Selector) -> (&str, &str)| -> Vec<_> {
        let found = caller.iter().filter(|found| of(found) == of(missing));
        found.take(INSTEAD).cloned().collect()
    };
    let exact = same(longest_name);
    if exact.is_empty() { same(name) } else { exact }
}

/// `unix` and `uid` of `unix:uid:1`.
fn name(selector: &Selector) -> (&str, &str) {
    let value = selector.value();
    let name = value.split_once(':').map_or(value, |(name, _)| name);
    (selector.kind(), name)
}

/// `k8s` and `pod-label:app` of `k8s:pod-label:app:web`.
fn longest_name(selector: &Selector) -> (&str, &str) {
    let value = selector.value();
    let name = value.rsplit_once(':').map_or(value, |(name, _)| name);
    (selector.kind(), name)
}

/// The entries that the server took away last.
#[derive(Debug, Default)]
pub(super) struct Memory(std::collections::VecDeque<(Arc<Entry>, SystemTime)>);

impl Memory {
    pub(super) fn went(&mut self, entry: Arc<Entry>, at: SystemTime) {
        self.came_back(&entry.id);
        self.0.push_front((entry, at));
        self.0.truncate(REMEMBERED);
    }

    pub(super) fn came_back(&mut self, id: &EntryId) {
        self.0.retain(|(entry, _)| entry.id != *id);
    }

    /// Those that the caller matched first, then those that it nearly did.
    fn concerning(&self, caller: &Selectors) -> Vec<Gone> {
        let entries: Vec<_> = self.0.iter().map(|(entry, _)| Arc::clone(entry)).collect();
        let near = nearest(entries.iter(), caller);
        let gone = near.into_iter().filter_map(|near| {
            let (_, at) = self.0.iter().find(|(entry, _)| entry.id == near.entry.id)?;
            Some(Gone {
                entry: near.entry,
                at: *at,
                missing: near.missing,
            })
        });
        gone.collect()
    }
}
