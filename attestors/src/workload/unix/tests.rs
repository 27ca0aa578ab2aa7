//! The attestor looks at this very process, over a real pair of sockets.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Stdio;

use nix::unistd::{Group, User, getegid, geteuid};
use tokio::net::UnixStream;

use super::*;

fn own_peer() -> Arc<Peer> {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    Arc::new(Peer::of(&ours).unwrap())
}

fn values(verdict: Verdict) -> Vec<String> {
    match verdict {
        Verdict::Attested(selectors) => selectors.iter().map(ToString::to_string).collect(),
        Verdict::Denied(denial) => panic!("denied: {denial}"),
    }
}

async fn attest(options: Options) -> Vec<String> {
    values(Unix::new(options).attest(&own_peer()).await.unwrap())
}

#[tokio::test]
async fn ids_and_names_are_always_there() {
    let found = attest(Options::default()).await;
    let user = User::from_uid(geteuid()).unwrap().unwrap().name;
    let group = Group::from_gid(getegid()).unwrap().unwrap().name;
    for expected in [
        format!("unix:uid:{}", geteuid()),
        format!("unix:user:{user}"),
        format!("unix:gid:{}", getegid()),
        format!("unix:group:{group}"),
    ] {
        assert!(found.contains(&expected), "{expected} in {found:?}");
    }
    let program = |value: &String| value.contains(":path:") || value.contains(":sha256:");
    assert!(!found.iter().any(program));
}

#[tokio::test]
async fn a_second_look_asks_nobody_for_names_and_finds_the_same() {
    let (unix, peer) = (Unix::new(Options::default()), own_peer());
    assert_eq!(unix.glance(&peer), None);
    let first = unix.attest(&peer).await.unwrap();
    assert_eq!(unix.glance(&peer), Some(first.clone()));
    assert_eq!(unix.attest(&peer).await.unwrap(), first);
}

#[tokio::test(start_paused = true)]
async fn a_name_is_asked_for_again_after_a_while() {
    let (unix, peer) = (Unix::new(Options::default()), own_peer());
    unix.look(&peer).unwrap();
    assert!(unix.glance(&peer).is_some());
    tokio::time::advance(std::time::Duration::from_secs(10)).await;
    assert_eq!(unix.glance(&peer), None);
}

#[tokio::test]
async fn a_look_at_the_program_is_never_done_in_passing() {
    let options = Options {
        discover_workload_path: true,
        workload_size_limit: 0,
    };
    let (unix, peer) = (Unix::new(options), own_peer());
    unix.look(&peer).unwrap();
    assert_eq!(unix.glance(&peer), None);
}

#[tokio::test]
async fn supplementary_groups_are_those_of_the_process() {
    let found = attest(Options::default()).await;
    for group in nix::unistd::getgroups().unwrap() {
        assert!(found.contains(&format!("unix:supplementary_gid:{group}")));
    }
}

#[tokio::test]
async fn path_and_digest_come_on_request() {
    let options = Options {
        discover_workload_path: true,
        workload_size_limit: 0,
    };
    let found = attest(options).await;
    let exe = std::env::current_exe().unwrap();
    assert!(found.contains(&format!("unix:path:{}", exe.display())));
    assert!(found.contains(&format!("unix:sha256:{}", sha256_of(&exe))));
}

#[tokio::test]
async fn a_negative_size_limit_leaves_out_the_digest() {
    let options = Options {
        discover_workload_path: true,
        workload_size_limit: -1,
    };
    let found = attest(options).await;
    assert!(found.iter().any(|value| value.starts_with("unix:path:")));
    assert!(!found.iter().any(|value| value.starts_with("unix:sha256:")));
}

#[tokio::test]
async fn an_executable_above_the_size_limit_is_an_error() {
    let options = Options {
        discover_workload_path: true,
        workload_size_limit: 1,
    };
    let error = Unix::new(options).attest(&own_peer()).await.unwrap_err();
    assert_eq!(error.reason(), "executable_too_large");
}

#[tokio::test]
async fn a_process_with_other_ids_than_at_connect_is_denied() {
    let own = std::process::id();
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    for (uid, gid) in [(uid + 1, gid), (uid, gid + 1)] {
        let peer = Arc::new(Peer::for_test(own, uid, gid).unwrap());
        let verdict = Unix::new(Options::default()).attest(&peer).await.unwrap();
        assert_eq!(verdict, Verdict::Denied(Denial::CredentialsChanged));
    }
}

#[tokio::test]
async fn a_process_that_exited_is_denied() {
    let mut child = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let peer = Arc::new(Peer::for_test(child.id(), uid, gid).unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    let verdict = Unix::new(Options::default()).attest(&peer).await.unwrap();
    assert_eq!(verdict, Verdict::Denied(Denial::Exited));
}

#[tokio::test]
async fn a_process_that_runs_something_else_before_the_last_look_is_denied() {
    let mut shell = std::process::Command::new("sh")
        .args(["-c", "echo ready; read line; exec sleep 1000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    shell.stdout.take().unwrap().read_exact(&mut ready).unwrap();
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let peer = Peer::for_test(shell.id(), uid, gid).unwrap();
    let unix = Unix::new(Options {
        discover_workload_path: true,
        workload_size_limit: -1,
    });
    let mut stdin = shell.stdin.take().unwrap();
    let before = Executable::of(&peer).unwrap();
    let run_something_else = || {
        stdin.write_all(b"go\n").unwrap();
        while Executable::of(&peer).is_ok_and(|now| now.is_same(&before)) {
            std::thread::yield_now();
        }
    };
    let verdict = unix.selectors(&peer, run_something_else).unwrap();
    assert_eq!(verdict, Verdict::Denied(Denial::ExecutableChanged));
    // It does not become what it runs: what it ran when it was first held counts.
    let verdict = unix.look(&peer).unwrap();
    assert_eq!(verdict, Verdict::Denied(Denial::ExecutableChanged));
    // Where nobody asks for the program, its change takes nothing away.
    let unix = Unix::new(Options::default());
    assert!(matches!(unix.look(&peer).unwrap(), Verdict::Attested(_)));
    shell.kill().unwrap();
    shell.wait().unwrap();
}

#[tokio::test]
async fn a_digest_is_computed_once_for_each_content_of_a_file() {
    let peer = own_peer();
    let digests = executable::Digests::default();
    let exe = Executable::of(&peer).unwrap();
    let first = digests.of(&exe, u64::MAX).unwrap();
    // The file has been read to its end: only the memory can answer now.
    assert_eq!(digests.of(&exe, u64::MAX).unwrap(), first);
    assert!(first.is_some());
}

fn sha256_of(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap();
    hex::encode(aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        &bytes,
    ))
}
