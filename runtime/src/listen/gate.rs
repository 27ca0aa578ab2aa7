//! Who holds how many connections and streams, and calls how often.
//!
//! All of it is counted before anything is found out about a caller: to find out is the costly part. A
//! process in a container is counted for that container, any other for its user, so that one storm
//! takes its own share and not that of all who run as root.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::limits::{ContainerKey, Limits, Rate, Share};
use crate::rate::Bucket;
use crate::unix::Credentials;

/// After so many connections those that left are forgotten, or after as many as there are holders.
const TIDY_AFTER: usize = 1024;
/// So many calls it costs to break the rules so that the connection had to be ended.
const FINE: u32 = 100;
/// How many holders are remembered that have no connection, for the calls they have made.
const REMEMBERED: usize = 32_768;

/// Whom a connection is counted for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Holder {
    Listener,
    Process(u32),
    Container(ContainerKey),
    User(u32),
    Ip(IpAddr),
}

/// Of what a holder has no more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Spent {
    Places,
    Calls,
    /// It has been fined for more than it has.
    Fined,
}

/// Why a connection or a call is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Refused {
    pub(super) holder: Holder,
    pub(super) spent: Spent,
}

/// What one holder has.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    connections: usize,
    streams: usize,
    calls: Bucket,
}

/// Counts the connections, streams and calls of one listener.
#[derive(Debug)]
pub(super) struct Gate {
    limits: Limits,
    loads: Mutex<Loads>,
}

// INVARIANT: who has no connection is here for its calls alone, until its bucket is full; and there is
// an end to how many those are. So the map is bounded by the connections and that number.
#[derive(Debug)]
struct Loads {
    all: HashMap<Holder, Load>,
    // How many connections may still come before the next look at all.
    untidy: usize,
}

/// The place of one connection. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Admission {
    gate: Arc<Gate>,
    holders: Vec<Holder>,
}

/// Stands for everybody behind an address: itself, or of IPv6 its /64, for one host commonly has all of it.
pub fn site(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The place of one stream.
#[derive(Debug)]
pub(super) struct StreamPlace(Arc<Admission>);

impl Holder {
    pub(super) fn of_unix(credentials: &Credentials, container: Option<ContainerKey>) -> Vec<Self> {
        let process = credentials.pid.map(Self::Process);
        let group = container.map_or(Self::User(credentials.uid), Self::Container);
        process.into_iter().chain([group, Self::Listener]).collect()
    }

    pub(super) fn of_ip(ip: IpAddr) -> Vec<Self> {
        vec![Self::Ip(site(ip)), Self::Listener]
    }

    fn allowed(self, limits: &Limits) -> Share {
        match self {
            // Streams and calls in all are bounded by those of the other holders.
            Self::Listener => Share::new(limits.connections, usize::MAX, Rate::UNLIMITED),
            Self::Process(_) => limits.process,
            Self::Container(_) => limits.container,
            Self::User(_) => limits.user,
            Self::Ip(_) => limits.ip,
        }
    }
}

impl Refused {
    /// The label for logs and metrics.
    pub(super) fn reason(self) -> &'static str {
        match (self.spent, self.holder) {
            (Spent::Places, Holder::Listener) => "listener_full",
            (Spent::Places, Holder::Process(_)) => "process_full",
            (Spent::Places, Holder::Container(_)) => "container_full",
            (Spent::Places, Holder::User(_)) => "user_full",
            (Spent::Places, Holder::Ip(_)) => "ip_full",
            (Spent::Fined, Holder::Process(_)) => "process_fined",
            (Spent::Fined, _) => "container_fined",
            (Spent::Calls, Holder::Listener) => "listener_rate",
            (Spent::Calls, Holder::Process(_)) => "process_rate",
            (Spent::Calls, Holder::Container(_)) => "container_rate",
            (Spent::Calls, Holder::User(_)) => "user_rate",
            (Spent::Calls, Holder::Ip(_)) => "ip_rate",
        }
    }

    /// What the caller is told.
    pub(super) fn message(self) -> String {
        let whose = match self.holder {
            Holder::Listener => "of this socket",
            Holder::Process(_) => "of this process",
            Holder::Container(_) => "of this container",
            Holder::User(_) => "of this user",
            Holder::Ip(_) => "from this address",
        };
        match self.spent {
            Spent::Places => format!("too many concurrent streams {whose}"),
            Spent::Calls | Spent::Fined => format!("too many calls {whose}; try again later"),
        }
    }
}

