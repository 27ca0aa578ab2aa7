//! Pids of other namespaces.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use runtime::unix::{Blindness, Peer};

/// Runs in a pid namespace of its own: fetches an SVID as a process that has there the pid that the agent
/// has outside, and prints what came of it.
pub(crate) fn collide(pid: u32, endpoint: &str) {
    for _ in 0..1_000 {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let mut child = Command::new("/proc/self/exe")
            .args(["fetch", endpoint])
            .spawn()
            .unwrap();
        let is_it = child.id() == pid;
        child.wait().unwrap();
        if is_it {
            println!("collided");
            return;
        }
    }
    panic!("the pid cannot be had");
}

/// Runs in a pid namespace of its own, as an agent that does not share its host's: says what it knows of
/// itself, and what it can tell of the process that connects from outside.
pub(crate) fn listen(socket: &Path) {
    let blindness = Blindness::of_this_process();
    println!("blindness: {:?}", blindness.map(|found| found.reason()));
    let listener = UnixListener::bind(socket).unwrap();
    println!("listening");
    let (stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::UnixStream::from_std(stream).unwrap();
    let peer = Peer::of(&stream);
    println!("peer: {:?}", peer.map_err(|error| error.reason()).err());
}
