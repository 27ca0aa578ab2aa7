//! Memory that goes back to the system when a crowd has left.
//!
//! The allocator keeps what was freed in the middle of its arenas, so a process that once served
//! thousands of streams would look as if it served them for ever. After many have ended, and when it has
//! become quiet, what is free is given back. While nobody leaves this costs nothing, not even a timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::tasks::TaskGroup;

/// After how many departures it is worth the walk through the arenas.
const MANY: usize = 512;
/// It is quiet when nobody has left for this long.
const QUIET: Duration = Duration::from_millis(500);
/// How often at most quiet is waited for: where somebody always leaves, there is never quiet.
const WAITS: u32 = 20;

/// Counts who leaves. Clones count together.
#[derive(Clone, Debug)]
pub struct Departures(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tasks: TaskGroup,
    left: AtomicUsize,
    // Whether somebody waits for quiet.
    waiting: AtomicBool,
}

impl Departures {
    /// Counts for a process whose work belongs to `tasks`.
    pub fn new(tasks: TaskGroup) -> Self {
        Self(Arc::new(Shared {
            tasks,
            left: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
        }))
    }

    /// Notes that somebody has left, whose memory is free now.
    pub fn one_left(&self) {
        let left = self.0.left.fetch_add(1, Ordering::Relaxed) + 1;
        if left >= MANY && !self.0.waiting.swap(true, Ordering::Relaxed) {
            let shared = Arc::clone(&self.0);
            self.0
                .tasks
                .spawn_contained("memory", async move { shared.give_back_when_quiet().await });
        }
    }
}

impl Shared {
    async fn give_back_when_quiet(&self) {
        let shutdown = self.tasks.shutdown();
        for _ in 0..WAITS {
            let before = self.left.load(Ordering::Relaxed);
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(QUIET) => {}
            }
            if self.left.load(Ordering::Relaxed) == before {
                break;
            }
        }
        self.left.store(0, Ordering::Relaxed);
        self.waiting.store(false, Ordering::Relaxed);
        // It may take milliseconds, in which no stream of this thread should wait. If the thread cannot
        // be had, the memory stays: nothing is lost by it.
        let _ = tokio::task::spawn_blocking(give_back).await;
    }
}

/// Gives the pages that the allocator does not use back to the system.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "glibc has no safe face for it")]
    // SAFETY: it takes a number, touches memory that nobody has, and locks each arena meanwhile.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shutdown::Shutdown;

    fn resident_kib() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.unwrap().split_whitespace().nth(1).unwrap();
        number.parse().unwrap()
    }

    #[tokio::test]
    async fn what_a_crowd_has_freed_goes_back_to_the_system() {
        let tasks = TaskGroup::new(Shutdown::new().0);
        let departures = Departures::new(tasks.clone());
        // Small pieces, every other one of which stays: no page of the arena's end becomes free.
        let crowd: Vec<Vec<u8>> = (0..40_000).map(|_| vec![1_u8; 16 << 10 >> 3]).collect();
        let (mut stay, leave): (Vec<_>, Vec<_>) = crowd
            .into_iter()
            .enumerate()
            .partition(|(at, _)| at % 20 == 0);
        let crowded = resident_kib();
        drop(leave);
        for _ in 0..MANY {
            departures.one_left();
        }
        while tasks.running() > 0 {
            tokio::task::yield_now().await;
        }
        stay.truncate(1);
        // 76 MiB were freed; what other tests of this process do meanwhile is far less.
        let now = resident_kib();
        assert!(now + (40 << 10) < crowded, "{crowded} KiB, and then {now}");
    }

    #[tokio::test]
    async fn a_few_departures_start_nothing() {
        let tasks = TaskGroup::new(Shutdown::new().0);
        let departures = Departures::new(tasks.clone());
        for _ in 1..MANY {
            departures.one_left();
        }
        assert_eq!(tasks.running(), 0);
        departures.one_left();
        departures.one_left();
        assert_eq!(tasks.running(), 1);
    }
}
