//! Which entries an agent sees, on hostile graphs and against a plain model.

use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use identity::entry::{Entry, EntryDraft};
use identity::selector::Selector;
use identity::trust_domain::TrustDomain;
use proptest::prelude::*;

use super::*;
use crate::store::Revision;

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::from_path(&trust_domain(), path).unwrap()
}

fn selectors(values: &[u8]) -> Selectors {
    values
        .iter()
        .map(|value| Selector::new("s", &value.to_string()).unwrap())
        .collect()
}

fn entry(name: usize, parent: SpiffeId, spiffe_id: SpiffeId, of: &[u8]) -> Entry {
    EntryDraft::new(spiffe_id, parent, selectors(of))
        .check(&trust_domain())
        .unwrap()
        .into_entry(EntryId::parse(&format!("e{name}")).unwrap(), 0, UNIX_EPOCH)
}

fn index(entries: &[Entry]) -> Entries {
    let mut index = Entries::new(&trust_domain());
    for entry in entries {
        index.insert(Revision::new(1), entry.clone());
    }
    index
}

fn names(found: &[StoredEntry]) -> BTreeSet<String> {
    found
        .iter()
        .map(|entry| entry.value.id.to_string())
        .collect()
}

/// The rule as the documentation of SPIRE tells it, applied until nothing is added.
fn by_the_book(entries: &[Entry], asker: Asker<'_>) -> BTreeSet<String> {
    let server = SpiffeId::server(&trust_domain());
    let mut reach: BTreeSet<SpiffeId> = BTreeSet::from([asker.id.clone()]);
    for alias in entries.iter().filter(|entry| entry.parent_id == server) {
        if alias.selectors.is_subset_of(asker.selectors) {
            reach.insert(alias.spiffe_id.clone());
        }
    }
    loop {
        let children: Vec<_> = entries
            .iter()
            .filter(|entry| reach.contains(&entry.parent_id))
            .collect();
        let before = reach.len();
        reach.extend(children.iter().map(|entry| entry.spiffe_id.clone()));
        if reach.len() == before {
            return children.iter().map(|entry| entry.id.to_string()).collect();
        }
    }
}

#[derive(Clone, Debug)]
struct Graph {
    entries: Vec<Entry>,
    agent: SpiffeId,
    has: Selectors,
}

fn graphs() -> impl Strategy<Value = Graph> {
    let nodes = 8_usize;
    let edge = (0..nodes + 3, 0..nodes, prop::collection::vec(0_u8..4, 1..3));
    let has = prop::collection::vec(0_u8..4, 0..4);
    (prop::collection::vec(edge, 0..24), has).prop_map(move |(edges, has)| {
        let parent = |n: usize| match n.checked_sub(nodes) {
            None => id(&format!("/w{n}")),
            Some(0) => SpiffeId::server(&trust_domain()),
            Some(n) => id(&format!("/spire/agent/x/{n}")),
        };
        let entries = edges
            .iter()
            .enumerate()
            .map(|(n, (above, below, of))| entry(n, parent(*above), id(&format!("/w{below}")), of))
            .collect();
        Graph {
            entries,
            agent: id("/spire/agent/x/1"),
            has: selectors(&has),
        }
    })
}

proptest! {
    #[test]
    fn gives_what_the_rule_gives_on_any_graph(graph in graphs()) {
        let index = index(&graph.entries);
        let asker = Asker { id: &graph.agent, selectors: &graph.has };
        let all = index.authorized(asker, UNIX_EPOCH);
        let expected = by_the_book(&graph.entries, asker);
        prop_assert_eq!(&names(&all), &expected);
        prop_assert_eq!(all.len(), expected.len(), "each entry once");
        for entry in &graph.entries {
            let one = index.authorized_one(asker, &entry.id, UNIX_EPOCH);
            prop_assert_eq!(one.is_some(), expected.contains(entry.id.as_str()), "{}", entry.id);
        }
    }

    #[test]
    fn forgets_an_entry_in_every_way_to_find_it(graph in graphs()) {
        let mut index = index(&graph.entries);
        for entry in &graph.entries {
            index.remove(&entry.id);
        }
        prop_assert_eq!(format!("{index:?}"), format!("{:?}", Entries::new(&trust_domain())));
    }
}

#[test]
fn follows_a_chain_of_ten_thousand_without_a_deep_stack() {
    let link = |n: usize| match n {
        0 => id("/spire/agent/x/1"),
        n => id(&format!("/w{n}")),
    };
    let entries: Vec<_> = (0..10_000)
        .map(|n| entry(n, link(n), link(n + 1), &[0]))
        .collect();
    let index = index(&entries);
    let agent = link(0);
    let asker = Asker {
        id: &agent,
        selectors: &Selectors::default(),
    };
    assert_eq!(index.authorized(asker, UNIX_EPOCH).len(), 10_000);
    let last = EntryId::parse("e9999").unwrap();
    assert!(index.authorized_one(asker, &last, UNIX_EPOCH).is_some());
}

#[test]
fn gives_nothing_for_an_entry_that_expired() {
    let mut expiring = entry(1, id("/spire/agent/x/1"), id("/w"), &[0]);
    let end = UNIX_EPOCH + Duration::from_secs(100);
    expiring.expires_at = Some(end);
    let index = index(std::slice::from_ref(&expiring));
    let agent = id("/spire/agent/x/1");
    let asker = Asker {
        id: &agent,
        selectors: &Selectors::default(),
    };
    let before = end - Duration::from_secs(1);
    assert_eq!(index.authorized(asker, before).len(), 1);
    assert!(index.authorized_one(asker, &expiring.id, before).is_some());
    assert!(index.authorized(asker, end).is_empty());
    assert!(index.authorized_one(asker, &expiring.id, end).is_none());
    assert_eq!(index.expired(end).count(), 1);
    assert_eq!(index.expired(before).count(), 0);
}

#[test]
fn never_delivers_an_alias() {
    let server = SpiffeId::server(&trust_domain());
    let alias = entry(1, server, id("/alias"), &[1]);
    let child = entry(2, id("/alias"), id("/w"), &[0]);
    let index = index(&[alias.clone(), child.clone()]);
    let agent = id("/spire/agent/x/1");
    let has = selectors(&[1, 2]);
    let asker = Asker {
        id: &agent,
        selectors: &has,
    };
    assert_eq!(
        names(&index.authorized(asker, UNIX_EPOCH)),
        BTreeSet::from(["e2".to_owned()])
    );
    assert!(index.authorized_one(asker, &alias.id, UNIX_EPOCH).is_none());
    assert!(index.authorized_one(asker, &child.id, UNIX_EPOCH).is_some());
    let others = selectors(&[2]);
    let other = Asker {
        id: &agent,
        selectors: &others,
    };
    assert!(index.authorized(other, UNIX_EPOCH).is_empty());
    assert!(index.authorized_one(other, &child.id, UNIX_EPOCH).is_none());
}
