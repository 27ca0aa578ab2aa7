//! The driver and the synchronization with a server, in simulated time.

use std::sync::atomic::Ordering;

use identity::trust_domain::TrustDomain;
use runtime::clock::Clock;
use runtime::readiness::Readiness;
use runtime::shutdown::{Reason, Shutdown, ShutdownTrigger};
use runtime::tasks::TaskGroup;
use tokio::sync::mpsc;
use workload_api::source::Subscription;

use super::super::driver::{Deps, Driver, Options};
use super::*;
use crate::sync::{self, Sync};
use crate::upstream::fake::{FakeServer, Mood, entry, selectors};
use crate::upstream::{Denial, EntrySet, UpstreamError};

/// An agent's cache with its server, in simulated time.
struct Agent {
    server: Arc<FakeServer>,
    driver: Arc<Driver<FakeServer>>,
    clock: Clock,
    tasks: TaskGroup,
    trigger: ShutdownTrigger,
    readiness: Readiness,
    denials: mpsc::Receiver<Denial>,
    sync: Option<Sync<FakeServer>>,
}

impl Agent {
    async fn start(entries: impl IntoIterator<Item = Entry>) -> Self {
        let clock = Clock::simulated(epoch());
        let server = FakeServer::new(clock.clone(), TTL);
        server.set_entries(entries);
        let trigger = Shutdown::new().0;
        let tasks = TaskGroup::new(trigger.clone());
        let (sender, denials) = mpsc::channel(4);
        let deps = Deps {
            upstream: Arc::clone(&server),
            clock: clock.clone(),
            tasks: tasks.clone(),
            metrics: Metrics::default(),
            denials: sender,
            sealed: crate::sealed::SealedCache::default(),
        };
        let driver = Driver::new(Arc::new(server.own_bundle()), Options::default(), deps);
        tasks.spawn("cache", Arc::clone(&driver).run(trigger.subscribe()));
        let readiness = Readiness::new();
        let deps = sync::Deps {
            upstream: Arc::clone(&server),
            driver: Arc::clone(&driver),
            clock: clock.clone(),
            health: readiness.component("sync"),
            metrics: sync::Metrics::default(),
        };
        let mut sync = Sync::new(fake::trust_domain(), sync::DEFAULT_INTERVAL, deps);
        sync.once().await.unwrap();
        Self {
            server,
            driver,
            clock,
            tasks,
            trigger,
            readiness,
            denials,
            sync: Some(sync),
        }
    }

    fn keep_synced(&mut self) {
        let sync = self.sync.take().unwrap();
        self.tasks.spawn("sync", sync.run(self.trigger.subscribe()));
    }

    fn subscribe(&self, texts: &[&str]) -> Subscription {
        self.driver.subscribe(&selectors(texts))
    }

    async fn jwt(&self, audience: &str) -> Result<String, &'static str> {
        let entry = self.driver.entries_of(&selectors(&["a:1"])).remove(0);
        let svid = self.driver.jwt_svid(&entry, &[audience.to_owned()]).await;
        svid.map(|svid| svid.token().to_owned())
            .map_err(|error| error.reason())
    }
}

fn names(update: &Update) -> Vec<String> {
    update
        .identities()
        .iter()
        .map(|identity| identity.svid.id().path().to_owned())
        .collect()
}

