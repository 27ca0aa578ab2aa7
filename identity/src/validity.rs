//! Lifetimes, and when an SVID is renewed.
//!
//! Pure: the caller brings the time, sleeps until the answer, then asks again.

use std::time::{Duration, SystemTime};

/// The span in which a certificate or token is valid: from `not_before` until `not_after`.
///
/// At `not_after` itself it is over. RFC 5280 counts that second in; leaving it out errs on the
/// side of withdrawing early.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Validity {
    not_before: SystemTime,
    not_after: SystemTime, // INVARIANT: not before `not_before`.
}

impl Validity {
    /// Takes two times, the second not before the first.
    pub fn new(not_before: SystemTime, not_after: SystemTime) -> Result<Self, ValidityError> {
        if not_after < not_before {
            return Err(ValidityError);
        }
        Ok(Self {
            not_before,
            not_after,
        })
    }

    /// The first instant.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The instant at which it is over.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The length of the span.
    pub fn lifetime(&self) -> Duration {
        self.not_after
            .duration_since(self.not_before)
            .unwrap_or_default()
    }

    /// How much of it is left at `now`; zero when it is over.
    pub fn remaining(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }

    /// Whether it has begun and is not over.
    pub fn contains(&self, now: SystemTime) -> bool {
        self.not_before <= now && !self.is_over(now)
    }

    /// Whether `now` is at or past its end.
    pub fn is_over(&self, now: SystemTime) -> bool {
        now >= self.not_after
    }
}

/// The end of a validity lies before its beginning.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("validity ends before it begins")]
pub struct ValidityError;

impl ValidityError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        "validity_reversed"
    }
}

/// The renewal schedule of one SVID.
///
/// Renewal begins at half of the lifetime, brought forward by a jitter that is drawn once for each
/// SVID, so that a fleet started in one second does not renew in one second.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    validity: Validity,
    due: SystemTime, // INVARIANT: within `validity`, so its sum cannot overflow.
}

/// What to do with an SVID now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Renewal {
    /// Serve it, and ask again at this time.
    At(SystemTime),
    /// Serve it, and request its successor.
    Due,
    /// Withdraw it. The server being gone is no reason to serve an expired SVID.
    Expired,
}

impl Schedule {
    /// Plans the renewal of an SVID. A `jitter` beyond a tenth of the lifetime counts as a tenth.
    pub fn new(validity: Validity, jitter: Duration) -> Self {
        let lifetime = validity.lifetime();
        let wait = (lifetime / 2).saturating_sub(jitter.min(lifetime / 10));
        Self {
            validity,
            due: validity.not_before() + wait,
        }
    }

    /// Plans the renewal for the moment when no more than `left` of the lifetime remains.
    pub fn before_end(validity: Validity, left: Duration) -> Self {
        let wait = validity.lifetime().saturating_sub(left);
        let due = validity.not_before() + wait;
        Self { validity, due }
    }

    /// Plans the first renewal after a start: `spread` of the way (0 is now, 1 or more is half
    /// life) between `now` and half life, so that SVIDs restored together are not renewed together.
    pub fn restored(validity: Validity, now: SystemTime, spread: f64) -> Self {
        let half = validity.not_before() + validity.lifetime() / 2;
        let left = half
            .duration_since(now)
            .unwrap_or_default()
            .min(validity.lifetime() / 2);
        let spread = if spread.is_finite() {
            spread.clamp(0.0, 1.0)
        } else {
            1.0
        };
        let due = half.checked_sub(left.mul_f64(1.0 - spread)).unwrap_or(half);
        Self { validity, due }
    }

    /// When renewal begins.
    pub fn due(&self) -> SystemTime {
        self.due
    }

    /// Answers for the time `now`, which may have jumped either way since the last call.
    pub fn renewal(&self, now: SystemTime) -> Renewal {
        if self.validity.is_over(now) {
            return Renewal::Expired;
        }
        if now < self.due {
            Renewal::At(self.due)
        } else {
            Renewal::Due
        }
    }
}

#[cfg(test)]
mod tests;
