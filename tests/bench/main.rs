//! `make bench`: what Signet costs beside the limits of the machine, measured in the same run.
//!
//! First the limits (signature, verification, fsync, a bare tonic server), then Signet, then real SPIRE
//! where it is installed. The goals are ratios, so that they mean the same on every machine; a row that
//! is bound by the processor counts the time of its processor, best of three. `docs/performance.md` says
//! how to read the table.
//!
//! `bench [--cold] [ROOM..]` runs all rooms, or those named: `issue`, `commit`, `fetch`, `footprint`,
//! `kubelet`, `kubernetes`, `push`.
//! `--cold` adds a `cargo check` that finds nothing built.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement that goes wrong has no result to give"
)]

mod bare;
mod calls;
mod commit;
mod cost;
mod fetch;
mod footprint;
mod issue;
mod kubelet;
mod kubernetes;
mod listed;
mod node;
mod push;
mod table;

use std::path::Path;
use std::time::Duration;

use table::Row;

type Measure = fn() -> Vec<Row>;

const ROOMS: [(&str, Measure); 7] = [
    ("issue", issue::rows),
    ("commit", commit::rows),
    ("fetch", fetch::rows),
    ("footprint", footprint::rows),
    ("kubelet", kubelet::rows),
    ("kubernetes", kubernetes::rows),
    ("push", push::rows),
];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if plays_a_part(&words) {
        return;
    }
    let (flags, rooms): (Vec<&str>, Vec<&str>) =
        words.iter().partition(|word| word.starts_with('-'));
    assert!(
        flags.iter().all(|flag| *flag == "--cold")
            && rooms
                .iter()
                .all(|room| ROOMS.iter().any(|(name, _)| name == room)),
        "usage: bench [--cold] [issue|commit|fetch|footprint|kubelet|kubernetes|push]..."
    );
    if cfg!(debug_assertions) {
        eprintln!("bench: this is a debug build; its numbers say nothing");
    }
    let mut rows = Vec::new();
    for (name, measure) in ROOMS {
        if rooms.is_empty() || rooms.contains(&name) {
            eprintln!("bench: {name}");
            rows.extend(measure());
        }
    }
    if !flags.is_empty() {
        eprintln!("bench: cold check");
        rows.push(footprint::cold_check());
    }
    print!("{}", table::print(&rows));
}

/// The other processes of a measurement are this program too.
fn plays_a_part(words: &[&str]) -> bool {
    match words {
        ["bare", socket, message] => bare::serve(Path::new(socket), Path::new(message)),
        ["call", socket] => calls::call(Path::new(socket)),
        ["calls", socket, count, pause] => calls::calls(
            Path::new(socket),
            count.parse().unwrap(),
            Duration::from_millis(pause.parse().unwrap()),
        ),
        ["follow", socket] => calls::follow(Path::new(socket)),
        ["kubelet-client", folder, port, pods] => kubelet::attest(
            Path::new(folder),
            port.parse().unwrap(),
            pods.parse().unwrap(),
        ),
        _ => return false,
    }
    true
}
