//! All entries with their SVIDs, and what follows from them: what is due next, what may be evicted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use identity::entry::EntryId;

use super::slot::{Slot, Work};

/// The slots by entry id. Changed through [`Slots::edit`], which keeps the derived orders right.
#[derive(Debug, Default)]
pub(super) struct Slots {
    by_id: BTreeMap<EntryId, Filed>,
    alarms: BTreeSet<(SystemTime, EntryId)>,
    // Those with an SVID that no subscriber needs, least recently used first.
    unused: BTreeSet<(u64, EntryId)>,
    // Those that could not be signed because the server was out of reach.
    postponed: BTreeSet<EntryId>,
    // How many have an SVID.
    filled: usize,
    // How many have an SVID or are about to.
    claimed: usize,
}

#[derive(Debug)]
struct Filed {
    slot: Slot,
    alarm: Option<SystemTime>,
    unused: Option<u64>,
    filled: bool,
    claimed: bool,
    postponed: bool,
}

impl Slots {
    pub(super) fn insert(&mut self, slot: Slot) {
        let id = slot.id().clone();
        self.remove(&id);
        self.by_id.insert(
            id,
            Filed {
                slot,
                alarm: None,
                unused: None,
                filled: false,
                claimed: false,
                postponed: false,
            },
        );
    }

    pub(super) fn remove(&mut self, id: &EntryId) -> Option<Slot> {
        let filed = self.by_id.remove(id)?;
        if let Some(alarm) = filed.alarm {
            self.alarms.remove(&(alarm, id.clone()));
        }
        if let Some(used) = filed.unused {
            self.unused.remove(&(used, id.clone()));
        }
        if filed.postponed {
            self.postponed.remove(id);
        }
        self.filled -= usize::from(filed.filled);
        self.claimed -= usize::from(filed.claimed);
        Some(filed.slot)
    }

    pub(super) fn get(&self, id: &EntryId) -> Option<&Slot> {
        self.by_id.get(id).map(|filed| &filed.slot)
    }

    /// Changes a slot, and files it anew.
    pub(super) fn edit<T>(
        &mut self,
        id: &EntryId,
        now: SystemTime,
        change: impl FnOnce(&mut Slot) -> T,
    ) -> Option<T> {
        let filed = self.by_id.get_mut(id)?;
        let result = change(&mut filed.slot);
        let alarm = filed.slot.alarm(now);
        if alarm != filed.alarm {
            if let Some(old) = filed.alarm {
                self.alarms.remove(&(old, id.clone()));
            }
            self.alarms.extend(alarm.map(|at| (at, id.clone())));
            filed.alarm = alarm;
        }
        let unused =
            (filed.slot.has_svid() && filed.slot.pins.is_empty()).then_some(filed.slot.used);
        if unused != filed.unused {
            if let Some(old) = filed.unused {
                self.unused.remove(&(old, id.clone()));
            }
            self.unused.extend(unused.map(|used| (used, id.clone())));
            filed.unused = unused;
        }
        let has_svid = filed.slot.has_svid();
        self.filled = self.filled + usize::from(has_svid) - usize::from(filed.filled);
        filed.filled = has_svid;
        let claimed = has_svid || filed.slot.work != Work::Idle;
        self.claimed = self.claimed + usize::from(claimed) - usize::from(filed.claimed);
        filed.claimed = claimed;
        let postponed = filed.slot.is_postponed();
        if postponed != filed.postponed {
            if postponed {
                self.postponed.insert(id.clone());
            } else {
                self.postponed.remove(id);
            }
            filed.postponed = postponed;
        }
        Some(result)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &EntryId> {
        self.by_id.keys()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.by_id.values().map(|filed| &filed.slot)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// How many have an SVID.
    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    /// How many have an SVID or are about to.
    pub(super) fn claimed(&self) -> usize {
        self.claimed
    }

    /// Those that could not be signed because the server was out of reach.
    pub(super) fn postponed(&self) -> Vec<EntryId> {
        self.postponed.iter().cloned().collect()
    }

    /// The one with an SVID that was not used for the longest, unless a subscriber needs it.
    pub(super) fn least_used(&self) -> Option<EntryId> {
        self.unused.first().map(|(_, id)| id.clone())
    }

    /// Those that something is due for.
    pub(super) fn due(&self, now: SystemTime) -> Vec<EntryId> {
        self.alarms
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, id)| id.clone())
            .collect()
    }

    /// When the next one is due.
    pub(super) fn alarm(&self) -> Option<SystemTime> {
        self.alarms.first().map(|(at, _)| *at)
    }
}
