//! What runs is exchanged while the connection stays.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use attestors::workload::unix::{Options, Unix};
use runtime::unix::Peer;

/// Each round, a process connects and runs the victim's program over itself: in the even rounds between
/// accept and attestation, in the odd ones at any moment of it. Prints how often it was told to be the
/// victim's.
pub(crate) async fn exec(rounds: u32) {
    let folder = tempfile::tempdir().unwrap();
    let victim = folder.path().join("victim");
    std::fs::copy(std::env::current_exe().unwrap(), &victim).unwrap();
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let attestor = Unix::new(Options {
        discover_workload_path: true,
        ..Options::default()
    });
    let (mut refused, mut own, mut wrong) = (0, 0, 0);
    for round in 0..rounds {
        let mut attacker = Command::new("/proc/self/exe")
            .arg("exec-when-told")
            .args([&socket, &victim])
            .spawn()
            .unwrap();
        let (stream, _) = listener.accept().unwrap();
        let peer = peer(&stream);
        std::io::Write::write_all(&mut &stream, b"!").unwrap();
        if round % 2 == 0 {
            let runs = format!("/proc/{}/exe", attacker.id());
            while std::fs::read_link(&runs).unwrap() != victim {
                std::thread::yield_now();
            }
        }
        match super::program_of(&attestor, &peer) {
            None => refused += 1,
            Some(path) if path == victim => wrong += 1,
            Some(_) => own += 1,
        }
        attacker.kill().unwrap();
        attacker.wait().unwrap();
    }
    println!("rounds={rounds} refused={refused} own={own} wrong={wrong}");
}

fn peer(stream: &UnixStream) -> Peer {
    let stream = stream.try_clone().unwrap();
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::UnixStream::from_std(stream).unwrap();
    let peer = Peer::of(&stream).unwrap();
    // The flag is the socket's and not the handle's.
    stream.into_std().unwrap().set_nonblocking(false).unwrap();
    peer
}

/// The attacker: its connection is the input of the program that it becomes.
pub(crate) fn exec_when_told(socket: &Path, victim: &Path) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let connection = Stdio::from(OwnedFd::from(stream));
    let failed = Command::new(victim).arg("wait").stdin(connection).exec();
    panic!("{failed}");
}
