//! Room that all who come share, and of which one address has a part.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use runtime::listen::site;

/// Who comes from no address comes from this machine.
type From = Option<IpAddr>;

/// Room for so many.
#[derive(Clone, Debug)]
pub(super) struct Places {
    all: usize,
    of_address: usize,
    held: Arc<Mutex<HashMap<From, usize>>>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    from: From,
    held: Arc<Mutex<HashMap<From, usize>>>,
}

impl Places {
    pub(super) fn new(all: usize, of_address: usize) -> Self {
        Self {
            all,
            of_address,
            held: Arc::default(),
        }
    }

    /// A place, if there is one for this address (of IPv6, its /64: whoever has one has all of it).
    pub(super) fn take(&self, from: From) -> Option<Place> {
        let from = from.map(site);
        let mut held = self.held.lock();
        let own = held.get(&from).copied().unwrap_or_default();
        if own >= self.of_address || held.values().sum::<usize>() >= self.all {
            return None;
        }
        held.insert(from, own + 1);
        drop(held);
        Some(Place {
            from,
            held: Arc::clone(&self.held),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        if let Some(own) = held.get_mut(&self.from) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                held.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_its_part_all_have_the_whole_and_who_goes_makes_room() {
        let places = Places::new(4, 2);
        let take = |addr: &str| places.take(Some(addr.parse().unwrap()));
        let first = take("2001:db8::1").unwrap();
        let _second = take("2001:db8::2").unwrap();
        assert!(take("2001:db8::ffff").is_none(), "the same network");
        let _other = take("2001:db8:0:1::1").unwrap();
        let local = places.take(None).unwrap();
        assert!(take("192.0.2.1").is_none(), "all are taken");
        drop(local);
        let _v4 = take("::ffff:192.0.2.1").unwrap();
        drop(first);
        let _again = take("192.0.2.1").unwrap();
        assert!(take("192.0.2.1").is_none());
        assert_eq!(places.held.lock().len(), 3);
    }
}
