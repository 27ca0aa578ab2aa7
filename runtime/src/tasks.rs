//! Tasks that somebody owns.
//!
//! A component's panic ends the process: a daemon that is half alive is worse than one that its
//! supervisor restarts. A connection's panic ends that connection: one workload must not be able to
//! take its neighbours' agent down.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::shutdown::{Reason, Shutdown, ShutdownTrigger};

/// How long aborted tasks may take to reach their next await and be dropped there.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// Owns tasks, watches them for panics, and waits for their end.
#[derive(Clone, Debug)]
pub struct TaskGroup {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tracker: TaskTracker,
    abort: CancellationToken,
    trigger: ShutdownTrigger,
    // How many tasks of each name run. INVARIANT: no entry is zero.
    running: Mutex<BTreeMap<&'static str, usize>>,
    failed: Mutex<Option<&'static str>>,
    contained_panics: AtomicU64,
}

/// How the tasks of a group ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Drained {
    /// All by themselves, in time.
    InTime,
    /// These were still running at the deadline, and were dropped.
    Aborted(Vec<&'static str>),
}

impl TaskGroup {
    /// An empty group. A component's panic in it pulls `trigger`.
    pub fn new(trigger: ShutdownTrigger) -> Self {
        let shared = Shared {
            tracker: TaskTracker::new(),
            abort: CancellationToken::new(),
            trigger,
            running: Mutex::default(),
            failed: Mutex::default(),
            contained_panics: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Runs a component. If it panics, the process shuts down as failed.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.run(name, Box::pin(task), |shared, name| {
            error!(task = name, "Task panicked, shutting down");
            shared.failed.lock().get_or_insert(name);
            shared.trigger.trigger(Reason::Failed(name));
        });
    }

    /// Runs work for one peer. If it panics, it alone ends, and a counter rises.
    pub fn spawn_contained(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.run(name, Box::pin(task), |shared, name| {
            shared.contained_panics.fetch_add(1, Ordering::Relaxed);
            error!(task = name, "Contained task panicked");
        });
    }

    /// The signal that ends this group's process.
    pub fn shutdown(&self) -> Shutdown {
        self.shared.trigger.subscribe()
    }

    /// The trigger that this group pulls.
    pub fn trigger(&self) -> &ShutdownTrigger {
        &self.shared.trigger
    }

    /// The first component that panicked.
    pub fn failed(&self) -> Option<&'static str> {
        *self.shared.failed.lock()
    }

    /// How many contained tasks have panicked.
    pub fn contained_panics(&self) -> u64 {
        self.shared.contained_panics.load(Ordering::Relaxed)
    }

    /// How many tasks run.
    pub fn running(&self) -> usize {
        self.shared.tracker.len()
    }

    /// Waits for all tasks, which have been told to end by other means, and drops those that are
    /// left at the deadline.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        self.shared.tracker.close();
        if tokio::time::timeout(deadline, self.shared.tracker.wait())
            .await
            .is_ok()
        {
            return Drained::InTime;
        }
        let late = self.shared.running.lock().keys().copied().collect();
        self.shared.abort.cancel();
        if tokio::time::timeout(ABORT_GRACE, self.shared.tracker.wait())
            .await
            .is_err()
        {
            error!("Task blocks its thread and cannot be dropped");
        }
        Drained::Aborted(late)
    }

    /// The task comes in a box: what watches it would hold it three times otherwise, in its arguments, in the
    /// fence around its panics and in the race with the abort.
    fn run(
        &self,
        name: &'static str,
        task: Pin<Box<dyn Future<Output = ()> + Send>>,
        on_panic: fn(&Shared, &'static str),
    ) {
        let shared = Arc::clone(&self.shared);
        let running = Running::enter(Arc::clone(&self.shared), name);
        self.shared.tracker.spawn(async move {
            let _running = running;
            // The future is dropped at once when it panics, so nobody sees what it left broken.
            let task = AssertUnwindSafe(task).catch_unwind();
            tokio::select! {
                () = shared.abort.cancelled() => {}
                ended = task => if ended.is_err() {
                    on_panic(&shared, name);
                }
            }
        });
    }
}

struct Running {
    shared: Arc<Shared>,
    name: &'static str,
}

impl Running {
    fn enter(shared: Arc<Shared>, name: &'static str) -> Self {
        *shared.running.lock().entry(name).or_default() += 1;
        Self { shared, name }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.shared.running.lock();
        if let Some(count) = running.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                running.remove(self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> TaskGroup {
        TaskGroup::new(Shutdown::new().0)
    }

    #[tokio::test]
    async fn a_panic_of_a_component_shuts_the_process_down_as_failed() {
        let tasks = group();
        tasks.spawn("index", async { panic!("on purpose") });
        tasks.shutdown().requested().await;
        assert_eq!(tasks.failed(), Some("index"));
        assert_eq!(tasks.shutdown().reason(), Some(Reason::Failed("index")));
        assert_eq!(tasks.drain(Duration::from_secs(10)).await, Drained::InTime);
    }

    #[tokio::test]
    async fn a_contained_panic_is_counted_and_ends_only_itself() {
        let tasks = group();
        tasks.spawn_contained("connection", async { panic!("on purpose") });
        assert_eq!(tasks.drain(Duration::from_secs(10)).await, Drained::InTime);
        assert_eq!(tasks.contained_panics(), 1);
        assert_eq!(tasks.failed(), None);
        assert!(!tasks.shutdown().is_requested());
    }

    #[tokio::test(start_paused = true)]
    async fn drops_the_tasks_that_outlive_the_deadline_and_names_them() {
        let tasks = group();
        let (alive, dropped) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn("stuck", async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        tasks.spawn("quick", async {});
        let drained = tasks.drain(Duration::from_secs(5)).await;
        assert_eq!(drained, Drained::Aborted(vec!["stuck"]));
        assert!(dropped.await.is_err());
        assert_eq!(tasks.running(), 0);
    }
}
