//! What an idle process keeps in memory, what a program weighs, and how long a newcomer's check takes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::unistd::getuid;
use tests::domain::Plan;
use tests::peers;
use tests::programs::{Make, signet};
use tests::scenarios::wait_for_svid;

use crate::cost::{pause, wall};
use crate::meter::{Memory, Meter};
use crate::table::{Goal, Row};

/// Longer than the agent's synchronization interval and the server's check of its authorities.
const IDLE: Duration = Duration::from_secs(15);

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let [server, agent] = idle(Make::Signet);
    rows.push(memory("idle server, resident", Goal::AtMost(25.0), &server));
    rows.push(memory(
        "idle agent with one entry, resident",
        Goal::AtMost(15.0),
        &agent,
    ));
    let spire = peers::folder("spire");
    if spire.is_some() {
        let [server, agent] = idle(Make::Spire);
        rows.push(memory("idle server of real SPIRE", Goal::Limit, &server));
        rows.push(memory("idle agent of real SPIRE", Goal::Limit, &agent));
    }
    rows.push(size(
        "stripped release binary",
        Goal::AtMost(15.0),
        signet(),
    ));
    if let Some(folder) = spire {
        let server = folder.join("spire-server");
        rows.push(size("real SPIRE's server", Goal::Limit, &server));
        let agent = folder.join("spire-agent");
        rows.push(size("real SPIRE's agent", Goal::Limit, &agent));
    }
    rows
}

fn idle(make: Make) -> [Memory; 2] {
    let domain = Plan::new(make)
        .ids_alone()
        .key(r#"log_level = "INFO""#)
        .start();
    pause(IDLE);
    let server = Meter::of(domain.server.pid()).memory();
    let agent = domain.agent_with(make, r#"log_level = "INFO""#);
    let selector = format!("unix:uid:{}", getuid());
    domain.entry(&agent, "/bench", &selector, &[]);
    wait_for_svid(&agent, "/bench");
    pause(IDLE);
    [server, Meter::of(agent.process.pid()).memory()]
}

pub(crate) fn memory(name: &'static str, goal: Goal, memory: &Memory) -> Row {
    Row {
        name,
        goal,
        measured: memory.resident,
        unit: " MiB",
        from: format!("{:.1} MiB of it anonymous", memory.anonymous),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a file's length in megabytes, to two digits"
)]
fn size(name: &'static str, goal: Goal, program: &Path) -> Row {
    let bytes = fs::metadata(program).unwrap().len();
    Row {
        name,
        goal,
        measured: bytes as f64 / 1e6,
        unit: " MB",
        from: String::new(),
    }
}

/// Checks the workspace where nothing of it is built. Dependencies are downloaded already, and what
/// other work the machine has is in the number.
pub(crate) fn cold_check() -> Row {
    let folder = tempfile::tempdir().unwrap();
    let start = wall();
    let status = Command::new(option_env!("CARGO").unwrap_or("cargo"))
        .args(["check", "--quiet", "--workspace", "--target-dir"])
        .arg(folder.path())
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()
        .unwrap();
    let time = start.elapsed();
    assert!(status.success(), "the check fails");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Row {
        name: "cold `cargo check`",
        goal: Goal::AtMost(120.0),
        measured: time.as_secs_f64(),
        unit: " s",
        from: format!("{cores} cores"),
    }
}
