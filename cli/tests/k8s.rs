//! The storage driver as a program: flags, the network that it leaves, and its end.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use support::{Program, text};
use tempfile::TempDir;

/// A folder like a kubelet's, with a folder of sockets in it.
fn node() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["pods", "sockets"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    folder
}

fn start(program: &Program, folder: &Path) -> Child {
    program
        .command()
        .env("MY_NODE_NAME", "node-1")
        .args(["k8s", "csi", "-kubelet-dir", text(folder)])
        .args(["-workload-api-socket-dir", text(&folder.join("sockets"))])
        .args(["-csi-socket-path", text(&folder.join("plugin/csi.sock"))])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn the_version_is_told_without_privileges() {
    let run = Program::called("signet").run(&["k8s", "csi", "-version"]);
    let version = format!("{}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!((run.err, run.code), (version, Some(0)));
}

#[test]
fn a_driver_without_a_node_or_a_folder_of_sockets_does_not_start() {
    if !geteuid().is_root() {
        println!("skipped: the driver has to be privileged");
        return;
    }
    let program = Program::called("signet");
    let folder = node();
    let kubelet = ["k8s", "csi", "-kubelet-dir", text(folder.path())];
    let run = program.run(&kubelet);
    assert_eq!(
        (run.err.as_str(), run.code),
        ("node ID is required\n", Some(1))
    );
    let run = program.run(&[&kubelet[..], &["-node-id", "node-1"]].concat());
    assert_eq!(run.err, "workload API socket directory is required\n");
    let run = program.run(&["k8s", "healthcheck", "-csi-socket-path", "/nowhere"]);
    assert!(
        run.err
            .starts_with("Storage driver is unhealthy: rpc error: code = Unavailable"),
        "{}",
        run.err
    );
    assert_eq!(run.code, Some(1));
}

#[test]
fn it_leaves_the_network_registers_itself_and_goes_when_it_is_told() {
    if !geteuid().is_root() {
        println!("skipped: the driver has to be privileged");
        return;
    }
    let program = Program::called("signet");
    let folder = node();
    let mut driver = start(&program, folder.path());
    let mut log = BufReader::new(driver.stdout.take().unwrap()).lines();
    let registration = folder
        .path()
        .join("plugins_registry/csi.spiffe.io-reg.sock");
    // It listens there last.
    let listens = |line: &String| line.contains("csi.spiffe.io-reg.sock");
    assert!(
        log.by_ref()
            .map_while(Result::ok)
            .any(|line| listens(&line))
    );
    assert!(registration.try_exists().unwrap());

    // No thread of it has a network.
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let tasks = std::fs::read_dir(format!("/proc/{}/task", driver.id())).unwrap();
    let mut count = 0;
    for task in tasks.flatten() {
        assert_ne!(std::fs::read_link(task.path().join("ns/net")).unwrap(), own);
        count += 1;
    }
    assert!(count > 1);
    let devices = std::fs::read_to_string(format!("/proc/{}/net/dev", driver.id())).unwrap();
    assert!(
        devices
            .lines()
            .skip(2)
            .all(|line| line.trim().starts_with("lo:"))
    );

    let socket = folder.path().join("plugin/csi.sock");
    let run = program.run(&["k8s", "healthcheck", "-csi-socket-path", text(&socket)]);
    assert_eq!(
        (run.out.as_str(), run.code),
        ("Storage driver is healthy.\n", Some(0))
    );

    let pid = Pid::from_raw(i32::try_from(driver.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(driver.wait().unwrap().code(), Some(0));
    assert!(!registration.try_exists().unwrap());
}
