//! One decision of the state at a time.

use super::*;
use crate::upstream::fake::{entry, selectors};

/// A state with its authority, and the actions that came out of it.
struct Bench {
    state: State,
    ca: Ca,
    now: SystemTime,
    actions: Vec<Action>,
}

impl Bench {
    fn new(capacity: usize) -> Self {
        let ca = Ca::new();
        let own = Arc::new(fake::bundle(&[&ca.certificate]));
        let state = State::new(
            own,
            Capacity {
                x509_svids: capacity,
                jwt_svids: 10,
            },
        );
        Self {
            state,
            ca,
            now: at(0),
            actions: Vec::new(),
        }
    }

    fn apply(&mut self, event: Event) -> &mut Self {
        self.actions.extend(self.state.apply(event, self.now));
        self
    }

    fn join(&mut self, texts: &[&str]) -> &mut Self {
        self.apply(Event::Joined(selectors(texts)))
    }

    /// Answers every batch, also those that come out of the answers.
    fn sign(&mut self) -> &mut Self {
        while let Some((batch, entries)) = self.take_batch() {
            let answers = entries
                .iter()
                .map(|entry| (entry.id.clone(), Ok(signed(&self.ca, entry, self.now, TTL))))
                .collect();
            self.apply(Event::Answered { batch, answers });
        }
        self
    }

    fn take_batch(&mut self) -> Option<(BatchId, Vec<Arc<Entry>>)> {
        let n = self
            .actions
            .iter()
            .position(|action| matches!(action, Action::Sign { .. }))?;
        let Action::Sign { batch, entries } = self.actions.remove(n) else {
            panic!("the action just found")
        };
        Some((batch, entries))
    }

    fn wait(&mut self, seconds: u64) -> &mut Self {
        self.now += Duration::from_secs(seconds);
        self.apply(Event::TimePassed)
    }

    /// What was published or withdrawn since the last look, as entry ids.
    fn published(&mut self) -> Vec<Option<Vec<String>>> {
        let shown = |action| match action {
            Action::Publish { update, .. } => Some(Some(
                update
                    .identities()
                    .iter()
                    .map(|identity| identity.entry_id.to_string())
                    .collect(),
            )),
            Action::Withdraw { .. } => Some(None),
            _ => None,
        };
        let (of_interest, rest) = self
            .actions
            .drain(..)
            .partition(|action| matches!(action, Action::Publish { .. } | Action::Withdraw { .. }));
        self.actions = rest;
        let of_interest: Vec<Action> = of_interest;
        of_interest.into_iter().filter_map(shown).collect()
    }
}

fn ids(texts: &[&str]) -> Option<Vec<String>> {
    Some(texts.iter().map(ToString::to_string).collect())
}

#[test]
fn nobody_is_told_anything_before_the_first_synchronization() {
    let mut bench = Bench::new(10);
    assert_eq!(bench.join(&["a:1"]).published(), []);
    assert_eq!(bench.apply(synced(&[])).published(), [ids(&[])]);
}

#[test]
fn a_caller_without_entries_is_told_so_at_once() {
    let mut bench = Bench::new(10);
    assert_eq!(
        bench
            .apply(synced(&[entry("e", &["a:1"])]))
            .join(&["a:2"])
            .published(),
        [ids(&[])]
    );
}

#[test]
fn a_subscriber_is_answered_when_all_of_its_entries_are_signed() {
    let mut bench = Bench::new(0);
    bench
        .apply(synced(&[entry("one", &["a:1"]), entry("two", &["b:1"])]))
        .join(&["a:1"])
        .sign();
    assert_eq!(bench.published(), [ids(&["one"])]);
    assert_eq!(bench.join(&["a:1", "b:1"]).published(), []);
    assert_eq!(bench.sign().published(), [ids(&["one", "two"])]);
}

#[test]
fn a_request_without_a_cached_svid_signs_now_and_before_what_nobody_asked_for() {
    let mut bench = Bench::new(1000);
    let many: Vec<_> = (0..300)
        .map(|n| entry(&format!("e{n:03}"), &[&format!("n:{n}")]))
        .collect();
    bench.apply(synced(&many));
    let (_, background) = bench.take_batch().unwrap();
    assert_eq!(background.len(), 100);
    bench.join(&["n:299"]);
    let (_, urgent) = bench.take_batch().unwrap();
    assert_eq!(urgent.len(), 1);
    assert_eq!(urgent[0].id.as_str(), "e299");
}

