//! Tasks that somebody owns.
//!
//! A component's panic ends the process: a daemon that is half alive is worse than one that its
//! supervisor restarts. A connection's panic ends that connection: one workload must not be able to
//! take its neighbours' agent down.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{AbortHandle, Abortable};
use parking_lot::Mutex;
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
    trigger: ShutdownTrigger,
    tasks: Mutex<Tasks>,
    failed: Mutex<Option<&'static str>>,
    contained_panics: AtomicU64,
}

/// Each task that runs, by its number. A handle for each, for a token that all of them watch would be one lock that all
/// of them take whenever one is woken.
#[derive(Debug, Default)]
struct Tasks {
    running: BTreeMap<u64, (&'static str, AbortHandle)>,
    started: u64,
    // Who starts from now on is dropped at once.
    aborted: bool,
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
            trigger,
            tasks: Mutex::default(),
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
        let late = self.shared.abort();
        if tokio::time::timeout(ABORT_GRACE, self.shared.tracker.wait())
            .await
            .is_err()
        {
            error!("Task blocks its thread and cannot be dropped");
        }
        Drained::Aborted(late)
    }

    /// The task comes in a box: what watches it would hold it three times otherwise, in its arguments, in the
    /// fence around its panics and in what aborts it.
    fn run(
        &self,
        name: &'static str,
        task: Pin<Box<dyn Future<Output = ()> + Send>>,
        on_panic: fn(&Shared, &'static str),
    ) {
        let (handle, registration) = AbortHandle::new_pair();
        let running = Running::enter(Arc::clone(&self.shared), name, handle);
        self.shared.tracker.spawn(async move {
            // The future is dropped at once when it panics, so nobody sees what it left broken.
            let task = Abortable::new(AssertUnwindSafe(task).catch_unwind(), registration);
            if let Ok(Err(_)) = task.await {
                on_panic(&running.shared, name);
            }
        });
    }
}

impl Shared {
    /// Drops every task where it stands, and names those that ran.
    fn abort(&self) -> Vec<&'static str> {
        let mut tasks = self.tasks.lock();
        tasks.aborted = true;
        for (_, handle) in tasks.running.values() {
            handle.abort();
        }
        let names: BTreeSet<_> = tasks.running.values().map(|(name, _)| *name).collect();
        names.into_iter().collect()
    }
}

/// A task that runs.
struct Running {
    shared: Arc<Shared>,
    number: u64,
}

impl Running {
    fn enter(shared: Arc<Shared>, name: &'static str, handle: AbortHandle) -> Self {
        let mut tasks = shared.tasks.lock();
        if tasks.aborted {
            handle.abort();
        }
        let number = tasks.started;
        tasks.started += 1;
        tasks.running.insert(number, (name, handle));
        drop(tasks);
        Self { shared, number }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.tasks.lock().running.remove(&self.number);
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
