//! Who holds how many connections and streams.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

use super::limits::Limits;
use crate::unix::Credentials;

/// Whom a connection is counted for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Holder {
    Listener,
    Process(u32),
    User(u32),
    Ip(IpAddr),
}

/// What one holder may have, and has.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    connections: usize,
    streams: usize,
}

/// Counts the connections and streams of one listener.
#[derive(Debug)]
pub(super) struct Gate {
    limits: Limits,
    // INVARIANT: a holder without connections has no entry, so the map is bounded by them.
    loads: Mutex<HashMap<Holder, Load>>,
}

/// The place of one connection. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Admission {
    gate: Arc<Gate>,
    holders: Vec<Holder>,
}

/// The place of one stream.
#[derive(Debug)]
pub(super) struct StreamPlace(Arc<Admission>);

impl Holder {
    pub(super) fn of_unix(credentials: &Credentials) -> Vec<Self> {
        let process = credentials.pid.map(Self::Process);
        process
            .into_iter()
            .chain([Self::User(credentials.uid), Self::Listener])
            .collect()
    }

    pub(super) fn of_ip(ip: IpAddr) -> Vec<Self> {
        // One host commonly has a whole /64.
        let ip = match ip.to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
            v4 @ IpAddr::V4(_) => v4,
        };
        vec![Self::Ip(ip), Self::Listener]
    }

    /// The label for metrics of a refusal.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Listener => "listener_full",
            Self::Process(_) => "process_full",
            Self::User(_) => "user_full",
            Self::Ip(_) => "ip_full",
        }
    }

    fn allowed(self, limits: &Limits) -> Load {
        let (connections, streams) = match self {
            // Streams in all are bounded by those of users and addresses.
            Self::Listener => (limits.connections, usize::MAX),
            Self::Process(_) => (limits.connections_per_process, limits.streams_per_process),
            Self::User(_) => (limits.connections_per_user, limits.streams_per_user),
            Self::Ip(_) => (limits.connections_per_ip, limits.streams_per_ip),
        };
        Load {
            connections,
            streams,
        }
    }
}

impl Gate {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            loads: Mutex::default(),
        })
    }

    /// Admits a connection, or names the holder that has too many.
    pub(super) fn admit(self: &Arc<Self>, holders: Vec<Holder>) -> Result<Admission, Holder> {
        let mut loads = self.loads.lock();
        let has_room = |holder: &&Holder| {
            let open = loads.get(holder).map_or(0, |load| load.connections);
            open < holder.allowed(&self.limits).connections
        };
        if let Some(full) = holders.iter().find(|holder| !has_room(holder)) {
            return Err(*full);
        }
        for holder in &holders {
            loads.entry(*holder).or_default().connections += 1;
        }
        drop(loads);
        Ok(Admission {
            gate: Arc::clone(self),
            holders,
        })
    }
}

impl Admission {
    /// Admits a stream of this connection, or names the holder that has too many.
    pub(super) fn stream(self: &Arc<Self>) -> Result<StreamPlace, Holder> {
        let mut loads = self.gate.loads.lock();
        let has_room = |holder: &&Holder| {
            let open = loads.get(holder).map_or(0, |load| load.streams);
            open < holder.allowed(&self.gate.limits).streams
        };
        if let Some(full) = self.holders.iter().find(|holder| !has_room(holder)) {
            return Err(*full);
        }
        for holder in &self.holders {
            loads.entry(*holder).or_default().streams += 1;
        }
        drop(loads);
        Ok(StreamPlace(Arc::clone(self)))
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut loads = self.gate.loads.lock();
        for holder in &self.holders {
            if let Some(load) = loads.get_mut(holder) {
                load.connections -= 1;
                // Its streams hold this admission, so they are gone with the last connection.
                if load.connections == 0 {
                    loads.remove(holder);
                }
            }
        }
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut loads = self.0.gate.loads.lock();
        for holder in &self.0.holders {
            if let Some(load) = loads.get_mut(holder) {
                load.streams -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Arc<Gate> {
        let limits = Limits {
            connections: 3,
            connections_per_process: 1,
            connections_per_user: 2,
            streams_per_process: 1,
            ..Limits::workload()
        };
        Gate::new(limits)
    }

    fn peer(pid: u32, uid: u32) -> Vec<Holder> {
        Holder::of_unix(&Credentials {
            pid: Some(pid),
            uid,
            gid: 0,
        })
    }

    #[test]
    fn names_the_holder_that_is_full_and_forgets_the_ones_that_left() {
        let gate = gate();
        let first = gate.admit(peer(1, 7)).unwrap();
        assert_eq!(gate.admit(peer(1, 7)).unwrap_err(), Holder::Process(1));
        let second = gate.admit(peer(2, 7)).unwrap();
        assert_eq!(gate.admit(peer(3, 7)).unwrap_err(), Holder::User(7));
        let third = gate.admit(peer(3, 8)).unwrap();
        assert_eq!(gate.admit(peer(4, 9)).unwrap_err(), Holder::Listener);
        drop((first, second, third));
        assert!(gate.loads.lock().is_empty());
    }

    #[test]
    fn a_stream_gives_its_place_back() {
        let gate = gate();
        let connection = Arc::new(gate.admit(peer(1, 7)).unwrap());
        let stream = connection.stream().unwrap();
        assert_eq!(connection.stream().unwrap_err(), Holder::Process(1));
        drop(stream);
        let last = connection.stream().unwrap();
        drop(connection);
        drop(last);
        assert!(gate.loads.lock().is_empty());
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
