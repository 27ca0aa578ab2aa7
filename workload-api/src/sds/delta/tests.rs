//! What a stream of changes sends, and that its proxy holds exactly what is right.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::options::SdsOptions;
use crate::sds::fixture::{FIXTURE, NAMES, catalog, desk, names, one, responses, update, versions};

/// A stream that nothing ends.
struct Machine(Delta);

impl Machine {
    fn apply(&mut self, event: Event<Request>) -> Vec<Action> {
        self.0.apply(event).unwrap()
    }

    fn ask(&mut self, request: Request) -> Vec<Action> {
        self.apply(Event::Requested(request))
    }

    fn update(&mut self, identities: &[usize], federated: bool) -> Vec<Action> {
        self.apply(Event::Updated(update(identities, federated)))
    }
}

/// A stream that sees these identities and the foreign bundle.
fn machine(identities: &[usize]) -> Machine {
    let mut machine = Machine(Delta::open(desk()));
    assert!(machine.update(identities, true).is_empty());
    machine
}

fn read(names: &[&str]) -> Names {
    Names::read(names.iter().map(ToString::to_string)).unwrap()
}

fn subscribes(names: &[&str]) -> Request {
    Request {
        subscribe: read(names),
        ..Request::default()
    }
}

fn unsubscribes(names: &[&str]) -> Request {
    Request {
        unsubscribe: read(names),
        ..Request::default()
    }
}

fn acknowledges(response: &Response) -> Request {
    Request {
        nonce: response.nonce.clone(),
        ..Request::default()
    }
}

#[test]
fn of_many_secrets_the_one_that_changed_is_sent() {
    let all = ["spiffe://example.org/a", "spiffe://example.org/b", "ROOTCA"];
    let mut machine = machine(&[0, 1]);
    let first = one(machine.ask(subscribes(&all)));
    assert_eq!(first.resources.len(), 3);
    assert!(machine.ask(acknowledges(&first)).is_empty());
    assert!(machine.update(&[0, 1], true).is_empty());
    let second = one(machine.update(&[3, 1], true));
    assert_eq!(names(&second), ["spiffe://example.org/a"]);
    assert!(second.removed.is_empty());
    assert_ne!(second.nonce, first.nonce);
}

#[test]
fn all_names_of_one_identity_are_sent_and_change_together() {
    let wanted = ["default", "spiffe://example.org/a"];
    let mut machine = machine(&[0]);
    let bundles = ["ALL", "ROOTCA", "spiffe://example.org"];
    let first = one(machine.ask(subscribes(&[&wanted[..], &bundles[..]].concat())));
    assert_eq!(first.resources.len(), 5);
    assert_eq!(versions(&first)["default"], versions(&first)[wanted[1]]);
    assert_eq!(names(&one(machine.update(&[3], true))), wanted);
}

#[test]
fn an_unknown_name_is_told_as_removed_and_holds_nothing_back() {
    let foreign = "file-cert:/etc/certs/cert.pem~/etc/certs/key.pem";
    let mut machine = machine(&[0]);
    let first = one(machine.ask(subscribes(&["default", foreign, "spiffe://example.org/b"])));
    assert_eq!(names(&first), ["default"]);
    assert_eq!(first.removed, [foreign, "spiffe://example.org/b"]);
    assert!(machine.ask(acknowledges(&first)).is_empty());
    let second = one(machine.update(&[0, 1], true));
    assert_eq!(names(&second), ["spiffe://example.org/b"]);
    assert!(second.removed.is_empty());
}

#[test]
fn a_withdrawn_secret_is_told_as_removed_once() {
    let mut machine = machine(&[0]);
    machine.ask(subscribes(&["default", "ROOTCA"]));
    let second = one(machine.update(&[], true));
    assert_eq!(
        (names(&second), &second.removed[..]),
        (vec![], &["default".to_owned()][..])
    );
    assert!(machine.update(&[], true).is_empty());
    assert_eq!(names(&one(machine.update(&[0], true))), ["default"]);
}

#[test]
fn an_empty_name_that_a_proxy_says_it_has_is_no_name() {
    let claims = Request {
        has: [(String::new(), "a version".to_owned())].into(),
        ..Request::default()
    };
    assert!(one(machine(&[0]).ask(claims)).removed.is_empty());
}

