//! What a client holds after any changes, against what it may have; and how streams come and go.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use identity::bundle::Bundle;
use identity::entry::{EntriesDigest, Entry, EntryDraft};
use identity::selector::Selector;
use proptest::prelude::*;

use super::*;
use crate::index::authorized::Asker;
use crate::index::entries::StoredEntry;
use crate::records::agents::{Agent, Standing};
use crate::store::{Change, Key, Record};

fn own() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::from_path(&own(), path).unwrap()
}

fn agent_id(number: u8) -> SpiffeId {
    id(&format!("/spire/agent/x/{number}"))
}

fn selectors(values: &[u8]) -> Selectors {
    let selector = |value: &u8| Selector::new("s", &value.to_string()).unwrap();
    values.iter().map(selector).collect()
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn foreign(number: u8) -> TrustDomain {
    TrustDomain::parse(&format!("foreign{number}.org")).unwrap()
}

/// What one may do to a store.
#[derive(Clone, Debug)]
enum Write {
    Entry {
        name: u8,
        parent: u8,
        below: u8,
        of: Vec<u8>,
        federates: Option<u8>,
        expires: Option<u64>,
    },
    Delete(u8),
    Agent(u8, Vec<u8>),
    Evict(u8),
    Bundle(Option<u8>),
    NoBundle(u8),
}

/// One after the other, what happens.
#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Write>),
    /// The index shows several commits at once, or the client reads late.
    Advance,
    Read(u8),
    /// The client loses its connection in the middle of a change, and comes back, perhaps to a server
    /// that was started again.
    Return {
        agent: u8,
        restarted: bool,
    },
    Pass(u64),
}

const AGENTS: u8 = 3;

fn writes() -> impl Strategy<Value = Write> {
    let of = || prop::collection::vec(0_u8..3, 1..3);
    let entry = (
        0_u8..12,
        0_u8..10,
        0_u8..6,
        of(),
        prop::option::weighted(0.2, 0_u8..3),
        prop::option::weighted(0.2, 1_u64..200),
    );
    prop_oneof![
        12 => entry.prop_map(|(name, parent, below, of, federates, expires)| Write::Entry {
            name, parent, below, of, federates, expires,
        }),
        4 => (0_u8..12).prop_map(Write::Delete),
        2 => (0..AGENTS, of()).prop_map(|(agent, of)| Write::Agent(agent, of)),
        1 => (0..AGENTS).prop_map(Write::Evict),
        2 => prop::option::of(0_u8..3).prop_map(Write::Bundle),
        1 => (0_u8..3).prop_map(Write::NoBundle),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::collection::vec(writes(), 1..4).prop_map(Step::Commit),
        4 => Just(Step::Advance),
        4 => (0..AGENTS).prop_map(Step::Read),
        2 => (0..AGENTS, prop::bool::weighted(0.2))
            .prop_map(|(agent, restarted)| Step::Return { agent, restarted }),
        1 => (1_u64..60).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..60)
}

/// The store, the index and the dispatcher.
struct Server {
    hub: Hub,
    index: Arc<Snapshot>,
    now: SystemTime,
}

impl Server {
    fn new() -> Self {
        let snapshot = Snapshot::from_records(&own(), Revision::new(1), &[]).unwrap();
        let index = Arc::new(snapshot);
        let mut server = Self {
            hub: Hub::new(Arc::clone(&index), Metrics::default()),
            index,
            now: at(0),
        };
        let agents = (0..AGENTS).map(|agent| Write::Agent(agent, vec![agent]));
        server.commit(&agents.collect::<Vec<_>>());
        server
    }

    fn restart(&mut self) {
        self.hub = Hub::new(Arc::clone(&self.index), Metrics::default());
    }

    fn commit(&mut self, writes: &[Write]) {
        let revision = self.index.revision.next();
        // The last write of a key counts.
        let mut records: BTreeMap<Key, Option<bytes::Bytes>> = BTreeMap::new();
        for write in writes {
            let (key, value) = record(write, &self.index);
            records.insert(key, value);
        }
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        for (key, value) in records {
            match value {
                None => deletes.push(key),
                Some(value) => puts.push(Record {
                    key,
                    value,
                    revision,
                }),
            }
        }
        let change = Change {
            revision,
            puts,
            deletes,
        };
        self.index = Arc::new(self.index.after(&change).unwrap());
    }

    fn advance(&self) {
        self.hub.advance(Arc::clone(&self.index));
    }

