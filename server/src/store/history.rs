//! The recent commits of a store, and the watches over them.

use std::{collections::VecDeque, fmt, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Key, Record, Revision, Txn};

/// A watcher that falls further behind than this begins again from a snapshot.
const MAX_CHANGES: usize = 4_096;
/// The same in bytes, so that a few large commits cannot hold much memory.
const MAX_BYTES: usize = 8 << 20;

/// One commit, as watchers see it.
#[derive(Debug)]
pub struct Change {
    pub revision: Revision,
    pub puts: Vec<Record>,
    pub deletes: Vec<Key>,
}

impl Change {
    /// What `txn` did when it became `revision`.
    pub(super) fn of(txn: Txn, revision: Revision) -> Self {
        let record = |(key, value)| Record {
            key,
            value,
            revision,
        };
        Self {
            revision,
            puts: txn.put.into_iter().map(record).collect(),
            deletes: txn.delete,
        }
    }

    fn size(&self) -> usize {
        let puts: usize = self
            .puts
            .iter()
            .map(|r| r.key.as_str().len() + r.value.len())
            .sum();
        puts + self
            .deletes
            .iter()
            .map(|key| key.as_str().len())
            .sum::<usize>()
    }
}

/// What a watch has to say.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// The commit after the one reported before.
    Change(Arc<Change>),
    /// Commits are missing: take a snapshot, and watch from its revision.
    Restart,
    /// The store was closed; nothing follows.
    Closed,
}

/// Follows the commits of a store without a gap.
pub struct Watch {
    history: Arc<History>,
    news: watch::Receiver<Revision>,
    last: Revision,
}

impl Watch {
    /// Waits for the next commit. Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> WatchEvent {
        loop {
            self.news.mark_unchanged();
            if let Some(event) = self.try_next() {
                return event;
            }
            if self.news.changed().await.is_err() {
                return self.try_next().unwrap_or(WatchEvent::Closed);
            }
        }
    }

    /// The next commit, if there is one already.
    pub fn try_next(&mut self) -> Option<WatchEvent> {
        let event = self.history.after(self.last)?;
        if let WatchEvent::Change(change) = &event {
            self.last = change.revision;
        }
        Some(event)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

/// A bounded run of the newest commits.
///
/// Whoever commits owns the `Feed`; when it is dropped, every watch ends.
#[derive(Debug)]
pub(super) struct History {
    recent: Mutex<Recent>,
}

#[derive(Debug)]
struct Recent {
    /// The commit before the oldest one kept.
    floor: Revision,
    // INVARIANT: consecutive revisions, beginning after `floor`.
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
}

impl History {
    fn after(&self, last: Revision) -> Option<WatchEvent> {
        let recent = self.recent.lock();
        let newest = recent
            .changes
            .back()
            .map_or(recent.floor, |change| change.revision);
        // A snapshot may be ahead of this history by a commit that is about to be published.
        if last >= newest {
            return None;
        }
        let Some(offset) = last.number().checked_sub(recent.floor.number()) else {
            return Some(WatchEvent::Restart);
        };
        let change = usize::try_from(offset)
            .ok()
            .and_then(|index| recent.changes.get(index));
        Some(change.map_or(WatchEvent::Restart, |change| {
            WatchEvent::Change(Arc::clone(change))
        }))
    }
}

/// The writing end of a history.
#[derive(Debug)]
pub(super) struct Feed {
    history: Arc<History>,
    news: watch::Sender<Revision>,
}

/// The reading end of a history, from which watches are made.
#[derive(Clone, Debug)]
pub(super) struct Watchers {
    history: Arc<History>,
    news: watch::Receiver<Revision>,
}

impl Watchers {
    pub(super) fn watch(&self, from: Revision) -> Watch {
        Watch {
            history: Arc::clone(&self.history),
            news: self.news.clone(),
            last: from,
        }
    }
}

impl Feed {
    /// A history that begins after `floor`.
    pub(super) fn new(floor: Revision) -> (Self, Watchers) {
        let recent = Recent {
            floor,
            changes: VecDeque::new(),
            bytes: 0,
        };
        let history = Arc::new(History {
            recent: Mutex::new(recent),
        });
        let (sender, receiver) = watch::channel(floor);
        (
            Self {
                history: Arc::clone(&history),
                news: sender,
            },
            Watchers {
                history,
                news: receiver,
            },
        )
    }

    /// Tells watchers of commits that follow the newest one without a gap.
    pub(super) fn publish(&self, changes: impl IntoIterator<Item = Change>) {
        let mut recent = self.history.recent.lock();
        let mut newest = recent
            .changes
            .back()
            .map_or(recent.floor, |change| change.revision);
        for change in changes {
            debug_assert_eq!(change.revision, newest.next(), "a history has no gaps");
            newest = change.revision;
            recent.bytes += change.size();
            recent.changes.push_back(Arc::new(change));
        }
        while recent.changes.len() > MAX_CHANGES || recent.bytes > MAX_BYTES {
            let Some(oldest) = recent.changes.pop_front() else {
                break;
            };
            recent.bytes -= oldest.size();
            recent.floor = oldest.revision;
        }
        drop(recent);
        self.news.send_replace(newest);
    }

    /// Forgets everything, so that every watcher begins again from a snapshot.
    pub(super) fn restart(&self, newest: Revision) {
        let mut recent = self.history.recent.lock();
        recent.changes.clear();
        recent.bytes = 0;
        recent.floor = newest;
        drop(recent);
        self.news.send_replace(newest);
    }
}
