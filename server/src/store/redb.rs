//! The durable engine: one redb file, one writer, one fsync for all commits that wait together.

mod device;
mod file;
mod open;
mod queue;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use parking_lot::RwLock;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use self::{file::Opened, open::Content, queue::Orders, writer::Writer};
use super::{
    Committed, Key, OpenError, Record, Revision, StoreError, Txn, Watch,
    history::{Feed, Watchers},
};

/// Every record: its revision and its value, by its key.
const RECORDS: TableDefinition<'static, &str, (u64, &[u8])> = TableDefinition::new("records");
/// The format version and the newest revision. This table and `TEXTS` stay as they are in every format.
const NUMBERS: TableDefinition<'static, &str, u64> = TableDefinition::new("numbers");
/// The trust domain.
const TEXTS: TableDefinition<'static, &str, &str> = TableDefinition::new("texts");

const FORMAT: &str = "format";
const REVISION: &str = "revision";
const TRUST_DOMAIN: &str = "trust_domain";

/// The format that this program writes. It reads the one before, too, once there is one.
const FORMAT_VERSION: u64 = 1;

/// The pages that redb keeps. Reads come from indexes, so the file's own cache can be small.
const CACHE_BYTES: usize = 8 << 20;

/// The open database, while there is one; the writer alone replaces it.
type Current = Arc<RwLock<Option<Arc<Database>>>>;

/// Set once a sync failed; see `writer::Health`.
type Poison = Arc<AtomicBool>;

#[derive(Clone)]
pub(super) struct Redb {
    orders: Orders,
    current: Current,
    poison: Poison,
    watchers: Watchers,
}

impl Redb {
    /// Opens the store of `data_dir`, or makes it.
    pub(super) fn open(data_dir: &Path, trust_domain: &str) -> Result<Self, OpenError> {
        Self::start(file::open(data_dir, trust_domain)?)
    }

    /// Opens the store of `data_dir`, which must be there, and tells whose it is.
    pub(super) fn open_existing(data_dir: &Path) -> Result<(Self, String), OpenError> {
        let opened = file::open_existing(data_dir)?;
        let trust_domain = opened.trust_domain.clone();
        Ok((Self::start(opened)?, trust_domain))
    }

    /// Makes a store of these records in `data_dir`, where there must be none.
    pub(super) fn restore(
        data_dir: &Path,
        trust_domain: &str,
        revision: Revision,
        records: &[Record],
    ) -> Result<(), OpenError> {
        file::create(
            data_dir,
            &Content {
                trust_domain,
                revision,
                records,
            },
        )
        .map(drop)
    }

    fn start(opened: Opened) -> Result<Self, OpenError> {
        let (feed, watchers) = Feed::new(opened.revision);
        let (orders, waiting) = queue::queue();
        let current: Current = Arc::new(RwLock::new(None));
        let poison = Poison::default();
        let writer = Writer::new(
            &opened,
            waiting,
            Arc::clone(&current),
            Arc::clone(&poison),
            feed,
        );
        let Opened { database, path, .. } = opened;
        *current.write() = Some(Arc::new(database));
        thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| OpenError::Io {
                operation: "start the writer of",
                path,
                source,
            })?;
        Ok(Self {
            orders,
            current,
            poison,
            watchers,
        })
    }

    pub(super) async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        self.orders.commit(txn).await
    }

    /// Makes what waits durable, and lets the file go.
    pub(super) async fn close(&self) -> Result<(), StoreError> {
        self.orders.close().await
    }

    pub(super) async fn snapshot(&self) -> Result<(Revision, Vec<Record>), StoreError> {
        self.reading(scan).await
    }

    pub(super) async fn read(&self, key: Key) -> Result<Option<Record>, StoreError> {
        self.reading(move |database| lookup(database, key)).await
    }

    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.poison.load(Ordering::Acquire) {
            return Err(StoreError::Poisoned);
        }
        self.current
            .read()
            .as_ref()
            .map(|_| ())
            .ok_or(StoreError::Closed)
    }

    pub(super) fn watch(&self, from: Revision) -> Watch {
        self.watchers.watch(from)
    }

    async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = self.current.read().clone().ok_or(StoreError::Closed)?;
        let result = tokio::task::spawn_blocking(move || read(&database)).await;
        result
            .map_err(|_ended| StoreError::Closed)?
            .map_err(|cause| StoreError::failed("read", cause))
    }
}

fn scan(database: &Database) -> Result<(Revision, Vec<Record>), redb::Error> {
    let read = database.begin_read()?;
    let revision = read
        .open_table(NUMBERS)?
        .get(REVISION)?
        .map_or(0, |number| number.value());
    let mut records = Vec::new();
    for row in read.open_table(RECORDS)?.iter()? {
        let (key, value) = row?;
        records.push(record(Key::stored(key.value()), value.value()));
    }
    Ok((Revision::new(revision), records))
}

fn lookup(database: &Database, key: Key) -> Result<Option<Record>, redb::Error> {
    let table = database.begin_read()?.open_table(RECORDS)?;
    let found = table.get(key.as_str())?;
    Ok(found.map(|value| record(key, value.value())))
}

fn record(key: Key, (revision, value): (u64, &[u8])) -> Record {
    Record {
        key,
        value: bytes::Bytes::copy_from_slice(value),
        revision: Revision::new(revision),
    }
}

impl fmt::Debug for Redb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redb").finish_non_exhaustive()
    }
}