#[test]
fn entries_that_are_not_to_be_prefetched_wait_for_a_request() {
    let mut bench = Bench::new(10);
    let lazy = Entry {
        disable_x509_svid_prefetch: true,
        ..entry("lazy", &["a:1"])
    };
    assert!(bench.apply(synced(&[lazy])).take_batch().is_none());
    assert_eq!(bench.join(&["a:1"]).sign().published(), [ids(&["lazy"])]);
}

#[test]
fn entries_for_a_store_are_never_served() {
    let mut bench = Bench::new(10);
    let stored = Entry {
        store_svid: true,
        ..entry("stored", &["a:1"])
    };
    assert_eq!(
        bench
            .apply(synced(&[stored]))
            .join(&["a:1"])
            .sign()
            .published(),
        [ids(&[])]
    );
}

#[test]
fn an_svid_is_renewed_at_half_life_and_served_meanwhile() {
    let mut bench = Bench::new(10);
    bench
        .apply(synced(&[entry("e", &["a:1"])]))
        .join(&["a:1"])
        .sign()
        .published();
    assert_eq!(bench.state.alarm(bench.now), Some(at(1800)));
    assert!(bench.wait(1799).take_batch().is_none());
    assert_eq!(bench.wait(1).published(), []);
    assert_eq!(bench.sign().published(), [ids(&["e"])]);
    assert_eq!(bench.state.alarm(bench.now), Some(at(3600)));
}

#[test]
fn an_expired_svid_is_withdrawn_and_comes_back_with_the_server() {
    let mut bench = Bench::new(10);
    bench
        .apply(synced(&[entry("e", &["a:1"])]))
        .join(&["a:1"])
        .sign()
        .published();
    let (batch, _) = bench.wait(1800).take_batch().unwrap();
    bench.apply(Event::Unanswered {
        batch,
        spread: Duration::ZERO,
    });
    assert_eq!(bench.wait(1800).published(), [None]);
    assert!(
        bench
            .actions
            .iter()
            .any(|action| matches!(action, Action::Expired { .. }))
    );
    assert_eq!(bench.sign().published(), [ids(&["e"])]);
}

#[test]
fn a_clock_that_jumped_does_not_make_a_new_caller_get_an_expired_svid() {
    let mut bench = Bench::new(10);
    bench.apply(synced(&[entry("e", &["a:1"])])).sign();
    bench.now = at(4000);
    assert_eq!(bench.join(&["a:1"]).published(), []);
    assert_eq!(bench.sign().published(), [ids(&["e"])]);
}

#[test]
fn an_unreachable_server_is_tried_less_and_less_and_at_once_after_a_synchronization() {
    let mut bench = Bench::new(10);
    let entries = [entry("e", &["a:1"])];
    bench.apply(synced(&entries)).join(&["a:1"]);
    let mut waits = Vec::new();
    for _ in 0..11 {
        let (batch, _) = bench.take_batch().unwrap();
        bench.apply(Event::Unanswered {
            batch,
            spread: Duration::ZERO,
        });
        let alarm = bench.state.alarm(bench.now).unwrap();
        waits.push(alarm.duration_since(bench.now).unwrap().as_millis());
        bench.now = alarm;
        bench.apply(Event::TimePassed);
    }
    assert_eq!(
        waits,
        [
            500, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 128_000, 240_000, 240_000
        ]
    );
    let (batch, _) = bench.take_batch().unwrap();
    bench.apply(Event::Unanswered {
        batch,
        spread: Duration::ZERO,
    });
    assert!(bench.take_batch().is_none());
    assert_eq!(
        bench.apply(synced(&entries)).sign().published(),
        [ids(&["e"])]
    );
}

#[test]
fn the_last_tries_of_a_server_come_before_what_is_served_ends() {
    let mut bench = Bench::new(10);
    let entries = [entry("e", &["a:1"])];
    bench.apply(synced(&entries)).join(&["a:1"]).sign();
    bench.wait(1800);
    let (end, mut last) = (at(3600), bench.now);
    while bench.now < end {
        if let Some((batch, _)) = bench.take_batch() {
            last = bench.now;
            bench.apply(Event::Unanswered {
                batch,
                spread: Duration::from_secs(3600),
            });
        }
        bench.now = bench.state.alarm(bench.now).unwrap();
        bench.apply(Event::TimePassed);
    }
    assert!(
        end.duration_since(last).unwrap() <= Duration::from_secs(1),
        "{last:?}"
    );
}

