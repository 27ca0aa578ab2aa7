//! Facts about writes and the feed that makes them visible.

use std::time::{Duration, UNIX_EPOCH};

use identity::entry::{EntryDraft, EntryId};
use identity::selector::Selector;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use runtime::shutdown::Shutdown;
use runtime::tasks::TaskGroup;

use super::entries::EntryWrites;
use super::*;
use crate::store::Faults;

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

async fn writer() -> (Writer, Index, Faults, TaskGroup) {
    let (store, faults) = Store::memory_with_faults();
    let (trigger, _) = Shutdown::new();
    let tasks = TaskGroup::new(trigger);
    let index = Index::start(store.clone(), &trust_domain(), &tasks)
        .await
        .unwrap();
    (Writer::new(store, index.clone()), index, faults, tasks)
}

/// Creates the entry `name`, whose SPIFFE ID is `/name`.
async fn create(writer: &Writer, name: &str) -> Result<(), WriteError> {
    let id = |path: &str| SpiffeId::from_path(&trust_domain(), path).unwrap();
    let selectors = [Selector::parse("a:b").unwrap()].into_iter().collect();
    let draft = EntryDraft::new(id(&format!("/{name}")), id("/spire/agent/x/1"), selectors);
    let draft = draft.check(&trust_domain()).unwrap();
    let entry_id = EntryId::parse(name).unwrap();
    writer
        .write(|snapshot| {
            let mut writes = EntryWrites::new(snapshot);
            writes
                .create(draft.clone(), entry_id.clone(), UNIX_EPOCH)
                .unwrap();
            Plan::Commit(writes.add_to(Txn::new()), ())
        })
        .await
}

#[tokio::test]
async fn a_write_is_visible_when_it_is_acknowledged() {
    let (writer, index, _faults, _tasks) = writer().await;
    for n in 0..50 {
        create(&writer, &format!("e{n}")).await.unwrap();
        assert_eq!(index.snapshot().entries.len(), n + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_feed_is_told_and_the_write_stands() {
    let (writer, index, faults, _tasks) = writer().await;
    faults.hold_feed();
    let error = create(&writer, "e1").await.unwrap_err();
    assert!(matches!(error, WriteError::Stalled(_)), "{error:?}");
    assert!(
        error.to_string().contains("stored, but not yet visible"),
        "{error}"
    );
    assert_eq!(index.snapshot().entries.len(), 0);
    faults.release_feed();
    create(&writer, "e2").await.unwrap();
    assert_eq!(index.snapshot().entries.len(), 2);
}

#[tokio::test]
async fn a_failed_commit_is_told_and_nothing_is_seen_of_it() {
    let (writer, index, faults, _tasks) = writer().await;
    faults.fail_next(1);
    let error = create(&writer, "e1").await.unwrap_err();
    assert!(matches!(error, WriteError::Store(_)), "{error:?}");
    assert_eq!(index.snapshot().entries.len(), 0);
    create(&writer, "e1").await.unwrap();
}

#[tokio::test]
async fn a_gap_in_the_feed_is_closed_by_loading_again() {
    let (writer, index, faults, _tasks) = writer().await;
    create(&writer, "e1").await.unwrap();
    faults.restart_watchers();
    create(&writer, "e2").await.unwrap();
    assert_eq!(index.snapshot().entries.len(), 2);
    assert!(!index.is_stalled());
}

#[tokio::test(start_paused = true)]
async fn a_record_that_does_not_match_the_index_is_not_waited_for_forever() {
    let (writer, _index, faults, _tasks) = writer().await;
    create(&writer, "e1").await.unwrap();
    faults.hold_feed();
    // Somebody else's commit that the index never learns of.
    let key = Key::entry("e1");
    let hidden = Txn::new().put(key.clone(), &b"x"[..]);
    let _committed = writer.store.commit(hidden).await.unwrap();
    let id = EntryId::parse("e1").unwrap();
    let started = tokio::time::Instant::now();
    let outcome = writer
        .write(|snapshot| {
            let mut writes = EntryWrites::new(snapshot);
            writes.delete(&id).unwrap();
            Plan::Commit(writes.add_to(Txn::new()), ())
        })
        .await;
    assert!(matches!(outcome, Err(WriteError::Contended(contended)) if contended == key));
    assert!(started.elapsed() < Duration::from_secs(10));
}
