//! When an SVID is renewed.

use std::time::{Duration, SystemTime};

use identity::validity::{Schedule, Validity};

/// The part of a lifetime that half life may be brought forward by.
const JITTER_PART: u32 = 10;
/// How much earlier than the availability target asks for a renewal may begin.
const TARGET_JITTER: Duration = Duration::from_secs(600);
/// An availability target is obeyed only if at least this much of the lifetime comes before it.
const GRACE: Duration = Duration::from_secs(12 * 3600);

/// The least pause between two renewals of the agent's own SVID, if its lifetime has room for it.
const LEAST_PAUSE: Duration = Duration::from_secs(60);

/// How long to wait with the renewal of an SVID that came at `now`.
///
/// A clock that is wrong by hours must neither keep the agent renewing without a pause, nor make it wait
/// for longer than the SVID is to be used: the server, whose clock is right, has just issued it.
pub fn wait_from_issue(schedule: Schedule, validity: Validity, now: SystemTime) -> Duration {
    let due = schedule.due();
    let most = due
        .duration_since(validity.not_before())
        .unwrap_or_default();
    let least = (validity.lifetime() / JITTER_PART)
        .min(LEAST_PAUSE)
        .min(most);
    due.duration_since(now)
        .unwrap_or_default()
        .clamp(least, most)
}

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

    /// Plans the renewal of an SVID that came soon after the agent's start: at any moment from `now` to
    /// when it would be renewed otherwise. What a fleet got in one second it then renews all through
    /// the period, and from there on stays apart.
    pub fn plan_apart(
        self,
        validity: Validity,
        now: SystemTime,
        draw: impl Fn(Duration) -> Duration,
    ) -> Schedule {
        let due = self.plan(validity, &draw).due();
        let wait = draw(due.duration_since(now).unwrap_or_default());
        Schedule::before_end(validity, validity.remaining(due - wait))
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
    use runtime::random;

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
    fn a_clock_that_is_wrong_by_hours_neither_hurries_a_renewal_nor_delays_it() {
        let issued = SystemTime::UNIX_EPOCH + 100 * HOUR;
        let validity = Validity::new(issued, issued + HOUR).unwrap();
        let schedule = Strategy::default().plan(validity, |_| Duration::ZERO);
        let wait = |now| wait_from_issue(schedule, validity, now);
        assert_eq!(wait(issued), HOUR / 2);
        assert_eq!(wait(issued + HOUR / 12), HOUR / 2 - HOUR / 12);
        assert_eq!(wait(issued + 50 * HOUR), LEAST_PAUSE);
        assert_eq!(wait(issued - 50 * HOUR), HOUR / 2);
        let short = Validity::new(issued, issued + Duration::from_secs(3)).unwrap();
        let schedule = Strategy::default().plan(short, |_| Duration::ZERO);
        let least = Duration::from_millis(300);
        assert_eq!(wait_from_issue(schedule, short, issued + HOUR), least);
    }

    /// 1,000 agents start in one second, with 100 entries each.
    #[test]
    fn a_fleet_that_started_together_does_not_renew_together() {
        random::replayed::from_seed(1);
        let strategy = Strategy::default();
        let period = HOUR / 2;
        let mut bins = [[0_u32; 100]; 3];
        for _ in 0..100_000 {
            let mut now = SystemTime::UNIX_EPOCH;
            let mut due = strategy
                .plan_apart(validity(HOUR), now, random::jitter)
                .due();
            for bins in &mut bins {
                let into = due.duration_since(SystemTime::UNIX_EPOCH).unwrap();
                let bin = into.as_nanos() * 100 / period.as_nanos() % 100;
                bins[usize::try_from(bin).unwrap()] += 1;
                now = due;
                let renewed = Validity::new(now, now + HOUR).unwrap();
                due = strategy.plan(renewed, random::jitter).due();
            }
        }
        for bins in bins {
            let peak = bins.iter().max().unwrap();
            assert!(*peak <= 1500, "{peak} of 1000 on average");
        }
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
