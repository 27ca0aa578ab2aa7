//! How often somebody may call: a bucket of tokens that fills with time.

use std::time::Duration;

use tokio::time::Instant;

use crate::listen::Rate;

/// One holder's bucket. It is a point in time, so it costs nothing while nobody calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    // When it will be full. In the past, and before the first call, it is.
    full_at: Option<Instant>,
}

impl Bucket {
    /// Whether there is a token.
    pub fn has_one(&self, rate: Rate, now: Instant) -> bool {
        let Some(step) = step(rate) else { return true };
        // A bucket of `burst` tokens, of which one is asked for.
        let may_lack = step * (rate.burst.max(1) - 1);
        self.lacks(now) <= may_lack
    }

    /// Takes so many tokens, whether there are any or not.
    pub fn take(&mut self, tokens: u32, rate: Rate, now: Instant) {
        if let Some(step) = step(rate) {
            self.full_at = Some(now + self.lacks(now) + step * tokens);
        }
    }

    /// Takes so many tokens if there are as many; else tells after how long there will be, or `None` if the
    /// bucket never holds as many.
    pub fn take_all(
        &mut self,
        tokens: u32,
        rate: Rate,
        now: Instant,
    ) -> Result<(), Option<Duration>> {
        let Some(step) = step(rate) else {
            return Ok(());
        };
        let spare = rate.burst.max(1).checked_sub(tokens).ok_or(None)?;
        match self.lacks(now).checked_sub(step * spare) {
            None | Some(Duration::ZERO) => {
                self.take(tokens, rate, now);
                Ok(())
            }
            Some(wait) => Err(Some(wait)),
        }
    }

    /// Whether more was taken than it can hold.
    pub fn is_in_debt(&self, rate: Rate, now: Instant) -> bool {
        step(rate).is_some_and(|step| self.lacks(now) > step * rate.burst.max(1))
    }

    /// Whether it has nothing to remember.
    pub fn is_full(&self, now: Instant) -> bool {
        self.lacks(now).is_zero()
    }

    fn lacks(&self, now: Instant) -> Duration {
        let lacks = |full_at: Instant| full_at.saturating_duration_since(now);
        self.full_at.map_or(Duration::ZERO, lacks)
    }
}

/// The time in which one token comes. `None` is no limit.
fn step(rate: Rate) -> Option<Duration> {
    Duration::from_secs(1).checked_div(rate.per_second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(bucket: &mut Bucket, rate: Rate, now: Instant) -> bool {
        let has_one = bucket.has_one(rate, now);
        if has_one {
            bucket.take(1, rate, now);
        }
        has_one
    }

    #[test]
    fn after_the_burst_there_is_a_token_each_step_and_none_before() {
        let (rate, start) = (Rate::new(10, 3), Instant::now());
        let mut bucket = Bucket::default();
        let at_once: Vec<_> = (0..4).map(|_| taken(&mut bucket, rate, start)).collect();
        assert_eq!(at_once, [true, true, true, false]);
        let step = Duration::from_millis(100);
        assert!(!taken(
            &mut bucket,
            rate,
            start + step - Duration::from_nanos(1)
        ));
        assert!(taken(&mut bucket, rate, start + step));
        assert!(!taken(&mut bucket, rate, start + step));
        assert!(!bucket.is_full(start + step * 3));
        assert!(bucket.is_full(start + step * 4));
    }

    #[test]
    fn what_is_taken_beyond_the_last_token_is_a_debt_until_it_has_come() {
        let (rate, start) = (Rate::new(10, 3), Instant::now());
        let mut bucket = Bucket::default();
        bucket.take(3, rate, start);
        assert!(!bucket.is_in_debt(rate, start));
        bucket.take(5, rate, start);
        assert!(bucket.is_in_debt(rate, start));
        let later = start + Duration::from_millis(500);
        assert!(!bucket.is_in_debt(rate, later));
        assert!(!taken(&mut bucket, rate, later));
    }

    #[test]
    fn without_a_rate_there_is_always_a_token_and_nothing_to_remember() {
        let mut bucket = Bucket::default();
        for _ in 0..10_000 {
            assert!(taken(&mut bucket, Rate::UNLIMITED, Instant::now()));
        }
        assert!(bucket.is_full(Instant::now()));
    }

    #[test]
    fn many_tokens_are_taken_together_or_not_and_the_wait_for_them_is_told() {
        let (rate, start) = (Rate::new(10, 30), Instant::now());
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take_all(31, rate, start), Err(None));
        assert_eq!(bucket.take_all(25, rate, start), Ok(()));
        let wait = Duration::from_secs(1);
        assert_eq!(bucket.take_all(15, rate, start), Err(Some(wait)));
        assert_eq!(bucket.take_all(5, rate, start), Ok(()));
        let all = start + Duration::from_secs(3);
        assert!(
            bucket
                .take_all(30, rate, all - Duration::from_nanos(1))
                .is_err()
        );
        assert_eq!(bucket.take_all(30, rate, all), Ok(()));
        assert_eq!(bucket.take_all(1_000, Rate::UNLIMITED, start), Ok(()));
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_the_burst_and_what_came_since(
            per_second in 1..2000_u32,
            burst in 0..50_u32,
            pauses in proptest::collection::vec(0..20_000_u64, 1..200),
        ) {
            let (rate, start) = (Rate::new(per_second, burst), Instant::now());
            let (mut bucket, mut now, mut got) = (Bucket::default(), start, 0_u32);
            for pause in pauses {
                now += Duration::from_micros(pause);
                got += u32::from(taken(&mut bucket, rate, now));
            }
            // A step is a whole number of nanoseconds, so it may be a little short.
            let came = (now - start).as_secs_f64() * f64::from(per_second) * 1.001;
            prop_assert!(f64::from(got) <= f64::from(burst.max(1)) + came + 1.0);
        }
    }
}
