//! Files that must not be opened, and must be left as they are.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use crate::store::{Committed, Key, OpenError, Store, Txn, redb::file::FILE_NAME};

async fn filled(folder: &Path) {
    let store = Store::open(folder, "example.org").unwrap();
    for n in 0..40_u32 {
        let value = vec![u8::try_from(n).unwrap(); 400];
        let outcome = store
            .commit(Txn::new().put(Key::entry(n), value))
            .await
            .unwrap();
        assert!(matches!(outcome, Committed::At(_)));
    }
    store.close().await.unwrap();
}

async fn records(store: &Store) -> usize {
    store.snapshot().await.unwrap().1.len()
}

#[tokio::test]
async fn goes_on_where_it_was_closed() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    let store = Store::open(folder.path(), "example.org").unwrap();
    let (revision, records) = store.snapshot().await.unwrap();
    assert_eq!((revision.number(), records.len()), (40, 40));
}

#[tokio::test]
async fn keeps_its_file_from_other_users() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    filled(&data).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&data.join(FILE_NAME)), 0o600);
    assert_eq!(
        fs::read_dir(&data).unwrap().count(),
        1,
        "nothing is left beside it"
    );
}

#[tokio::test]
async fn refuses_a_second_server_on_the_same_data() {
    let folder = tempfile::tempdir().unwrap();
    let first = Store::open(folder.path(), "example.org").unwrap();
    let refused = Store::open(folder.path(), "example.org").unwrap_err();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    first.close().await.unwrap();
    assert!(Store::open(folder.path(), "example.org").is_ok());
}

#[tokio::test]
async fn refuses_the_data_of_another_trust_domain_and_of_a_newer_format() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    let path = folder.path().join(FILE_NAME);
    let before = fs::read(&path).unwrap();

    let refused = Store::open(folder.path(), "other.org").unwrap_err();
    assert!(
        matches!(&refused, OpenError::OtherTrustDomain { found, .. } if found == "example.org")
    );
    assert!(fs::read(&path).unwrap() == before, "the file was changed");

    {
        let database = redb::Database::create(&path).unwrap();
        let write = database.begin_write().unwrap();
        write
            .open_table(super::super::NUMBERS)
            .unwrap()
            .insert("format", 2)
            .unwrap();
        write.delete_table(super::super::TEXTS).unwrap();
        write.commit().unwrap();
    }
    let before = fs::read(&path).unwrap();
    let refused = Store::open(folder.path(), "example.org").unwrap_err();
    assert!(
        matches!(
            refused,
            OpenError::NewerFormat {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{refused}"
    );
    assert!(fs::read(&path).unwrap() == before, "the file was changed");
}

#[tokio::test]
async fn refuses_files_that_are_no_datastore() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    for bytes in [&b""[..], b"SQLite format 3\0", &[0; 8_192]] {
        fs::write(&path, bytes).unwrap();
        let refused = Store::open(folder.path(), "example.org").unwrap_err();
        assert!(matches!(refused, OpenError::Damaged { .. }), "{refused:?}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    fs::remove_file(&path).unwrap();
    drop(redb::Database::create(&path).unwrap());
    let refused = Store::open(folder.path(), "example.org").unwrap_err();
    assert!(matches!(refused, OpenError::Foreign { .. }), "{refused:?}");
}

#[tokio::test]
async fn refuses_a_truncated_file_and_leaves_it() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    let path = folder.path().join(FILE_NAME);
    let whole = fs::read(&path).unwrap();
    for numerator in 0..16 {
        let cut = &whole[..whole.len() * numerator / 16 + numerator];
        fs::write(&path, cut).unwrap();
        let refused = Store::open(folder.path(), "example.org").unwrap_err();
        assert!(
            matches!(refused, OpenError::Damaged { .. }),
            "{numerator}/16: {refused:?}"
        );
        assert!(
            fs::read(&path).unwrap() == cut,
            "{numerator}/16: the file was changed"
        );
    }
}

/// A flipped bit is refused, or it lies where nothing is stored; it never changes what is read.
#[tokio::test]
async fn never_believes_a_flipped_bit() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    let path = folder.path().join(FILE_NAME);
    let whole = fs::read(&path).unwrap();
    let intact = {
        let store = Store::open(folder.path(), "example.org").unwrap();
        let intact = store.snapshot().await.unwrap();
        store.close().await.unwrap();
        intact
    };
    let mut refusals = 0;
    let header = (0..320).step_by(3);
    let body = (320..whole.len()).step_by(whole.len() / 160 + 1);
    for (round, at) in header.chain(body).enumerate() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (round % 8);
        let copy = tempfile::tempdir().unwrap();
        let path = copy.path().join(FILE_NAME);
        fs::write(&path, &flipped).unwrap();
        match Store::open(copy.path(), "example.org") {
            Ok(store) => assert!(store.snapshot().await.unwrap() == intact, "byte {at}"),
            Err(OpenError::Damaged { .. } | OpenError::Foreign { .. }) => {
                refusals += 1;
                assert!(
                    fs::read(&path).unwrap() == flipped,
                    "byte {at}: the file was changed"
                );
            }
            Err(other) => panic!("byte {at}: {other:?}"),
        }
    }
    assert!(refusals > 40, "{refusals}");
}

#[tokio::test]
async fn opens_a_file_whose_server_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    let store = Store::open(folder.path(), "example.org").unwrap();
    let outcome = store
        .commit(Txn::new().put(Key::entry("last"), "x"))
        .await
        .unwrap();
    assert!(matches!(outcome, Committed::At(_)));
    // What a kill leaves: the bytes as they are now, with no word of goodbye.
    let copy = tempfile::tempdir().unwrap();
    fs::copy(folder.path().join(FILE_NAME), copy.path().join(FILE_NAME)).unwrap();
    let after = Store::open(copy.path(), "example.org").unwrap();
    assert_eq!(records(&after).await, 41);
}