async fn sleep(length: Duration) {
    tokio::time::sleep(length).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_svid_comes_without_waiting_for_any_timer() {
    let agent = Agent::start([Entry {
        disable_x509_svid_prefetch: true,
        ..entry("web", &["a:1"])
    }])
    .await;
    let before = agent.clock.now();
    let update = agent.subscribe(&["a:1"]).next().await.unwrap();
    assert_eq!(names(&update), ["/web"]);
    assert_eq!(agent.clock.now(), before);
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_identity_gets_an_empty_update_at_once() {
    let agent = Agent::start([entry("web", &["a:1"])]).await;
    let update = agent.subscribe(&["b:1"]).next().await.unwrap();
    assert!(update.identities().is_empty());
    assert_eq!(update.bundles().own().x509_authorities.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_entries_are_signed_before_anybody_asks_in_batches() {
    let agent =
        Agent::start((0..1200).map(|n| entry(&format!("e{n}"), &[&format!("n:{n}")]))).await;
    while agent.driver.census().x509_svids < 1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(agent.server.signed.load(Ordering::Relaxed), 1000);
    assert_eq!(agent.server.batches.load(Ordering::Relaxed), 10);
}

#[tokio::test(start_paused = true)]
async fn a_stream_sees_its_svid_renewed_at_half_life_with_a_new_key() {
    let agent = Agent::start([entry("web", &["a:1"])]).await;
    let mut stream = agent.subscribe(&["a:1"]);
    // The first renewals after a start come earlier, so that a fleet spreads.
    sleep(2 * TTL).await;
    let first = stream.next().await.unwrap();
    let second = stream.next().await.unwrap();
    let issued = |update: &Update| update.identities()[0].svid.validity().not_before();
    let waited = issued(&second).duration_since(issued(&first)).unwrap();
    assert!(
        waited > TTL / 2 - TTL / 10 && waited <= TTL / 2 + Duration::from_secs(1),
        "{waited:?}"
    );
    assert_ne!(
        first.identities()[0].svid.key().public_key(),
        second.identities()[0].svid.key().public_key()
    );
}

#[tokio::test(start_paused = true)]
async fn a_created_changed_and_deleted_entry_reaches_its_streams_within_a_sync_interval() {
    let mut agent = Agent::start([]).await;
    agent.keep_synced();
    let mut stream = agent.subscribe(&["a:1"]);
    assert_eq!(names(&stream.next().await.unwrap()), [""; 0]);
    agent.server.set_entries([entry("web", &["a:1"])]);
    let before = agent.clock.now();
    assert_eq!(names(&stream.next().await.unwrap()), ["/web"]);
    assert!(agent.clock.now().duration_since(before).unwrap() < Duration::from_secs(6));
    let renamed = SpiffeId::from_path(&fake::trust_domain(), "/new").unwrap();
    agent.server.set_entries([Entry {
        spiffe_id: renamed,
        revision: 1,
        ..entry("web", &["a:1"])
    }]);
    assert_eq!(names(&stream.next().await.unwrap()), ["/new"]);
    agent.server.set_entries([]);
    assert_eq!(names(&stream.next().await.unwrap()), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn with_the_server_gone_an_svid_is_served_until_it_expires_and_comes_back_with_it() {
    let mut agent = Agent::start([entry("web", &["a:1"])]).await;
    agent.subscribe(&["a:1"]).next().await.unwrap();
    agent.keep_synced();
    agent.server.set_mood(Mood::Gone);
    sleep(TTL - Duration::from_secs(60)).await;
    assert_eq!(
        names(&agent.subscribe(&["a:1"]).next().await.unwrap()),
        ["/web"]
    );
    assert!(!agent.readiness.is_ready());
    sleep(Duration::from_secs(60)).await;
    let mut stream = agent.subscribe(&["a:1"]);
    assert!(futures_util::poll!(Box::pin(stream.next())).is_pending());
    agent.server.set_mood(Mood::Serving);
    assert_eq!(names(&stream.next().await.unwrap()), ["/web"]);
    sleep(Duration::from_secs(300)).await;
    assert!(agent.readiness.is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_stream_learns_of_a_new_authority_no_later_than_of_an_svid_that_it_signed() {
    let mut agent = Agent::start([entry("web", &["a:1"])]).await;
    let mut stream = agent.subscribe(&["a:1"]);
    stream.next().await.unwrap();
    agent.keep_synced();
    agent.server.rotate();
    agent.server.set_entries([Entry {
        revision: 1,
        ..entry("web", &["a:1"])
    }]);
    loop {
        let update = stream.next().await.unwrap();
        let signer = update.identities()[0].svid.authority_key_id().unwrap();
        let authorities = &update.bundles().own().x509_authorities;
        assert!(
            authorities
                .iter()
                .any(|authority| authority.authority_id() == signer)
        );
        if authorities.len() == 2 && authorities[1].authority_id() == signer {
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_svid_of_an_unknown_authority_makes_the_agent_fetch_the_bundle_at_once() {
    let mut agent = Agent::start([Entry {
        disable_x509_svid_prefetch: true,
        ..entry("web", &["a:1"])
    }])
    .await;
    agent.keep_synced();
    tokio::task::yield_now().await;
    agent.server.rotate();
    let before = agent.clock.now();
    let update = agent.subscribe(&["a:1"]).next().await.unwrap();
    assert_eq!(update.bundles().own().x509_authorities.len(), 2);
    assert_eq!(agent.clock.now(), before);
    assert_eq!(agent.driver.own_bundle().borrow().x509_authorities.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_bundles_of_federated_trust_domains_come_with_the_identity() {
    let other = TrustDomain::parse("other.org").unwrap();
    let unknown = TrustDomain::parse("unknown.org").unwrap();
    let mut agent = Agent::start([]).await;
    agent.server.federate(&other);
    let federated = Entry {
        federates_with: [other.clone(), unknown].into(),
        ..entry("web", &["a:1"])
    };
    agent.server.set_entries([federated]);
    agent.sync.as_mut().unwrap().once().await.unwrap();
    let update = agent.subscribe(&["a:1"]).next().await.unwrap();
    assert_eq!(
        update.bundles().federated().keys().collect::<Vec<_>>(),
        [&other]
    );
    assert!(Arc::ptr_eq(
        &agent.driver.bundles_of(&selectors(&["a:1"])),
        update.bundles()
    ));
    assert!(
        agent
            .driver
            .bundles_of(&selectors(&["b:1"]))
            .federated()
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn a_ban_takes_everything_away_and_is_reported() {
    let mut agent = Agent::start([entry("web", &["a:1"])]).await;
    let mut stream = agent.subscribe(&["a:1"]);
    stream.next().await.unwrap();
    agent.keep_synced();
    agent.server.set_mood(Mood::Denying(Denial::Banned));
    assert_eq!(names(&stream.next().await.unwrap()), [""; 0]);
    assert_eq!(agent.denials.recv().await, Some(Denial::Banned));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_has_to_attest_again_says_so_and_serves_on() {
    let mut agent = Agent::start([entry("web", &["a:1"])]).await;
    agent.subscribe(&["a:1"]).next().await.unwrap();
    agent.keep_synced();
    for denial in [
        Denial::Expired,
        Denial::NotAttested,
        Denial::NotActive,
        Denial::MustReattest,
    ] {
        agent.server.set_mood(Mood::Denying(denial));
        while agent.denials.recv().await != Some(denial) {}
        assert_eq!(
            names(&agent.subscribe(&["a:1"]).next().await.unwrap()),
            ["/web"]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_every_stream() {
    let agent = Agent::start([entry("web", &["a:1"])]).await;
    let mut stream = agent.subscribe(&["a:1"]);
    stream.next().await.unwrap();
    agent.trigger.trigger(Reason::Requested("test"));
    assert!(stream.next().await.is_none());
    assert!(agent.subscribe(&["a:1"]).next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ended_is_forgotten() {
    let mut agent = Agent::start([entry("web", &["a:1"])]).await;
    drop(agent.subscribe(&["a:1"]));
    let kept = agent.subscribe(&["b:1"]);
    agent.sync.as_mut().unwrap().once().await.unwrap();
    assert_eq!(agent.driver.census().subscribers, 1);
    drop(kept);
    for n in 0..1000 {
        drop(agent.subscribe(&[&format!("n:{n}")]));
        assert!(agent.driver.census().subscribers < 200);
    }
}

#[tokio::test(start_paused = true)]
async fn an_own_bundle_without_authorities_is_not_taken_over() {
    let mut agent = Agent::start([]).await;
    agent.server.empty_bundle();
    let error = agent.sync.as_mut().unwrap().once().await.unwrap_err();
    assert!(matches!(error, UpstreamError::Protocol { .. }));
    assert_eq!(agent.driver.own_bundle().borrow().x509_authorities.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn callers_that_want_the_same_jwt_svid_share_one_request_and_its_answer() {
    let agent = Agent::start([entry("web", &["a:1"])]).await;
    let (one, two) = tokio::join!(agent.jwt("x"), agent.jwt("x"));
    assert_eq!(one, two);
    assert_eq!(agent.jwt("x").await, one);
    assert_eq!(agent.server.tokens.load(Ordering::Relaxed), 1);
    assert_ne!(agent.jwt("y").await, one);
}

#[tokio::test(start_paused = true)]
async fn a_jwt_svid_is_renewed_from_half_life_on_and_served_stale_while_the_server_is_gone() {
    let agent = Agent::start([entry("web", &["a:1"])]).await;
    let first = agent.jwt("x").await.unwrap();
    sleep(TTL / 2).await;
    agent.server.set_mood(Mood::Gone);
    assert_eq!(agent.jwt("x").await.unwrap(), first);
    agent.server.set_mood(Mood::Silent);
    let before = agent.clock.now();
    assert_eq!(agent.jwt("x").await.unwrap(), first);
    assert!(agent.clock.now().duration_since(before).unwrap() <= Duration::from_secs(3));
    agent.server.set_mood(Mood::Serving);
    tokio::task::yield_now().await;
    assert_ne!(agent.jwt("x").await.unwrap(), first);
}

#[tokio::test(start_paused = true)]
async fn a_banned_agent_serves_no_stale_jwt_svid_either() {
    let agent = Agent::start([entry("web", &["a:1"])]).await;
    agent.jwt("x").await.unwrap();
    sleep(TTL / 2).await;
    agent.server.set_mood(Mood::Denying(Denial::Banned));
    assert_eq!(agent.jwt("x").await, Err("jwt_upstream"));
}

#[tokio::test(start_paused = true)]
async fn a_jwt_svid_that_was_asked_for_under_an_older_name_is_not_given_out() {
    let agent = Agent::start([entry("web", &["a:1"])]).await;
    agent.server.set_mood(Mood::Silent);
    let early = agent.jwt("x");
    let late = async {
        tokio::task::yield_now().await;
        let renamed = SpiffeId::from_path(&fake::trust_domain(), "/new").unwrap();
        let entries = [Entry {
            spiffe_id: renamed,
            revision: 1,
            ..entry("web", &["a:1"])
        }];
        let entries: EntrySet = entries.into_iter().map(Arc::new).collect();
        let own = Arc::new(agent.server.own_bundle());
        agent.driver.synced((own, BTreeMap::new()), entries);
        let joined = agent.jwt("x");
        agent.server.set_mood(Mood::Serving);
        joined.await
    };
    let (early, late) = tokio::join!(early, late);
    assert!(early.is_ok());
    assert_eq!(late, Err("jwt_upstream"));
}

#[tokio::test(start_paused = true)]
async fn an_expired_jwt_svid_is_not_served() {
    let agent = Agent::start([entry("web", &["a:1"])]).await;
    agent.jwt("x").await.unwrap();
    sleep(TTL).await;
    agent.server.set_mood(Mood::Gone);
    assert_eq!(agent.jwt("x").await, Err("jwt_upstream"));
}

#[tokio::test(start_paused = true)]
async fn a_jwt_svid_is_asked_for_again_while_the_server_restarts() {
    let agent = Agent::start([entry("web", &["a:1"])]).await;
    agent.server.set_mood(Mood::Gone);
    let back = async {
        sleep(Duration::from_secs(5)).await;
        agent.server.set_mood(Mood::Serving);
    };
    let (token, ()) = tokio::join!(agent.jwt("x"), back);
    assert!(token.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_jwt_svid_does_not_outlive_its_entry() {
    let mut agent = Agent::start([entry("web", &["a:1"])]).await;
    let first = agent.jwt("x").await.unwrap();
    agent.server.set_entries([Entry {
        revision: 1,
        ..entry("web", &["a:1"])
    }]);
    agent.sync.as_mut().unwrap().once().await.unwrap();
    assert_ne!(agent.jwt("x").await.unwrap(), first);
}

#[tokio::test(start_paused = true)]
async fn tokens_for_one_use_are_never_cached() {
    let agent = Agent::start([Entry {
        jwt_svid_include_jti: true,
        ..entry("web", &["a:1"])
    }])
    .await;
    assert_ne!(agent.jwt("x").await.unwrap(), agent.jwt("x").await.unwrap());
}
