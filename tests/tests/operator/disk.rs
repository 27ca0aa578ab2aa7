//! Disks that are full or read-only: a small file system in a mount namespace of the program's own,
//! which the test reaches through `/proc/PID/root`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::process::{Process, eventually, run};

use super::place::Place;

/// The command that runs the server or the agent with a disk of so many KiB as its state folder.
fn on_a_small_disk(place: &Place, part: &str, kib: u32) -> Command {
    let folder = place.path(part);
    std::fs::create_dir_all(&folder).unwrap();
    let inner = place.command(part);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]);
    command.arg(format!(
        "mount -t tmpfs -o size={kib}k tmpfs {} && exec \"$@\"",
        folder.display()
    ));
    command
        .arg("sh")
        .arg(inner.get_program())
        .args(inner.get_args());
    command
}

/// The state folder as the process sees it.
fn inside(process: &Process, folder: &Path) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", process.pid()));
    root.join(folder.strip_prefix("/").unwrap())
}

/// Fills the disk of a folder to its last byte.
fn fill(folder: &Path) -> PathBuf {
    let path = folder.join("filler");
    let mut file = File::create(&path).unwrap();
    let mut chunk = 1 << 16;
    while chunk > 0 {
        if file.write_all(&vec![0x55; chunk]).is_err() {
            chunk /= 2;
        }
    }
    path
}

#[test]
fn a_server_on_a_full_disk_refuses_writes_signs_on_and_writes_again_when_there_is_room() {
    let place = Place::new();
    let mut server = place.start_server(&mut on_a_small_disk(&place, "server", 8192));
    let token = place.token();
    let _agent = place.agent(&["-joinToken", &token]);
    let disk = inside(&server, &place.path("server"));
    let filler = fill(&disk);
    let mut refused = None;
    for number in 0..2_000 {
        let ended = place.create_long_entry(&format!("w{number}"));
        if ended.code != 0 {
            refused = Some((number, ended));
            break;
        }
    }
    let (made, ended) = refused.expect("a full disk does not take that much");
    println!("{made} entries were taken");
    assert!(
        ended.stdout.contains("Internal") || ended.stderr.contains("Internal"),
        "{ended:?}"
    );
    assert!(server.is_running(), "{}", server.text());
    // What needs no write goes on.
    let count = || place.cli(&["entry", "count"]).success();
    assert!(count().starts_with(&format!("{made} ")), "{}", count());
    std::fs::remove_file(filler).unwrap();
    eventually("there is room", || place.create_entry("after").code == 0);
    assert!(
        count().starts_with(&format!("{} ", made + 1)),
        "{}",
        count()
    );
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn an_agent_on_a_full_disk_spends_no_token_serves_on_and_renews_when_there_is_room() {
    let place = Place::new();
    place.change("server", "\"1h\"", "\"16s\"");
    let _server = place.server();
    let token = place.token();
    let mut first = Process::start(
        "agent",
        on_a_small_disk(&place, "agent", 4).args(["-joinToken", &token]),
    );
    assert_eq!(first.wait().code(), Some(1), "{}", first.text());
    let said = first.line("No space left on device");
    assert!(said.contains("agent"), "{said}");
    // The token is whole.
    let mut agent =
        place.start_agent(on_a_small_disk(&place, "agent", 1024).args(["-joinToken", &token]));
    let disk = inside(&agent, &place.path("agent"));
    fill(&disk);
    // What can be had again gives its room to what cannot.
    agent.line("Could not write the sealed cache: it is emptied");
    let filler = fill(&disk);
    let said = agent.line("Could not renew the agent's SVID");
    assert!(said.contains("disk_full"), "{said}");
    let probe = ["healthcheck", "-socketPath"];
    let mut command = tests::programs::Make::Signet.agent();
    command.args(probe).arg(place.path("agent.sock"));
    assert_eq!(run(&mut command).code, 0, "it serves on");
    let kept = super::place::content(&disk);
    assert!(kept.keys().all(|path| !path.ends_with(".new")), "{kept:?}");
    let seen = agent.lines();
    std::fs::remove_file(filler).unwrap();
    agent.line_after(seen, "Renewed the agent's SVID");
    assert!(agent.is_running());
}

#[test]
fn a_read_only_state_folder_ends_the_start_with_its_name() {
    for part in ["server", "agent"] {
        let place = Place::new();
        std::fs::write(place.path("bundle.pem"), "").unwrap();
        let folder = place.path(part);
        std::fs::create_dir_all(&folder).unwrap();
        let inner = place.command(part);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c"]);
        command.arg(format!(
            "mount -t tmpfs -o ro tmpfs {} && exec \"$@\"",
            folder.display()
        ));
        command
            .arg("sh")
            .arg(inner.get_program())
            .args(inner.get_args());
        let mut process = Process::start(part, &mut command);
        assert_eq!(process.wait().code(), Some(1), "{}", process.text());
        let said = process.line("Read-only file system");
        assert!(said.contains(part), "{said}");
    }
}