impl Gate {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            loads: Mutex::new(Loads {
                all: HashMap::new(),
                untidy: TIDY_AFTER,
            }),
        })
    }

    /// Whether a process may be admitted, as far as it alone tells. To find out what else a connection is
    /// counted for takes longer than to refuse it.
    pub(super) fn precheck(&self, pid: Option<u32>, now: Instant) -> Result<(), Refused> {
        let process = pid.map(Holder::Process);
        process.map_or(Ok(()), |holder| self.room(&self.loads.lock(), holder, now))
    }

    /// Admits a connection, or names the holder that has too many.
    pub(super) fn admit(
        self: &Arc<Self>,
        holders: Vec<Holder>,
        now: Instant,
    ) -> Result<Admission, Refused> {
        let mut loads = self.loads.lock();
        for holder in &holders {
            self.room(&loads, *holder, now)?;
        }
        for holder in &holders {
            loads.all.entry(*holder).or_default().connections += 1;
        }
        loads.tidy(now);
        drop(loads);
        Ok(Admission {
            gate: Arc::clone(self),
            holders,
        })
    }

    fn room(&self, loads: &Loads, holder: Holder, now: Instant) -> Result<(), Refused> {
        let load = loads.all.get(&holder).copied().unwrap_or_default();
        let allowed = holder.allowed(&self.limits);
        let spent = if load.connections >= allowed.connections {
            Spent::Places
        } else if load.calls.is_in_debt(allowed.calls, now) {
            Spent::Fined
        } else {
            return Ok(());
        };
        Err(Refused { holder, spent })
    }
}

impl Loads {
    /// Forgets those that left and whose buckets are full. It looks at all of them so rarely that a
    /// connection pays for a look at a few.
    fn tidy(&mut self, now: Instant) {
        self.untidy = self.untidy.saturating_sub(1);
        if self.untidy > 0 {
            return;
        }
        self.all
            .retain(|_, load| load.connections > 0 || !load.calls.is_full(now));
        let gone = self.all.values().filter(|load| load.connections == 0);
        if gone.count() > REMEMBERED {
            // Processes alone can be that many: what they called is in their groups' buckets too.
            self.all.retain(|holder, load| {
                load.connections > 0 || !matches!(holder, Holder::Process(_))
            });
        }
        self.untidy = TIDY_AFTER.max(self.all.len());
    }
}

impl Admission {
    /// Admits a call of this connection, or says who has no more of what.
    pub(super) fn call(self: &Arc<Self>, now: Instant) -> Result<StreamPlace, Refused> {
        let mut loads = self.gate.loads.lock();
        let refused = self.holders.iter().find_map(|holder| {
            let load = loads.all.get(holder).copied().unwrap_or_default();
            let allowed = holder.allowed(&self.gate.limits);
            let spent = if load.streams >= allowed.streams {
                Spent::Places
            } else if !load.calls.has_one(allowed.calls, now) {
                Spent::Calls
            } else {
                return None;
            };
            Some(Refused {
                holder: *holder,
                spent,
            })
        });
        if let Some(refused) = refused {
            return Err(refused);
        }
        for holder in &self.holders {
            let load = loads.all.entry(*holder).or_default();
            load.streams += 1;
            load.calls
                .take(1, holder.allowed(&self.gate.limits).calls, now);
        }
        drop(loads);
        Ok(StreamPlace(Arc::clone(self)))
    }
}

