//! Facts about writes and the feed that makes them visible.

use std::time::{Duration, UNIX_EPOCH};

use identity::bundle::Bundle;
use identity::entry::{CheckedEntry, DnsName, EntryDraft, EntryId};
use identity::selector::Selector;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use runtime::shutdown::Shutdown;
use runtime::tasks::TaskGroup;

use super::bundles::{BundleWrites, MAX_ENTAILED_BYTES, Mode, ahead};
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

/// An entry of some 15 KiB that federates with a trust domain.
fn large_draft(number: usize, with: &TrustDomain) -> CheckedEntry {
    let id = |path: &str| SpiffeId::from_path(&trust_domain(), path).unwrap();
    let selectors = [Selector::parse("a:b").unwrap()].into_iter().collect();
    let path = format!("/large/{number}");
    let mut draft = EntryDraft::new(id(&path), id("/spire/agent/x/1"), selectors);
    draft.federates_with = [with.clone()].into_iter().collect();
    let label = "a".repeat(62);
    let names = (0..75).map(|n| format!("n{n:03}.{label}.{label}.{label}.example"));
    draft.dns_names = names.map(|name| DnsName::parse(&name).unwrap()).collect();
    draft.check(&trust_domain()).unwrap()
}

#[tokio::test]
async fn a_deletion_of_a_bundle_that_is_cut_short_leaves_it_and_is_gone_on_with() {
    let (writer, index, _faults, _tasks) = writer().await;
    let other = TrustDomain::parse("other.org").unwrap();
    let bundle = Bundle::new(other.clone());
    let set = |snapshot: &Snapshot| {
        let mut writes = BundleWrites::new(snapshot);
        writes.set(&bundle);
        writes.into_plan(())
    };
    writer.write(set).await.unwrap();
    let entries = |snapshot: &Snapshot| {
        let mut writes = EntryWrites::new(snapshot);
        for number in 0..100 {
            let id = EntryId::parse(&format!("e{number}")).unwrap();
            let draft = large_draft(number, &other);
            writes.create(draft, id, UNIX_EPOCH).unwrap();
        }
        Plan::Commit(writes.add_to(Txn::new()), ())
    };
    writer.write(entries).await.unwrap();

    let ahead =
        || writer.write(|snapshot| ahead(snapshot, &other, Mode::Dissociate, MAX_ENTAILED_BYTES));
    let first = ahead().await.unwrap().unwrap().dissociated;
    assert!((1..100).contains(&first.len()), "{}", first.len());
    let snapshot = index.snapshot();
    let left = EntryWrites::new(&snapshot).federating_with(&other).len();
    assert_eq!(left, 100 - first.len());
    assert!(
        snapshot.bundles.get(&other).is_some(),
        "it goes with the last"
    );

    // Whoever asked is gone, and asks again.
    assert!(ahead().await.unwrap().is_none(), "the rest fits");
    let delete = |snapshot: &Snapshot| {
        let mut writes = BundleWrites::new(snapshot);
        let entailed = writes.delete(&other, Mode::Dissociate).unwrap();
        writes.into_plan(entailed.dissociated.len())
    };
    assert_eq!(writer.write(delete).await.unwrap(), left);
    assert!(index.snapshot().bundles.get(&other).is_none());
}
