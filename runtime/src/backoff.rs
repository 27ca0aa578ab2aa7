//! How long to wait before the next try.

use std::time::Duration;

use crate::random;

/// Delays that double from a base to a maximum.
///
/// Each is drawn from the upper half of its range, so that a fleet which lost its server in one
/// moment does not come back in one moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// The first delay is at most `base`; none is longer than `max`.
    pub fn new(base: Duration, max: Duration) -> Self {
        Self {
            base,
            max,
            failures: 0,
        }
    }

    /// Counts a failure, and draws the delay before the next try.
    pub fn next_delay(&mut self) -> Duration {
        let doubled = self
            .base
            .saturating_mul(2_u32.saturating_pow(self.failures))
            .min(self.max);
        self.failures = self.failures.saturating_add(1);
        doubled / 2 + random::jitter(doubled / 2)
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How many delays have been drawn since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_maximum_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for bound in [1, 2, 4, 5, 5] {
            let bound = Duration::from_secs(bound);
            let delay = backoff.next_delay();
            assert!(
                delay >= bound / 2 && delay <= bound,
                "{delay:?} for {bound:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_secs(1));
    }

    #[test]
    fn never_overflows() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::MAX);
        backoff.failures = u32::MAX - 1;
        backoff.next_delay();
        backoff.next_delay();
        assert_eq!(backoff.failures(), u32::MAX);
    }
}
