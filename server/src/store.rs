//! Everything that must survive: one ordered key space with a revision for each commit.
//!
//! A commit holds all of its writes or none, a failed expectation is a value, and a watch either
//! continues without a gap or says that its reader must begin again from a snapshot. Servers answer
//! from an index fed by `watch` alone; what a caller wrote is visible once the index has reached the
//! revision of its commit.

mod backup;
#[cfg(test)]
mod conformance;
mod history;
mod key;
mod memory;
mod metrics;
mod redb;

use std::{
    collections::BTreeSet,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use prometheus_client::registry::Registry;

#[cfg(any(test, feature = "test-util"))]
pub use self::memory::{Blow, Faults};
pub use self::{
    backup::{Backup, BackupError, Chunks, FormatError, MAX_BACKUP_BYTES, RestoreError},
    history::{Change, Watch, WatchEvent},
    key::{Family, Key},
};
use self::{
    memory::Memory,
    metrics::{Metrics, Operation},
    redb::Redb,
};

/// The largest transaction: keys and values together.
///
/// It bounds what one caller can make the writer and every watcher hold; the largest honest
/// transaction is a batch of entries, far below it.
pub const MAX_TXN_BYTES: usize = 16 << 20;

/// The number of a commit; the first commit of a store is 1.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Revision(u64);

impl Revision {
    /// The revision of a store in which nothing was ever written.
    pub const ZERO: Self = Self(0);

    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    pub const fn number(self) -> u64 {
        self.0
    }

    /// The revision of the commit after this one.
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What must be true of a key for a transaction to be made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expect {
    /// The key has no record.
    Absent,
    /// The key has a record, whatever its revision: a guard that does not fight with its writers.
    Present,
    /// The key was last written at this revision.
    At(Revision),
}

impl Expect {
    /// Expects what a reader saw: its revision, or nothing.
    pub fn seen(revision: Option<Revision>) -> Self {
        revision.map_or(Self::Absent, Self::At)
    }

    fn holds(self, found: Option<Revision>) -> bool {
        match self {
            Self::Absent => found.is_none(),
            Self::Present => found.is_some(),
            Self::At(revision) => found == Some(revision),
        }
    }
}

/// Writes that happen together, if what they rest on is still so.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub expect: Vec<(Key, Expect)>,
    pub put: Vec<(Key, Bytes)>,
    pub delete: Vec<Key>,
}

impl Txn {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn expect(mut self, key: Key, expect: Expect) -> Self {
        self.expect.push((key, expect));
        self
    }

    pub fn put(mut self, key: Key, value: impl Into<Bytes>) -> Self {
        self.put.push((key, value.into()));
        self
    }

    pub fn delete(mut self, key: Key) -> Self {
        self.delete.push(key);
        self
    }

    /// Whether the transaction writes nothing and only asks whether its expectations hold.
    pub fn is_read_only(&self) -> bool {
        self.put.is_empty() && self.delete.is_empty()
    }

    fn size(&self) -> usize {
        let puts = self
            .put
            .iter()
            .map(|(key, value)| key.as_str().len() + value.len());
        let deletes = self.delete.iter().map(|key| key.as_str().len());
        puts.chain(deletes).fold(0, usize::saturating_add)
    }

    fn check(&self) -> Result<(), StoreError> {
        let size = self.size();
        if size > MAX_TXN_BYTES {
            return Err(StoreError::TooLarge { size });
        }
        let mut written = BTreeSet::new();
        for key in self.put.iter().map(|(key, _)| key).chain(&self.delete) {
            if !written.insert(key) {
                return Err(StoreError::WrittenTwice { key: key.clone() });
            }
        }
        Ok(())
    }
}

/// The outcome of a transaction that the store could decide on.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use]
pub enum Committed {
    /// It is durable, at this revision. A transaction that writes nothing has the newest revision.
    At(Revision),
    /// Nothing was written: this key was not as expected.
    Conflict { key: Key },
}

/// One record and the revision of its last write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    pub key: Key,
    pub value: Bytes,
    pub revision: Revision,
}

/// A store, of whichever engine. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    engine: Engine,
    metrics: Metrics,
}

#[derive(Clone, Debug)]
enum Engine {
    Redb(Redb),
    Memory(Memory),
}

impl Store {
    /// Opens the store of a server's `data_dir` for this process alone, or makes it.
    ///
    /// Every page is checked first, and a file that is refused is left as it was. This blocks.
    pub fn open(data_dir: &Path, trust_domain: &str) -> Result<Self, OpenError> {
        Redb::open(data_dir, trust_domain).map(|redb| Self::of(Engine::Redb(redb)))
    }

    /// A store that is gone with the process; for tests.
    pub fn memory() -> Self {
        Self::of(Engine::Memory(Memory::default()))
    }

