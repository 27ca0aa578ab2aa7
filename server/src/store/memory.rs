//! The smallest honest engine: a sorted map. Gone with the process.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    Change, Committed, Key, Record, Revision, StoreError, Txn, Watch,
    history::{Feed, Watchers},
};

#[derive(Clone)]
pub(super) struct Memory {
    shared: Arc<Shared>,
    watchers: Watchers,
}

struct Shared {
    state: Mutex<State>,
}

struct State {
    closed: bool,
    revision: Revision,
    records: BTreeMap<Key, (Bytes, Revision)>,
    feed: Feed,
    #[cfg(any(test, feature = "test-util"))]
    faults: faults::Armed,
}

impl Default for Memory {
    fn default() -> Self {
        let (feed, watchers) = Feed::new(Revision::ZERO);
        let state = State {
            closed: false,
            revision: Revision::ZERO,
            records: BTreeMap::new(),
            feed,
            #[cfg(any(test, feature = "test-util"))]
            faults: faults::Armed::default(),
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
            }),
            watchers,
        }
    }
}

impl Memory {
    pub(super) async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        // Other tasks get their turn, as they do while a disk works.
        tokio::task::yield_now().await;
        self.check()?;
        let mut state = self.shared.state.lock();
        #[cfg(any(test, feature = "test-util"))]
        if let Some(blow) = state.faults.strike() {
            if blow == Blow::After {
                let _unheard = state.apply(txn);
            }
            return Err(faults::failed());
        }
        Ok(state.apply(txn))
    }

    pub(super) fn snapshot(&self) -> Result<(Revision, Vec<Record>), StoreError> {
        let state = self.shared.state.lock();
        let record = |(key, (value, revision)): (&Key, &(Bytes, Revision))| Record {
            key: key.clone(),
            value: value.clone(),
            revision: *revision,
        };
        Ok((state.revision, state.records.iter().map(record).collect()))
    }

    pub(super) fn read(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let state = self.shared.state.lock();
        Ok(state.records.get(key).map(|(value, revision)| Record {
            key: key.clone(),
            value: value.clone(),
            revision: *revision,
        }))
    }

    pub(super) fn watch(&self, from: Revision) -> Watch {
        self.watchers.watch(from)
    }

    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.shared.state.lock().closed {
            Err(StoreError::Closed)
        } else {
            Ok(())
        }
    }

    pub(super) fn close(&self) {
        self.shared.state.lock().closed = true;
    }

    #[cfg(any(test, feature = "test-util"))]
    pub(super) fn faults(&self) -> Faults {
        Faults {
            memory: self.clone(),
        }
    }
}

impl State {
    fn apply(&mut self, txn: Txn) -> Committed {
        for (key, expect) in &txn.expect {
            if !expect.holds(self.records.get(key).map(|(_, revision)| *revision)) {
                return Committed::Conflict { key: key.clone() };
            }
        }
        if txn.is_read_only() {
            return Committed::At(self.revision);
        }
        let revision = self.revision.next();
        self.revision = revision;
        for key in &txn.delete {
            self.records.remove(key);
        }
        for (key, value) in &txn.put {
            self.records.insert(key.clone(), (value.clone(), revision));
        }
        self.publish(Change::of(txn, revision));
        Committed::At(revision)
    }

    fn publish(&mut self, change: Change) {
        #[cfg(any(test, feature = "test-util"))]
        let Some(change) = self.faults.hold(change) else {
            return;
        };
        self.feed.publish([change]);
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("revision", &self.shared.state.lock().revision)
            .finish_non_exhaustive()
    }
}

#[cfg(any(test, feature = "test-util"))]
pub use self::faults::{Blow, Faults};

#[cfg(any(test, feature = "test-util"))]
mod faults {
    use std::{io, sync::Arc};

    use super::{Change, Memory, StoreError};

    /// Arranges what goes wrong in a store in memory.
    #[derive(Clone, Debug)]
    pub struct Faults {
        pub(super) memory: Memory,
    }

    /// Where a commit is struck.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum Blow {
        /// It writes nothing.
        Before,
        /// It is written, and its caller hears that it failed.
        After,
    }

    #[derive(Default)]
    pub(super) struct Armed {
        failures: usize,
        blow: Option<Blow>,
        held: Option<Vec<Change>>,
    }

    pub(super) fn failed() -> StoreError {
        let cause = io::Error::new(
            io::ErrorKind::StorageFull,
            "injected: no space left on device",
        );
        StoreError::Failed {
            operation: "write to",
            cause: Arc::new(cause),
        }
    }

    impl Faults {
        /// The next `count` commits fail, and write nothing.
        pub fn fail_next(&self, count: usize) {
            let mut state = self.memory.shared.state.lock();
            state.faults.failures = count;
            state.faults.blow = None;
        }

        /// The next commit is struck, and all after it write nothing until [`Self::fail_next`] says
        /// otherwise: as for a process that is about to die.
        pub fn strike(&self, blow: Blow) {
            let mut state = self.memory.shared.state.lock();
            state.faults.failures = usize::MAX;
            state.faults.blow = Some(blow);
        }

        /// Commits go on, and watchers hear nothing of them until `release_feed`.
        pub fn hold_feed(&self) {
            self.memory
                .shared
                .state
                .lock()
                .faults
                .held
                .get_or_insert_default();
        }

        /// Watchers hear what they missed.
        pub fn release_feed(&self) {
            let mut state = self.memory.shared.state.lock();
            let held = state.faults.held.take().unwrap_or_default();
            state.feed.publish(held);
        }

        /// Every watcher is told to begin again from a snapshot.
        pub fn restart_watchers(&self) {
            let state = self.memory.shared.state.lock();
            state.feed.restart(state.revision);
        }
    }

    impl Armed {
        pub(super) fn strike(&mut self) -> Option<Blow> {
            self.failures = self.failures.checked_sub(1)?;
            Some(self.blow.take().unwrap_or(Blow::Before))
        }

        pub(super) fn hold(&mut self, change: Change) -> Option<Change> {
            match &mut self.held {
                Some(held) => {
                    held.push(change);
                    None
                }
                None => Some(change),
            }
        }
    }
}