#[test]
fn a_proxy_that_comes_back_is_sent_what_it_has_not() {
    let wanted = ["default", "ROOTCA", "ALL"];
    let first = one(machine(&[0]).ask(subscribes(&wanted)));
    let comes_back = Request {
        has: versions(&first).into_iter().collect(),
        ..subscribes(&wanted)
    };
    assert!(machine(&[0]).ask(comes_back.clone()).is_empty());
    assert_eq!(
        names(&one(machine(&[3]).ask(comes_back.clone()))),
        ["default"]
    );
    let gone = one(machine(&[]).ask(comes_back.clone()));
    // Without an identity, foreign bundles are not to be seen either.
    assert_eq!(
        (names(&gone), &gone.removed[..]),
        (vec!["ALL"], &["default".to_owned()][..])
    );
    let mut strange = comes_back;
    strange.has.insert("ROOTCA".to_owned(), "7".to_owned());
    assert_eq!(names(&one(machine(&[0]).ask(strange))), ["ROOTCA"]);
}

#[test]
fn versions_do_not_depend_on_the_stream_or_the_life_of_the_agent() {
    let first = one(machine(&[0]).ask(subscribes(&["ALL", "default"])));
    let svid = &FIXTURE.identities[0].svid;
    let cell = crate::sds::CertificateCell::default();
    assert_eq!(
        versions(&first)["default"],
        cell.of(svid).version().to_string()
    );
    let second = one(machine(&[1]).ask(subscribes(&["ALL"])));
    assert_eq!(versions(&first)["ALL"], versions(&second)["ALL"]);
}

#[test]
fn the_wildcard_follows_everything_there_is() {
    for first in [subscribes(&[]), subscribes(&["*"])] {
        let mut machine = machine(&[0]);
        let first = one(machine.ask(first));
        assert_eq!(
            names(&first),
            [
                "spiffe://example.org",
                "spiffe://example.org/a",
                "spiffe://foreign.test"
            ]
        );
        assert_eq!(
            names(&one(machine.update(&[0, 1], true))),
            ["spiffe://example.org/b"]
        );
        assert_eq!(
            one(machine.update(&[1], true)).removed,
            ["spiffe://example.org/a"]
        );
        assert!(machine.ask(unsubscribes(&["*"])).is_empty());
        assert!(machine.update(&[0, 1], false).is_empty());
        assert_eq!(
            names(&one(machine.ask(subscribes(&["default"])))),
            ["default"]
        );
    }
}

#[test]
fn a_proxy_of_everything_learns_at_once_that_there_is_nothing_new() {
    let everything = one(machine(&[0]).ask(subscribes(&["*"])));
    let comes_back = Request {
        has: versions(&everything).into_iter().collect(),
        ..subscribes(&["*"])
    };
    let answer = one(machine(&[0]).ask(comes_back.clone()));
    assert!(answer.resources.is_empty() && answer.removed.is_empty());
    let answer = one(machine(&[1]).ask(comes_back));
    assert_eq!(names(&answer), ["spiffe://example.org/b"]);
    assert_eq!(answer.removed, ["spiffe://example.org/a"]);
}

#[test]
fn an_unsubscribed_name_is_told_again_while_everything_is_wanted() {
    let mut machine = machine(&[0]);
    machine.ask(subscribes(&["*", "default", "spiffe://example.org/a"]));
    let answer = one(machine.ask(unsubscribes(&["default", "spiffe://example.org/a"])));
    assert_eq!(names(&answer), ["spiffe://example.org/a"]);
    assert_eq!(answer.removed, ["default"]);
}

#[test]
fn a_name_that_is_subscribed_again_is_sent_again() {
    let mut machine = machine(&[0]);
    machine.ask(subscribes(&["default", "ROOTCA"]));
    assert_eq!(
        names(&one(machine.ask(subscribes(&["ROOTCA"])))),
        ["ROOTCA"]
    );
    assert!(machine.ask(unsubscribes(&["ROOTCA", "never"])).is_empty());
    assert_eq!(
        names(&one(machine.ask(subscribes(&["ROOTCA"])))),
        ["ROOTCA"]
    );
}