#[test]
fn a_refused_entry_does_not_hold_up_the_others_and_is_tried_again() {
    let mut bench = Bench::new(10);
    bench
        .apply(synced(&[entry("bad", &["a:1"]), entry("good", &["b:1"])]))
        .join(&["a:1"])
        .join(&["b:1"]);
    while let Some((batch, entries)) = bench.take_batch() {
        let (ca, now) = (&bench.ca, bench.now);
        let answer = |entry: &Arc<Entry>| match entry.id.as_str() {
            "bad" => Err(Refused {
                spread: Duration::ZERO,
            }),
            _ => Ok(signed(ca, entry, now, TTL)),
        };
        let answers = entries
            .iter()
            .map(|entry| (entry.id.clone(), answer(entry)))
            .collect();
        bench.apply(Event::Answered { batch, answers });
    }
    assert_eq!(bench.published(), [ids(&["good"])]);
    assert_eq!(bench.wait(1).sign().published(), [ids(&["bad"])]);
}

#[test]
fn a_changed_entry_is_signed_again_and_its_old_svid_is_served_meanwhile() {
    let mut bench = Bench::new(10);
    bench
        .apply(synced(&[entry("e", &["a:1"])]))
        .join(&["a:1"])
        .sign()
        .published();
    bench.apply(synced(&[Entry {
        revision: 1,
        ..entry("e", &["a:1"])
    }]));
    assert_eq!(bench.published(), []);
    assert_eq!(bench.sign().published(), [ids(&["e"])]);
}

#[test]
fn an_entry_that_was_created_again_is_signed_again() {
    let mut bench = Bench::new(10);
    bench
        .apply(synced(&[entry("e", &["a:1"])]))
        .join(&["a:1"])
        .sign()
        .published();
    bench.apply(synced(&[Entry {
        created_at: at(5),
        ..entry("e", &["a:1"])
    }]));
    assert_eq!(bench.sign().published(), [ids(&["e"])]);
}

#[test]
fn a_deleted_entry_is_withdrawn_at_once() {
    let mut bench = Bench::new(10);
    bench
        .apply(synced(&[entry("e", &["a:1"]), entry("f", &["a:1"])]))
        .join(&["a:1"])
        .sign()
        .published();
    assert_eq!(
        bench.apply(synced(&[entry("f", &["a:1"])])).published(),
        [ids(&["f"])]
    );
    assert_eq!(bench.apply(synced(&[])).published(), [ids(&[])]);
}

#[test]
fn an_entry_whose_selectors_changed_leaves_its_old_callers_and_finds_new_ones() {
    let mut bench = Bench::new(10);
    bench
        .apply(synced(&[entry("e", &["a:1"])]))
        .join(&["a:1"])
        .join(&["a:2"])
        .sign()
        .published();
    let moved = Entry {
        revision: 1,
        ..entry("e", &["a:2"])
    };
    bench.apply(synced(&[moved]));
    assert_eq!(bench.published(), [ids(&[]), ids(&["e"])]);
}

#[test]
fn a_renamed_entry_hides_its_old_svid_and_streams_see_the_new_one_only() {
    let mut bench = Bench::new(10);
    bench
        .apply(synced(&[entry("e", &["a:1"])]))
        .join(&["a:1"])
        .sign()
        .published();
    let renamed = Entry {
        spiffe_id: SpiffeId::from_path(&fake::trust_domain(), "/new").unwrap(),
        revision: 1,
        ..entry("e", &["a:1"])
    };
    assert_eq!(bench.apply(synced(&[renamed])).published(), [None]);
    assert_eq!(bench.sign().published(), [ids(&["e"])]);
}

#[test]
fn the_answer_for_an_entry_that_was_renamed_meanwhile_is_thrown_away() {
    let mut bench = Bench::new(10);
    let old = entry("e", &["a:1"]);
    bench
        .apply(synced(std::slice::from_ref(&old)))
        .join(&["a:1"]);
    let (batch, _) = bench.take_batch().unwrap();
    let renamed = Entry {
        spiffe_id: SpiffeId::from_path(&fake::trust_domain(), "/new").unwrap(),
        revision: 1,
        ..old.clone()
    };
    bench.apply(synced(&[renamed]));
    let answers = BTreeMap::from([(old.id.clone(), Ok(signed(&bench.ca, &old, bench.now, TTL)))]);
    assert_eq!(
        bench.apply(Event::Answered { batch, answers }).published(),
        []
    );
    assert_eq!(bench.sign().published(), [ids(&["e"])]);
}

