//! How much a peer may have.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The limits of one listener.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections in all.
    pub connections: usize,
    /// Open connections of one process.
    pub connections_per_process: usize,
    /// Open connections of one user of a Unix socket, so that a process gains nothing by forking.
    pub connections_per_user: usize,
    /// Open connections from one IP address (of IPv6, one /64).
    pub connections_per_ip: usize,
    /// Concurrent streams of one connection; announced in SETTINGS.
    pub streams_per_connection: u32,
    /// Concurrent streams of one process over all its connections.
    pub streams_per_process: usize,
    /// Concurrent streams of one user.
    pub streams_per_user: usize,
    /// Concurrent streams from one IP address.
    pub streams_per_ip: usize,
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
    /// Streams may go on for this long after shutdown was requested.
    pub drain: Duration,
    /// What must be known of a Unix peer.
    pub peers: Peers,
}

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
            connections_per_process: 64,
            // The containers of a node often all run as root.
            connections_per_user: 2048,
            connections_per_ip: 64,
            streams_per_connection: 256,
            streams_per_process: 256,
            streams_per_user: 8192,
            streams_per_ip: 256,
            header_list_bytes: 8 << 10,
            stream_window_bytes: 64 << 10,
            connection_window_bytes: 256 << 10,
            send_buffer_bytes: 256 << 10,
            pending_reset_streams: 20,
            error_reset_streams: 64,
            handshake: Duration::from_secs(10),
            preface: Duration::from_secs(10),
            first_request: Duration::from_secs(30),
            idle: Duration::from_secs(300),
            leave: Duration::from_secs(5),
            keepalive: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(5),
            peers: Peers::Held,
        }
    }

    /// For a socket that the operator's tools open.
    pub fn admin() -> Self {
        Self {
            connections: 1024,
            connections_per_process: 256,
            connections_per_user: 1024,
            streams_per_process: 1024,
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
            connections_per_ip: 10_000,
            streams_per_ip: 100_000,
            header_list_bytes: 16 << 10,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 2 << 20,
            send_buffer_bytes: 1 << 20,
            ..Self::workload()
        }
    }
}

/// Raises the soft limit of open files to the hard one, and returns it.
///
/// A held connection takes three descriptors, and the usual soft limit of 1024 is there only for
/// programs that use `select`.
pub fn raise_open_file_limit() -> std::io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}
