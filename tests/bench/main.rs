//! `make bench`: what Signet costs beside the limits of the machine, measured in the same run.
//!
//! First the limits (signature, verification, fsync, a bare tonic server), then Signet, then real SPIRE
//! where it is installed. The goals are ratios, so that they mean the same on every machine; a row that
//! is bound by the processor counts the time of its processor, best of three. `docs/performance.md` says
//! how to read the table.
//!
//! `bench [--cold] [ROOM..]` runs all rooms, or those named: `issue`, `commit`, `fetch`, `cold`, `restart`,
//! `push`, `fleet`, `storm`, `many`, `idle`, `streams`, `footprint`, `kubelet`, `kubernetes`.
//! `--cold` adds a `cargo check` that finds nothing built.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a measurement that goes wrong has no result to give"
)]

mod admin;
mod bare;
mod bare_feed;
mod calls;
mod cold;
mod commit;
mod cost;
mod fetch;
mod fleet;
mod footprint;
mod idle;
mod issue;
mod kubelet;
mod kubernetes;
mod listed;
mod many;
mod meter;
mod node;
mod push;
mod restart;
mod streams;
mod table;

use std::path::Path;
use std::time::Duration;

use table::Row;

type Measure = fn() -> Vec<Row>;

const ROOMS: [(&str, Measure); 14] = [
    ("issue", issue::rows),
    ("commit", commit::rows),
    ("fetch", fetch::rows),
    ("cold", cold::rows),
    ("restart", restart::rows),
    ("push", push::rows),
    ("fleet", fleet::rows),
    ("storm", fleet::storm),
    ("many", many::rows),
    ("idle", idle::rows),
    ("streams", streams::rows),
    ("footprint", footprint::rows),
    ("kubelet", kubelet::rows),
    ("kubernetes", kubernetes::rows),
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
        "usage: bench [--cold] [{}]...",
        ROOMS.map(|(name, _)| name).join("|")
    );
    if cfg!(debug_assertions) {
        eprintln!("bench: this is a debug build; its numbers say nothing");
    }
    print!("{}", table::HEAD);
    let mut failed = Vec::new();
    for (name, measure) in ROOMS {
        if rooms.is_empty() || rooms.contains(&name) {
            eprintln!("bench: {name}");
            // What went wrong in one room says nothing about the others.
            match std::panic::catch_unwind(measure) {
                Ok(rows) => print!("{}", table::print(&rows)),
                Err(_told_already) => failed.push(name),
            }
        }
    }
    if !flags.is_empty() {
        eprintln!("bench: cold check");
        print!("{}", table::print(&[footprint::cold_check()]));
    }
    assert!(failed.is_empty(), "not measured: {}", failed.join(", "));
}

/// The other processes of a measurement are this program too.
fn plays_a_part(words: &[&str]) -> bool {
    match words {
        ["bare", socket, message] => bare::serve(Path::new(socket), Path::new(message)),
        ["bare-feed", folder] => bare_feed::serve(Path::new(folder)),
        ["hold", socket, count] => streams::hold(Path::new(socket), count.parse().unwrap()),
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
