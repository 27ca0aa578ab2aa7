//! What every engine must do. One set of facts, run for each.

use bytes::Bytes;

use super::{
    Committed, Expect, Key, MAX_TXN_BYTES, Record, Revision, Store, StoreError, Txn, WatchEvent,
};

fn entry(name: impl std::fmt::Display) -> Key {
    Key::entry(name)
}

async fn put(store: &Store, name: &str, value: &str) -> Revision {
    made(
        store
            .commit(Txn::new().put(entry(name), value.to_owned()))
            .await,
    )
}

fn made(outcome: Result<Committed, StoreError>) -> Revision {
    match outcome {
        Ok(Committed::At(revision)) => revision,
        other => panic!("not committed: {other:?}"),
    }
}

async fn change(watch: &mut super::Watch) -> std::sync::Arc<super::Change> {
    match watch.next().await {
        WatchEvent::Change(change) => change,
        other => panic!("no change: {other:?}"),
    }
}

async fn values(store: &Store) -> Vec<(String, String, Revision)> {
    let (_, records) = store.snapshot().await.unwrap();
    let text = |value: &Bytes| String::from_utf8(value.to_vec()).unwrap();
    records
        .iter()
        .map(|r| (r.key.to_string(), text(&r.value), r.revision))
        .collect()
}

pub(super) async fn begins_empty_at_revision_zero(store: Store) {
    assert_eq!(
        store.snapshot().await.unwrap(),
        (Revision::ZERO, Vec::new())
    );
}

pub(super) async fn numbers_commits_from_one_without_gaps(store: Store) {
    for number in 1..=5 {
        assert_eq!(put(&store, "a", "x").await, Revision::new(number));
    }
}

pub(super) async fn keeps_the_revision_of_a_keys_last_write(store: Store) {
    let first = put(&store, "a", "1").await;
    let second = put(&store, "b", "2").await;
    let (revision, records) = store.snapshot().await.unwrap();
    assert_eq!(revision, second);
    let expected = [
        Record {
            key: entry("a"),
            value: Bytes::from("1"),
            revision: first,
        },
        Record {
            key: entry("b"),
            value: Bytes::from("2"),
            revision: second,
        },
    ];
    assert_eq!(records, expected);
    assert_eq!(
        store.read(&entry("a")).await.unwrap().as_ref(),
        Some(&expected[0])
    );
    assert_eq!(store.read(&entry("c")).await.unwrap(), None);
}

pub(super) async fn writes_nothing_when_one_expectation_fails(store: Store) {
    let first = put(&store, "a", "1").await;
    let txn = Txn::new()
        .expect(entry("a"), Expect::At(first))
        .expect(entry("b"), Expect::Present)
        .put(entry("c"), "3")
        .delete(entry("a"));
    let outcome = store.commit(txn).await.unwrap();
    assert_eq!(outcome, Committed::Conflict { key: entry("b") });
    assert_eq!(
        values(&store).await,
        [("entries/a".into(), "1".into(), first)]
    );
    assert_eq!(put(&store, "d", "4").await, first.next());
}

pub(super) async fn holds_each_kind_of_expectation(store: Store) {
    let first = put(&store, "a", "1").await;
    let second = put(&store, "a", "2").await;
    for (expect, holds) in [
        (Expect::Absent, false),
        (Expect::Present, true),
        (Expect::At(first), false),
        (Expect::At(second), true),
        (Expect::seen(Some(second)), true),
        (Expect::seen(None), false),
    ] {
        let outcome = store
            .commit(Txn::new().expect(entry("a"), expect))
            .await
            .unwrap();
        assert_eq!(matches!(outcome, Committed::At(_)), holds, "{expect:?}");
    }
    let outcome = store
        .commit(Txn::new().expect(entry("b"), Expect::At(second)))
        .await
        .unwrap();
    assert_eq!(outcome, Committed::Conflict { key: entry("b") });
}

pub(super) async fn answers_a_transaction_without_writes_with_the_newest_revision(store: Store) {
    let first = put(&store, "a", "1").await;
    assert_eq!(made(store.commit(Txn::new()).await), first);
    assert_eq!(store.snapshot().await.unwrap().0, first);
}

pub(super) async fn refuses_a_key_written_twice_and_a_transaction_too_large(store: Store) {
    let twice = Txn::new().put(entry("a"), "1").delete(entry("a"));
    assert!(matches!(
        store.commit(twice).await,
        Err(StoreError::WrittenTwice { .. })
    ));
    let large = Txn::new().put(entry("a"), vec![0; MAX_TXN_BYTES]);
    assert!(matches!(
        store.commit(large).await,
        Err(StoreError::TooLarge { .. })
    ));
    assert_eq!(store.snapshot().await.unwrap().0, Revision::ZERO);
}

pub(super) async fn lets_exactly_one_of_many_claim_a_guard(store: Store) {
    let claims = (0..64).map(|n: u32| {
        let txn = Txn::new()
            .expect(Key::entry_unique("x"), Expect::Absent)
            .put(Key::entry_unique("x"), n.to_string())
            .put(entry(n), "claimed");
        store.commit(txn)
    });
    let outcomes = futures_util::future::join_all(claims).await;
    let winners = outcomes
        .iter()
        .filter(|o| matches!(o, Ok(Committed::At(_))))
        .count();
    assert_eq!(winners, 1);
    assert_eq!(values(&store).await.len(), 2);
}

