//! What something costs: the processor's time for work of one thread, the wall's for what waits.

use std::time::{Duration, Instant};

use nix::time::ClockId;

/// How often everything is measured; the best counts.
pub(crate) const ROUNDS: usize = 3;

/// The microseconds of this thread's processor that one of `calls` calls takes.
///
/// Another process on the same core takes wall time away, not this.
pub(crate) fn processor(calls: u32, mut call: impl FnMut(usize)) -> f64 {
    let time = || Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap());
    let before = time();
    for at in 0..calls {
        call(usize::try_from(at).unwrap());
    }
    micros(time() - before) / f64::from(calls)
}

#[expect(
    clippy::disallowed_methods,
    reason = "what waits for a disk or a socket is measured by the wall"
)]
pub(crate) fn wall() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "to be idle, or far apart, is to be left alone for a while"
)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The middle one.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap()
}

/// The smallest number seen so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Least(pub(crate) f64);

impl Least {
    pub(crate) const fn new() -> Self {
        Self(f64::INFINITY)
    }

    pub(crate) fn see(&mut self, seen: f64) {
        self.0 = self.0.min(seen);
    }
}

/// How long each of many took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delays(pub(crate) Vec<Duration>);

impl Delays {
    pub(crate) fn see(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn p50(&self) -> Duration {
        median(self.0.clone())
    }

    pub(crate) fn p99(&self) -> Duration {
        let mut times = self.0.clone();
        times.sort_unstable();
        let at = (times.len() * 99).div_ceil(100).saturating_sub(1);
        times.get(at).copied().unwrap()
    }

    /// How many there were, and how they lie.
    pub(crate) fn told(&self, what: &str) -> String {
        format!(
            "{} {what}, p50 {:.1} ms, most {:.1} ms",
            self.0.len(),
            millis(self.p50()),
            millis(self.0.iter().max().copied().unwrap_or_default())
        )
    }
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
