//! What time it is, and how to wait for a time.
//!
//! Certificates expire by the wall clock, and timers run on Tokio's clock. A [`Clock`] joins the
//! two: the simulated one derives the wall clock from Tokio's, so that a test which pauses time
//! sees certificates expire as it advances.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use tokio::time::Instant;

/// The longest sleep between two looks at the wall clock, so that a jump of it is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// How far the wall clock may drift from the count of time between two looks without being set.
const SLEW: Duration = Duration::from_secs(1);

/// Tells the time, and waits for one.
#[derive(Clone, Debug)]
pub struct Clock {
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    System,
    Simulated(Arc<Simulation>),
}

#[derive(Debug)]
struct Simulation {
    started: Instant,
    // What the wall showed, or would have shown, at `started`.
    epoch: RwLock<SystemTime>,
}

/// Steps the wall clock of a simulated [`Clock`], as an operator or a time daemon does.
#[derive(Clone, Debug)]
pub struct ClockSteps(Arc<Simulation>);

impl Clock {
    /// The clock of the machine.
    pub fn system() -> Self {
        Self {
            source: Source::System,
        }
    }

    /// A clock that shows `epoch` now and then follows Tokio's clock, paused or not.
    ///
    /// Must be called inside a Tokio runtime if that runtime's time is paused.
    pub fn simulated(epoch: SystemTime) -> Self {
        Self::simulated_with_steps(epoch).0
    }

    /// A simulated clock, and the hand that steps it without any timer firing.
    pub fn simulated_with_steps(epoch: SystemTime) -> (Self, ClockSteps) {
        let simulation = Arc::new(Simulation {
            started: Instant::now(),
            epoch: RwLock::new(epoch),
        });
        let source = Source::Simulated(Arc::clone(&simulation));
        (Self { source }, ClockSteps(simulation))
    }

    /// What the wall clock shows.
    pub fn now(&self) -> SystemTime {
        match &self.source {
            #[expect(
                clippy::disallowed_methods,
                reason = "this is the one place that asks the machine"
            )]
            Source::System => SystemTime::now(),
            Source::Simulated(simulation) => {
                *simulation.epoch.read() + simulation.started.elapsed()
            }
        }
    }

    /// Waits until the wall clock shows `at` or later.
    ///
    /// Looks at the wall clock at least every 30 seconds, so that a step of it is obeyed.
    pub async fn sleep_until(&self, at: SystemTime) {
        while let Ok(left) = at.duration_since(self.now()) {
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
        }
    }

    /// Waits for a length of time. A step of the wall clock does not change it.
    pub async fn sleep(&self, length: Duration) {
        tokio::time::sleep(length).await;
    }
}

/// Notices that the wall clock was set, or went on while the machine slept.
#[derive(Debug)]
pub struct StepWatch {
    wall: SystemTime,
    instant: Instant,
}

impl StepWatch {
    /// Begins to watch.
    pub fn new(clock: &Clock) -> Self {
        Self {
            wall: clock.now(),
            instant: Instant::now(),
        }
    }

    /// Whether the wall clock has gone otherwise than time has since the last look, by more than a
    /// daemon that keeps it right would slew.
    pub fn stepped(&mut self, clock: &Clock) -> bool {
        let last = std::mem::replace(self, Self::new(clock));
        let expected = last.wall + self.instant.duration_since(last.instant);
        let ahead = self.wall.duration_since(expected);
        let off = ahead.unwrap_or_else(|behind| behind.duration());
        off > SLEW
    }
}

impl ClockSteps {
    /// Sets the wall clock forward.
    pub fn forward(&self, by: Duration) {
        *self.0.epoch.write() += by;
    }

    /// Sets the wall clock back.
    pub fn back(&self, by: Duration) {
        *self.0.epoch.write() -= by;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_simulated_clock_follows_paused_time() {
        let clock = Clock::simulated(SystemTime::UNIX_EPOCH);
        tokio::time::advance(HOUR).await;
        assert_eq!(clock.now(), SystemTime::UNIX_EPOCH + HOUR);
    }

    #[tokio::test(start_paused = true)]
    async fn sleeps_until_the_wall_clock_shows_the_time() {
        let clock = Clock::simulated(SystemTime::UNIX_EPOCH);
        let at = clock.now() + HOUR;
        clock.sleep_until(at).await;
        assert!(clock.now() >= at);
        assert!(clock.now() < at + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_in_the_past_needs_no_sleep() {
        let clock = Clock::simulated(SystemTime::UNIX_EPOCH + HOUR);
        let before = Instant::now();
        clock.sleep_until(SystemTime::UNIX_EPOCH).await;
        clock.sleep_until(clock.now()).await;
        assert_eq!(Instant::now(), before);
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_forward_ends_a_long_sleep_within_half_a_minute() {
        let (clock, steps) = Clock::simulated_with_steps(SystemTime::UNIX_EPOCH);
        let before = Instant::now();
        let at = clock.now() + HOUR;
        let mut sleep = Box::pin(clock.sleep_until(at));
        assert!(futures_util::poll!(&mut sleep).is_pending());
        steps.forward(HOUR);
        sleep.await;
        assert!(before.elapsed() <= LONGEST_SLEEP + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_tells_of_steps_both_ways_and_of_nothing_else() {
        let (clock, steps) = Clock::simulated_with_steps(SystemTime::UNIX_EPOCH + HOUR);
        let mut watch = StepWatch::new(&clock);
        tokio::time::advance(HOUR).await;
        assert!(!watch.stepped(&clock));
        steps.forward(2 * SLEW);
        assert!(watch.stepped(&clock));
        assert!(!watch.stepped(&clock));
        steps.back(2 * SLEW);
        assert!(watch.stepped(&clock));
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_back_lengthens_the_sleep() {
        let (clock, steps) = Clock::simulated_with_steps(SystemTime::UNIX_EPOCH + 2 * HOUR);
        let before = Instant::now();
        let at = clock.now() + HOUR;
        let mut sleep = Box::pin(clock.sleep_until(at));
        assert!(futures_util::poll!(&mut sleep).is_pending());
        steps.back(HOUR);
        sleep.await;
        assert!(before.elapsed() >= 2 * HOUR);
    }
}
