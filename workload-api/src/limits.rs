//! How many calls a process may have open.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::options::StreamLimits;
use crate::status::Refusal;

/// Larger requests of workloads are refused unread: none of them needs more.
pub(crate) const MAX_WORKLOAD_REQUEST: usize = 64 * 1024;

/// Envoy's first request describes its node, with every extension that is compiled in: some 100 KiB.
pub(crate) const MAX_SDS_REQUEST: usize = 1024 * 1024;

/// The places for open calls.
#[derive(Debug)]
pub(crate) struct Slots {
    limits: StreamLimits,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_process: HashMap<u32, usize>,
}

impl Slots {
    pub(crate) fn new(limits: StreamLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            taken: Mutex::default(),
        })
    }

    /// Takes a place for a call of a process, until the [`Slot`] is dropped.
    pub(crate) fn take(self: &Arc<Self>, pid: u32) -> Result<Slot, Refusal> {
        let mut taken = self.taken.lock();
        if taken.total >= self.limits.total {
            return Err(Refusal::TooManyCalls);
        }
        let own = taken.by_process.entry(pid).or_default();
        if *own >= self.limits.per_process {
            return Err(Refusal::TooManyCalls);
        }
        *own += 1;
        taken.total += 1;
        Ok(Slot {
            slots: Arc::clone(self),
            pid,
        })
    }

    fn give_back(&self, pid: u32) {
        let mut taken = self.taken.lock();
        taken.total = taken.total.saturating_sub(1);
        if let Some(own) = taken.by_process.get_mut(&pid) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.by_process.remove(&pid);
            }
        }
    }
}

/// One open call.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    pid: u32,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.give_back(self.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(per_process: usize, total: usize) -> Arc<Slots> {
        Slots::new(StreamLimits { per_process, total })
    }

    #[test]
    fn one_process_cannot_take_the_places_of_another() {
        let slots = slots(2, 100);
        let held = [slots.take(1).unwrap(), slots.take(1).unwrap()];
        assert!(slots.take(1).is_err());
        assert!(slots.take(2).is_ok());
        drop(held);
        assert!(slots.take(1).is_ok());
    }

    #[test]
    fn the_total_is_a_limit_too() {
        let slots = slots(2, 2);
        let _held = [slots.take(1).unwrap(), slots.take(2).unwrap()];
        assert!(slots.take(3).is_err());
    }

    #[test]
    fn nothing_is_kept_of_a_process_without_calls() {
        let slots = slots(2, 2);
        drop(slots.take(1).unwrap());
        assert!(slots.taken.lock().by_process.is_empty());
        assert_eq!(slots.taken.lock().total, 0);
    }
}
