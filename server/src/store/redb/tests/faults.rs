//! Full disks, failing disks and power cuts.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use futures_util::future::join_all;
use proptest::prelude::*;

use super::device::Disk;
use crate::store::{
    Committed, Engine, Expect, Key, Revision, Store, StoreError, Txn, WatchEvent,
    redb::{Redb, device::Device, file::Opened, open},
};

fn formatted() -> Disk {
    let disk = Disk::default();
    open::create(Arc::new(disk.clone()), &open::Content::empty("example.org")).unwrap();
    disk
}

fn start(disk: &Disk) -> Store {
    let device: Arc<dyn Device> = Arc::new(disk.clone());
    let admitted = open::open(Arc::clone(&device), Some("example.org")).unwrap();
    let opened = Opened {
        path: PathBuf::from("disk"),
        trust_domain: "example.org".to_owned(),
        database: admitted.database,
        gate: admitted.gate,
        device,
        revision: admitted.revision,
    };
    Store::of(Engine::Redb(Redb::start(opened).unwrap()))
}

fn txn(name: &str, value: &str) -> Txn {
    Txn::new().put(Key::entry(name), value.to_owned())
}

#[tokio::test]
async fn makes_commits_that_wait_together_durable_with_one_sync() {
    let disk = formatted();
    let store = start(&disk);
    let writes = || (0..64_u32).map(|n| store.commit(txn(&n.to_string(), "x")));
    // The first of a crowd may be taken alone; from then on they go together.
    assert!(join_all(writes()).await.iter().all(Result::is_ok));
    let before = disk.syncs();
    for _ in 0..10 {
        assert!(join_all(writes()).await.iter().all(Result::is_ok));
    }
    let syncs = disk.syncs() - before;
    assert!(syncs <= 20, "{syncs} syncs for 640 commits of 64 writers");
}

#[tokio::test]
async fn fails_commits_on_a_full_disk_and_goes_on_when_there_is_room() {
    let disk = formatted();
    let store = start(&disk);
    let mut watch = store.watch(Revision::ZERO);
    assert!(store.commit(txn("a", "1")).await.is_ok());
    disk.fail_writes(true);
    for _ in 0..3 {
        let failed = store.commit(txn("b", "2")).await.unwrap_err();
        assert!(matches!(failed, StoreError::Failed { .. }), "{failed:?}");
    }
    disk.fail_writes(false);
    let outcome = store
        .commit(txn("c", "3").expect(Key::entry("b"), Expect::Absent))
        .await;
    assert_eq!(outcome.unwrap(), Committed::At(Revision::new(2)));
    let mut seen = Vec::new();
    while let Some(WatchEvent::Change(change)) = watch.try_next() {
        seen.push(change.puts[0].key.name().to_owned());
    }
    assert_eq!(seen, ["a", "c"], "no watcher hears of a commit that failed");
    assert_eq!(store.snapshot().await.unwrap().1.len(), 2);
}

#[tokio::test]
async fn takes_no_more_writes_once_a_sync_failed() {
    let disk = formatted();
    let store = start(&disk);
    assert!(store.commit(txn("a", "1")).await.is_ok());
    disk.fail_syncs(true);
    assert!(matches!(
        store.commit(txn("b", "2")).await,
        Err(StoreError::Poisoned)
    ));
    disk.fail_syncs(false);
    assert!(matches!(
        store.commit(txn("c", "3")).await,
        Err(StoreError::Poisoned)
    ));
    assert!(store.check().is_err());
    let after = start(&disk.after_power_cut(|| false));
    let (_, records) = after.snapshot().await.unwrap();
    assert_eq!(
        records.len(),
        1,
        "what was acknowledged is there, and nothing else"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever part of the unsynced writes a power cut takes, every acknowledged commit is there
    /// and none is there by half.
    #[test]
    fn keeps_acknowledged_commits_over_power_cuts(
        rounds in prop::collection::vec((1..12_usize, any::<u64>()), 1..5),
        mut luck in any::<u64>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut disk = formatted();
            let mut acknowledged: BTreeMap<String, String> = BTreeMap::new();
            for (crowd, seed) in rounds {
                let store = start(&disk);
                // The cut falls while commits are under way.
                let writes = (0..crowd).map(|n| {
                    let value = format!("{seed}-{n}");
                    let txn = txn(&format!("{n}-left"), &value).put(Key::entry(format!("{n}-right")), value.clone());
                    let store = &store;
                    async move { (n, value, store.commit(txn).await) }
                });
                for (n, value, outcome) in join_all(writes).await {
                    if outcome.is_ok() {
                        acknowledged.insert(format!("{n}-left"), value.clone());
                        acknowledged.insert(format!("{n}-right"), value);
                    }
                }
                disk.forget_syncs_from_now_on();
                let _ = store.commit(txn("torn-left", "x").put(Key::entry("torn-right"), "x")).await;
                disk = disk.after_power_cut(|| {
                    luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    luck >> 63 == 1
                });
                let after = start(&disk);
                let (_, records) = after.snapshot().await.unwrap();
                let found: BTreeMap<String, String> = records
                    .iter()
                    .map(|r| (r.key.name().to_owned(), String::from_utf8(r.value.to_vec()).unwrap()))
                    .collect();
                for (name, value) in &acknowledged {
                    assert_eq!(found.get(name), Some(value), "{name} was acknowledged");
                }
                assert_eq!(found.contains_key("torn-left"), found.contains_key("torn-right"));
                after.close().await.unwrap();
            }
        });
    }
}
