//! When to act next: by the wall clock, or by the time that has really passed, whichever comes first.
//!
//! The wall clock alone would wait too long after it was set back, while the server's goes on; the count
//! of time alone stands still while the machine sleeps.

use std::time::{Duration, SystemTime};

use runtime::clock::Clock;
use tokio::time::Instant;

/// A moment to act at.
#[derive(Clone, Copy, Debug)]
pub struct Timer {
    wall: SystemTime,
    passed: Instant,
}

impl Timer {
    /// After this length of time, from now.
    pub fn after(wait: Duration, clock: &Clock) -> Self {
        Self {
            wall: clock.now() + wait,
            passed: Instant::now() + wait,
        }
    }

    /// Whether the moment has come.
    pub fn is_due(&self, clock: &Clock) -> bool {
        clock.now() >= self.wall || Instant::now() >= self.passed
    }

    /// Waits for the moment. A step of the wall clock is noticed within half a minute.
    pub async fn due(&self, clock: &Clock) {
        tokio::select! {
            () = clock.sleep_until(self.wall) => {}
            () = tokio::time::sleep_until(self.passed) => {}
        }
    }
}
