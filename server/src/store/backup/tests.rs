//! Backups that are whole, damaged, or of somebody else.

use std::{fs, os::unix::fs::PermissionsExt as _};

use proptest::prelude::*;

use super::*;
use crate::store::{Committed, Txn};

async fn filled(data_dir: &Path) -> Store {
    let store = Store::open(data_dir, "example.org").unwrap();
    for n in 0..20_u32 {
        let txn = Txn::new()
            .put(Key::entry(n), n.to_string())
            .delete(Key::entry(n / 3));
        let outcome = store
            .commit(Txn {
                delete: if n < 3 { Vec::new() } else { txn.delete },
                ..txn
            })
            .await;
        assert!(matches!(outcome, Ok(Committed::At(_))));
    }
    store
}

#[tokio::test]
async fn a_running_servers_store_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(&folder.path().join("data")).await;
    let path = folder.path().join("backup");
    Backup::of(&store, "example.org")
        .await
        .unwrap()
        .write(&path)
        .unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );

    let restored = folder.path().join("restored");
    Backup::read(&path).unwrap().restore(&restored).unwrap();
    let again = Store::open(&restored, "example.org").unwrap();
    assert_eq!(
        again.snapshot().await.unwrap(),
        store.snapshot().await.unwrap()
    );
    let next = again
        .commit(Txn::new().put(Key::entry("next"), "x"))
        .await
        .unwrap();
    assert_eq!(next, Committed::At(Revision::new(21)));
}

#[tokio::test]
async fn a_stopped_servers_store_is_backed_up_from_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let store = filled(&data).await;
    let running = Backup::of_data_dir(&data).await.unwrap_err();
    assert_eq!(running.reason(), "store_locked");
    let before = store.snapshot().await.unwrap();
    store.close().await.unwrap();
    let backup = Backup::of_data_dir(&data).await.unwrap();
    assert_eq!((backup.revision, backup.records), before);
    assert_eq!(backup.trust_domain, "example.org");
    assert!(
        Store::open(&data, "example.org").is_ok(),
        "the folder is free again"
    );
}

#[tokio::test]
async fn a_folder_without_a_store_is_not_backed_up_and_gets_none() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Backup::of_data_dir(folder.path()).await.is_err());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn restores_only_into_an_empty_folder_or_beside_keys() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(&folder.path().join("data")).await;
    let backup = Backup::of(&store, "example.org").await.unwrap();
    let refused = backup.restore(&folder.path().join("data")).unwrap_err();
    assert_eq!(refused.reason(), "data_dir_not_empty");
    let keyed = folder.path().join("keyed");
    fs::create_dir(&keyed).unwrap();
    fs::write(keyed.join("keys.json"), "{}").unwrap();
    backup.restore(&keyed).unwrap();
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("journal.pem"), "").unwrap();
    assert_eq!(
        backup.restore(&other).unwrap_err().reason(),
        "data_dir_not_empty"
    );
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
}

#[test]
fn the_chunks_are_the_file_and_none_is_longer_than_it_may_be() {
    let record = |n: u8, length: usize| Record {
        key: Key::entry(n),
        value: vec![n; length].into(),
        revision: Revision::new(u64::from(n)),
    };
    let lengths = [0, CHUNK_BYTES - 1, 3 * CHUNK_BYTES, 5];
    let backup = Backup {
        trust_domain: "example.org".to_owned(),
        revision: Revision::new(9),
        records: (0..).zip(lengths).map(|(n, l)| record(n, l)).collect(),
    };
    let file = backup.encode();
    let chunks: Vec<_> = backup.into_chunks().collect();
    assert!(chunks.iter().all(|chunk| chunk.len() <= CHUNK_BYTES));
    assert_eq!(chunks.len(), file.len().div_ceil(CHUNK_BYTES));
    assert_eq!(chunks.concat(), file);
}

fn backups() -> impl Strategy<Value = Backup> {
    let record = (
        "[a-z]{1,9}/.{1,20}",
        prop::collection::vec(any::<u8>(), 0..64),
        any::<u64>(),
    );
    let record = record.prop_map(|(key, value, revision)| Record {
        key: Key::stored(&key),
        value: value.into(),
        revision: Revision::new(revision),
    });
    let records = prop::collection::vec(record, 0..8);
    ("[a-z.]{1,20}", any::<u64>(), records).prop_map(|(trust_domain, revision, records)| Backup {
        trust_domain,
        revision: Revision::new(revision),
        records,
    })
}

proptest! {
    #[test]
    fn a_backup_reads_as_it_was_written(backup in backups()) {
        let bytes: Vec<_> = backup.clone().into_chunks().collect();
        prop_assert_eq!(Backup::decode(&bytes.concat().into()), Ok(backup));
    }

    #[test]
    fn a_backup_with_a_flipped_bit_is_refused(backup in backups(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut bytes = backup.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Backup::decode(&bytes.into()).is_err());
    }

    #[test]
    fn a_backup_cut_short_is_refused(backup in backups(), at in any::<prop::sample::Index>()) {
        let mut bytes = backup.encode();
        bytes.truncate(at.index(bytes.len()));
        prop_assert!(Backup::decode(&bytes.into()).is_err());
    }

    #[test]
    fn content_of_any_bytes_is_a_backup_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Backup::decode_content(&mut bytes.into());
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Backup::decode(&bytes.into()).is_err());
    }
}
