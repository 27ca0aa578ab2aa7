//! The one writer: takes the commits that wait, and makes them durable together.

use std::sync::{Arc, atomic::Ordering};

use redb::{Database, ReadableTable as _, Table};
use runtime::failpoint;

use super::{
    Committed, Current, Feed, Key, NUMBERS, Poison, RECORDS, REVISION, Revision, StoreError, Txn,
    device::{Device, Gate},
    file::Opened,
    open::{self, Admitted},
    queue::{Answer, Order, Request, Waiting},
};
use crate::store::{Change, MAX_TXN_BYTES};

/// The most commits of one batch: callers that wait for its sync wait no longer than for these.
const MAX_BATCH: usize = 512;

pub(super) struct Writer {
    waiting: Waiting,
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
    pub(super) fn new(
        opened: &Opened,
        waiting: Waiting,
        current: Current,
        poison: Poison,
        feed: Feed,
    ) -> Self {
        Self {
            waiting,
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

    pub(super) fn run(mut self) {
        let mut expected = 1;
        while let Some(orders) = self.waiting.first() {
            let mut batch = Batch::default();
            batch.take(orders);
            let written = self.write(&mut batch, expected);
            expected = batch.requests.len();
            let close = batch.close.take();
            self.answer(batch, written);
            if let Some(answer) = close {
                let closed = self.close();
                // Who waits for the answer may open the file at once, so its lock goes first.
                drop(self);
                // A caller that no longer waits for its answer loses nothing.
                let _ = answer.send(closed);
                return;
            }
        }
        // Every handle is gone.
        let _ = self.close();
    }

    /// Makes the batch durable, and what comes in meanwhile with it.
    fn write(&mut self, batch: &mut Batch, expected: usize) -> Result<(), StoreError> {
        if batch.requests.is_empty() {
            return Ok(());
        }
        let database = self.ready()?;
        self.write_batch(&database, batch, expected).map_err(|cause| {
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

    /// Each transaction sees the ones before it, and all become durable in one commit.
    fn write_batch(
        &self,
        database: &Database,
        batch: &mut Batch,
        expected: usize,
    ) -> Result<(), redb::Error> {
        let write = database.begin_write()?;
        failpoint::reach("store", "begun");
        let mut revision = self.revision;
        {
            let mut records = write.open_table(RECORDS)?;
            loop {
                while let Some(request) = batch.requests.get(batch.outcomes.len()) {
                    let outcome = write_txn(&mut records, &request.txn, &mut revision)?;
                    batch.outcomes.push(outcome);
                }
                if batch.is_full() {
                    break;
                }
                let missing = expected.saturating_sub(batch.requests.len());
                let more = self.waiting.more(missing);
                if more.is_empty() {
                    break;
                }
                batch.take(more);
            }
        }
        if revision == self.revision {
            write.abort()?;
        } else {
            write
                .open_table(NUMBERS)?
                .insert(REVISION, revision.number())?;
            failpoint::reach("store", "written");
            write.commit()?;
            failpoint::reach("store", "durable");
        }
        Ok(())
    }

    /// Tells watchers, then callers.
    fn answer(&mut self, batch: Batch, written: Result<(), StoreError>) {
        let Batch {
            requests, outcomes, ..
        } = batch;
        if let Err(cause) = written {
            for request in requests {
                drop(request.room);
                let _ = request.answer.send(Err(cause.clone()));
            }
            return;
        }
        let mut changes = Vec::new();
        let mut answers = Vec::with_capacity(requests.len());
        for (Request { txn, answer, room }, outcome) in requests.into_iter().zip(outcomes) {
            if let Committed::At(revision) = outcome
                && !txn.is_read_only()
            {
                self.revision = revision;
                changes.push(Change::of(txn, revision));
            }
            answers.push((answer, room, outcome));
        }
        if !changes.is_empty() {
            self.feed.publish(changes);
            failpoint::reach("store", "told");
        }
        for (answer, room, outcome) in answers {
            drop(room);
            let _ = answer.send(Ok(outcome));
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

/// Commits that become durable together.
#[derive(Default)]
struct Batch {
    requests: Vec<Request>,
    /// Of the first of them, in their order.
    outcomes: Vec<Committed>,
    bytes: usize,
    /// Somebody wants the store to be closed after them.
    close: Option<Answer<()>>,
}

impl Batch {
    fn take(&mut self, orders: Vec<Order>) {
        for order in orders {
            match order {
                Order::Commit(request) => {
                    self.bytes = self.bytes.saturating_add(request.txn.size());
                    self.requests.push(request);
                }
                // What was ordered after it finds the store closed.
                Order::Close(answer) => {
                    self.close = Some(answer);
                    return;
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        self.requests.len() >= MAX_BATCH || self.bytes >= MAX_TXN_BYTES || self.close.is_some()
    }
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
