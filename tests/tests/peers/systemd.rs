//! A private bus of Debian's `dbus-daemon`, with a small systemd of our own on it: the attestor
//! `systemd` asks it for units, and `dbus-send` judges what that systemd says.

use std::path::PathBuf;
use std::process::Command;

use attestors::workload::systemd::fake::{Fake, Unit};
use tempfile::TempDir;
use tests::domain::{Domain, Place, Plan};
use tests::process::{Process, eventually, run};
use tests::programs::Make::Signet;

/// A bus that lets its own user do everything.
#[derive(Debug)]
struct Bus {
    _daemon: Process,
    folder: TempDir,
}

impl Bus {
    fn start() -> Option<Self> {
        let mut daemon = tests::peers::program("dbus-daemon")?;
        tests::peers::program("dbus-send")?;
        let folder = tempfile::Builder::new().prefix("bus-").tempdir().unwrap();
        let path = folder.path().join("bus");
        let text = format!(
            r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "busconfig.dtd">
<busconfig>
  <listen>unix:path={}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy>
</busconfig>
"#,
            path.display()
        );
        let config = folder.path().join("bus.conf");
        std::fs::write(&config, text).unwrap();
        daemon.args(["--nofork", "--nopidfile", "--nosyslog"]);
        daemon.arg(format!("--config-file={}", config.display()));
        let _daemon = Process::start("dbus-daemon", &mut daemon);
        eventually("the bus listens", || path.try_exists().unwrap());
        Some(Self { _daemon, folder })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("bus")
    }

    fn address(&self) -> String {
        format!("unix:path={}", self.path().display())
    }

    /// Puts a systemd on the bus, which serves as long as the runtime does.
    fn systemd(&self, runtime: &tokio::runtime::Runtime, knows_pidfds: bool) -> Fake {
        let fake = Fake::new(knows_pidfds);
        let serve = runtime.block_on(fake.join(&self.path())).unwrap();
        runtime.spawn(serve);
        fake
    }

    fn send(&self, path: &str, words: &[&str]) -> String {
        let mut send = Command::new("dbus-send");
        send.arg(format!("--bus={}", self.address()));
        send.args(["--print-reply", "--dest=org.freedesktop.systemd1", path]);
        let ended = run(send.args(words));
        format!("{}{}", ended.stdout, ended.stderr)
    }
}

fn nginx() -> Unit {
    Unit {
        id: "nginx.service".to_owned(),
        fragment_path: "/lib/systemd/system/nginx.service".to_owned(),
    }
}

fn start(bus: &Bus) -> (Domain, Place, Process) {
    let domain = Plan::new(Signet).ids_alone().start();
    let place = domain.place("");
    let systemd = "WorkloadAttestor \"systemd\" {}\n    WorkloadAttestor \"unix\"";
    place.configure("WorkloadAttestor \"unix\"", systemd);
    let agent = place.start_with(&[("DBUS_SYSTEM_BUS_ADDRESS", &bus.address())]);
    place.wait();
    for (path, selector) in [
        ("/id", "systemd:id:nginx.service"),
        (
            "/file",
            "systemd:fragment_path:/lib/systemd/system/nginx.service",
        ),
        ("/other", "systemd:id:other.service"),
    ] {
        domain.entry_below(&place.id, path, selector, &[]);
    }
    (domain, place, agent)
}

/// Fetches SVIDs, and returns what is printed, and by which process.
fn fetch(place: &Place) -> (String, u32) {
    let mut fetch = Signet.agent();
    fetch.args(["api", "fetch", "x509", "-socketPath"]);
    let mut fetch = Process::start("fetch", fetch.arg(place.folder().join("agent.sock")));
    fetch.wait();
    eventually("it has said all", || fetch.has_said_all());
    (fetch.text(), fetch.pid())
}

fn gets_its_unit(knows_pidfds: bool) {
    let Some(bus) = Bus::start() else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let systemd = bus.systemd(&runtime, knows_pidfds);
    let (_domain, place, agent) = start(&bus);
    let (printed, _) = fetch(&place);
    assert!(
        printed.contains("no identity issued"),
        "in no unit: {printed}"
    );
    systemd.put(nginx());
    let mut pid = 0;
    eventually("the caller has its unit's identities", || {
        let (printed, by) = fetch(&place);
        pid = by;
        assert!(!printed.contains("example.org/other"), "{printed}");
        printed.contains("example.org/id\n") && printed.contains("example.org/file\n")
    });
    let calls = systemd.calls();
    let by_pid = calls.contains(&format!("GetUnitByPID {pid}"));
    assert!(
        calls.iter().any(|call| call == "GetUnitByPIDFD"),
        "{calls:?}"
    );
    assert_eq!(by_pid, !knows_pidfds, "{calls:?}");
    assert!(
        !agent.text().contains("Workload attestor failed"),
        "{}",
        agent.text()
    );
}

#[test]
fn a_caller_is_shown_to_systemd_by_its_pidfd() {
    gets_its_unit(true);
}

#[test]
fn a_caller_is_named_by_its_pid_to_a_systemd_that_knows_no_pidfds() {
    gets_its_unit(false);
}

#[test]
fn dbus_send_understands_every_answer_of_our_systemd() {
    let Some(bus) = Bus::start() else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let systemd = bus.systemd(&runtime, false);
    let manager = "org.freedesktop.systemd1.Manager.GetUnitByPID";
    let ask = |words: &[&str]| bus.send("/org/freedesktop/systemd1", words);
    let printed = ask(&[manager, "uint32:42"]);
    assert!(printed.contains("NoUnitForPID"), "{printed}");
    systemd.put(nginx());
    let unit = "/org/freedesktop/systemd1/unit/nginx_2eservice";
    let printed = ask(&[manager, "uint32:42"]);
    assert!(
        printed.contains(&format!("object path \"{unit}\"")),
        "{printed}"
    );
    assert!(
        systemd.calls().contains(&"GetUnitByPID 42".to_owned()),
        "{:?}",
        systemd.calls()
    );
    let get = [
        "org.freedesktop.DBus.Properties.Get",
        "string:org.freedesktop.systemd1.Unit",
    ];
    let printed = bus.send(unit, &[&get[..], &["string:FragmentPath"]].concat());
    let expected = "variant       string \"/lib/systemd/system/nginx.service\"";
    assert!(printed.contains(expected), "{printed}");
    let printed = bus.send(unit, &[&get[..], &["string:Nothing"]].concat());
    assert!(printed.contains("UnknownProperty"), "{printed}");
}
