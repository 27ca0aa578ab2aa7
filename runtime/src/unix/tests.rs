//! Facts about peers, shown on real processes.

use std::process::{Child, Command, Stdio};

use proptest::prelude::*;

use super::proc::effective_ids_in_status;
use super::*;

/// A process of our own that runs until it is killed.
pub(crate) struct Sleeper(Child);

impl Sleeper {
    pub(crate) fn start() -> Self {
        // `cat` ends when its input does, so not even a killed test leaves it behind.
        let cat = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Self(cat.unwrap())
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer::for_test(self.0.id(), 1, 2).unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn the_other_end_of_a_pair_of_ours_is_ourselves() {
    let (near, _far) = UnixStream::pair().unwrap();
    let peer = Peer::of(&near).unwrap();
    assert_eq!(peer.pid(), std::process::id());
    assert_eq!(peer.uid(), nix::unistd::geteuid().as_raw());
    assert_eq!(peer.gid(), nix::unistd::getegid().as_raw());
    assert!(peer.is_alive());
}

#[tokio::test]
async fn reads_what_the_process_shows() {
    let peer = Peer::for_test(std::process::id(), 0, 0).unwrap();
    let status = peer.proc_file("status", 64 << 10).unwrap();
    assert!(status.starts_with(b"Name:"));
    let exe = std::env::current_exe().unwrap();
    assert_eq!(peer.proc_link("exe").unwrap(), exe.clone().into_os_string());
    let length = peer.exe_file().unwrap().metadata().unwrap().len();
    assert_eq!(length, std::fs::metadata(exe).unwrap().len());
}

#[tokio::test]
async fn refuses_a_file_larger_than_allowed() {
    let peer = Peer::for_test(std::process::id(), 0, 0).unwrap();
    let error = peer.proc_file("status", 16).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
}

#[tokio::test]
async fn never_leaves_the_directory_of_the_process() {
    let peer = Peer::for_test(std::process::id(), 0, 0).unwrap();
    for name in [
        "",
        ".",
        "..",
        "../self/status",
        "/etc/passwd",
        "task/1/stat",
    ] {
        let error = peer.proc_file(name, 1 << 20).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
    }
    // `exe` is a symbolic link, and a file is read only if it is none.
    assert!(peer.proc_file("exe", 1 << 30).is_err());
}

#[tokio::test]
async fn learns_of_the_exit_and_reads_nothing_after_it() {
    let mut process = Sleeper::start();
    let peer = process.peer();
    let mut exited = Box::pin(peer.exited());
    assert!(futures_util::poll!(&mut exited).is_pending());
    process.kill();
    exited.await;
    assert!(!peer.is_alive());
    assert!(peer.proc_file("status", 64 << 10).is_err());
    assert!(peer.exe_file().is_err());
}

#[tokio::test]
async fn a_zombie_is_not_alive() {
    let mut process = Sleeper::start();
    let peer = process.peer();
    process.0.kill().unwrap();
    peer.exited().await;
    assert!(!peer.is_alive());
    process.0.wait().unwrap();
}

#[tokio::test]
async fn refuses_a_process_that_is_gone() {
    let mut process = Sleeper::start();
    let pid = process.0.id();
    process.kill();
    let error = Peer::for_test(pid, 0, 0).unwrap_err();
    assert_eq!(error.reason(), "peer_exited");
}

#[tokio::test]
async fn without_a_pidfd_the_start_time_tells_the_exit() {
    let mut process = Sleeper::start();
    let pid = process.0.id();
    let peer = Peer::hold(pid, 0, 0, Err(PidFdError::Unsupported)).unwrap();
    assert!(peer.is_alive());
    let Life::StartTime(start_time) = peer.process.life else {
        panic!("there was no pidfd");
    };
    assert!(start_time > 0);
    assert!(!peer.process.proc.is_running_since(start_time + 1));
    process.0.kill().unwrap();
    peer.exited().await;
    assert!(!peer.is_alive());
    process.0.wait().unwrap();
    assert!(!peer.is_alive());
}

#[test]
fn a_process_cannot_forge_its_start_time_by_its_name() {
    let honest = "7 (cat) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
    assert_eq!(start_time_in_stat(honest.as_bytes()), Some(4711));
    let hostile = honest.replace("(cat)", "(x) R 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 99)");
    assert_eq!(start_time_in_stat(hostile.as_bytes()), Some(4711));
}

#[test]
fn the_effective_ids_are_the_second_of_each_line() {
    let status = b"Name:\tUid:\xff\nPid:\t7\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n";
    assert_eq!(effective_ids_in_status(status), Some((2, 6)));
    assert_eq!(effective_ids_in_status(b"Uid:\t1\t2\nGid:\t5\n"), None);
}

proptest! {
    #[test]
    fn any_bytes_as_stat_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        start_time_in_stat(&bytes);
        effective_ids_in_status(&bytes);
    }
}

#[tokio::test]
async fn a_process_that_is_named_by_its_pid_has_its_own_ids() {
    let own = Peer::of_pid(std::process::id()).unwrap();
    let ids = (nix::unistd::geteuid(), nix::unistd::getegid());
    assert_eq!((own.uid(), own.gid()), (ids.0.as_raw(), ids.1.as_raw()));
    assert!(own.is_alive());
}

#[tokio::test]
async fn a_process_that_has_ended_cannot_be_named() {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    for pid in [child.id(), 0, u32::MAX] {
        assert_eq!(Peer::of_pid(pid).unwrap_err().reason(), "peer_exited");
    }
}

#[tokio::test]
async fn who_connects_again_is_the_same_process_with_the_ids_of_its_new_connection() {
    let mut process = Sleeper::start();
    let peer = process.peer();
    let named = |pid, uid| Credentials { pid, uid, gid: 4 };
    let again = peer.again(named(Some(peer.pid()), 3)).unwrap();
    assert_eq!((again.pid(), again.uid(), again.gid()), (peer.pid(), 3, 4));
    assert!(Arc::ptr_eq(&again.process, &peer.process));
    for other in [None, Some(peer.pid() + 1), Some(std::process::id())] {
        assert!(peer.again(named(other, 3)).is_none());
    }
    process.kill();
    assert!(peer.again(named(Some(peer.pid()), 3)).is_none());
}
