//! Where commits wait for the writer, and where it waits for them.

use std::{mem, sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::store::{Committed, StoreError, Txn};

/// What may wait for the writer; more waits for room. Each commit takes one unit of room, and one
/// more for every 64 KiB.
const ROOM: u32 = 1_024;
const ROOM_UNIT: usize = 64 << 10;

/// How long the writer waits for another of the callers that it answered a moment ago.
///
/// They come back at once when they have more to write, but not before their tasks have run. Without
/// this pause, batches alternate between a few commits and all the others, with a sync for each.
const LINGER: Duration = Duration::from_micros(100);

pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// A commit that waits.
pub(super) struct Request {
    pub(super) txn: Txn,
    pub(super) answer: Answer<Committed>,
    pub(super) room: OwnedSemaphorePermit,
}

pub(super) enum Order {
    Commit(Request),
    Close(Answer<()>),
}

/// The callers' end. When the last clone is gone, the writer ends.
#[derive(Clone)]
pub(super) struct Orders(Arc<Callers>);

struct Callers {
    queue: Arc<Queue>,
    room: Arc<Semaphore>,
}

/// The writer's end. When it is gone, orders are refused.
pub(super) struct Waiting(Arc<Queue>);

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Default)]
struct State {
    orders: Vec<Order>,
    /// How many orders the writer wants to be woken for: a wake for each would cost more than it.
    wanted: usize,
    callers_gone: bool,
    writer_gone: bool,
}

pub(super) fn queue() -> (Orders, Waiting) {
    let queue = Arc::new(Queue::default());
    let room = Arc::new(Semaphore::new(ROOM as usize));
    let callers = Callers {
        queue: Arc::clone(&queue),
        room,
    };
    (Orders(Arc::new(callers)), Waiting(queue))
}

impl Orders {
    pub(super) async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        let units = u32::try_from(txn.size() / ROOM_UNIT).unwrap_or(ROOM);
        let units = units.saturating_add(1).min(ROOM);
        let room = Arc::clone(&self.0.room).acquire_many_owned(units).await;
        let room = room.or(Err(StoreError::Closed))?;
        let (answer, answered) = oneshot::channel();
        self.0
            .queue
            .push(Order::Commit(Request { txn, answer, room }))?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }

    pub(super) async fn close(&self) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        self.0.queue.push(Order::Close(answer))?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Queue {
    fn push(&self, order: Order) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        if state.writer_gone {
            return Err(StoreError::Closed);
        }
        state.orders.push(order);
        let is_enough = state.orders.len() >= state.wanted;
        drop(state);
        if is_enough {
            self.filled.notify_one();
        }
        Ok(())
    }
}

impl Waiting {
    /// Waits for orders; `None` when nobody is left to give any.
    pub(super) fn first(&self) -> Option<Vec<Order>> {
        let mut state = self.0.state.lock();
        state.wanted = 1;
        while state.orders.is_empty() {
            if state.callers_gone {
                return None;
            }
            self.0.filled.wait(&mut state);
        }
        Some(mem::take(&mut state.orders))
    }

    /// Takes what waits. If that is nothing, and more is expected, waits a moment for it.
    pub(super) fn more(&self, expected: usize) -> Vec<Order> {
        let mut state = self.0.state.lock();
        if state.orders.is_empty() && expected > 0 {
            state.wanted = expected;
            let mut before = 0;
            loop {
                let waited = self.0.filled.wait_for(&mut state, LINGER);
                let now = state.orders.len();
                if now >= expected || state.callers_gone || (waited.timed_out() && now == before) {
                    break;
                }
                before = now;
            }
        }
        mem::take(&mut state.orders)
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.queue.state.lock().callers_gone = true;
        self.queue.filled.notify_one();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.writer_gone = true;
        // Who waits for an answer learns that there is none.
        let unanswered = mem::take(&mut state.orders);
        drop(state);
        drop(unanswered);
    }
}