#[test]
fn an_svid_of_a_new_authority_waits_for_the_bundle_that_has_it() {
    let mut bench = Bench::new(10);
    bench.apply(synced(&[entry("e", &["a:1"])])).join(&["a:1"]);
    let old = std::mem::replace(&mut bench.ca, Ca::new());
    assert_eq!(bench.sign().published(), []);
    assert!(
        bench
            .actions
            .iter()
            .any(|action| matches!(action, Action::FetchBundles))
    );
    let update = bundles(&[&old, &bench.ca]);
    assert_eq!(bench.apply(update).published(), [ids(&["e"])]);
}

#[test]
fn an_svid_of_an_authority_that_no_bundle_has_is_never_served() {
    let mut bench = Bench::new(10);
    bench.apply(synced(&[entry("e", &["a:1"])])).join(&["a:1"]);
    let old = std::mem::replace(&mut bench.ca, Ca::new());
    bench.sign();
    for _ in 0..2 {
        let update = bundles(&[&old]);
        assert_eq!(bench.apply(update).published(), []);
    }
    bench.ca = old;
    assert_eq!(bench.wait(60).sign().published(), [ids(&["e"])]);
}

#[test]
fn the_svids_of_a_tainted_authority_are_replaced_and_served_meanwhile() {
    let mut bench = Bench::new(10);
    bench
        .apply(synced(&[entry("e", &["a:1"])]))
        .join(&["a:1"])
        .sign()
        .published();
    let old = std::mem::replace(&mut bench.ca, Ca::new());
    let mut own = fake::bundle(&[&old.certificate, &bench.ca.certificate]);
    own.x509_authorities[0].tainted = true;
    bench.apply(Event::Bundles {
        own: Arc::new(own),
        federated: BTreeMap::new(),
    });
    assert_eq!(bench.published(), [ids(&["e"])]);
    assert_eq!(bench.sign().published(), [ids(&["e"])]);
    assert!(bench.take_batch().is_none());
}

#[test]
fn an_svid_that_is_due_on_arrival_is_not_signed_in_a_loop() {
    let mut bench = Bench::new(10);
    bench.apply(synced(&[entry("e", &["a:1"])])).join(&["a:1"]);
    let (batch, entries) = bench.take_batch().unwrap();
    let late = signed(
        &bench.ca,
        &entries[0],
        at(0) - Duration::from_secs(3000),
        TTL,
    );
    bench.apply(Event::Answered {
        batch,
        answers: BTreeMap::from([(entries[0].id.clone(), Ok(late))]),
    });
    assert_eq!(bench.published(), [ids(&["e"])]);
    assert!(bench.take_batch().is_none());
    assert!(bench.wait(1).take_batch().is_some());
}

#[test]
fn an_svid_that_is_due_on_arrival_again_and_again_has_a_successor_until_its_last_moments() {
    let mut bench = Bench::new(10);
    bench.apply(synced(&[entry("e", &["a:1"])])).join(&["a:1"]);
    // The authority ends soon, and all that it signs with it.
    let begins = at(0) - Duration::from_secs(3000);
    let left = TTL.as_secs() - 3000;
    let mut asked = Vec::new();
    for second in 0..left {
        if let Some((batch, entries)) = bench.take_batch() {
            asked.push(second);
            let late = signed(&bench.ca, &entries[0], begins, TTL);
            let answers = BTreeMap::from([(entries[0].id.clone(), Ok(late))]);
            bench.apply(Event::Answered { batch, answers });
        }
        bench.wait(1);
    }
    assert!(asked.last() >= Some(&(left - 3)), "{left}: {asked:?}");
    assert!(asked.len() < 30, "{asked:?}");
}

#[test]
fn the_least_recently_used_svid_goes_first_and_never_one_that_a_stream_needs() {
    let mut bench = Bench::new(2);
    let entries: Vec<_> = (0..4)
        .map(|n| entry(&format!("e{n}"), &[&format!("n:{n}")]))
        .collect();
    bench.apply(synced(&entries)).sign();
    assert_eq!(bench.state.census().x509_svids, 2);
    for n in 0..4 {
        bench.join(&[&format!("n:{n}")]).sign();
    }
    assert_eq!(bench.state.census().x509_svids, 4);
    bench
        .apply(Event::Left(selectors(&["n:3"])))
        .apply(Event::Left(selectors(&["n:0"])));
    assert_eq!(bench.state.census().x509_svids, 2);
    bench.published();
    assert_eq!(bench.join(&["n:0"]).published(), []);
}

