//! What holds under every history.

use proptest::prelude::*;

use super::*;
use crate::upstream::fake::{entry, selectors};

const CAPACITY: usize = 3;
const SELECTORS: [&str; 4] = ["a:1", "b:1", "c:1", "d:1"];
const ENTRIES: usize = 6;
const SHORT: Duration = Duration::from_secs(100);

/// What may happen to an agent, in any order.
#[derive(Clone, Debug)]
enum Step {
    /// The server's entries become these, and the agent hears of it.
    Entries(Vec<Option<Shape>>),
    Join(u8),
    Leave(u8),
    /// The oldest, or the newest, batch under way ends.
    Answer {
        newest: bool,
        how: How,
    },
    /// The server signs with a new authority.
    Rotate,
    /// The agent hears of the bundle.
    Bundles,
    /// The clock moves without anybody being told.
    Jump(u64),
    TimePassed(u64),
    Banned,
}

/// What an entry says; `None` in a list is one that does not exist.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Shape {
    selectors: u8,
    name: bool,
    lazy: bool,
    stored: bool,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Signed,
    SignedLate,
    Refused,
    Lost,
}

fn shape() -> impl Strategy<Value = Option<Shape>> {
    let some = (
        1_u8..16,
        any::<bool>(),
        any::<bool>(),
        prop::bool::weighted(0.1),
    );
    prop::option::weighted(
        0.8,
        some.prop_map(|(selectors, name, lazy, stored)| Shape {
            selectors,
            name,
            lazy,
            stored,
        }),
    )
}

fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![4 => Just(How::Signed), 1 => Just(How::SignedLate), 1 => Just(How::Refused), 1 => Just(How::Lost)];
    prop_oneof![
        3 => prop::collection::vec(shape(), ENTRIES).prop_map(Step::Entries),
        5 => (0_u8..16).prop_map(Step::Join),
        2 => (0_u8..16).prop_map(Step::Leave),
        9 => (any::<bool>(), how).prop_map(|(newest, how)| Step::Answer { newest, how }),
        1 => Just(Step::Rotate),
        2 => Just(Step::Bundles),
        1 => (1_u64..150).prop_map(Step::Jump),
        4 => (1_u64..60).prop_map(Step::TimePassed),
    ]
}

fn history() -> impl Strategy<Value = Vec<Step>> {
    let end = prop::option::weighted(0.1, Just(Step::Banned));
    (prop::collection::vec(step(), 1..60), end).prop_map(|(mut steps, end)| {
        let middle = steps.len() / 2;
        if let Some(end) = end {
            steps.insert(middle, end);
        }
        steps
    })
}

fn chosen(bits: u8) -> Selectors {
    let texts: Vec<_> = SELECTORS
        .iter()
        .enumerate()
        .filter(|(n, _)| bits & (1 << n) != 0)
        .map(|(_, text)| *text)
        .collect();
    selectors(&texts)
}

/// The agent's state, and what its server and its workloads know.
struct World {
    state: State,
    now: SystemTime,
    entries: Vec<Option<(Shape, Entry)>>,
    revision: i64,
    authorities: Vec<Ca>,
    told_authorities: usize,
    synced: bool,
    banned: bool,
    batches: Vec<(BatchId, Vec<Arc<Entry>>)>,
    shown: BTreeMap<Selectors, Option<Arc<Update>>>,
    /// What the server pushed, if it pushes differences.
    pushed: Option<BTreeMap<EntryId, Entry>>,
}

