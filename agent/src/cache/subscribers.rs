//! Who waits for identities.
//!
//! A subscriber is a selector set: the streams of all callers with the same selectors share it, and
//! the driver fans out to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use identity::entry::EntryId;
use identity::selector::{Selector, Selectors};
use workload_api::source::Update;

/// All subscribers.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    all: BTreeMap<Selectors, Subscriber>,
    by_selector: BTreeMap<Selector, BTreeSet<Selectors>>,
}

/// What one subscriber matches and what it was told.
#[derive(Debug, Default)]
pub(super) struct Subscriber {
    /// INVARIANT: exactly the entries whose selectors the subscriber has, all of them.
    pub(super) matching: BTreeSet<EntryId>,
    pub(super) shown: Shown,
}

/// What a subscriber's streams were told last.
#[derive(Debug, Default)]
pub(super) enum Shown {
    /// Nothing yet: the first update comes when every matching entry has an SVID.
    #[default]
    Nothing,
    /// This.
    Update(Arc<Update>),
    /// What they were told before that is void, and a new stream is told nothing until more is known.
    Withdrawn,
}

impl Subscribers {
    /// Adds a subscriber. `false` says that it is one already.
    pub(super) fn insert(&mut self, selectors: &Selectors, matching: BTreeSet<EntryId>) -> bool {
        if self.all.contains_key(selectors) {
            return false;
        }
        for selector in selectors {
            self.by_selector
                .entry(selector.clone())
                .or_default()
                .insert(selectors.clone());
        }
        self.all.insert(
            selectors.clone(),
            Subscriber {
                matching,
                shown: Shown::Nothing,
            },
        );
        true
    }

    pub(super) fn remove(&mut self, selectors: &Selectors) -> Option<Subscriber> {
        let subscriber = self.all.remove(selectors)?;
        for selector in selectors {
            if let Some(filed) = self.by_selector.get_mut(selector) {
                filed.remove(selectors);
                if filed.is_empty() {
                    self.by_selector.remove(selector);
                }
            }
        }
        Some(subscriber)
    }

    pub(super) fn get(&self, selectors: &Selectors) -> Option<&Subscriber> {
        self.all.get(selectors)
    }

    pub(super) fn get_mut(&mut self, selectors: &Selectors) -> Option<&mut Subscriber> {
        self.all.get_mut(selectors)
    }

    /// The subscribers that an entry with these selectors matches. None, if it has no selectors.
    pub(super) fn entitled_to(&self, entry: &Selectors) -> BTreeSet<Selectors> {
        let rarest = entry
            .iter()
            .map(|selector| self.by_selector.get(selector))
            .min_by_key(|filed| filed.map_or(0, BTreeSet::len));
        rarest
            .flatten()
            .into_iter()
            .flatten()
            .filter(|subscriber| entry.is_subset_of(subscriber))
            .cloned()
            .collect()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Selectors> {
        self.all.keys()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}
