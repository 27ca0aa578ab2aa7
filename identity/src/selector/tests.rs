//! Selectors as operators write them, and the matching of sets.

use proptest::prelude::*;

use super::*;

fn set(texts: &[&str]) -> Selectors {
    texts
        .iter()
        .map(|text| Selector::parse(text).unwrap())
        .collect()
}

#[test]
fn the_kind_ends_at_the_first_colon() {
    let selector = Selector::parse("unix:path:/bin/a:b").unwrap();
    assert_eq!(
        (selector.kind(), selector.value()),
        ("unix", "path:/bin/a:b")
    );
    assert_eq!(selector.to_string(), "unix:path:/bin/a:b");
}

#[test]
fn refuses_with_the_messages_that_operators_know() {
    for (text, message) in [
        (
            "nocolon",
            "selector \"nocolon\" must be formatted as type:value",
        ),
        (":b", "missing selector type"),
        ("a:", "missing selector value"),
    ] {
        assert_eq!(Selector::parse(text).unwrap_err().to_string(), message);
    }
    let error = Selector::new("a:b", "c").unwrap_err();
    assert_eq!(error.to_string(), "selector type contains ':'");
    assert_eq!(
        Selector::new("a", &"v".repeat(MAX_VALUE_BYTES + 1)),
        Err(SelectorError::TooLong)
    );
    assert_eq!(
        Selector::new(&"k".repeat(MAX_KIND_BYTES + 1), "v"),
        Err(SelectorError::TooLong)
    );
}

#[test]
fn a_set_is_sorted_by_kind_then_value_and_has_no_doubles() {
    let set = set(&["b:1", "a:2", "a:10", "b:1", "a:1"]);
    assert_eq!(set.to_string(), "a:1,a:10,a:2,b:1");
    assert_eq!(set.len(), 4);
}

#[test]
fn an_entry_matches_a_caller_that_has_more() {
    let caller = set(&["unix:uid:1", "unix:gid:1", "k8s:ns:a"]);
    assert!(set(&["unix:uid:1"]).is_subset_of(&caller));
    assert!(set(&["unix:uid:1", "k8s:ns:a"]).is_subset_of(&caller));
    assert!(!set(&["unix:uid:1", "k8s:ns:b"]).is_subset_of(&caller));
    assert!(!caller.is_subset_of(&set(&["unix:uid:1"])));
    assert!(Selectors::default().is_subset_of(&caller));
}

#[test]
fn extending_keeps_the_order() {
    let mut all = set(&["b:1"]);
    all.extend(set(&["a:1", "b:1", "c:1"]).iter().cloned());
    assert_eq!(all, set(&["a:1", "b:1", "c:1"]));
}

proptest! {
    #[test]
    fn never_panics_and_round_trips(text in ".{0,40}") {
        if let Ok(selector) = Selector::parse(&text) {
            prop_assert_eq!(selector.to_string(), text);
        }
    }

    #[test]
    fn agrees_with_a_tree_set(
        left in prop::collection::btree_set("[ab]:[0-9]", 0..8),
        right in prop::collection::btree_set("[ab]:[0-9]", 0..8),
    ) {
        let to_set = |texts: &std::collections::BTreeSet<String>| -> Selectors {
            texts.iter().map(|text| Selector::parse(text).unwrap()).collect()
        };
        prop_assert_eq!(to_set(&left).is_subset_of(&to_set(&right)), left.is_subset(&right));
    }
}