    fn begin(&self, agent: &SpiffeId, held: Option<&Held>) -> (Follower, bool, Told) {
        Follower::begin(&self.hub, agent, Arc::clone(&self.index), held, self.now)
    }

    fn may_have(&self, agent: &SpiffeId) -> BTreeMap<EntryId, StoredEntry> {
        let record = self.index.agents.get(agent);
        let selectors = record.map_or_else(Selectors::default, |a| a.value.selectors.clone());
        let asker = Asker {
            id: agent,
            selectors: &selectors,
        };
        let entries = self.index.entries.authorized(asker, self.now);
        let by_id = |entry: StoredEntry| (entry.value.id.clone(), entry);
        entries.into_iter().map(by_id).collect()
    }

    fn bundles_for(&self, agent: &SpiffeId) -> BTreeMap<TrustDomain, Bundle> {
        let entries = self.may_have(agent);
        let federated = entries.values().flat_map(|e| &e.value.federates_with);
        let needed = federated.filter_map(|domain| self.index.bundles.get(domain));
        let all = needed.chain(self.index.bundles.own());
        all.map(|stored| (stored.value.trust_domain.clone(), stored.value.clone()))
            .collect()
    }
}

fn record(write: &Write, index: &Snapshot) -> (Key, Option<bytes::Bytes>) {
    match write {
        Write::Entry {
            name,
            parent,
            below,
            of,
            federates,
            expires,
        } => {
            let parent = match parent {
                0..6 => id(&format!("/w{parent}")),
                6 => SpiffeId::server(&own()),
                number => agent_id(number - 7),
            };
            let below = id(&format!("/w{below}"));
            let mut draft = EntryDraft::new(below, parent, selectors(of));
            draft.federates_with = federates.map(foreign).into_iter().collect();
            draft.expires_at = expires.map(at);
            let id = EntryId::parse(&format!("e{name}")).unwrap();
            let revision = index.entries.get(&id).map_or(0, |e| e.value.revision + 1);
            // An entry that was deleted and made again was made at another time.
            let created_at = match index.entries.get(&id) {
                Some(entry) => entry.value.created_at,
                None => at(index.revision.number()),
            };
            let entry: Entry =
                draft
                    .check(&own())
                    .unwrap()
                    .into_entry(id.clone(), revision, created_at);
            (
                Key::entry(&id),
                Some(crate::records::entries::encode(&entry)),
            )
        }
        Write::Delete(name) => (Key::entry(format!("e{name}")), None),
        Write::Agent(number, of) => {
            let agent = Agent {
                id: agent_id(*number),
                attestation_type: "x".into(),
                standing: Standing::Active {
                    serial: "1".to_owned(),
                    next: None,
                },
                expires_at: at(1 << 40),
                can_reattest: true,
                selectors: selectors(of),
                version: String::new(),
                used: None,
                joined_with: None,
                moved_from: Vec::new(),
            };
            let value = crate::records::agents::encode(&agent);
            (Key::agent(&agent.id), Some(value))
        }
        Write::Evict(number) => (Key::agent(agent_id(*number)), None),
        Write::Bundle(number) => {
            let trust_domain = number.map_or_else(own, foreign);
            let sequence = index
                .bundles
                .get(&trust_domain)
                .map_or(1, |b| b.value.sequence + 1);
            let bundle = Bundle {
                sequence,
                ..Bundle::new(trust_domain.clone())
            };
            let value = crate::records::bundles::encode(&bundle);
            (Key::bundle(&trust_domain), Some(value))
        }
        Write::NoBundle(number) => (Key::bundle(foreign(*number)), None),
    }
}

/// What an agent makes of what it is told.
struct Client {
    id: SpiffeId,
    follower: Option<Follower>,
    entries: BTreeMap<EntryId, StoredEntry>,
    bundles: BTreeMap<TrustDomain, Bundle>,
    held: Option<Held>,
}

impl Client {
    fn new(number: u8) -> Self {
        Self {
            id: agent_id(number),
            follower: None,
            entries: BTreeMap::new(),
            bundles: BTreeMap::new(),
            held: None,
        }
    }

    /// Comes back, and applies the first change.
    fn come(&mut self, server: &Server) -> bool {
        let (follower, resumed, told) = server.begin(&self.id, self.held.as_ref());
        self.follower = Some(follower);
        if !resumed {
            self.entries.clear();
        }
        self.bundles.clear();
        self.apply(server, told);
        resumed
    }

