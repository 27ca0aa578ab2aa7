//! Renewal at the edges of a lifetime, and under clocks that jump.

use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn hour() -> Validity {
    Validity::new(at(10_000), at(13_600)).unwrap()
}

#[test]
fn refuses_an_end_before_the_beginning() {
    assert_eq!(Validity::new(at(2), at(1)), Err(ValidityError));
    assert!(Validity::new(at(1), at(1)).is_ok());
}

#[test]
fn withdraws_an_svid_at_the_very_second_it_expires() {
    let schedule = Schedule::new(hour(), Duration::ZERO);
    assert_eq!(schedule.renewal(at(13_599)), Renewal::Due);
    assert_eq!(schedule.renewal(at(13_600)), Renewal::Expired);
}

#[test]
fn renews_at_half_life_brought_forward_by_the_jitter() {
    assert_eq!(Schedule::new(hour(), Duration::ZERO).due(), at(11_800));
    assert_eq!(
        Schedule::new(hour(), Duration::from_secs(100)).due(),
        at(11_700)
    );
    // A tenth of the lifetime at most.
    assert_eq!(
        Schedule::new(hour(), Duration::from_secs(9_999)).due(),
        at(11_440)
    );
}

#[test]
fn a_clock_that_jumps_back_only_makes_it_wait() {
    let schedule = Schedule::new(hour(), Duration::ZERO);
    assert_eq!(schedule.renewal(at(12_000)), Renewal::Due);
    assert_eq!(schedule.renewal(at(0)), Renewal::At(at(11_800)));
}

#[test]
fn restored_svids_spread_over_the_rest_of_their_first_half() {
    let due = |spread| Schedule::restored(hour(), at(10_800), spread).due();
    assert_eq!(
        (due(0.0), due(0.5), due(1.0)),
        (at(10_800), at(11_300), at(11_800))
    );
    assert_eq!(due(f64::NAN), at(11_800));
    let late = Schedule::restored(hour(), at(13_000), 0.5);
    assert_eq!(late.renewal(at(13_000)), Renewal::Due);
}

proptest! {
    #[test]
    fn renewal_falls_within_the_first_half(
        start in 0..1_u64 << 40,
        length in 0..1_u64 << 40,
        jitter in any::<Duration>(),
        spread in any::<f64>(),
        now in 0..1_u64 << 41,
    ) {
        let validity = Validity::new(at(start), at(start + length)).unwrap();
        let half = at(start) + Duration::from_secs(length) / 2;
        let due = Schedule::new(validity, jitter).due();
        prop_assert!(validity.not_before() <= due && due <= half);
        let due = Schedule::restored(validity, at(now), spread).due();
        prop_assert!(validity.not_before() <= due && due <= half);
    }
}