pub(super) async fn watches_every_commit_in_order_and_without_a_gap(store: Store) {
    let mut watch = store.watch(Revision::ZERO);
    let writes = (0..200).map(|n: u32| store.commit(Txn::new().put(entry(n % 7), n.to_string())));
    let outcomes = futures_util::future::join_all(writes).await;
    assert!(outcomes.iter().all(Result::is_ok));
    for number in 1..=200 {
        assert_eq!(change(&mut watch).await.revision, Revision::new(number));
    }
    assert!(watch.try_next().is_none());
}

pub(super) async fn shows_a_watcher_what_was_put_and_deleted(store: Store) {
    let first = put(&store, "a", "1").await;
    let mut watch = store.watch(first);
    let second = made(
        store
            .commit(Txn::new().put(entry("b"), "2").delete(entry("a")))
            .await,
    );
    let change = change(&mut watch).await;
    assert_eq!(change.revision, second);
    assert_eq!(
        change.puts,
        [Record {
            key: entry("b"),
            value: "2".into(),
            revision: second
        }]
    );
    assert_eq!(change.deletes, [entry("a")]);
}

pub(super) async fn wakes_a_watcher_that_waits(store: Store) {
    let mut watch = store.watch(Revision::ZERO);
    let (change, _) = tokio::join!(change(&mut watch), put(&store, "a", "1"));
    assert_eq!(change.revision, Revision::new(1));
}

pub(super) async fn tells_a_watcher_that_fell_behind_to_restart(store: Store) {
    let mut watch = store.watch(Revision::ZERO);
    let large = "x".repeat(1 << 20);
    for _ in 0..12 {
        put(&store, "a", &large).await;
    }
    assert!(matches!(watch.next().await, WatchEvent::Restart));
    let (revision, _) = store.snapshot().await.unwrap();
    let mut watch = store.watch(revision);
    let next = put(&store, "a", "1").await;
    assert_eq!(change(&mut watch).await.revision, next);
}

pub(super) async fn refuses_commits_after_close(store: Store) {
    put(&store, "a", "1").await;
    store.close().await.unwrap();
    let outcome = store.commit(Txn::new().put(entry("a"), "2")).await;
    assert!(matches!(outcome, Err(StoreError::Closed)));
}

/// A snapshot with the changes after it is the same as a later snapshot.
pub(super) async fn follows_from_any_snapshot_to_any_later_one(store: Store) {
    // Any fixed walk over few keys does: puts, overwrites and deletes of what is not there.
    let steps = (0..120_u32).map(|n| (n * n % 13, n % 3 != 0));
    let (from, records) = store.snapshot().await.unwrap();
    let mut model: std::collections::BTreeMap<Key, Record> =
        records.into_iter().map(|r| (r.key.clone(), r)).collect();
    let mut watch = store.watch(from);
    for (name, is_put) in steps {
        let key = entry(name);
        let txn = if is_put {
            Txn::new().put(key, "v")
        } else {
            Txn::new().delete(key)
        };
        made(store.commit(txn).await);
        let change = change(&mut watch).await;
        for key in &change.deletes {
            model.remove(key);
        }
        for record in &change.puts {
            model.insert(record.key.clone(), record.clone());
        }
        let (_, now) = store.snapshot().await.unwrap();
        assert_eq!(model.values().cloned().collect::<Vec<_>>(), now);
    }
}

/// Runs every fact for the engine that `$open` makes; it gives a store and what keeps it alive.
macro_rules! conformance {
    ($open:expr) => {
        crate::store::conformance::conformance!(@each $open;
            begins_empty_at_revision_zero
            numbers_commits_from_one_without_gaps
            keeps_the_revision_of_a_keys_last_write
            writes_nothing_when_one_expectation_fails
            holds_each_kind_of_expectation
            answers_a_transaction_without_writes_with_the_newest_revision
            refuses_a_key_written_twice_and_a_transaction_too_large
            lets_exactly_one_of_many_claim_a_guard
            watches_every_commit_in_order_and_without_a_gap
            shows_a_watcher_what_was_put_and_deleted
            wakes_a_watcher_that_waits
            tells_a_watcher_that_fell_behind_to_restart
            refuses_commits_after_close
            follows_from_any_snapshot_to_any_later_one
        );
    };
    (@each $open:expr; $($fact:ident)*) => {
        $(#[tokio::test]
        async fn $fact() {
            let (store, _keep) = $open;
            crate::store::conformance::$fact(store).await;
        })*
    };
}
pub(super) use conformance;

mod memory {
    super::conformance!((crate::store::Store::memory(), ()));
}

mod redb {
    fn open() -> (crate::store::Store, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::store::Store::open(folder.path(), "example.org").unwrap();
        (store, folder)
    }

    super::conformance!(open());
}