    fn of(engine: Engine) -> Self {
        Self {
            engine,
            metrics: Metrics::default(),
        }
    }

    /// Shows how often it is asked.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// A store in memory whose failures a test can arrange.
    #[cfg(any(test, feature = "test-util"))]
    pub fn memory_with_faults() -> (Self, Faults) {
        let memory = Memory::default();
        let faults = memory.faults();
        (Self::of(Engine::Memory(memory)), faults)
    }

    /// Makes all writes of `txn`, or none.
    ///
    /// It answers when the writes are durable. Dropping the future does not take them back.
    pub async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        txn.check()?;
        self.metrics.asked(Operation::Commit);
        match &self.engine {
            Engine::Redb(redb) => redb.commit(txn).await,
            Engine::Memory(memory) => memory.commit(txn).await,
        }
    }

    /// Reads every record, in key order, as of one revision.
    pub async fn snapshot(&self) -> Result<(Revision, Vec<Record>), StoreError> {
        self.metrics.asked(Operation::Snapshot);
        match &self.engine {
            Engine::Redb(redb) => redb.snapshot().await,
            Engine::Memory(memory) => memory.snapshot(),
        }
    }

    /// Reads one record. Request paths ask an index instead.
    pub async fn read(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.metrics.asked(Operation::Read);
        self.look_up(key).await
    }

    /// The same for who asks whether the store answers; it is counted apart, since it goes on while nothing
    /// else does.
    pub(crate) async fn probe(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.metrics.asked(Operation::Probe);
        self.look_up(key).await
    }

    async fn look_up(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        match &self.engine {
            Engine::Redb(redb) => redb.read(key.clone()).await,
            Engine::Memory(memory) => memory.read(key),
        }
    }

    /// Follows the commits after `from`.
    pub fn watch(&self, from: Revision) -> Watch {
        match &self.engine {
            Engine::Redb(redb) => redb.watch(from),
            Engine::Memory(memory) => memory.watch(from),
        }
    }

    /// Whether the store can still take writes; for readiness.
    pub fn check(&self) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Redb(redb) => redb.check(),
            Engine::Memory(memory) => memory.check(),
        }
    }

    /// Finishes what was committed and lets the file go; later commits are refused.
    pub async fn close(&self) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Redb(redb) => redb.close().await,
            Engine::Memory(memory) => {
                memory.close();
                Ok(())
            }
        }
    }
}

/// Why a store could not decide.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("transaction of {size} bytes is larger than the {MAX_TXN_BYTES} that one may hold")]
    TooLarge { size: usize },
    #[error("transaction writes `{key}` twice")]
    WrittenTwice { key: Key },
    /// The write did not happen as far as the store knows; after a failed device it may still be
    /// found when the store is opened again, but it was never acknowledged.
    #[error("could not {operation} the datastore")]
    Failed {
        operation: &'static str,
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "datastore takes no writes since its device failed to make one durable; restart the server when the device is sound"
    )]
    Poisoned,
    #[error("datastore is closed")]
    Closed,
}

impl StoreError {
    fn failed(
        operation: &'static str,
        cause: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Failed {
            operation,
            cause: Arc::new(cause),
        }
    }

    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "transaction_too_large",
            Self::WrittenTwice { .. } => "key_written_twice",
            Self::Failed { .. } => "store_failed",
            Self::Poisoned => "store_poisoned",
            Self::Closed => "store_closed",
        }
    }
}

/// Why a datastore was not opened. Its file was left as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("datastore `{}` is in use by another process; stop it, or give this server its own data_dir", path.display())]
    Locked { path: PathBuf },
    #[error("datastore `{}` has format {found}, and this version knows formats up to {known}; run the version that wrote it, or restore a backup into an empty data_dir", path.display())]
    NewerFormat {
        path: PathBuf,
        found: u64,
        known: u64,
    },
    #[error("datastore `{}` belongs to trust domain `{found}`, and trust_domain is `{wanted}`; set trust_domain to `{found}`, or choose another data_dir", path.display())]
    OtherTrustDomain {
        path: PathBuf,
        found: String,
        wanted: String,
    },
    #[error("datastore `{}` is damaged and was left as it is; move it aside, and restore a backup with `signet server restore`", path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        source: Option<::redb::Error>,
    },
    #[error("file `{}` is not a datastore of Signet; choose another data_dir", path.display())]
    Foreign { path: PathBuf },
    #[error("could not {operation} datastore `{}`", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "store_locked",
            Self::NewerFormat { .. } => "store_newer_format",
            Self::OtherTrustDomain { .. } => "store_other_trust_domain",
            Self::Damaged { .. } => "store_damaged",
            Self::Foreign { .. } => "store_foreign",
            Self::Io { .. } => "store_unusable",
        }
    }
}