impl World {
    fn new(pushes: bool) -> Self {
        let ca = Ca::new();
        let own = Arc::new(fake::bundle(&[&ca.certificate]));
        Self {
            state: State::new(
                own,
                Capacity {
                    x509_svids: CAPACITY,
                    jwt_svids: 1,
                },
            ),
            now: at(0),
            entries: vec![None; ENTRIES],
            revision: 0,
            authorities: vec![ca],
            told_authorities: 1,
            synced: false,
            banned: false,
            batches: Vec::new(),
            shown: BTreeMap::new(),
            pushed: pushes.then(BTreeMap::new),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Entries(shapes) => {
                for (n, shape) in shapes.into_iter().enumerate() {
                    if self.entries[n].as_ref().map(|(old, _)| *old) != shape {
                        self.revision += 1;
                        self.entries[n] = shape.map(|shape| (shape, self.entry(n, shape)));
                    }
                }
                self.sync();
            }
            Step::Join(bits) => {
                let caller = chosen(bits);
                self.shown.entry(caller.clone()).or_default();
                self.apply(Event::Joined(caller));
            }
            Step::Leave(bits) => {
                self.shown.remove(&chosen(bits));
                self.apply(Event::Left(chosen(bits)));
            }
            Step::Answer { newest, how } => self.answer(newest, how),
            Step::Rotate => self.authorities.push(Ca::new()),
            Step::Bundles => self.tell_bundles(),
            Step::Jump(seconds) => self.now += Duration::from_secs(seconds),
            Step::TimePassed(seconds) => {
                self.now += Duration::from_secs(seconds);
                self.apply(Event::TimePassed);
            }
            Step::Banned => {
                self.banned = true;
                self.apply(Event::Banned);
            }
        }
    }

    fn entry(&self, n: usize, shape: Shape) -> Entry {
        let path = if shape.name {
            format!("/e{n}")
        } else {
            format!("/renamed{n}")
        };
        Entry {
            spiffe_id: SpiffeId::from_path(&fake::trust_domain(), &path).unwrap(),
            selectors: chosen(shape.selectors),
            disable_x509_svid_prefetch: shape.lazy,
            store_svid: shape.stored,
            revision: self.revision,
            ..entry(&format!("e{n}"), &["a:1"])
        }
    }

    fn sync(&mut self) {
        let first = !std::mem::replace(&mut self.synced, true);
        let entries: Vec<_> = self
            .entries
            .iter()
            .flatten()
            .map(|(_, entry)| entry.clone())
            .collect();
        let Some(pushed) = &mut self.pushed else {
            return self.apply(synced(&entries));
        };
        let now: BTreeMap<_, _> = entries.iter().map(|e| (e.id.clone(), e.clone())).collect();
        let before = std::mem::replace(pushed, now);
        if first {
            return self.apply(synced(&entries));
        }
        let now = self.pushed.as_ref().unwrap();
        let removed = before.keys().filter(|id| !now.contains_key(*id)).cloned();
        let removed = removed.collect();
        let entries = entries
            .into_iter()
            .filter(|entry| before.get(&entry.id) != Some(entry))
            .map(Arc::new)
            .collect();
        self.apply(Event::Changed { entries, removed });
    }

    fn tell_bundles(&mut self) {
        self.told_authorities = self.authorities.len();
        let all: Vec<_> = self.authorities.iter().collect();
        let event = bundles(&all);
        self.apply(event);
    }

    fn answer(&mut self, newest: bool, how: How) {
        if self.batches.is_empty() {
            return;
        }
        let n = if newest { self.batches.len() - 1 } else { 0 };
        let (batch, entries) = self.batches.remove(n);
        let ca = self.authorities.last().unwrap();
        let answer = |entry: &Arc<Entry>| match how {
            How::Refused => Err(Refused {
                spread: Duration::ZERO,
            }),
            How::SignedLate => Ok(signed(ca, entry, self.now - SHORT, SHORT)),
            How::Signed | How::Lost => Ok(signed(ca, entry, self.now, SHORT)),
        };
        let event = match how {
            How::Lost => Event::Unanswered {
                batch,
                spread: Duration::ZERO,
            },
            _ => Event::Answered {
                batch,
                answers: entries
                    .iter()
                    .map(|entry| (entry.id.clone(), answer(entry)))
                    .collect(),
            },
        };
        self.apply(event);
    }

    fn apply(&mut self, event: Event) {
        let actions = self.state.apply(event, self.now);
        for action in actions {
            match action {
                Action::Sign { batch, entries } => {
                    assert!(!entries.is_empty() && !self.banned);
                    self.batches.push((batch, entries));
                }
                Action::Publish { subscriber, update } => {
                    self.check(&subscriber, &update);
                    *self.shown.get_mut(&subscriber).unwrap() = Some(update);
                }
                Action::Withdraw { subscriber } => *self.shown.get_mut(&subscriber).unwrap() = None,
                Action::FetchBundles | Action::Expired { .. } => {}
            }
        }
        self.check_bounds();
    }

