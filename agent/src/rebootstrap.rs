//! What an agent does about a server whose authority it does not know (SPIRE's `rebootstrap_mode`).
//!
//! Such a server is not believed. One that has lost its authorities stays like that for ever, so an
//! agent that may fetches the trust bundle again, from where it had its first, once the doubt has lasted
//! for the delay. What it has is kept until the next is there.

use std::time::Duration;

use runtime::backoff::Backoff;
use runtime::clock::Clock;
use tracing::{info, warn};

use crate::lifecycle::Timer;

/// SPIRE's delay.
pub const DEFAULT_DELAY: Duration = Duration::from_secs(600);
/// The pauses between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// Whether an agent fetches the trust bundle again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    #[default]
    Never,
    /// If it can attest again.
    Auto,
    /// It does not start unless it can attest again.
    Always,
}

/// When an agent fetches the trust bundle again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rebootstrap {
    pub mode: Mode,
    /// How long the server's authority is unknown before that.
    pub delay: Duration,
}

impl Default for Rebootstrap {
    fn default() -> Self {
        Self {
            mode: Mode::Never,
            delay: DEFAULT_DELAY,
        }
    }
}

/// Why an agent that is to be able to rebootstrap is not started.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "`rebootstrap_mode` is `always`, and this agent cannot attest again: its node attestor or its server does not allow it"
)]
pub struct Impossible;

impl Rebootstrap {
    /// The mode for an agent that can, or cannot, attest again.
    pub fn checked(self, reattestable: bool) -> Result<Self, Impossible> {
        match self.mode {
            Mode::Always if !reattestable => Err(Impossible),
            Mode::Auto if !reattestable => {
                warn!(
                    "This agent cannot attest again, so it will not fetch the trust bundle again: `rebootstrap_mode` has no effect"
                );
                Ok(Self {
                    mode: Mode::Never,
                    ..self
                })
            }
            _ => Ok(self),
        }
    }
}

/// The doubt whether the trust bundle at hand is still the server's.
#[derive(Debug)]
pub struct Doubt {
    rebootstrap: Rebootstrap,
    clock: Clock,
    // When the bundle is to be fetched again, while there is a doubt.
    timer: Option<Timer>,
    backoff: Backoff,
}

impl Doubt {
    pub fn new(rebootstrap: Rebootstrap, clock: Clock) -> Self {
        Self {
            rebootstrap,
            clock,
            timer: None,
            backoff: Backoff::new(PAUSE.0, PAUSE.1),
        }
    }

    /// A server of an authority that is not in the bundle has answered.
    pub fn raised(&mut self) {
        if self.rebootstrap.mode == Mode::Never || self.timer.is_some() {
            return;
        }
        let delay = self.rebootstrap.delay;
        warn!(retry.pause = ?delay, "The server's authority is not in the trust bundle, which will be fetched again if that lasts");
        self.timer = Some(Timer::after(delay, &self.clock));
    }

    /// The server has been recognized.
    pub fn settled(&mut self) {
        if self.timer.take().is_some() {
            info!("The server's authority is in the trust bundle");
        }
        self.backoff.reset();
    }

    /// Fetching the bundle, or attesting by it, has failed. Gives the pause before the next try.
    pub fn failed(&mut self) -> Duration {
        let pause = self.backoff.next_delay();
        self.timer = Some(Timer::after(pause, &self.clock));
        pause
    }

    /// Whether the bundle is to be fetched again now.
    pub fn is_due(&self) -> bool {
        self.timer
            .as_ref()
            .is_some_and(|timer| timer.is_due(&self.clock))
    }

    /// Waits until it is; for ever while there is no doubt.
    pub async fn due(&self) {
        match &self.timer {
            Some(timer) => timer.due(&self.clock).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn doubt(mode: Mode) -> (Doubt, runtime::clock::ClockSteps) {
        let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (clock, steps) = Clock::simulated_with_steps(epoch);
        let rebootstrap = Rebootstrap {
            mode,
            ..Rebootstrap::default()
        };
        (Doubt::new(rebootstrap, clock), steps)
    }

    #[tokio::test(start_paused = true)]
    async fn the_delay_counts_from_the_first_time_and_anew_after_the_server_was_recognized() {
        let (mut doubt, _) = doubt(Mode::Auto);
        doubt.raised();
        tokio::time::advance(DEFAULT_DELAY / 2).await;
        doubt.raised();
        assert!(!doubt.is_due());
        tokio::time::advance(DEFAULT_DELAY / 2).await;
        assert!(doubt.is_due());
        doubt.settled();
        assert!(!doubt.is_due());
        doubt.raised();
        assert!(!doubt.is_due());
        tokio::time::advance(DEFAULT_DELAY).await;
        assert!(doubt.is_due());
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_back_does_not_lengthen_the_delay() {
        let (mut doubt, steps) = doubt(Mode::Auto);
        doubt.raised();
        steps.back(24 * 6 * DEFAULT_DELAY);
        tokio::time::advance(DEFAULT_DELAY).await;
        assert!(doubt.is_due());
    }

    #[tokio::test(start_paused = true)]
    async fn never_is_never() {
        let (mut doubt, _) = doubt(Mode::Never);
        doubt.raised();
        tokio::time::advance(100 * DEFAULT_DELAY).await;
        assert!(!doubt.is_due());
    }

    #[test]
    fn who_cannot_attest_again_does_not_and_does_not_start_if_it_is_to() {
        let of = |mode| Rebootstrap {
            mode,
            ..Rebootstrap::default()
        };
        assert_eq!(of(Mode::Always).checked(false), Err(Impossible));
        for (mode, reattestable, then) in [
            (Mode::Auto, false, Mode::Never),
            (Mode::Auto, true, Mode::Auto),
            (Mode::Always, true, Mode::Always),
            (Mode::Never, false, Mode::Never),
        ] {
            assert_eq!(of(mode).checked(reattestable).unwrap().mode, then);
        }
    }
}
