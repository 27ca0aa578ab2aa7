//! The one writer: takes the commits that wait, and makes them durable together.

use std::{
    sync::{Arc, atomic::Ordering, mpsc},
    time::Duration,
};

use redb::{Database, ReadableTable as _, Table};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    Committed, Current, Feed, Key, NUMBERS, Poison, RECORDS, REVISION, Revision, StoreError, Txn,
    device::{Device, Gate},
    file::Opened,
    open::{self, Admitted},
};
use crate::store::{Change, MAX_TXN_BYTES};

/// The most commits of one batch: what 64 agents' worth of callers can have under way.
const MAX_BATCH: usize = 512;

/// How long the writer waits for the next of the callers that it answered a moment ago.
///
/// They come back at once when they have more to write, but not before their tasks have run. Without
/// this pause, batches alternate between one commit and all the others, at two syncs for each round.
const LINGER: Duration = Duration::from_micros(100);

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

pub(super) struct Request {
    pub(super) txn: Txn,
    pub(super) answer: Answer<Committed>,
    pub(super) room: OwnedSemaphorePermit,
}

pub(super) enum Order {
    Commit(Request),
    Close {
        answer: Answer<()>,
        room: OwnedSemaphorePermit,
    },
}

pub(super) struct Writer {
    device: Arc<dyn Device>,
    gate: Gate,
    current: Current,
    poison: Poison,
    trust_domain: String,
    feed: Feed,
    /// The revision of the newest acknowledged commit.
    revision: Revision,
    health: Health,
}

enum Health {
    Sound,
    /// A write failed, and the file must be opened again.
    Broken,
    /// A sync failed. The kernel may have dropped what it could not write and call the pages clean,
    /// so neither another sync nor opening the file again can prove what the disk holds.
    Poisoned,
}

impl Writer {
    pub(super) fn new(opened: &Opened, current: Current, poison: Poison, feed: Feed) -> Self {
        Self {
            device: Arc::clone(&opened.device),
            gate: opened.gate.clone(),
            current,
            poison,
            trust_domain: opened.trust_domain.clone(),
            feed,
            revision: opened.revision,
            health: Health::Sound,
        }
    }

    pub(super) fn run(mut self, orders: &mpsc::Receiver<Order>) {
        let mut expected = 1;
        while let Ok(first) = orders.recv() {
            let (batch, close) = collect(first, orders, expected);
            expected = batch.len();
            self.process(batch);
            if let Some((answer, room)) = close {
                let closed = self.close();
                // Who waits for the answer may open the file at once, so its lock goes first.
                drop(self);
                drop(room);
                // A caller that no longer waits for its answer loses nothing.
                let _ = answer.send(closed);
                return;
            }
        }
        // Every handle is gone.
        let _ = self.close();
    }