impl Admission {
    /// Whether somebody whom this is counted for has no call left for now.
    pub(super) fn has_no_call(&self, now: Instant) -> bool {
        let loads = self.gate.loads.lock();
        self.holders.iter().any(|holder| {
            let calls = holder.allowed(&self.gate.limits).calls;
            let load = loads.all.get(holder);
            load.is_some_and(|load| !load.calls.has_one(calls, now))
        })
    }

    /// Fines those who made a connection that broke the rules: they can make only so many a second, and
    /// none of them costs much. A user is not fined, for its other processes would pay for it.
    pub(super) fn fine(&self, now: Instant) {
        let mut loads = self.gate.loads.lock();
        for holder in &self.holders {
            if matches!(holder, Holder::Process(_) | Holder::Container(_))
                && let Some(load) = loads.all.get_mut(holder)
            {
                let calls = holder.allowed(&self.gate.limits).calls;
                load.calls.take(FINE, calls, now);
            }
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut loads = self.gate.loads.lock();
        let now = Instant::now();
        for holder in &self.holders {
            if let Some(load) = loads.all.get_mut(holder) {
                load.connections -= 1;
                // Its streams hold this admission, so they are gone with the last connection.
                if load.connections == 0 && load.calls.is_full(now) {
                    loads.all.remove(holder);
                }
            }
        }
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut loads = self.0.gate.loads.lock();
        for holder in &self.0.holders {
            if let Some(load) = loads.all.get_mut(holder) {
                load.streams -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn gate() -> Arc<Gate> {
        let limits = Limits {
            connections: 4,
            process: Share::new(1, 1, Rate::UNLIMITED),
            container: Share::new(2, 2, Rate::new(1, 2)),
            user: Share::new(2, 2, Rate::UNLIMITED),
            ..Limits::workload()
        };
        Gate::new(limits)
    }

    fn peer(pid: u32, uid: u32) -> Vec<Holder> {
        Holder::of_unix(&credentials(pid, uid), None)
    }

    fn contained(pid: u32, container: &str) -> Vec<Holder> {
        Holder::of_unix(&credentials(pid, 0), Some(ContainerKey::of(container)))
    }

    fn credentials(pid: u32, uid: u32) -> Credentials {
        Credentials {
            pid: Some(pid),
            uid,
            gid: 0,
        }
    }

    fn admit(gate: &Arc<Gate>, holders: Vec<Holder>) -> Result<Arc<Admission>, Refused> {
        gate.admit(holders, Instant::now()).map(Arc::new)
    }

    #[test]
    fn names_the_holder_that_is_full_and_forgets_the_ones_that_left() {
        let gate = gate();
        let first = admit(&gate, peer(1, 7)).unwrap();
        let refused = |holders| admit(&gate, holders).unwrap_err().holder;
        assert_eq!(refused(peer(1, 7)), Holder::Process(1));
        assert!(gate.precheck(Some(1), Instant::now()).is_err());
        assert!(gate.precheck(Some(2), Instant::now()).is_ok());
        let second = admit(&gate, peer(2, 7)).unwrap();
        assert_eq!(refused(peer(3, 7)), Holder::User(7));
        let more = [peer(3, 8), peer(4, 9)].map(|peer| admit(&gate, peer).unwrap());
        assert_eq!(refused(peer(5, 9)), Holder::Listener);
        drop((first, second, more));
        assert!(gate.loads.lock().all.is_empty());
    }

    #[test]
    fn a_stream_gives_its_place_back() {
        let gate = gate();
        let now = Instant::now();
        let connection = admit(&gate, peer(1, 7)).unwrap();
        let stream = connection.call(now).unwrap();
        let refused = connection.call(now).unwrap_err();
        assert_eq!(refused.reason(), "process_full");
        drop(stream);
        let last = connection.call(now).unwrap();
        drop(connection);
        drop(last);
        assert!(gate.loads.lock().all.is_empty());
    }

    #[test]
    fn a_container_that_is_full_takes_nothing_from_another_of_the_same_user() {
        let gate = gate();
        let storm = [1, 2].map(|pid| admit(&gate, contained(pid, "storm")).unwrap());
        assert_eq!(
            admit(&gate, contained(3, "storm")).unwrap_err().reason(),
            "container_full"
        );
        let now = Instant::now();
        let streams = storm.each_ref().map(|connection| connection.call(now));
        assert!(streams.iter().all(Result::is_ok));
        // The user's own share, which is as small, is not touched by any of it.
        let victim = admit(&gate, contained(4, "victim")).unwrap();
        victim.call(now).unwrap();
        admit(&gate, peer(5, 0)).unwrap().call(now).unwrap();
    }

    #[test]
    fn a_storm_is_limited_by_its_container_however_often_it_connects_and_forks() {
        let gate = gate();
        let start = Instant::now();
        let mut answered = 0;
        for pid in 1..100 {
            let connection = admit(&gate, contained(pid, "storm")).unwrap();
            match connection.call(start) {
                Ok(_) => answered += 1,
                Err(refused) => {
                    assert_eq!(refused.reason(), "container_rate");
                    assert_eq!(
                        refused.message(),
                        "too many calls of this container; try again later"
                    );
                }
            }
        }
        assert_eq!(answered, 2);
        let victim = admit(&gate, contained(200, "victim")).unwrap();
        victim.call(start).unwrap();
        drop(victim);
        let later = admit(&gate, contained(201, "storm")).unwrap();
        assert!(later.call(start + Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn who_breaks_the_rules_again_and_again_may_not_connect_for_a_while_and_others_may() {
        let gate = Gate::new(Limits {
            process: Share::new(64, 256, Rate::new(100, 100)),
            ..Limits::workload()
        });
        let start = Instant::now();
        let mut admitted = 0;
        while let Ok(connection) = gate.admit(peer(1, 0), start) {
            connection.fine(start);
            admitted += 1;
        }
        // The first fine takes what there is, the second one is a debt.
        assert_eq!(admitted, 2);
        let refused = gate.precheck(Some(1), start).unwrap_err();
        assert_eq!(refused.reason(), "process_fined");
        gate.admit(peer(2, 0), start).unwrap();
        let later = start + Duration::from_secs(1);
        gate.admit(peer(1, 0), later).unwrap();
    }

    #[test]
    fn what_is_remembered_of_those_who_left_is_bounded_and_ends() {
        let gate = Gate::new(Limits {
            process: Share::new(1, 1, Rate::new(1, 1)),
            user: Share::new(1, 1, Rate::UNLIMITED),
            ..Limits::workload()
        });
        let start = Instant::now();
        for pid in 0..200_000 {
            let connection = gate.admit(peer(pid, pid), start).map(Arc::new).unwrap();
            drop(connection.call(start).unwrap());
            let remembered = gate.loads.lock().all.len();
            assert!(remembered <= 2 * REMEMBERED + TIDY_AFTER, "{remembered}");
        }
        let much_later = start + Duration::from_secs(60);
        for _ in 0..2 * REMEMBERED {
            gate.admit(peer(1, 1), much_later).unwrap();
        }
        assert!(gate.loads.lock().all.len() <= 3);
    }

    #[test]
    fn one_host_is_one_address() {
        let [a, b] =
            ["2001:db8::1", "2001:db8::ffff:2"].map(|ip| Holder::of_ip(ip.parse().unwrap()));
        assert_eq!(a, b);
        let [a, b] = ["192.0.2.1", "::ffff:192.0.2.1"].map(|ip| Holder::of_ip(ip.parse().unwrap()));
        assert_eq!(a, b);
    }
}