#[test]
fn a_rejected_secret_is_not_sent_again_before_it_changes() {
    let mut machine = machine(&[0]);
    let first = one(machine.ask(subscribes(&["default"])));
    let rejects = Request {
        error: Some("bad key".to_owned()),
        ..acknowledges(&first)
    };
    for expected in 1..10 {
        let actions = machine.ask(rejects.clone());
        assert!(matches!(&actions[..],
            [Action::Remark(Remark::Rejected { error, times })]
                if error == "bad key" && *times == expected));
    }
    assert!(machine.update(&[0], true).is_empty());
    assert_eq!(names(&one(machine.update(&[3], true))), ["default"]);
}

#[test]
fn a_request_that_answers_an_older_response_subscribes_all_the_same() {
    let mut machine = machine(&[0]);
    let first = one(machine.ask(subscribes(&["default"])));
    machine.update(&[3], true);
    let late = Request {
        nonce: first.nonce,
        ..subscribes(&["ROOTCA"])
    };
    let actions = machine.ask(late);
    assert!(matches!(&actions[0], Action::Remark(Remark::StaleNonce)));
    assert_eq!(names(&one(actions)), ["ROOTCA"]);
}

#[test]
fn the_names_of_a_stream_are_bounded_however_they_come() {
    let mut machine = Delta::open(desk());
    for batch in 0..8 {
        let names = (0..128).map(|number| format!("name-{batch}-{number}"));
        let request = Request {
            subscribe: Names::read(names).unwrap(),
            ..Request::default()
        };
        machine.apply(Event::Requested(request)).unwrap();
    }
    let one_more = machine.apply(Event::Requested(subscribes(&["one-more"])));
    assert!(matches!(one_more, Err(Refusal::TooManyNames(..))));
    let long = Names::read((0..9).map(|number| number.to_string().repeat(20_000)));
    assert!(matches!(long, Err(Refusal::TooManyNames(..))));
    let has = (0..2000).map(|number| (number.to_string(), String::new()));
    let request = Request::try_from(DeltaRequest {
        initial_resource_versions: has.collect(),
        ..DeltaRequest::default()
    });
    assert!(matches!(request, Err(Refusal::TooManyNames(..))));
}

#[derive(Clone, Debug)]
enum Step {
    /// Names to subscribe and to unsubscribe.
    Ask(Vec<&'static str>, Vec<&'static str>),
    Update(Vec<usize>, bool),
    /// The answer to the last response: an acknowledgement, or a rejection.
    Judge(bool),
    /// The connection is lost, and the proxy comes back with what it has.
    Reconnect,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let names = || prop::collection::vec(prop::sample::select(NAMES.to_vec()), 0..3);
    let identities = prop::sample::subsequence(vec![0, 1, 2, 3], 0..=4);
    let step = prop_oneof![
        4 => (names(), names()).prop_map(|(more, less)| Step::Ask(more, less)),
        4 => (identities, any::<bool>()).prop_map(|(ids, federated)| Step::Update(ids, federated)),
        2 => any::<bool>().prop_map(Step::Judge),
        1 => Just(Step::Reconnect),
    ];
    prop::collection::vec(step, 0..40)
}

/// A proxy by the letter of the protocol: what it wants, and what it holds of it.
#[derive(Debug, Default)]
struct Proxy {
    asked: bool,
    everything: bool,
    names: BTreeSet<String>,
    holds: BTreeMap<String, String>,
    /// What it was told does not exist.
    absent: BTreeSet<String>,
    nonces: BTreeSet<String>,
    last_nonce: String,
}

impl Proxy {
    fn wants(&self, name: &str) -> bool {
        self.everything || self.names.contains(name)
    }

    /// The request that changes its subscriptions. As Envoy, it forgets what it unsubscribes.
    fn asks(&mut self, more: &[&str], less: &[&str]) -> Request {
        let (subscribe, unsubscribe) = (read(more), read(less));
        if !self.asked && subscribe.is_empty() {
            self.everything = true;
        }
        self.asked = true;
        for name in unsubscribe.iter() {
            if name == "*" {
                self.everything = false;
            } else {
                self.names.remove(name);
            }
        }
        for name in subscribe.iter() {
            if name == "*" {
                self.everything = true;
            } else {
                self.names.insert(name.clone());
            }
        }
        for name in unsubscribe.iter().filter(|name| *name != "*") {
            self.holds.remove(name);
        }
        let (names, everything) = (self.names.clone(), self.everything);
        self.holds
            .retain(|name, _| everything || names.contains(name));
        self.absent.retain(|name| names.contains(name));
        Request {
            subscribe,
            unsubscribe,
            ..Request::default()
        }
    }

