//! The feed of a server, and what the agent does with it, in simulated time.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use identity::entry::{EntriesDigest, Entry, EntryId};
use identity::key::KeyAlgorithm;
use identity::trust_domain::TrustDomain;
use proptest::prelude::*;
use runtime::readiness::Readiness;
use runtime::shutdown::ShutdownTrigger;
use runtime::tasks::TaskGroup;
use tokio::sync::mpsc;
use workload_api::source::{Subscription, Update};

use super::held::{Extent, Gathered, News};
use super::*;
use crate::cache::Metrics as CacheMetrics;
use crate::cache::driver::{self, Options};
use crate::upstream::Denial;
use crate::upstream::fake::{
    FakeServer, FeedKind, KEEPALIVE, Mood, bundle, entry, epoch, selectors, trust_domain,
};
use crate::upstream::feed::{MAX_CHANGE_BYTES, Piece, Position, Stamp, Told};

const TTL: Duration = Duration::from_secs(3600);
const PUSHING: FeedKind = FeedKind::Pushing { chunk: 2 };

/// An agent that keeps up with its server.
struct Agent {
    server: Arc<FakeServer>,
    driver: Arc<Driver<FakeServer>>,
    clock: Clock,
    readiness: Readiness,
    denials: mpsc::Receiver<Denial>,
    _trigger: ShutdownTrigger,
}

impl Agent {
    async fn start(feed: FeedKind, entries: impl IntoIterator<Item = Entry>) -> Self {
        let clock = Clock::simulated(epoch());
        let server = FakeServer::new(clock.clone(), TTL);
        server.set_entries(entries);
        server.set_feed(feed);
        let trigger = Shutdown::new().0;
        let tasks = TaskGroup::new(trigger.clone());
        let (sender, denials) = mpsc::channel(4);
        let deps = driver::Deps {
            upstream: Arc::clone(&server),
            clock: clock.clone(),
            tasks: tasks.clone(),
            metrics: CacheMetrics::default(),
            denials: sender,
            sealed: crate::sealed::SealedCache::default(),
        };
        let options = Options {
            key_algorithm: KeyAlgorithm::EcP256,
            ..Options::default()
        };
        let driver = Driver::new(Arc::new(server.own_bundle()), options, deps);
        tasks.spawn("cache", Arc::clone(&driver).run(trigger.subscribe()));
        let readiness = Readiness::new();
        let deps = Deps {
            upstream: Arc::clone(&server),
            driver: Arc::clone(&driver),
            clock: clock.clone(),
            health: readiness.component("sync"),
            metrics: Metrics::default(),
        };
        let mut sync = Sync::new(trust_domain(), DEFAULT_INTERVAL, deps);
        sync.once().await.unwrap();
        tasks.spawn("sync", sync.run(trigger.subscribe()));
        Self {
            server,
            driver,
            clock,
            readiness,
            denials,
            _trigger: trigger,
        }
    }

    fn subscribe(&self, texts: &[&str]) -> Subscription {
        self.driver.subscribe(&selectors(texts))
    }

    fn asked(&self) -> usize {
        self.server.asked.load(Ordering::Relaxed)
    }

    fn follows(&self) -> usize {
        self.server.follows.load(Ordering::Relaxed)
    }

    fn resumed(&self) -> usize {
        self.server.resumed.load(Ordering::Relaxed)
    }

    fn since(&self, before: SystemTime) -> Duration {
        self.clock.now().duration_since(before).unwrap()
    }
}

fn names(update: &Update) -> Vec<String> {
    let identities = update.identities().iter();
    identities
        .map(|identity| identity.svid.id().path().to_owned())
        .collect()
}

