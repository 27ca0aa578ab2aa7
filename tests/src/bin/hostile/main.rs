//! A workload that does not play fair, and what it attacks where that needs processes of its own.
//!
//! `hostile reuse ROUNDS` runs in a pid namespace of its own: a process connects to a socket, hands the
//! connection to a child and dies; its pid is given to a victim; only then the connection is accepted and
//! attested. It prints how many rounds told the connection to be the victim's.
//!
//! `hostile exec ROUNDS`: a process connects, and runs a trusted program over itself.
//!
//! `hostile pass-on SOCKET` opens a stream of the Workload API, hands the connection to a child that
//! reads to its end, and dies. `hostile hand-over SOCKET` sends the connection to another process and lives.
//!
//! `hostile collide PID SOCKET` and `hostile listen SOCKET` run in a pid namespace of their own.
//!
//! `hostile streams|silent|half|drip|mute|flood|unread SOCKET …` is one process that wants more than its share.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::exit,
    reason = "what goes wrong here is the failure of the test that runs it"
)]

mod flood;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use attestors::workload::Verdict;
use attestors::workload::unix::{Options, Unix};
use runtime::unix::Peer;

mod hand;
mod namespace;
mod program;

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [_, "reuse", rounds] => in_runtime(reuse(rounds.parse().unwrap())),
        [_, "connect", socket] => connect_and_leave(Path::new(socket)),
        [_, "streams", socket, count] => flood::streams(socket, count.parse().unwrap()),
        [_, "silent", socket, time] => flood::silent(socket, b"", b"", seconds(time)),
        [_, "half", socket, time] => {
            flood::silent(socket, &flood::PREFACE[..12], b"", seconds(time));
        }
        [_, "drip", socket, time] => flood::silent(socket, b"", flood::PREFACE, seconds(time)),
        [_, "mute", socket, time] => flood::silent(socket, flood::PREFACE, b"", seconds(time)),
        [_, "flood", kind, socket, time] => flood::Flood::parse(kind).run(socket, seconds(time)),
        [_, "unread", socket, time] => flood::unread(socket, seconds(time)),
        [_, "exec", rounds] => in_runtime(program::exec(rounds.parse().unwrap())),
        [_, "exec-when-told", socket, victim] => {
            program::exec_when_told(Path::new(socket), Path::new(victim));
        }
        [_, "fetch", socket] => in_runtime(hand::fetch(socket)),
        [_, "pass-on", socket] => in_runtime(hand::pass_on(socket)),
        [_, "read-to-end"] => hand::read_to_end(),
        [_, "hand-over", socket] => in_runtime(hand::hand_over(socket)),
        [_, "take-over"] => hand::take_over(),
        [_, "collide", pid, socket] => namespace::collide(pid.parse().unwrap(), socket),
        [_, "listen", socket] => in_runtime(async { namespace::listen(Path::new(socket)) }),
        // A victim, and a holder of a connection: they wait until their input ends.
        [_, "wait"] => drop(std::io::stdin().read(&mut [0; 1])),
        _ => panic!("unknown words {words:?}"),
    }
}

fn seconds(text: &str) -> Duration {
    Duration::from_secs(text.parse().unwrap())
}

// One thread alone, so that no other task takes the pid that is to be reused.
fn in_runtime(task: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(task);
}

#[derive(Debug, Default)]
struct Counts {
    reused: u32,
    refused: u32,
    wrong: u32,
    missed: u32,
}

async fn reuse(rounds: u32) {
    let folder = tempfile::tempdir().unwrap();
    let victim = folder.path().join("victim");
    std::fs::copy(std::env::current_exe().unwrap(), &victim).unwrap();
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let options = Options {
        discover_workload_path: true,
        ..Options::default()
    };
    let attestor = Unix::new(options);
    let mut counts = Counts::default();
    while counts.reused < rounds {
        round(&listener, &socket, &victim, &attestor, &mut counts);
        assert!(
            counts.missed < 10 * rounds + 1_000,
            "the pid cannot be forced: {counts:?}"
        );
    }
    println!(
        "reused={} refused={} wrong={}",
        counts.reused, counts.refused, counts.wrong
    );
}

fn round(
    listener: &UnixListener,
    socket: &Path,
    victim: &Path,
    attestor: &Unix,
    counts: &mut Counts,
) {
    let mut attacker = Command::new("/proc/self/exe")
        .arg("connect")
        .arg(socket)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = attacker.id();
    attacker.wait().unwrap();
    std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
    // Same user, other program: only the identity of the process tells the two apart.
    let mut there = Command::new(victim)
        .arg("wait")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let (stream, _) = listener.accept().unwrap();
    if there.id() == pid {
        counts.reused += 1;
        match attest(stream, attestor) {
            None => counts.refused += 1,
            Some(path) if path == victim => counts.wrong += 1,
            Some(_) => {}
        }
    } else {
        counts.missed += 1;
    }
    there.kill().unwrap();
    there.wait().unwrap();
}

/// The program that the attestor says is behind the connection, if it says anything.
fn attest(stream: UnixStream, attestor: &Unix) -> Option<PathBuf> {
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::UnixStream::from_std(stream).unwrap();
    program_of(attestor, &Peer::of(&stream).ok()?)
}

fn program_of(attestor: &Unix, peer: &Peer) -> Option<PathBuf> {
    match attestor.look(peer) {
        Ok(Verdict::Attested(selectors)) => {
            let path = selectors
                .iter()
                .find(|selector| selector.value().starts_with("path:"))?;
            Some(PathBuf::from(path.value().trim_start_matches("path:")))
        }
        Ok(Verdict::Denied(_)) | Err(_) => None,
    }
}

/// Connects, leaves the connection to a child, and ends.
#[expect(
    clippy::zombie_processes,
    reason = "the child outlives its parent: that is the attack"
)]
fn connect_and_leave(socket: &Path) {
    let stream = UnixStream::connect(socket).unwrap();
    let connection = Stdio::from(OwnedFd::from(stream));
    Command::new("/proc/self/exe")
        .arg("wait")
        .stdin(connection)
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
}
