//! How many lines the log takes of what anybody on the node can make happen.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How many lines may come at once.
const BURST: u32 = 5;
/// After how long there is room for one more: with the burst, never more than ten in a second.
const EVERY: Duration = Duration::from_millis(200);

/// Lets through a burst, and then so many in a time.
#[derive(Debug)]
pub struct Quota(Mutex<State>);

#[derive(Debug)]
struct State {
    left: u32,
    counted: Instant,
    passed_over: u64,
}

impl Default for Quota {
    /// A whole burst.
    fn default() -> Self {
        Self(Mutex::new(State {
            left: BURST,
            counted: Instant::now(),
            passed_over: 0,
        }))
    }
}

impl Quota {
    /// Room for one line, and how many lines before it had none. `None` says that there is no room.
    pub fn take(&self) -> Option<u64> {
        let mut state = self.0.lock();
        let elapsed = state.counted.elapsed().as_millis() / EVERY.as_millis();
        let new = u32::try_from(elapsed).unwrap_or(u32::MAX);
        if new > 0 {
            state.left = state.left.saturating_add(new).min(BURST);
            state.counted = if state.left == BURST {
                Instant::now()
            } else {
                state.counted + EVERY * new
            };
        }
        if state.left == 0 {
            state.passed_over += 1;
            return None;
        }
        state.left -= 1;
        Some(std::mem::take(&mut state.passed_over))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_second_takes_more_than_ten_lines_and_the_rest_is_counted() {
        let quota = Quota::default();
        for second in 0..10 {
            let mut lines = 0;
            let mut passed_over = 0;
            for _ in 0..1000 {
                if let Some(before) = quota.take() {
                    lines += 1;
                    passed_over += before;
                }
                tokio::time::advance(Duration::from_millis(1)).await;
            }
            assert!(
                (4..=10).contains(&lines),
                "{lines} lines in second {second}"
            );
            assert!(second == 0 || passed_over > 900, "{passed_over}");
        }
    }
}