async fn sleep(length: Duration) {
    tokio::time::sleep(length).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_server_pushes_is_there_at_once_and_nobody_asks_for_anything() {
    let agent = Agent::start(PUSHING, []).await;
    let mut stream = agent.subscribe(&["a:1"]);
    assert_eq!(names(&stream.next().await.unwrap()), [""; 0]);
    let before = agent.clock.now();
    agent.server.set_entries([entry("web", &["a:1"])]);
    assert_eq!(names(&stream.next().await.unwrap()), ["/web"]);
    let entries = [
        entry("web", &["a:1"]),
        entry("x", &["a:1"]),
        entry("y", &["a:1"]),
    ];
    agent.server.set_entries(entries);
    // One change, told in several messages, is seen as one.
    assert_eq!(names(&stream.next().await.unwrap()).len(), 3);
    agent.server.set_entries([]);
    assert_eq!(names(&stream.next().await.unwrap()), [""; 0]);
    assert_eq!(agent.since(before), Duration::ZERO);
    assert_eq!(agent.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_agent_asks_for_nothing() {
    let agent = Agent::start(PUSHING, []).await;
    sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!((agent.asked(), agent.follows()), (0, 1));
    assert!(agent.readiness.is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_is_opened_again_at_once_where_it_was() {
    let agent = Agent::start(PUSHING, [entry("web", &["a:1"])]).await;
    let mut stream = agent.subscribe(&["a:1"]);
    stream.next().await.unwrap();
    let before = agent.clock.now();
    agent.server.restart().await;
    agent
        .server
        .set_entries([entry("web", &["a:1"]), entry("api", &["a:1"])]);
    assert_eq!(names(&stream.next().await.unwrap()), ["/api", "/web"]);
    assert!(agent.since(before) <= Duration::from_millis(100));
    assert_eq!((agent.follows(), agent.resumed()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn while_the_stream_is_down_the_agent_serves_and_says_that_it_is_not_ready() {
    let agent = Agent::start(PUSHING, [entry("web", &["a:1"])]).await;
    agent.subscribe(&["a:1"]).next().await.unwrap();
    agent.server.set_mood(Mood::Gone);
    sleep(Duration::from_secs(600)).await;
    assert!(!agent.readiness.is_ready());
    assert_eq!(
        names(&agent.subscribe(&["a:1"]).next().await.unwrap()),
        ["/web"]
    );
    assert!(agent.follows() < 60, "{}", agent.follows());
    agent.server.set_mood(Mood::Serving);
    sleep(Duration::from_secs(31)).await;
    assert!(agent.readiness.is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_given_up_after_two_keepalives() {
    let agent = Agent::start(PUSHING, []).await;
    agent.server.set_mood(Mood::Silent);
    sleep(KEEPALIVE * 2 - Duration::from_secs(1)).await;
    assert!(agent.readiness.is_ready());
    sleep(Duration::from_secs(2)).await;
    assert!(!agent.readiness.is_ready());
    agent.server.set_mood(Mood::Serving);
    sleep(Duration::from_secs(1)).await;
    assert!(agent.readiness.is_ready());
    assert_eq!(agent.follows(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_keeps_breaking_off_is_opened_more_and_more_rarely() {
    let agent = Agent::start(PUSHING, []).await;
    for _ in 0..600 {
        agent.server.restart().await;
        sleep(Duration::from_secs(1)).await;
    }
    assert!(agent.follows() < 100, "{}", agent.follows());
}

#[tokio::test(start_paused = true)]
async fn a_new_identity_follows_anew_without_losing_its_place() {
    let agent = Agent::start(PUSHING, [entry("web", &["a:1"])]).await;
    agent.server.renewals.send_replace(());
    sleep(Duration::from_millis(1)).await;
    assert_eq!((agent.follows(), agent.resumed()), (2, 1));
    assert!(agent.readiness.is_ready());
    assert_eq!(agent.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_ban_over_the_feed_takes_everything_away_and_is_reported() {
    let mut agent = Agent::start(PUSHING, [entry("web", &["a:1"])]).await;
    let mut stream = agent.subscribe(&["a:1"]);
    stream.next().await.unwrap();
    agent.server.set_mood(Mood::Denying(Denial::Banned));
    assert_eq!(names(&stream.next().await.unwrap()), [""; 0]);
    assert_eq!(agent.denials.recv().await, Some(Denial::Banned));
}

#[tokio::test(start_paused = true)]
async fn a_denial_of_the_identity_before_says_nothing_about_the_one_after() {
    let mut agent = Agent::start(PUSHING, [entry("web", &["a:1"])]).await;
    // What ends the old stream comes together with the identity that the new one has.
    agent.server.set_mood(Mood::Denying(Denial::NotActive));
    agent.server.renewals.send_replace(());
    agent.server.set_mood(Mood::Serving);
    sleep(Duration::from_secs(1)).await;
    assert!(agent.denials.try_recv().is_err());
    assert_eq!(agent.follows(), 2);
}

#[tokio::test(start_paused = true)]
async fn svids_of_a_tainted_authority_are_replaced_at_once_after_the_bundle() {
    let agent = Agent::start(PUSHING, [entry("web", &["a:1"])]).await;
    let mut stream = agent.subscribe(&["a:1"]);
    let first = stream.next().await.unwrap();
    let old = first.identities()[0].svid.authority_key_id();
    agent.server.rotate();
    let told = stream.next().await.unwrap();
    assert_eq!(told.bundles().own().x509_authorities.len(), 2);
    assert_eq!(told.identities()[0].svid.authority_key_id(), old);
    let before = agent.clock.now();
    agent.server.taint();
    loop {
        let update = stream.next().await.unwrap();
        // At no time without an identity.
        assert_eq!(names(&update), ["/web"]);
        if update.identities()[0].svid.authority_key_id() != old {
            break;
        }
    }
    agent.server.revoke();
    let update = stream.next().await.unwrap();
    assert_eq!(update.bundles().own().x509_authorities.len(), 1);
    assert_eq!(agent.since(before), Duration::ZERO);
    assert_eq!(agent.server.signed.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn svids_of_a_revoked_authority_are_replaced_at_once() {
    let agent = Agent::start(PUSHING, [entry("web", &["a:1"])]).await;
    let mut stream = agent.subscribe(&["a:1"]);
    stream.next().await.unwrap();
    agent.server.rotate();
    stream.next().await.unwrap();
    let before = agent.clock.now();
    agent.server.revoke();
    loop {
        let update = stream.next().await.unwrap();
        let signer = update.identities()[0].svid.authority_key_id().unwrap();
        let authorities = &update.bundles().own().x509_authorities;
        if authorities[0].authority_id() == signer {
            break;
        }
    }
    assert_eq!(agent.since(before), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn tokens_of_a_tainted_or_revoked_jwt_authority_are_dropped() {
    let agent = Agent::start(PUSHING, [entry("web", &["a:1"])]).await;
    let fetch = async || {
        let entry = agent.driver.entries_of(&selectors(&["a:1"])).remove(0);
        let svid = agent.driver.jwt_svid(&entry, &["x".to_owned()]).await;
        svid.unwrap().token().to_owned()
    };
    let settle = async || sleep(Duration::from_millis(1)).await;
    agent.server.set_jwt_authority(Some("key-1"), false);
    settle().await;
    let first = fetch().await;
    assert_eq!(fetch().await, first);
    agent.server.set_jwt_authority(Some("key-1"), true);
    settle().await;
    let second = fetch().await;
    assert_ne!(second, first);
    // Still tainted, so not kept either.
    assert_ne!(fetch().await, second);
    agent.server.set_jwt_authority(Some("key-1"), false);
    settle().await;
    let third = fetch().await;
    assert_eq!(fetch().await, third);
    agent.server.set_jwt_authority(None, false);
    settle().await;
    assert_ne!(fetch().await, third);
}

#[tokio::test(start_paused = true)]
async fn a_server_without_feed_is_polled_and_asked_for_one_later() {
    let agent = Agent::start(FeedKind::None, []).await;
    sleep(Duration::from_secs(300)).await;
    assert_eq!(agent.follows(), 1);
    assert!(agent.asked() > 60);
    agent.server.set_feed(PUSHING);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(agent.follows(), 2);
    let asked = agent.asked();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(agent.asked(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_away_is_asked_for_a_feed_when_it_is_back() {
    let agent = Agent::start(FeedKind::None, [entry("web", &["a:1"])]).await;
    agent.server.set_mood(Mood::Gone);
    sleep(Duration::from_secs(20)).await;
    agent.server.set_feed(PUSHING);
    agent.server.set_mood(Mood::Serving);
    sleep(Duration::from_secs(30)).await;
    // What was polled has a digest, too.
    assert_eq!(agent.resumed(), 1);
    let asked = agent.asked();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(agent.asked(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_breaks_its_feed_is_polled() {
    let agent = Agent::start(FeedKind::Broken, [entry("web", &["a:1"])]).await;
    let update = agent.subscribe(&["a:1"]).next().await.unwrap();
    assert_eq!(names(&update), ["/web"]);
    sleep(Duration::from_secs(300)).await;
    assert_eq!(agent.follows(), 1);
    assert!(agent.asked() > 60);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_entries_are_taken_in_pieces_and_one_more_by_itself() {
    let many = |count| (0..count).map(|n| entry(&format!("e{n}"), &[&format!("n:{n}")]));
    let agent = Agent::start(FeedKind::Pushing { chunk: 1000 }, many(10_000)).await;
    assert_eq!(agent.driver.census().entries, 10_000);
    let mut stream = agent.subscribe(&["a:1"]);
    stream.next().await.unwrap();
    let web = entry("web", &["a:1"]);
    agent.server.set_entries(many(10_000).chain([web]));
    assert_eq!(names(&stream.next().await.unwrap()), ["/web"]);
}

fn own_bundles() -> BTreeMap<TrustDomain, Option<Arc<identity::bundle::Bundle>>> {
    let ca = crate::upstream::fake::Ca::new();
    let own = Arc::new(bundle(&[&ca.certificate]));
    BTreeMap::from([(trust_domain(), Some(own))])
}

fn position(entries: &BTreeMap<EntryId, Entry>) -> Position {
    Position {
        lineage: b"l".to_vec(),
        revision: 1,
        digest: entries.values().collect::<EntriesDigest>().to_bytes(),
    }
}

fn told(entry: &Entry) -> (EntryId, Told) {
    (entry.id.clone(), Told::Entry(Arc::new(entry.clone())))
}

#[test]
fn a_change_that_exceeds_the_limits_is_refused() {
    let mut gathered = Gathered::default();
    let piece = |bytes| Piece {
        bytes,
        ..Piece::default()
    };
    assert!(gathered.add(piece(MAX_CHANGE_BYTES)).unwrap().is_none());
    assert_eq!(gathered.add(piece(1)).unwrap_err().reason(), "protocol");
}

#[test]
fn nothing_of_a_change_is_taken_if_the_digest_differs() {
    let mut held = Held::nothing(trust_domain());
    let entries = BTreeMap::from(
        [entry("a", &["a:1"]), entry("b", &["a:1"])].map(|entry| (entry.id.clone(), entry)),
    );
    let mut wrong = Piece {
        told: entries.values().take(1).map(told).collect(),
        bundles: own_bundles(),
        position: Some(position(&entries)),
        bytes: 1,
    };
    let change = Gathered::default()
        .add(std::mem::take(&mut wrong))
        .unwrap()
        .unwrap();
    assert!(held.take(change, Extent::Everything).is_err());
    assert!(held.entries().is_empty() && held.position().is_none());
}

#[test]
fn an_entry_that_nobody_can_read_is_served_no_more_and_still_counted() {
    let mut held = Held::nothing(trust_domain());
    let good = entry("a", &["a:1"]);
    let mut entries = BTreeMap::from([(good.id.clone(), good.clone())]);
    let first = Piece {
        told: vec![told(&good)],
        bundles: own_bundles(),
        position: Some(position(&entries)),
        bytes: 1,
    };
    let change = Gathered::default().add(first).unwrap().unwrap();
    held.take(change, Extent::Everything).unwrap();
    let second = Entry {
        revision: 1,
        ..good
    };
    let stamp = Stamp {
        revision: second.revision,
        created_at: second.created_at,
    };
    let id = second.id.clone();
    entries.insert(second.id.clone(), second);
    let piece = Piece {
        told: vec![(id, Told::Unreadable(stamp))],
        position: Some(position(&entries)),
        ..Piece::default()
    };
    let change = Gathered::default().add(piece).unwrap().unwrap();
    let News::Difference { removed, .. } = held.take(change, Extent::Difference).unwrap() else {
        panic!("a difference");
    };
    assert_eq!(removed.len(), 1);
    assert!(held.entries().is_empty());
    assert_eq!(held.position().unwrap().digest, position(&entries).digest);
}

proptest! {
    /// Told by differences or in full, cut as they may be, the agent holds the same entries.
    #[test]
    fn differences_lead_where_whole_lists_lead(
        history in prop::collection::vec((prop::collection::btree_map(0_u8..8, 0_i64..3, 0..8), any::<bool>(), 1_usize..4), 1..12)
    ) {
        let mut held = Held::nothing(trust_domain());
        let mut before = BTreeMap::new();
        let mut cache: BTreeMap<EntryId, Arc<Entry>> = BTreeMap::new();
        for (n, (wanted, whole, cut)) in history.into_iter().enumerate() {
            let now: BTreeMap<_, _> = wanted
                .into_iter()
                .map(|(n, revision)| Entry { revision, ..entry(&format!("e{n}"), &["a:1"]) })
                .map(|entry| (entry.id.clone(), entry))
                .collect();
            let extent = match (n, whole) {
                (0, _) | (_, true) => Extent::Everything,
                _ => Extent::Difference,
            };
            let mut items: Vec<_> = now
                .iter()
                .filter(|(id, entry)| extent == Extent::Everything || before.get(*id) != Some(*entry))
                .map(|(_, entry)| told(entry))
                .collect();
            if extent == Extent::Difference {
                let gone = before.keys().filter(|id| !now.contains_key(*id));
                items.extend(gone.map(|id: &EntryId| (id.clone(), Told::Removed)));
            }
            let mut gathered = Gathered::default();
            for items in items.chunks(cut) {
                let piece = Piece { told: items.to_vec(), bytes: 1, ..Piece::default() };
                prop_assert!(gathered.add(piece).unwrap().is_none());
            }
            let last = Piece { bundles: own_bundles(), position: Some(position(&now)), ..Piece::default() };
            let change = gathered.add(last).unwrap().unwrap();
            match held.take(change, extent).unwrap() {
                News::Everything(_, entries) => {
                    cache = entries.iter().map(|entry| (entry.id.clone(), Arc::clone(entry))).collect();
                }
                News::Difference { entries, removed, .. } => {
                    for id in &removed {
                        cache.remove(id);
                    }
                    cache.extend(entries.into_iter().map(|entry| (entry.id.clone(), entry)));
                }
            }
            let found: BTreeMap<_, _> = cache.iter().map(|(id, entry)| (id.clone(), (**entry).clone())).collect();
            prop_assert_eq!(&found, &now);
            prop_assert_eq!(held.entries().len(), now.len());
            prop_assert_eq!(held.position(), Some(position(&now)));
            before = now;
        }
    }
}

#[test]
fn waits_half_as_long_again_after_each_failure_up_to_four_minutes() {
    let mut pace = Pace {
        interval: DEFAULT_INTERVAL,
        failures: 0,
    };
    let waits: Vec<_> = (0..5).map(|_| pace.after_failure().as_millis()).collect();
    assert_eq!(waits, [5000, 7500, 11250, 16875, 25312]);
    for _ in 0..100 {
        pace.after_failure();
    }
    assert_eq!(pace.after_failure(), Duration::from_secs(240));
    assert_eq!(pace.after_success(true), DEFAULT_INTERVAL);
    assert_eq!(pace.after_failure(), DEFAULT_INTERVAL);
}

#[test]
fn a_long_interval_is_never_stretched_beyond_eight_minutes() {
    let mut pace = Pace {
        interval: Duration::from_secs(60),
        failures: 100,
    };
    assert_eq!(pace.after_failure(), LONGEST_WAIT);
}

#[test]
fn an_agent_without_svids_asks_at_least_every_five_seconds() {
    let mut pace = Pace {
        interval: Duration::from_secs(60),
        failures: 0,
    };
    assert_eq!(pace.after_success(false), DEFAULT_INTERVAL);
    assert_eq!(pace.after_success(true), Duration::from_secs(60));
}
