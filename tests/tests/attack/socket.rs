//! Somebody who may write to the folder of a socket, and takes its name.

use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use tests::domain::Plan;
use tests::process::Process;
use tests::programs::Make::Signet;
use tests::scenarios::{fetch, wait_for_svid};
use tokio::time::Instant;

const ALARM: &str = "Somebody took a name of the socket, and it was taken back";

#[test]
fn a_socket_that_is_replaced_is_taken_back_with_an_alarm_and_open_streams_stay() {
    let domain = Plan::new(Signet).start();
    let place = domain.place("");
    let elsewhere = tempfile::tempdir().expect("a folder");
    let admin = elsewhere.path().join("admin.sock");
    place.configure(
        "log_level = \"DEBUG\"",
        &format!("admin_socket_path = \"{}\"", admin.display()),
    );
    place.configure(
        "plugins {",
        "signet { socket_aliases = [\"socket\"] }\nplugins {",
    );
    let mut agent = place.serve();
    domain.entry(&agent, "/web", "unix:uid:0", &[]);
    wait_for_svid(&agent, "/web");
    let mut watch = Process::start("watch", &mut agent.api_command(Signet, &["watch"]));
    watch.line("spiffe://example.org/web");

    let mut seen = 0;
    let own = agent.socket();
    let alias = own.with_file_name("socket");
    let evil = own.with_file_name("evil");
    for name in [&own, &alias, &admin] {
        for replaced in [false, true] {
            let mut attacker = None;
            let start = Instant::now();
            if replaced {
                attacker = Some(UnixListener::bind(&evil).expect("a socket"));
                std::fs::rename(&evil, name).expect("it is replaced");
            } else {
                std::fs::remove_file(name).expect("it is removed");
            }
            let (line, after) = agent.process.line_after(seen, ALARM);
            seen = after;
            println!(
                "{} taken back after {:.1} s (goal: 2 s)",
                name.display(),
                start.elapsed().as_secs_f64()
            );
            let word = if replaced {
                "socket_replaced"
            } else {
                "socket_removed"
            };
            assert!(
                line.contains(word) && line.contains(&name.display().to_string()),
                "{line}"
            );
            assert!(line.contains("level=error"), "{line}");
            UnixStream::connect(name).expect("it listens");
            assert!(fetch(&agent).is_some());
            drop(attacker);
        }
    }
    // The stream of before is served still: a second identity reaches it.
    domain.entry(&agent, "/second", "unix:uid:0", &[]);
    watch.line("spiffe://example.org/second");
    let names = std::fs::read_dir(agent.folder()).expect("the folder");
    let left_over = names
        .flatten()
        .filter(|name| name.file_name().to_string_lossy().starts_with('.'));
    assert_eq!(left_over.count(), 0);
    let asked = Command::new(tests::programs::signet())
        .args(["agent", "debug", "getinfo", "-socketPath"])
        .arg(&admin)
        .output()
        .expect("it runs");
    assert!(asked.status.success(), "{asked:?}");
}