#[test]
fn subscribers_with_the_same_identities_share_one_update() {
    let mut bench = Bench::new(10);
    bench
        .apply(synced(&[entry("e", &["a:1"])]))
        .join(&["a:1"])
        .join(&["a:1", "b:1"])
        .sign();
    let updates: Vec<_> = bench
        .actions
        .iter()
        .filter_map(|action| {
            if let Action::Publish { update, .. } = action {
                Some(update)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(updates.len(), 2);
    assert!(Arc::ptr_eq(updates[0], updates[1]));
}

#[test]
fn a_change_that_a_subscriber_cannot_see_is_not_published() {
    let mut bench = Bench::new(10);
    let entries = [entry("e", &["a:1"]), entry("other", &["b:1"])];
    bench
        .apply(synced(&entries))
        .join(&["a:1"])
        .sign()
        .published();
    bench
        .apply(synced(&[
            entries[0].clone(),
            Entry {
                revision: 1,
                ..entries[1].clone()
            },
        ]))
        .sign();
    assert_eq!(bench.published(), []);
}

#[test]
fn a_banned_agent_shows_nothing_and_learns_nothing() {
    let mut bench = Bench::new(10);
    let entries = [entry("e", &["a:1"])];
    bench
        .apply(synced(&entries))
        .join(&["a:1"])
        .sign()
        .published();
    assert_eq!(bench.apply(Event::Banned).published(), [ids(&[])]);
    assert_eq!(bench.apply(synced(&entries)).sign().published(), []);
    assert_eq!(bench.join(&["a:1", "b:1"]).sign().published(), [ids(&[])]);
}

#[test]
fn batches_halve_while_the_server_fails_on_them_and_double_again() {
    let mut signing = Signing::default();
    let mut sizes = Vec::new();
    let ids: Vec<_> = (0..600)
        .map(|n| EntryId::parse(&format!("e{n}")).unwrap())
        .collect();
    let fill = |signing: &mut Signing| {
        for entry_id in &ids {
            signing.push(signing::Ticket {
                lane: signing::Lane::Urgent,
                served_until: at(0),
                entry_id: entry_id.clone(),
            });
        }
    };
    for fails in [true, true, true, false, false, false, false] {
        fill(&mut signing);
        let (batch, taken) = signing.next_batch(at(0)).unwrap();
        sizes.push(taken.len());
        if fails {
            signing.failed(batch, Duration::ZERO, at(0), |_id| None);
        } else {
            signing.answered(batch);
        }
    }
    assert_eq!(sizes, [500, 250, 125, 62, 124, 248, 496]);
}

#[test]
fn what_is_expected_is_signed_in_place_of_what_was_used_longest_ago() {
    let entries = [
        entry("a", &["k8s:ns:one"]),
        entry("b", &["k8s:ns:two"]),
        entry("c", &["k8s:ns:two", "k8s:container-name:x"]),
    ];
    let mut bench = Bench::new(1);
    let authority = bundles(&[&bench.ca]);
    bench.apply(authority).apply(synced(&entries)).sign();
    // There was room for one.
    assert_eq!(bench.state.census().x509_svids, 1);
    bench
        .apply(Event::Expected(selectors(&["k8s:ns:two", "k8s:sa:s"])))
        .sign();
    let census = bench.state.census();
    assert_eq!((census.x509_svids, census.queued), (1, 0));
    bench.published();
    // It is served at once, from what was signed ahead.
    bench.join(&["k8s:ns:two", "k8s:sa:s"]);
    assert!(bench.take_batch().is_none());
    assert_eq!(bench.published(), [Some(vec!["b".to_owned()])]);
}

#[test]
fn an_expected_caller_does_not_overrule_an_entry_that_is_not_to_be_prefetched() {
    let entry = Entry {
        disable_x509_svid_prefetch: true,
        ..entry("a", &["k8s:ns:one"])
    };
    let mut bench = Bench::new(10);
    let authority = bundles(&[&bench.ca]);
    bench.apply(authority).apply(synced(&[entry]));
    bench.apply(Event::Expected(selectors(&["k8s:ns:one"])));
    assert!(bench.take_batch().is_none());
}
