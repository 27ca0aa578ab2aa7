//! When an SVID is renewed.

use std::time::Duration;

use identity::validity::{Schedule, Validity};

/// The part of a lifetime that half life may be brought forward by.
const JITTER_PART: u32 = 10;
/// How much earlier than the availability target asks for a renewal may begin.
const TARGET_JITTER: Duration = Duration::from_secs(600);
/// An availability target is obeyed only if at least this much of the lifetime comes before it.
const GRACE: Duration = Duration::from_secs(12 * 3600);

/// How renewals are planned.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strategy {
    /// How long SVIDs are to stay valid when the server goes away (SPIRE's `availability_target`).
    pub availability_target: Option<Duration>,
}

impl Strategy {
    /// Plans the renewal of an SVID. `draw` gives an even random length below its argument; it is
    /// asked once for each SVID, so that a look at the schedule never changes it.
    pub fn plan(self, validity: Validity, draw: impl FnOnce(Duration) -> Duration) -> Schedule {
        match self.target(validity) {
            Some(target) => Schedule::before_end(validity, target + draw(TARGET_JITTER)),
            None => Schedule::new(validity, draw(validity.lifetime() / JITTER_PART)),
        }
    }

    /// The availability target, if the lifetime has room for it.
    fn target(self, validity: Validity) -> Option<Duration> {
        let grace = |target: &Duration| validity.lifetime().saturating_sub(*target);
        self.availability_target
            .filter(|target| grace(target) > GRACE)
    }

    /// Whether lifetimes as short as this one cannot meet the availability target.
    pub fn falls_short(self, validity: Validity) -> bool {
        self.availability_target.is_some() && self.target(validity).is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn validity(lifetime: Duration) -> Validity {
        Validity::new(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + lifetime).unwrap()
    }

    #[test]
    fn renews_at_half_life_or_up_to_a_tenth_of_the_lifetime_earlier() {
        let strategy = Strategy::default();
        let due = |draw: fn(Duration) -> Duration| strategy.plan(validity(HOUR), draw).due();
        assert_eq!(due(|_| Duration::ZERO), SystemTime::UNIX_EPOCH + HOUR / 2);
        assert_eq!(
            due(|most| most),
            SystemTime::UNIX_EPOCH + HOUR / 2 - HOUR / 10
        );
    }

    #[test]
    fn an_availability_target_leaves_that_much_of_the_lifetime() {
        let strategy = Strategy {
            availability_target: Some(24 * HOUR),
        };
        let due = strategy.plan(validity(48 * HOUR), |_| Duration::ZERO).due();
        assert_eq!(due, SystemTime::UNIX_EPOCH + 24 * HOUR);
        assert!(!strategy.falls_short(validity(48 * HOUR)));
    }

    #[test]
    fn a_lifetime_without_room_for_the_target_is_renewed_at_half_life() {
        let strategy = Strategy {
            availability_target: Some(24 * HOUR),
        };
        let due = strategy.plan(validity(36 * HOUR), |_| Duration::ZERO).due();
        assert_eq!(due, SystemTime::UNIX_EPOCH + 18 * HOUR);
        assert!(strategy.falls_short(validity(36 * HOUR)));
    }
}