    /// Holds for every update at the moment it is published.
    fn check(&self, caller: &Selectors, update: &Update) {
        assert!(self.synced || self.banned, "nothing is known yet");
        assert!(
            !self.banned || update.identities().is_empty(),
            "a banned agent serves nothing"
        );
        for identity in update.identities() {
            let found = self
                .entries
                .iter()
                .flatten()
                .find(|(_, entry)| entry.id == identity.entry_id);
            let (_, entry) = found.expect("the entry was deleted");
            assert!(
                entry.selectors.is_subset_of(caller),
                "another caller's entry"
            );
            assert!(!entry.store_svid, "an entry for a store");
            assert_eq!(
                *identity.svid.id(),
                entry.spiffe_id,
                "an identity that the entry no longer grants"
            );
            assert!(
                !identity.svid.validity().is_over(self.now),
                "an expired SVID"
            );
            let known = &self.authorities[..self.told_authorities];
            let signer = identity.svid.authority_key_id();
            assert!(
                known
                    .iter()
                    .any(|ca| ca.certificate.subject_key_id() == signer),
                "nobody can verify the SVID"
            );
        }
    }

    fn check_bounds(&self) {
        let census = self.state.census();
        let pinned = self.needed();
        assert!(
            census.x509_svids <= CAPACITY.max(pinned),
            "{census:?}, {pinned} needed"
        );
        assert!(self.batches.len() <= 5, "too many batches at once");
        assert_eq!(census.subscribers, self.shown.len());
        assert!(
            self.state
                .alarm(self.now)
                .is_none_or(|alarm| alarm > self.now),
            "an alarm that rings for ever"
        );
    }

    fn needed(&self) -> usize {
        let live = self
            .entries
            .iter()
            .flatten()
            .filter(|(_, entry)| !entry.store_svid);
        live.filter(|(_, entry)| {
            self.shown
                .keys()
                .any(|caller| entry.selectors.is_subset_of(caller))
        })
        .count()
    }

    /// The server is well from now on. Time passes, but less than an SVID's life.
    fn recover(&mut self) {
        self.sync();
        self.tell_bundles();
        for _ in 0..8 {
            while !self.batches.is_empty() {
                self.answer(false, How::Signed);
                self.tell_bundles();
            }
            let Some(alarm) = self.state.alarm(self.now) else {
                break;
            };
            self.now = alarm;
            self.apply(Event::TimePassed);
        }
        while !self.batches.is_empty() {
            self.answer(false, How::Signed);
        }
    }

    /// Every subscriber has exactly what it is entitled to.
    fn check_complete(&self) {
        for (caller, shown) in &self.shown {
            let entitled = |entry: &&Entry| {
                !self.banned && !entry.store_svid && entry.selectors.is_subset_of(caller)
            };
            let expected: Vec<_> = self
                .entries
                .iter()
                .flatten()
                .map(|(_, entry)| entry)
                .filter(entitled)
                .map(|entry| &entry.id)
                .collect();
            let update = shown.as_ref().expect("every subscriber is answered");
            let served: Vec<_> = update
                .identities()
                .iter()
                .map(|identity| &identity.entry_id)
                .collect();
            assert_eq!(served, expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Whatever happens, no update shows an expired, deleted, renamed, unverifiable or foreign SVID,
    /// the cache stays within its bounds, and in the end everybody has what it is entitled to.
    #[test]
    fn serves_everybody_its_own_and_nothing_else(steps in history(), pushes in any::<bool>()) {
        let mut world = World::new(pushes);
        for step in steps {
            world.step(step);
        }
        world.recover();
        world.check_complete();
    }

    /// Differences lead to the state that whole lists lead to.
    #[test]
    fn told_by_differences_it_serves_what_it_serves_told_by_lists(steps in history()) {
        let (mut lists, mut differences) = (World::new(false), World::new(true));
        for step in steps {
            lists.step(step.clone());
            differences.step(step);
        }
        lists.recover();
        differences.recover();
        differences.check_complete();
        prop_assert_eq!(lists.state.census().entries, differences.state.census().entries);
        for bits in 0..16 {
            let caller = chosen(bits);
            prop_assert_eq!(lists.state.entries_of(&caller), differences.state.entries_of(&caller));
        }
    }
}
