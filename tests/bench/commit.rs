//! Durable writes: 64 writers that each wait for their own, against one that brings 64 records at once.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use server::store::{Committed, Expect, Key, Store, Txn};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::cost::{Least, ROUNDS, wall};
use crate::table::{Goal, Row};

const WRITERS: usize = 64;

/// Commits of each of the writers, and batches of the one.
const COMMITS: usize = 60;

/// About an entry's record.
const RECORD: [u8; 300] = [7; 300];

pub(crate) fn rows() -> Vec<Row> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let [mut sync, mut alone, mut together] = [Least::new(); 3];
    for _ in 0..ROUNDS {
        let folder = folder();
        sync.see(bare_sync(folder.path()));
        let store = Store::open(folder.path(), "example.org").unwrap();
        alone.see(runtime.block_on(one_writer(&store)));
        together.see(runtime.block_on(many_writers(&store)));
        runtime.block_on(store.close()).unwrap();
    }
    let (Least(sync), Least(alone), Least(together)) = (sync, alone, together);
    vec![
        Row::limit("4 KiB written and fsynced, by the wall", sync, " us"),
        Row {
            name: "Store::commit, 64 writers, of one writer's batches of 64; a record with its guard key each",
            goal: Goal::AtLeast(0.7),
            measured: alone / together,
            unit: "",
            from: format!("{:.0}/s of {:.0} records/s", 1e6 / together, 1e6 / alone),
        },
    ]
}

// Beside the program: what is temporary may be kept in memory, where a sync costs nothing.
fn folder() -> TempDir {
    let program = std::env::current_exe().unwrap();
    let beside: PathBuf = program.parent().unwrap().to_owned();
    tempfile::tempdir_in(beside).unwrap()
}

fn bare_sync(folder: &Path) -> f64 {
    let mut file = File::create(folder.join("bare")).unwrap();
    let start = wall();
    for _ in 0..COMMITS {
        file.write_all(&[7; 4096]).unwrap();
        file.sync_data().unwrap();
    }
    each(start.elapsed(), COMMITS)
}

fn each(time: Duration, count: usize) -> f64 {
    let count = u32::try_from(count).unwrap();
    crate::cost::micros(time) / f64::from(count)
}

/// The time of one entry among 64 that are committed at once.
async fn one_writer(store: &Store) -> f64 {
    let start = wall();
    for batch in 0..COMMITS {
        let txn = (0..WRITERS).fold(Txn::new(), |txn, record| entry(txn, "alone", batch, record));
        made(&store.commit(txn).await.unwrap());
    }
    each(start.elapsed(), COMMITS * WRITERS)
}

/// The time of one entry, from 64 tasks that wait for every commit.
async fn many_writers(store: &Store) -> f64 {
    let start = wall();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for commit in 0..COMMITS {
                let txn = entry(Txn::new(), "together", commit, writer);
                made(&store.commit(txn).await.unwrap());
            }
        });
    }
    writers.join_all().await;
    each(start.elapsed(), COMMITS * WRITERS)
}

/// Adds what a new entry is to the store: its record, the guard key that keeps it the only one of its
/// kind, and that neither is there yet.
fn entry(txn: Txn, writer: &str, batch: usize, record: usize) -> Txn {
    let key = Key::entry(format_args!("{writer}-{batch:08}-{record:08}"));
    let guard = Key::entry_unique(format_args!("{writer}-{batch:028}{record:028}"));
    txn.expect(key.clone(), Expect::Absent)
        .expect(guard.clone(), Expect::Absent)
        .put(guard, key.name().to_owned())
        .put(key, RECORD.to_vec())
}

fn made(outcome: &Committed) {
    assert!(matches!(outcome, Committed::At(_)), "{outcome:?}");
}
