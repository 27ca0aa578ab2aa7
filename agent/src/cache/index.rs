//! Which entries a caller matches.
//!
//! An entry matches when the caller has all of its selectors. Each entry is filed under one of them, one that
//! few entries were filed under before it: a caller that has all selectors has that one too, so
//! looking under the caller's own selectors finds every match, and `k8s:ns:default` does not make
//! every lookup walk every entry.

use std::collections::{BTreeMap, BTreeSet};

use identity::entry::EntryId;
use identity::selector::{Selector, Selectors};

/// Of so many entries under a selector it is asked no further whether it is rarer than another.
const MANY: usize = 64;

/// Entries by selector. A map of maps would cost each selector that one entry has a node for eleven.
#[derive(Debug, Default)]
pub(super) struct Index {
    // No id comes before all ids of the selector; nothing is filed there.
    filed: BTreeMap<(Selector, Option<EntryId>), Selectors>,
    places: BTreeMap<EntryId, Selector>,
}

impl Index {
    /// Files an entry, in place of what was filed under its id.
    ///
    /// An entry without selectors is not filed: it would match everybody.
    pub(super) fn insert(&mut self, id: &EntryId, selectors: &Selectors) {
        self.remove(id);
        let rarest = selectors
            .iter()
            .min_by_key(|selector| self.under(selector).take(MANY).count());
        if let Some(selector) = rarest {
            let place = (selector.clone(), Some(id.clone()));
            self.filed.insert(place, selectors.clone());
            self.places.insert(id.clone(), selector.clone());
        }
    }

    pub(super) fn remove(&mut self, id: &EntryId) {
        if let Some(selector) = self.places.remove(id) {
            self.filed.remove(&(selector, Some(id.clone())));
        }
    }

    /// Whether there is an entry whose selectors are such.
    pub(super) fn any(&self, such: impl Fn(&Selectors) -> bool) -> bool {
        self.filed.values().any(such)
    }

    /// The entries that match a caller with these selectors.
    pub(super) fn matching(&self, caller: &Selectors) -> BTreeSet<EntryId> {
        caller
            .iter()
            .flat_map(|selector| self.under(selector))
            .filter(|(_, selectors)| selectors.is_subset_of(caller))
            .map(|(id, _)| id.clone())
            .collect()
    }

    fn under<'a>(
        &'a self,
        selector: &'a Selector,
    ) -> impl Iterator<Item = (&'a EntryId, &'a Selectors)> {
        self.filed
            .range((selector.clone(), None)..)
            .take_while(move |((filed, _), _)| filed == selector)
            .filter_map(|((_, id), selectors)| Some((id.as_ref()?, selectors)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selectors(texts: &[&str]) -> Selectors {
        texts
            .iter()
            .map(|text| Selector::parse(text).unwrap())
            .collect()
    }

    fn id(text: &str) -> EntryId {
        EntryId::parse(text).unwrap()
    }

    fn matching(index: &Index, caller: &[&str]) -> Vec<String> {
        index
            .matching(&selectors(caller))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn an_entry_matches_only_a_caller_with_all_of_its_selectors() {
        let mut index = Index::default();
        index.insert(&id("a"), &selectors(&["unix:uid:1", "unix:gid:1"]));
        index.insert(&id("b"), &selectors(&["unix:uid:1"]));
        assert_eq!(matching(&index, &["unix:uid:1"]), ["b"]);
        assert_eq!(matching(&index, &["unix:gid:1"]), [""; 0]);
        assert_eq!(
            matching(&index, &["unix:gid:1", "unix:uid:1", "unix:x:y"]),
            ["a", "b"]
        );
    }

    #[test]
    fn an_entry_without_selectors_matches_nobody() {
        let mut index = Index::default();
        index.insert(&id("a"), &Selectors::default());
        assert_eq!(matching(&index, &[]), [""; 0]);
        assert_eq!(matching(&index, &["unix:uid:1"]), [""; 0]);
    }

    #[test]
    fn an_entry_that_is_filed_again_matches_by_its_new_selectors_alone() {
        let mut index = Index::default();
        index.insert(&id("a"), &selectors(&["unix:uid:1"]));
        index.insert(&id("a"), &selectors(&["unix:uid:2"]));
        assert_eq!(matching(&index, &["unix:uid:1"]), [""; 0]);
        assert_eq!(matching(&index, &["unix:uid:2"]), ["a"]);
        index.remove(&id("a"));
        assert!(index.filed.is_empty() && index.places.is_empty());
    }

    #[test]
    fn a_selector_that_everybody_has_does_not_make_every_entry_a_candidate() {
        let mut index = Index::default();
        for n in 0..100 {
            index.insert(
                &id(&format!("e{n}")),
                &selectors(&["k8s:cluster:c", &format!("k8s:sa:{n}")]),
            );
        }
        let busiest = index
            .places
            .values()
            .map(|selector| index.under(selector).count())
            .max();
        assert!(busiest <= Some(2), "{busiest:?}");
    }
}