    fn read(&mut self, server: &Server) {
        let follower = self.follower.as_mut().unwrap();
        let told = follower.catch_up(server.now).unwrap();
        self.apply(server, told);
    }

    fn apply(&mut self, server: &Server, told: Told) {
        for entry in told.delta.entries {
            self.entries.insert(entry.value.id.clone(), entry);
        }
        for id in told.delta.removed {
            self.entries.remove(&id);
        }
        for bundle in told.delta.bundles {
            let bundle = bundle.value.clone();
            self.bundles.insert(bundle.trust_domain.clone(), bundle);
        }
        for name in told.delta.removed_bundles {
            self.bundles.remove(&name);
        }
        let mine: EntriesDigest = self.entries.values().map(|entry| &entry.value).collect();
        assert_eq!(mine, told.digest, "both sides count the same entries");
        self.held = Some(Held {
            lineage: server.hub.lineage().to_vec(),
            revision: told.snapshot.revision,
            digest: mine.to_bytes().to_vec(),
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is written, however late a client reads, and however often it comes back.
    #[test]
    fn a_client_that_caught_up_holds_what_it_may_have(steps in steps()) {
        let mut server = Server::new();
        let mut clients: Vec<Client> = (0..AGENTS).map(Client::new).collect();
        for client in &mut clients {
            client.come(&server);
        }
        for step in steps {
            match step {
                Step::Commit(writes) => server.commit(&writes),
                Step::Advance => server.advance(),
                Step::Read(agent) => clients[usize::from(agent)].read(&server),
                Step::Return { agent, restarted: false } => {
                    clients[usize::from(agent)].come(&server);
                }
                Step::Return { restarted: true, .. } => {
                    server.restart();
                    for client in &mut clients {
                        client.come(&server);
                    }
                }
                Step::Pass(seconds) => server.now += Duration::from_secs(seconds),
            }
        }
        server.advance();
        for client in &mut clients {
            client.read(&server);
            prop_assert_eq!(&client.entries, &server.may_have(&client.id));
            prop_assert_eq!(&client.bundles, &server.bundles_for(&client.id));
        }
    }
}

fn woken(client: &Client) -> bool {
    use futures_util::FutureExt;
    let follower = client.follower.as_ref().unwrap();
    follower.changed().now_or_never().is_some()
}

fn entry(name: u8, agent: u8) -> Write {
    Write::Entry {
        name,
        parent: 7 + agent,
        below: name % 6,
        of: vec![0],
        federates: None,
        expires: None,
    }
}

#[test]
fn a_commit_wakes_whom_it_concerns_and_nobody_else() {
    let mut server = Server::new();
    let mut clients: Vec<Client> = (0..AGENTS).map(Client::new).collect();
    for client in &mut clients {
        client.come(&server);
        while woken(client) {}
    }
    let mut woken_by = |write: Write| {
        server.commit(&[write]);
        server.advance();
        for client in &mut clients {
            client.read(&server);
        }
        clients.iter().map(woken).collect::<Vec<_>>()
    };
    assert_eq!(woken_by(entry(1, 1)), [false, true, false]);
    let alias = |of: u8| Write::Entry {
        name: 2,
        parent: 6,
        below: 5,
        of: vec![of],
        federates: None,
        expires: None,
    };
    assert_eq!(woken_by(alias(2)), [false, false, true]);
    // The alias moves from one agent to another.
    assert_eq!(woken_by(alias(0)), [true, false, true]);
    // The child of a workload of agent 1 is of agent 1 too.
    let nested = |federates| Write::Entry {
        name: 3,
        parent: 1,
        below: 4,
        of: vec![0],
        federates,
        expires: None,
    };
    assert_eq!(woken_by(nested(None)), [false, true, false]);
    assert_eq!(woken_by(Write::Bundle(Some(1))), [false; 3]);
    assert_eq!(woken_by(nested(Some(1))), [false, true, false]);
    assert_eq!(woken_by(Write::Bundle(Some(1))), [false, true, false]);
    assert_eq!(woken_by(Write::Bundle(None)), [true; 3]);
    assert_eq!(woken_by(Write::Agent(2, vec![2])), [false, false, true]);
    assert_eq!(woken_by(Write::Delete(1)), [false, true, false]);
}

#[test]
fn an_agent_that_comes_back_is_told_what_changed_meanwhile() {
    let mut server = Server::new();
    for name in 0..9 {
        server.commit(&[entry(name, 0)]);
    }
    let mut client = Client::new(0);
    assert!(!client.come(&server), "it held nothing");
    assert_eq!(client.entries.len(), 9);
    server.commit(&[entry(3, 0)]);
    server.commit(&[entry(10, 1)]);
    server.commit(&[Write::Delete(4)]);
    let (_, resumed, told) = server.begin(&client.id, client.held.as_ref());
    assert!(resumed);
    let told: Vec<_> = told
        .delta
        .entries
        .iter()
        .map(|e| e.value.id.as_str())
        .collect();
    assert_eq!(told, ["e3"]);
    assert!(client.come(&server));
    assert_eq!(client.entries, server.may_have(&client.id));
}

#[test]
fn after_a_restart_the_digest_decides() {
    let mut server = Server::new();
    server.commit(&[entry(1, 0)]);
    let mut client = Client::new(0);
    client.come(&server);
    server.restart();
    let (_, resumed, told) = server.begin(&client.id, client.held.as_ref());
    assert!(
        resumed && told.delta.entries.is_empty(),
        "it holds the same"
    );
    server.commit(&[entry(2, 0)]);
    server.restart();
    let (_, resumed, told) = server.begin(&client.id, client.held.as_ref());
    assert!(!resumed);
    assert_eq!(told.delta.entries.len(), 2);
}

#[test]
fn the_revision_of_another_life_of_the_store_says_nothing() {
    let mut original = Server::new();
    let backup = Arc::clone(&original.index);
    original.commit(&[entry(1, 0)]);
    let mut client = Client::new(0);
    client.come(&original);
    // Restored, it goes on from the backup and reaches the same revision with another content.
    let mut restored = Server::new();
    restored.index = backup;
    restored.restart();
    restored.commit(&[entry(2, 0)]);
    assert_eq!(restored.index.revision, original.index.revision);
    assert!(!client.come(&restored));
    assert_eq!(client.entries, restored.may_have(&client.id));
}

#[test]
fn an_entry_is_taken_back_when_it_expires_and_not_when_it_is_pruned() {
    let mut server = Server::new();
    let mut expiring = entry(1, 0);
    if let Write::Entry { expires, .. } = &mut expiring {
        *expires = Some(100);
    }
    server.commit(&[expiring, entry(2, 0)]);
    let mut client = Client::new(0);
    client.come(&server);
    let follower = client.follower.as_ref().unwrap();
    assert_eq!(follower.next_expiry(), Some(at(100)));
    server.now = at(99);
    client.read(&server);
    assert_eq!(client.entries.len(), 2);
    server.now = at(100);
    client.read(&server);
    assert_eq!(client.entries.len(), 1);
    assert_eq!(client.follower.as_ref().unwrap().next_expiry(), None);
    server.commit(&[Write::Delete(1)]);
    server.advance();
    let told = client
        .follower
        .as_mut()
        .unwrap()
        .catch_up(server.now)
        .unwrap();
    assert!(told.delta.is_empty());
}

#[test]
fn a_second_stream_of_an_agent_ends_the_first_and_leaves_nothing_behind() {
    let server = Server::new();
    let (mut first, ..) = server.begin(&agent_id(0), None);
    let (mut second, ..) = server.begin(&agent_id(0), None);
    assert!(first.catch_up(server.now).is_none());
    drop(first);
    assert!(second.catch_up(server.now).is_some());
    assert_eq!(server.hub.len(), 1);
    drop(second);
    let state = server.hub.state.lock();
    assert!(state.streams.is_empty() && state.by_alias.is_empty());
    assert!(state.by_trust_domain.is_empty());
}

#[test]
fn the_marks_of_a_slow_reader_are_bounded() {
    let mut server = Server::new();
    let mut client = Client::new(0);
    client.come(&server);
    for number in 0..MAX_TOUCHED + 1 {
        let id = EntryId::parse(&format!("many{number}")).unwrap();
        let draft = EntryDraft::new(id_of(number), agent_id(0), selectors(&[0]));
        let entry = draft
            .check(&own())
            .unwrap()
            .into_entry(id.clone(), 0, at(0));
        let mut next = Snapshot::clone(&server.index);
        next.revision = next.revision.next();
        next.entries.insert(next.revision, entry);
        server.index = Arc::new(next);
        server.advance();
    }
    let touched = server.hub.state.lock().streams[&client.id].touched.clone();
    assert_eq!(touched, Touched::All);
    client.read(&server);
    assert_eq!(client.entries.len(), MAX_TOUCHED + 1);
}

fn id_of(number: usize) -> SpiffeId {
    id(&format!("/many/{number}"))
}
