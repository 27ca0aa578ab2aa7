//! Which authority of a kind signs, which will, and which did.
//!
//! Two slots, as in SPIRE: while one authority signs, its successor is prepared in the other, is
//! published in the bundle, and signs once everybody had time to learn of it. Pure: the caller brings
//! the time, performs what is due, stores the outcome, and only then comes back with it.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// A successor is prepared at half of the lifetime, and at the latest this long before its end.
const PREPARE_CAP: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A successor signs from the last sixth of the lifetime on, and at the latest this long before its
/// end: an SVID of a sixth of the authority's lifetime is never cut short.
const ACTIVATE_CAP: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// A successor that would not outlive what signs is not prepared anew more often than this.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum SlotId {
    A,
    B,
}

impl SlotId {
    pub(crate) const ALL: [Self; 2] = [Self::A, Self::B];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// What an authority does now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// It is in the bundle and signs nothing yet.
    Prepared,
    /// It signs.
    Active,
    /// It signs no more; what it signed is still valid.
    Old,
}

/// What the state machine must know of an authority.
pub(crate) trait Term {
    /// Its name in the bundle.
    fn authority_id(&self) -> &str;
    fn issued_at(&self) -> SystemTime;
    fn not_after(&self) -> SystemTime;
    /// The name in the bundle of the authority above, if it is not in the bundle itself.
    fn upstream_id(&self) -> Option<String> {
        None
    }
}

/// An authority in its slot.
#[derive(Clone, Debug)]
pub(crate) struct Held<A> {
    pub(crate) state: State,
    pub(crate) authority: A,
}

/// What is due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// Make an authority for this slot, and publish it.
    Prepare(SlotId),
    /// Let the prepared authority of this slot sign.
    Activate(SlotId),
}

/// The two slots of a kind.
#[derive(Clone, Debug)]
pub(crate) struct Slots<A> {
    a: Option<Held<A>>,
    b: Option<Held<A>>,
    // INVARIANT: at most one of the two is active.
}

/// Why an authority cannot be tainted, revoked or activated now.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    #[error("no slot holds this authority")]
    Unknown,
    #[error("authority is not prepared")]
    NotPrepared,
    #[error("authority signs; let another one sign before it is tainted or revoked")]
    Active,
    #[error("authority is prepared, and has signed nothing that could be tainted or revoked")]
    Prepared,
    #[error("the bundle does not hold this authority")]
    NotInBundle,
    #[error("authority is tainted already")]
    AlreadyTainted,
    #[error("authority is not tainted; taint it first, so that what it signed is replaced")]
    NotTainted,
    #[error(
        "authorities of this kind are signed by an upstream authority; taint or revoke that one"
    )]
    HasUpstream,
    #[error("there is no upstream authority")]
    NoUpstream,
    #[error(
        "upstream authority signed the authority that signs now; replace it, and let its successor sign"
    )]
    UpstreamActive,
    #[error("upstream authority did not sign the old authority")]
    NotUpstreamOfOld,
    #[error("upstream authority signed an authority that is only prepared")]
    UpstreamPrepared,
}

impl Refused {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unknown => "authority_unknown",
            Self::NotPrepared => "authority_not_prepared",
            Self::Active => "authority_active",
            Self::Prepared => "authority_prepared",
            Self::NotInBundle => "authority_not_in_bundle",
            Self::AlreadyTainted => "authority_already_tainted",
            Self::NotTainted => "authority_not_tainted",
            Self::HasUpstream => "authority_has_upstream",
            Self::NoUpstream => "upstream_missing",
            Self::UpstreamActive => "upstream_active",
            Self::NotUpstreamOfOld => "upstream_unknown",
            Self::UpstreamPrepared => "upstream_prepared",
        }
    }
}

impl<A> Default for Slots<A> {
    fn default() -> Self {
        Self { a: None, b: None }
    }
}

impl<A: Term> Slots<A> {
    /// Takes up what a journal holds. Of two active ones, which no journal of ours has, the one that
    /// was issued later goes on.
    pub(crate) fn restore(a: Option<Held<A>>, b: Option<Held<A>>) -> Self {
        let mut slots = Self { a, b };
        if let (Some(a), Some(b)) = (&mut slots.a, &mut slots.b)
            && (a.state, b.state) == (State::Active, State::Active)
        {
            let newer_is_b = b.authority.issued_at() >= a.authority.issued_at();
            if newer_is_b {
                a.state = State::Old;
            } else {
                b.state = State::Old;
            }
        }
        slots
    }