    fn process(&mut self, batch: Vec<Request>) {
        if batch.is_empty() {
            return;
        }
        let (txns, callers): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|request| (request.txn, (request.answer, request.room)))
            .unzip();
        let outcome = self
            .ready()
            .and_then(|database| self.commit(&database, &txns));
        match outcome {
            Ok(outcomes) => {
                self.publish(txns, &outcomes);
                for ((answer, room), outcome) in callers.into_iter().zip(outcomes) {
                    drop(room);
                    let _ = answer.send(Ok(outcome));
                }
            }
            Err(cause) => {
                for (answer, room) in callers {
                    drop(room);
                    let _ = answer.send(Err(cause.clone()));
                }
            }
        }
    }

    fn commit(&mut self, database: &Database, txns: &[Txn]) -> Result<Vec<Committed>, StoreError> {
        write_batch(database, txns, self.revision).map_err(|cause| {
            if self.gate.sync_failed() {
                self.health = Health::Poisoned;
                self.poison.store(true, Ordering::Release);
                tracing::error!(error = %cause, "Device failed to make a commit durable; the datastore takes no more writes");
                return StoreError::Poisoned;
            }
            self.health = Health::Broken;
            StoreError::failed("write to", cause)
        })
    }

    fn publish(&mut self, txns: Vec<Txn>, outcomes: &[Committed]) {
        let before = self.revision;
        let made = txns
            .into_iter()
            .zip(outcomes)
            .filter(|(txn, _)| !txn.is_read_only());
        let changes = made.filter_map(|(txn, outcome)| match outcome {
            Committed::At(revision) => Some(Change::of(txn, *revision)),
            Committed::Conflict { .. } => None,
        });
        let changes: Vec<_> = changes.collect();
        if let Some(newest) = changes.last() {
            self.revision = newest.revision;
        }
        if self.revision > before {
            self.feed.publish(changes);
        }
    }

    /// The database, opened again if a write failed before.
    fn ready(&mut self) -> Result<Arc<Database>, StoreError> {
        match self.health {
            Health::Sound => {}
            Health::Poisoned => return Err(StoreError::Poisoned),
            Health::Broken => self.reopen()?,
        }
        self.current.read().clone().ok_or(StoreError::Closed)
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        let opened = open::open(Arc::clone(&self.device), Some(&self.trust_domain));
        let Admitted {
            database,
            gate,
            revision,
            ..
        } = opened.map_err(|refusal| StoreError::failed("open again", refusal))?;
        *self.current.write() = Some(Arc::new(database));
        self.gate = gate;
        self.health = Health::Sound;
        // The commit that failed was not acknowledged, and may be there all the same; then its
        // watchers must learn of it.
        if revision != self.revision {
            self.revision = revision;
            self.feed.restart(revision);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), StoreError> {
        let Some(database) = self.current.write().take() else {
            return Ok(());
        };
        match Arc::try_unwrap(database) {
            Ok(database) => database
                .close()
                .map_err(|cause| StoreError::failed("close", cause)),
            // A reader ends first, and closes it.
            Err(_shared) => Ok(()),
        }
    }
}

/// Takes what waits, and waits a moment for as many as came last time.
fn collect(
    first: Order,
    orders: &mpsc::Receiver<Order>,
    expected: usize,
) -> (Vec<Request>, Option<(Answer<()>, OwnedSemaphorePermit)>) {
    let mut batch = Vec::with_capacity(expected);
    let mut bytes = 0_usize;
    let mut next = Some(first);
    while let Some(order) = next {
        match order {
            Order::Close { answer, room } => return (batch, Some((answer, room))),
            Order::Commit(request) => {
                bytes = bytes.saturating_add(request.txn.size());
                batch.push(request);
            }
        }
        if batch.len() >= MAX_BATCH || bytes >= MAX_TXN_BYTES {
            break;
        }
        next = match orders.try_recv() {
            Ok(order) => Some(order),
            Err(_) if batch.len() < expected => orders.recv_timeout(LINGER).ok(),
            Err(_) => None,
        };
    }
    (batch, None)
}

/// Makes a batch: each transaction sees the ones before it, and all become durable in one commit.
fn write_batch(
    database: &Database,
    txns: &[Txn],
    newest: Revision,
) -> Result<Vec<Committed>, redb::Error> {
    let write = database.begin_write()?;
    let mut revision = newest;
    let mut outcomes = Vec::with_capacity(txns.len());
    {
        let mut records = write.open_table(RECORDS)?;
        for txn in txns {
            outcomes.push(write_txn(&mut records, txn, &mut revision)?);
        }
    }
    if revision == newest {
        write.abort()?;
    } else {
        write
            .open_table(NUMBERS)?
            .insert(REVISION, revision.number())?;
        write.commit()?;
    }
    Ok(outcomes)
}

fn write_txn(
    records: &mut Table<'_, &'static str, (u64, &'static [u8])>,
    txn: &Txn,
    revision: &mut Revision,
) -> Result<Committed, redb::Error> {
    for (key, expect) in &txn.expect {
        let found = records
            .get(key.as_str())?
            .map(|record| Revision::new(record.value().0));
        if !expect.holds(found) {
            return Ok(Committed::Conflict {
                key: Key::clone(key),
            });
        }
    }
    if txn.is_read_only() {
        return Ok(Committed::At(*revision));
    }
    *revision = revision.next();
    for key in &txn.delete {
        records.remove(key.as_str())?;
    }
    for (key, value) in &txn.put {
        records.insert(key.as_str(), (revision.number(), value.as_ref()))?;
    }
    Ok(Committed::At(*revision))
}