    /// The first request of a new stream.
    fn comes_back(&mut self) -> Request {
        if self.names.is_empty() && !self.everything {
            // No names would stand for everything.
            self.names.insert("nothing".to_owned());
        }
        let everything = self.everything.then(|| "*".to_owned());
        let subscribe = Names::read(self.names.iter().cloned().chain(everything)).unwrap();
        self.absent.clear();
        Request {
            subscribe,
            has: self.holds.clone().into_iter().collect(),
            ..Request::default()
        }
    }

    fn takes(&mut self, response: &Response) -> Result<(), TestCaseError> {
        prop_assert!(
            self.nonces.insert(response.nonce.clone()),
            "a nonce was used twice"
        );
        self.last_nonce.clone_from(&response.nonce);
        let told: Vec<_> = names(response);
        let empty = told.is_empty() && response.removed.is_empty();
        prop_assert!(!empty || self.everything, "an empty response");
        for (name, version) in versions(response) {
            prop_assert!(self.wants(&name), "{} was not asked for", name);
            self.absent.remove(&name);
            self.holds.insert(name, version);
        }
        for name in &response.removed {
            prop_assert!(
                !told.contains(&name.as_str()),
                "{} is sent and removed",
                name
            );
            self.holds.remove(name);
            self.absent.insert(name.clone());
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn after_any_history_the_proxy_holds_exactly_what_is_right(steps in steps()) {
        let options = SdsOptions::default();
        let mut machine = Machine(Delta::open(desk()));
        let (mut proxy, mut current) = (Proxy::default(), None);
        for step in steps {
            let events = match step {
                Step::Ask(more, less) => vec![Event::Requested(proxy.asks(&more, &less))],
                Step::Update(identities, federated) => {
                    let update = update(&identities, federated);
                    current = Some(std::sync::Arc::clone(&update));
                    vec![Event::Updated(update)]
                }
                Step::Judge(rejects) => vec![Event::Requested(Request {
                    nonce: proxy.last_nonce.clone(),
                    error: rejects.then(|| "no".to_owned()),
                    ..Request::default()
                })],
                Step::Reconnect if !proxy.asked => vec![],
                Step::Reconnect => {
                    machine = Machine(Delta::open(desk()));
                    proxy.nonces.clear();
                    proxy.last_nonce.clear();
                    let first = Event::Requested(proxy.comes_back());
                    let update = current.clone().map(Event::Updated);
                    std::iter::once(first).chain(update).collect()
                }
            };
            let quiet = events.iter().all(|event| matches!(event, Event::Updated(_)));
            for event in events {
                // A judgement of nothing is the first request, and subscribes to everything.
                if matches!(&event, Event::Requested(_)) && !proxy.asked {
                    proxy.asks(&[], &[]);
                }
                let before = proxy.holds.clone();
                let new = responses(machine.apply(event));
                prop_assert!(new.len() <= 1);
                for response in &new {
                    proxy.takes(response)?;
                }
                if quiet {
                    // What has not changed is not sent.
                    for (name, version) in new.iter().flat_map(versions) {
                        prop_assert_ne!(before.get(&name), Some(&version));
                    }
                }
            }
            let (true, Some(update)) = (proxy.asked, &current) else {
                prop_assert!(proxy.nonces.is_empty());
                continue;
            };
            let catalog = catalog(update, &options);
            let mut right = BTreeMap::new();
            if proxy.everything {
                right.extend(catalog.everything());
            }
            for name in &proxy.names {
                match catalog.secret(name) {
                    Some(secret) => {
                        right.insert(name.clone(), secret);
                    }
                    // It was told, so it need not wait.
                    None => prop_assert!(proxy.absent.contains(name), "{} is pending", name),
                }
            }
            let right: BTreeMap<_, _> = right
                .into_iter()
                .map(|(name, secret)| (name, secret.version().to_string()))
                .collect();
            prop_assert_eq!(&proxy.holds, &right);
        }
    }
}
