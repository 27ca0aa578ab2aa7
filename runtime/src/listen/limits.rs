//! How much a peer may have.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use crate::unix::Peer;

/// The limits of one listener.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections in all.
    pub connections: usize,
    /// What one process may have.
    pub process: Share,
    /// What all processes of one container may have.
    pub container: Share,
    /// What all processes of one user may have that are in no container, so that a process gains
    /// nothing by forking.
    pub user: Share,
    /// What one IP address (of IPv6, one /64) may have.
    pub ip: Share,
    /// How the container of a process is found. The default finds none.
    pub containers: Containers,
    /// Concurrent streams of one connection; announced in SETTINGS.
    pub streams_per_connection: u32,
    /// Bytes of the headers of one request.
    pub header_list_bytes: u32,
    /// Bytes that a stream's peer may send ahead of what the handler has read.
    pub stream_window_bytes: u32,
    /// The same over all streams of a connection.
    pub connection_window_bytes: u32,
    /// Bytes of an answer that wait for a peer which does not read.
    pub send_buffer_bytes: usize,
    /// Streams that the peer has reset before they were accepted (rapid reset).
    pub pending_reset_streams: usize,
    /// Streams that were reset for the peer's errors.
    pub error_reset_streams: usize,
    /// Frames that ask for nothing (pings, settings, windows, data without data) of one connection of a
    /// Unix socket.
    pub idle_frames: Rate,
    /// The TLS handshake must end within this.
    pub handshake: Duration,
    /// The connection preface must arrive within this.
    pub preface: Duration,
    /// The first request must arrive within this after the preface.
    pub first_request: Duration,
    /// A connection that has had requests, and now has none, is ended after this.
    pub idle: Duration,
    /// A peer that was told to go (GOAWAY) for its silence may take this long.
    pub leave: Duration,
    /// A ping is sent after this much silence,
    pub keepalive: Duration,
    /// and must be answered within this; a peer that reads nothing cannot.
    pub keepalive_timeout: Duration,
    /// What is there to be sent must move within this: a stream whose peer gives it no window is reset,
    /// a connection whose socket takes no byte is closed.
    pub write: Duration,
    /// Streams may go on for this long after shutdown was requested.
    pub drain: Duration,
    /// What must be known of a Unix peer.
    pub peers: Peers,
}

/// A list of all entries is one message of some megabytes, which takes a while over a slow line.
const PATIENT_WRITE: Duration = Duration::from_secs(60);

/// What one peer may have, and how often it may call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Share {
    /// Open connections.
    pub connections: usize,
    /// Concurrent streams over all its connections.
    pub streams: usize,
    /// Calls, counted before anything is found out about the caller.
    pub calls: Rate,
}

/// So many calls at once, and then so many a second.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// Calls a second. 0 sets no limit.
    pub per_second: u32,
    /// How many calls may come at once, at least one.
    pub burst: u32,
}

/// Finds the container that a process is in, for the count of what containers have.
#[derive(Clone, Default)]
pub struct Containers(Option<Find>);

type Find = Arc<dyn Fn(&Peer) -> Option<ContainerKey> + Send + Sync>;

/// Stands for one container in the counts of one process.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ContainerKey(u64);

/// What must be known of a Unix peer before it is served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Peers {
    /// Its process is held, and its connection ends with it.
    Held,
    /// Its user id is enough, also if its process lives in a foreign pid namespace (a sidecar).
    Known,
}

impl Limits {
    /// For a socket that any workload of the node may open.
    pub fn workload() -> Self {
        Self {
            connections: 4096,
            // An attestation costs about 0.2 ms, so a storm of one process takes a tenth of a core.
            process: Share::new(64, 256, Rate::new(500, 1000)),
            container: Share::new(64, 256, Rate::new(1000, 2000)),
            // What the host itself runs is mostly root's.
            user: Share::new(2048, 8192, Rate::new(4000, 8000)),
            ip: Share::new(64, 256, Rate::UNLIMITED),
            containers: Containers::default(),
            streams_per_connection: 256,
            header_list_bytes: 8 << 10,
            stream_window_bytes: 64 << 10,
            connection_window_bytes: 256 << 10,
            send_buffer_bytes: 256 << 10,
            pending_reset_streams: 20,
            error_reset_streams: 64,
            // A client that reads much sends a window or two for each message, and a ping now and then.
            idle_frames: Rate::new(1000, 4000),
            handshake: Duration::from_secs(10),
            preface: Duration::from_secs(10),
            first_request: Duration::from_secs(30),
            idle: Duration::from_secs(300),
            leave: Duration::from_secs(5),
            keepalive: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            write: Duration::from_secs(10),
            drain: Duration::from_secs(5),
            peers: Peers::Held,
        }
    }

    /// For a socket that the operator's tools open.
    pub fn admin() -> Self {
        Self {
            connections: 1024,
            process: Share::new(256, 1024, Rate::UNLIMITED),
            user: Share::new(1024, 8192, Rate::UNLIMITED),
            // A long list makes its reader open the window again and again.
            idle_frames: Rate::UNLIMITED,
            write: PATIENT_WRITE,
            header_list_bytes: 16 << 10,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 4 << 20,
            send_buffer_bytes: 1 << 20,
            peers: Peers::Known,
            ..Self::workload()
        }
    }

    /// For the port that agents connect to. Many agents may come through one address (a NAT, a load
    /// balancer), so an address is worth half of all.
    pub fn server() -> Self {
        Self {
            connections: 20_000,
            ip: Share::new(10_000, 100_000, Rate::UNLIMITED),
            write: PATIENT_WRITE,
            header_list_bytes: 16 << 10,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 2 << 20,
            send_buffer_bytes: 1 << 20,
            ..Self::workload()
        }
    }
}

impl Share {
    /// So many connections and streams, and so many calls.
    pub const fn new(connections: usize, streams: usize, calls: Rate) -> Self {
        Self {
            connections,
            streams,
            calls,
        }
    }
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Self = Self::new(0, 0);

    /// So many a second, and at first so many at once.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst }
    }
}

impl Containers {
    /// Finds containers so. It is asked before anything is read of a connection, once for a process that connects
    /// again and again, and must not block for longer than a read of `/proc`.
    pub fn found_by(find: impl Fn(&Peer) -> Option<ContainerKey> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(find)))
    }

    pub(super) fn of(&self, peer: &Peer) -> Option<ContainerKey> {
        self.0.as_ref().and_then(|find| find(peer))
    }
}

impl fmt::Debug for Containers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Containers")
            .field(&self.0.is_some())
            .finish()
    }
}

impl ContainerKey {
    /// The key of a container's name, which nobody but the runtime may choose.
    pub fn of(name: &str) -> Self {
        // SipHash with a fixed key is the same for all callers of this process, which is all it is for.
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self(hasher.finish())
    }
}