    pub(crate) fn get(&self, id: SlotId) -> Option<&Held<A>> {
        match id {
            SlotId::A => self.a.as_ref(),
            SlotId::B => self.b.as_ref(),
        }
    }

    /// The authority that signs.
    pub(crate) fn active(&self) -> Option<&A> {
        self.in_state(State::Active).map(|(_, authority)| authority)
    }

    /// The slot that the next authority comes into: never that of the one that signs.
    pub(crate) fn next_slot(&self) -> SlotId {
        self.in_state(State::Active)
            .map_or_else(|| self.vacant(), |(slot, _)| slot.other())
    }

    /// Where the authority of this name is, and what it does.
    pub(crate) fn place(&self, authority_id: &str) -> Result<(SlotId, State), Refused> {
        self.find(authority_id)
            .map(|(slot, held)| (slot, held.state))
    }

    /// What is due now. Ask again after each step.
    pub(crate) fn due(&self, now: SystemTime) -> Option<Step> {
        let live = |(_, authority): &(SlotId, &A)| authority.not_after() > now;
        let prepared = self.in_state(State::Prepared).filter(live);
        let Some((active_slot, active)) = self.in_state(State::Active).filter(live) else {
            // A first start, or one after all had ended.
            return Some(match prepared {
                Some((slot, _)) => Step::Activate(slot),
                None => Step::Prepare(self.vacant()),
            });
        };
        let (at, step) = next_after(active_slot, active, prepared);
        (at <= now).then_some(step)
    }

    /// When something will be due of which nothing is due at `now`.
    pub(crate) fn next_due(&self, now: SystemTime) -> Option<SystemTime> {
        let (slot, active) = self.in_state(State::Active)?;
        let (at, _) = next_after(slot, active, self.in_state(State::Prepared));
        (at > now).then_some(at)
    }

    /// The slots once `authority` is prepared in `slot`.
    pub(crate) fn with_prepared(&self, slot: SlotId, authority: A) -> Self
    where
        A: Clone,
    {
        let mut next = self.clone();
        *next.slot(slot) = Some(Held {
            state: State::Prepared,
            authority,
        });
        next
    }

    /// The slots once what is prepared in `slot` is given up.
    pub(crate) fn without_prepared(&self, slot: SlotId) -> Self
    where
        A: Clone,
    {
        let mut next = self.clone();
        next.slot(slot)
            .take_if(|held| held.state == State::Prepared);
        next
    }

    /// The slots once the prepared authority of that name signs; what signed before is old.
    pub(crate) fn with_active(&self, authority_id: &str) -> Result<Self, Refused>
    where
        A: Clone,
    {
        let (slot, held) = self.find(authority_id)?;
        if held.state != State::Prepared {
            return Err(Refused::NotPrepared);
        }
        let mut next = self.clone();
        if let Some(held) = next.slot(slot) {
            held.state = State::Active;
        }
        if let Some(other) = next.slot(slot.other()) {
            other.state = State::Old;
        }
        Ok(next)
    }

    /// Whether an authority may be tainted: what it signed is to be replaced, and it signs no more.
    pub(crate) fn check_taint(&self, authority_id: &str, tainted: bool) -> Result<(), Refused> {
        match self.find(authority_id)?.1.state {
            State::Old if tainted => Err(Refused::AlreadyTainted),
            State::Old => Ok(()),
            State::Prepared => Err(Refused::Prepared),
            State::Active => Err(Refused::Active),
        }
    }

    /// Whether an authority may leave the bundle.
    pub(crate) fn check_revoke(&self, authority_id: &str, tainted: bool) -> Result<(), Refused> {
        match self.find(authority_id)?.1.state {
            State::Old if tainted => Ok(()),
            State::Old => Err(Refused::NotTainted),
            State::Prepared => Err(Refused::Prepared),
            State::Active => Err(Refused::Active),
        }
    }

    /// Whether the upstream authority of that name may be tainted or revoked: what it signed signs no more.
    pub(crate) fn check_upstream(&self, upstream_id: &str) -> Result<(), Refused> {
        let signed = |held: &Held<A>| held.authority.upstream_id().as_deref() == Some(upstream_id);
        let held = |state| {
            let mut all = SlotId::ALL.into_iter().filter_map(|slot| self.get(slot));
            all.find(|held| held.state == state && signed(held))
        };
        if held(State::Active).is_some() {
            Err(Refused::UpstreamActive)
        } else if held(State::Prepared).is_some() {
            Err(Refused::UpstreamPrepared)
        } else if held(State::Old).is_some() {
            Ok(())
        } else {
            Err(Refused::NotUpstreamOfOld)
        }
    }

