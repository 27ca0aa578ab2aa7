//! What the last commits did, for agents that come back after a short while.

use std::collections::VecDeque;
use std::sync::Arc;

use super::effects::Effect;
use crate::store::Revision;

/// How many effects are kept. An agent that was away for longer is compared by its digest.
const MAX_EFFECTS: usize = 16_384;

/// The effects of consecutive commits.
#[derive(Debug)]
pub(super) struct Recent {
    /// What came after this revision is known.
    floor: Revision,
    batches: VecDeque<(Revision, Arc<[Effect]>)>,
    effects: usize,
}

impl Recent {
    pub(super) fn new(floor: Revision) -> Self {
        Self {
            floor,
            batches: VecDeque::new(),
            effects: 0,
        }
    }

    /// Takes up what was done until `revision`.
    pub(super) fn push(&mut self, revision: Revision, effects: Arc<[Effect]>) {
        // A batch without effects counts too, so that their number is bounded.
        self.effects += effects.len() + 1;
        self.batches.push_back((revision, effects));
        while self.effects > MAX_EFFECTS
            && let Some((revision, effects)) = self.batches.pop_front()
        {
            self.effects -= effects.len() + 1;
            self.floor = revision;
        }
    }

    /// What was done after `revision`; `None` if that is too long ago, or has not been yet.
    pub(super) fn since(&self, revision: Revision) -> Option<Vec<Arc<[Effect]>>> {
        let newest = self
            .batches
            .back()
            .map_or(self.floor, |(newest, _)| *newest);
        if revision < self.floor || revision > newest {
            return None;
        }
        let after = self
            .batches
            .partition_point(|(until, _)| *until <= revision);
        let effects = self.batches.range(after..).map(|(_, e)| Arc::clone(e));
        Some(effects.collect())
    }
}

#[cfg(test)]
mod tests {
    use identity::trust_domain::TrustDomain;

    use super::*;

    fn effects(number: usize) -> Arc<[Effect]> {
        let bundle = TrustDomain::parse("example.org").unwrap();
        vec![Effect::Bundle(bundle); number].into()
    }

    #[test]
    fn reaches_back_to_where_it_began_and_not_into_the_future() {
        let mut recent = Recent::new(Revision::new(10));
        recent.push(Revision::new(11), effects(1));
        recent.push(Revision::new(14), effects(2));
        let since = |number| {
            let since = recent.since(Revision::new(number));
            since.map(|batches| batches.iter().map(|batch| batch.len()).sum::<usize>())
        };
        let known = [9, 10, 11, 12, 13, 14, 15].map(since);
        assert_eq!(
            known,
            [None, Some(3), Some(2), Some(2), Some(2), Some(0), None]
        );
    }

    #[test]
    fn is_bounded_and_knows_what_it_forgot() {
        let mut recent = Recent::new(Revision::ZERO);
        for number in 1..=10 {
            recent.push(Revision::new(number), effects(MAX_EFFECTS / 4));
        }
        assert!(recent.effects <= MAX_EFFECTS);
        assert_eq!(recent.floor, Revision::new(7));
        assert!(recent.since(Revision::new(6)).is_none());
        recent.push(Revision::new(11), effects(MAX_EFFECTS));
        assert!(recent.batches.is_empty());
        assert!(recent.since(Revision::new(11)).is_some());
        assert!(recent.since(Revision::new(10)).is_none());
    }
}