    fn find(&self, authority_id: &str) -> Result<(SlotId, &Held<A>), Refused> {
        let held = |slot| self.get(slot).map(|held| (slot, held));
        let mut all = SlotId::ALL.into_iter().filter_map(held);
        all.find(|(_, held)| held.authority.authority_id() == authority_id)
            .ok_or(Refused::Unknown)
    }

    fn in_state(&self, state: State) -> Option<(SlotId, &A)> {
        SlotId::ALL.into_iter().find_map(|slot| {
            self.get(slot)
                .filter(|held| held.state == state)
                .map(|held| (slot, &held.authority))
        })
    }

    /// The slot that can be used anew: an empty one, or else the one whose authority ends first.
    fn vacant(&self) -> SlotId {
        match (&self.a, &self.b) {
            (None, _) => SlotId::A,
            (_, None) => SlotId::B,
            (Some(a), Some(b)) if a.authority.not_after() <= b.authority.not_after() => SlotId::A,
            _ => SlotId::B,
        }
    }

    fn slot(&mut self, id: SlotId) -> &mut Option<Held<A>> {
        match id {
            SlotId::A => &mut self.a,
            SlotId::B => &mut self.b,
        }
    }
}

/// What comes after what is active now and prepared, and when.
fn next_after<A: Term>(
    slot: SlotId,
    active: &A,
    prepared: Option<(SlotId, &A)>,
) -> (SystemTime, Step) {
    let ends = active.not_after();
    let lifetime = ends.duration_since(active.issued_at()).unwrap_or_default();
    match prepared {
        None => (
            ends - (lifetime / 2).min(PREPARE_CAP),
            Step::Prepare(slot.other()),
        ),
        // An authority above that nears its own end lets none below outlive it, and its successor will: it is
        // asked again, at half of what is left.
        Some((slot, next)) if next.not_after() <= ends => {
            let left = ends.duration_since(next.issued_at()).unwrap_or_default();
            let again = next.issued_at() + (left / 2).max(SHORTEST_PAUSE);
            (again, Step::Prepare(slot))
        }
        Some((slot, _)) => (
            ends - (lifetime / 6).min(ACTIVATE_CAP),
            Step::Activate(slot),
        ),
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600;
    const DAY: u64 = 24 * HOUR;

    #[derive(Clone, Debug, PartialEq)]
    struct Fake {
        id: String,
        issued_at: u64,
        lifetime: u64,
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    impl Term for Fake {
        fn authority_id(&self) -> &str {
            &self.id
        }

        fn issued_at(&self) -> SystemTime {
            at(self.issued_at)
        }

        fn not_after(&self) -> SystemTime {
            at(self.issued_at + self.lifetime)
        }
    }

    fn fake(id: &str, issued_at: u64, lifetime: u64) -> Fake {
        Fake {
            id: id.to_owned(),
            issued_at,
            lifetime,
        }
    }

    fn started(lifetime: u64) -> Slots<Fake> {
        let slots = Slots::default().with_prepared(SlotId::A, fake("1", 0, lifetime));
        slots.with_active("1").unwrap()
    }

    #[test]
    fn a_first_start_prepares_and_activates_at_once() {
        let empty = Slots::<Fake>::default();
        assert_eq!(empty.due(at(0)), Some(Step::Prepare(SlotId::A)));
        let prepared = empty.with_prepared(SlotId::A, fake("1", 0, DAY));
        assert_eq!(prepared.due(at(0)), Some(Step::Activate(SlotId::A)));
        assert_eq!(prepared.with_active("1").unwrap().due(at(0)), None);
    }

    #[test]
    fn prepares_at_half_of_the_lifetime_and_activates_in_its_last_sixth() {
        for (lifetime, prepare, activate) in [
            (DAY, 12 * HOUR, 20 * HOUR),
            (6 * HOUR, 3 * HOUR, 5 * HOUR),
            // The caps: 30 days and 7 days before the end.
            (365 * DAY, 335 * DAY, 358 * DAY),
        ] {
            let slots = started(lifetime);
            assert_eq!(slots.due(at(prepare - 1)), None);
            assert_eq!(slots.due(at(prepare)), Some(Step::Prepare(SlotId::B)));
            let slots = slots.with_prepared(SlotId::B, fake("2", prepare, lifetime));
            assert_eq!(slots.due(at(activate - 1)), None);
            assert_eq!(slots.due(at(activate)), Some(Step::Activate(SlotId::B)));
            let slots = slots.with_active("2").unwrap();
            assert_eq!(slots.active().unwrap().id, "2");
            assert_eq!(slots.get(SlotId::A).unwrap().state, State::Old);
        }
    }

    #[test]
    fn a_successor_that_would_not_outlive_what_signs_is_prepared_anew_and_never_signs() {
        let slots = started(DAY);
        // An authority above ends when ours does.
        let same_end = |at: u64| fake("2", at, DAY - at);
        let slots = slots.with_prepared(SlotId::B, same_end(12 * HOUR));
        assert_eq!(slots.due(at(18 * HOUR - 1)), None);
        assert_eq!(slots.next_due(at(18 * HOUR - 1)), Some(at(18 * HOUR)));
        assert_eq!(slots.due(at(18 * HOUR)), Some(Step::Prepare(SlotId::B)));
        let slots = slots.with_prepared(SlotId::B, same_end(DAY - 1));
        assert_eq!(slots.due(at(DAY - 1)), None, "a pause of a second at least");
        let slots = slots.with_prepared(SlotId::B, fake("3", 22 * HOUR, DAY));
        let due = slots.due(at(22 * HOUR));
        assert_eq!(due, Some(Step::Activate(SlotId::B)));
    }

    #[test]
    fn starts_anew_when_all_authorities_ended_while_it_was_away() {
        let slots = started(DAY);
        assert_eq!(slots.due(at(3 * DAY)), Some(Step::Prepare(SlotId::B)));
    }

    #[test]
    fn an_authority_is_tainted_only_when_old_and_revoked_only_when_tainted() {
        let slots = started(DAY).with_prepared(SlotId::B, fake("2", 0, DAY));
        assert_eq!(slots.check_taint("1", false), Err(Refused::Active));
        assert_eq!(slots.check_taint("2", false), Err(Refused::Prepared));
        assert_eq!(slots.check_taint("3", false), Err(Refused::Unknown));
        let slots = slots.with_active("2").unwrap();
        assert_eq!(slots.check_revoke("1", false), Err(Refused::NotTainted));
        assert_eq!(slots.check_taint("1", false), Ok(()));
        assert_eq!(slots.check_taint("1", true), Err(Refused::AlreadyTainted));
        assert_eq!(slots.check_revoke("1", true), Ok(()));
        assert_eq!(slots.check_revoke("2", true), Err(Refused::Active));
        assert_eq!(slots.with_active("1").unwrap_err(), Refused::NotPrepared);
    }

    proptest! {
        /// Over any passage of time and any restarts, exactly one authority signs, it has not
        /// ended, and it was prepared, so published, in an earlier step.
        #[test]
        fn exactly_one_authority_signs_at_any_time(
            lifetime in 60..40 * DAY,
            waits in prop::collection::vec((0..10 * DAY, any::<bool>()), 1..60),
        ) {
            let mut slots = Slots::default();
            let mut now = 0;
            let mut made = 0;
            let mut published: Vec<String> = Vec::new();
            for (wait, restarts) in waits {
                now += wait;
                for _ in 0..4 {
                    match slots.due(at(now)) {
                        Some(Step::Prepare(slot)) => {
                            made += 1;
                            let id = made.to_string();
                            published.push(id.clone());
                            slots = slots.with_prepared(slot, fake(&id, now, lifetime));
                        }
                        Some(Step::Activate(slot)) => {
                            let id = slots.get(slot).unwrap().authority.id.clone();
                            slots = slots.with_active(&id).unwrap();
                        }
                        None => break,
                    }
                    if restarts {
                        slots = Slots::restore(slots.get(SlotId::A).cloned(), slots.get(SlotId::B).cloned());
                    }
                }
                prop_assert_eq!(slots.due(at(now)), None);
                let active = slots.active().unwrap();
                prop_assert!(active.not_after() > at(now));
                prop_assert!(published.contains(&active.id));
                let active = SlotId::ALL.iter().filter(|id| slots.get(**id).is_some_and(|h| h.state == State::Active));
                prop_assert_eq!(active.count(), 1);
            }
        }
    }
}
