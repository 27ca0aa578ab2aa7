//! What is told of a process, case by case.

use std::collections::BTreeMap;
use std::time::Duration;

use attestors::workload::Denial as Contradiction;
use identity::entry::Entry;
use runtime::clock::Clock;
use runtime::readiness::Readiness;
use runtime::shutdown::Shutdown;
use runtime::tasks::TaskGroup;
use tokio::sync::{mpsc, watch};
use workload_api::source::IdentitySource;

use super::*;
use crate::attest::tests::Fake;
use crate::attest::{self, Attestors, WorkloadAttestor};
use crate::cache::account::Progress;
use crate::cache::driver::{self, Driver, Options};
use crate::cache::{Metrics, Phase};
use crate::sync::{self, Sync};
use crate::upstream::EntrySet;
use crate::upstream::fake::{self, FakeServer, Mood, entry, epoch};

const TTL: Duration = Duration::from_secs(3600);

/// An agent, and a process that its attestors see so.
struct World {
    server: Arc<FakeServer>,
    driver: Arc<Driver<FakeServer>>,
    source: Source<FakeServer>,
    sync: Sync<FakeServer>,
    peer: Arc<Peer>,
}

impl World {
    fn new(fakes: impl IntoIterator<Item = Fake>, loggable: &[&str]) -> Self {
        let clock = Clock::simulated(epoch());
        let server = FakeServer::new(clock.clone(), TTL);
        let deps = driver::Deps {
            upstream: Arc::clone(&server),
            clock: clock.clone(),
            tasks: TaskGroup::new(Shutdown::new().0),
            metrics: Metrics::default(),
            denials: mpsc::channel(4).0,
            sealed: crate::sealed::SealedCache::default(),
        };
        let driver = Driver::new(Arc::new(server.own_bundle()), Options::default(), deps);
        let deps = sync::Deps {
            upstream: Arc::clone(&server),
            driver: Arc::clone(&driver),
            clock,
            health: Readiness::new().component("sync"),
            metrics: sync::Metrics::default(),
        };
        let status = watch::Sender::default();
        let sync = Sync::new(fake::trust_domain(), sync::DEFAULT_INTERVAL, deps);
        let all = fakes.into_iter().map(WorkloadAttestor::Fake).collect();
        let loggable = loggable.iter().map(ToString::to_string).collect();
        let attestors = Attestors::new(all, loggable, attest::Metrics::default());
        Self {
            source: Source::new(Arc::new(attestors), Arc::clone(&driver), status.subscribe()),
            sync: sync.telling(status),
            server,
            driver,
            peer: Arc::new(Peer::for_test(std::process::id(), 1000, 1000).unwrap()),
        }
    }

    /// One whose process has these selectors, and that the server told these entries.
    async fn with(selectors: &[&'static str], entries: impl IntoIterator<Item = Entry>) -> Self {
        let world = Self::new(selectors.iter().map(|text| Fake::Finds(text)), &[]);
        world.tell(entries).await;
        world
    }

    async fn tell(&self, entries: impl IntoIterator<Item = Entry>) {
        self.server.set_entries(entries);
        let entries = self
            .server
            .sync_entries(&EntrySet::default())
            .await
            .unwrap();
        let own = Arc::new(self.server.own_bundle());
        self.driver.synced((own, BTreeMap::new()), entries);
    }

    async fn explain(&self) -> Explanation {
        self.source.explain(&self.peer).await
    }

    async fn verdict(&self) -> String {
        self.explain().await.verdict
    }
}

#[tokio::test(start_paused = true)]
async fn no_entry() {
    let world = World::with(&["unix:uid:1000"], [entry("web", &["k8s:ns:shop"])]).await;
    let explained = world.explain().await;
    assert_eq!(
        explained.verdict,
        "no entry matches, and none of the agent's 1 entry comes close"
    );
    assert!(!explained.has_identity && explained.account.nearest.is_empty());
    assert_eq!(explained.selectors, fake::selectors(&["unix:uid:1000"]));
}

#[tokio::test(start_paused = true)]
async fn wrong_uid() {
    let entries = [entry("web", &["unix:uid:1001"]), entry("db", &["x:1"])];
    let world = World::with(&["unix:uid:1000", "unix:gid:1000"], entries).await;
    let explained = world.explain().await;
    assert_eq!(
        explained.verdict,
        "no entry matches; the closest is `web` (spiffe://example.org/web), which also asks for \
         unix:uid:1001 (the process has unix:uid:1000)"
    );
    assert_eq!(explained.account.nearest.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_selector_missing() {
    let entries = [
        entry("far", &["unix:uid:1000", "a:1", "b:1"]),
        entry("near", &["unix:uid:1000", "unix:gid:1000", "k8s:ns:shop"]),
        entry("other", &["unix:uid:1000", "c:1"]),
        entry("farther", &["unix:uid:1000", "a:1", "b:1", "c:1"]),
    ];
    let world = World::with(&["unix:uid:1000", "unix:gid:1000"], entries).await;
    let explained = world.explain().await;
    assert_eq!(
        explained.verdict,
        "no entry matches; the closest is `near` (spiffe://example.org/near), which also asks for \
         k8s:ns:shop"
    );
    let nearest = explained.account.nearest.iter();
    let nearest: Vec<_> = nearest.map(|near| near.entry.id.as_str()).collect();
    assert_eq!(nearest, ["near", "other", "far"]);
}

#[tokio::test(start_paused = true)]
async fn expired_entry() {
    let expiring = Entry {
        expires_at: Some(epoch() + Duration::from_secs(10)),
        ..entry("web", &["unix:uid:1000"])
    };
    let world = World::with(&["unix:uid:1000"], [expiring.clone()]).await;
    tokio::time::advance(Duration::from_secs(20)).await;
    world.tell([]).await;
    assert_eq!(
        world.verdict().await,
        "entry `web` (spiffe://example.org/web) expired at 2027-01-15T08:00:20Z"
    );
    // The entry comes back, and there is nothing to tell of the past.
    world.tell([expiring]).await;
    assert!(world.explain().await.account.withdrawn.is_empty());
}

#[tokio::test(start_paused = true)]
async fn entry_taken_away() {
    let world = World::with(&["unix:uid:1000"], [entry("web", &["unix:uid:1000"])]).await;
    world.tell([]).await;
    assert_eq!(
        world.verdict().await,
        "entry `web` (spiffe://example.org/web) was taken away by the server at \
         2027-01-15T08:00:00Z"
    );
}

#[tokio::test(start_paused = true)]
async fn banned_agent() {
    let mut world = World::with(&["unix:uid:1000"], [entry("web", &["unix:uid:1000"])]).await;
    world.server.set_mood(Mood::Denying(Denial::Banned));
    world.sync.once().await.unwrap_err();
    let explained = world.explain().await;
    assert_eq!(
        explained.verdict,
        "the server banned this agent at 2027-01-15T08:00:00Z"
    );
    assert_eq!(explained.account.phase, Phase::Banned);
    let standing = world.source.standing();
    assert_eq!(standing.denial, Some((Denial::Banned, epoch())));
}

#[tokio::test(start_paused = true)]
async fn evicted_agent() {
    let mut world = World::with(&["unix:uid:1000"], []).await;
    world.server.set_mood(Mood::Denying(Denial::NotAttested));
    world.sync.once().await.unwrap_err();
    let verdict = world.verdict().await;
    assert!(verdict.contains("`agent_not_attested` since"), "{verdict}");
    // It attests again, and that is over.
    tokio::time::advance(Duration::from_secs(1)).await;
    world.server.set_mood(Mood::Serving);
    world.sync.once().await.unwrap();
    assert_eq!(world.source.standing().denial, None);
}

#[tokio::test(start_paused = true)]
async fn server_unreachable() {
    let mut world = World::with(&["unix:uid:1000"], [entry("web", &["unix:uid:1001"])]).await;
    world.server.set_mood(Mood::Gone);
    for _ in 0..2 {
        world.sync.once().await.unwrap_err();
        tokio::time::advance(Duration::from_secs(5)).await;
    }
    let verdict = world.verdict().await;
    assert!(
        verdict.ends_with(
            "; the server does not answer as it should since 2027-01-15T08:00:00Z: could not reach \
             the server: connection refused"
        ),
        "{verdict}"
    );
    let failing = world.source.standing().status.failing.unwrap();
    assert_eq!((failing.since, failing.reason), (epoch(), "unavailable"));
}

#[tokio::test(start_paused = true)]
async fn server_never_reached() {
    let mut world = World::new([Fake::Finds("unix:uid:1000")], &[]);
    world.server.set_mood(Mood::Gone);
    world.sync.once().await.unwrap_err();
    let verdict = world.verdict().await;
    assert!(
        verdict.starts_with("the agent has not been told its entries yet; the server does not"),
        "{verdict}"
    );
}

#[tokio::test(start_paused = true)]
async fn server_unreachable_when_it_was_to_sign() {
    let world = World::new([Fake::Finds("unix:uid:1000")], &[]);
    world.server.set_entries([entry("web", &["unix:uid:1000"])]);
    let entries = world
        .server
        .sync_entries(&EntrySet::default())
        .await
        .unwrap();
    let own = Arc::new(world.server.own_bundle());
    world.server.set_mood(Mood::Gone);
    world.driver.synced((own, BTreeMap::new()), entries);
    while !matches!(
        world.explain().await.account.matching[0].progress,
        Progress::Unreachable { .. }
    ) {
        tokio::task::yield_now().await;
    }
    let verdict = world.verdict().await;
    assert!(
        verdict.starts_with(
            "entry `web` (spiffe://example.org/web) matches, and the server could not be asked"
        ),
        "{verdict}"
    );
}

#[tokio::test(start_paused = true)]
async fn server_refuses_to_sign() {
    let world = World::new([Fake::Finds("unix:uid:1000")], &[]);
    let own = Arc::new(world.server.own_bundle());
    // The server does not know it any more when it is asked.
    let entries = [Arc::new(entry("web", &["unix:uid:1000"]))];
    let entries = entries.into_iter().collect::<EntrySet>();
    world.driver.synced((own, BTreeMap::new()), entries);
    while !matches!(
        world.explain().await.account.matching[0].progress,
        Progress::Refused { .. }
    ) {
        tokio::task::yield_now().await;
    }
    let verdict = world.verdict().await;
    assert!(
        verdict.contains("not_found: entry not found or not authorized"),
        "{verdict}"
    );
}

#[tokio::test(start_paused = true)]
async fn attestor_failing() {
    let world = World::new([Fake::Finds("unix:uid:1000"), Fake::Fails], &[]);
    world
        .tell([entry("web", &["unix:uid:1000", "k8s:ns:shop"])])
        .await;
    let explained = world.explain().await;
    assert!(
        explained.verdict.ends_with(
            "k8s:ns:shop; its selectors are not complete: attestor `fake` failed (the fake was told \
             to fail)"
        ),
        "{}",
        explained.verdict
    );
    assert!(matches!(explained.sights[1].seen, Seen::Failed { .. }));
    let world = World::new([Fake::Fails], &[]);
    let verdict = world.verdict().await;
    assert!(
        verdict.starts_with("the process is not attested: attestor `fake` failed"),
        "{verdict}"
    );
}

#[tokio::test(start_paused = true)]
async fn attestor_denying() {
    let denies = Fake::Denies(Contradiction::CgroupContradiction);
    let world = World::new([Fake::Finds("unix:uid:1000"), denies], &[]);
    world.tell([entry("web", &["unix:uid:1000"])]).await;
    let explained = world.explain().await;
    assert_eq!(
        explained.verdict,
        "the process is not attested: attestor `fake` denied it (the caller's cgroups name more than \
         one pod or container)"
    );
    assert!(explained.selectors.is_empty() && !explained.has_identity);
}

#[tokio::test(start_paused = true)]
async fn wrong_service_account() {
    let entries = [entry("web", &["k8s:ns:shop", "k8s:sa:web"])];
    let world = World::with(&["k8s:ns:shop", "k8s:sa:default"], entries).await;
    assert_eq!(
        world.verdict().await,
        "no entry matches; the closest is `web` (spiffe://example.org/web), which also asks for \
         k8s:sa:web (the process has k8s:sa:default)"
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_issued_and_when_it_renews() {
    let world = World::with(&["unix:uid:1000"], [entry("web", &["unix:uid:1000"])]).await;
    while !world.explain().await.has_identity {
        tokio::task::yield_now().await;
    }
    let explained = world.explain().await;
    assert_eq!(explained.verdict, "it has 1 identity");
    let issued = explained.account.matching[0].issued.clone().unwrap();
    assert_eq!(issued.validity.not_after(), epoch() + TTL);
    assert!(issued.renews_at > epoch() && issued.renews_at <= epoch() + TTL / 2);
    assert!(!issued.serial.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_log_shows_no_selector_that_the_operator_does_not_allow_there() {
    let fakes = || [Fake::Finds("unix:uid:1000"), Fake::Finds("k8s:sa:default")];
    let entries = || [entry("web", &["unix:uid:1001", "k8s:sa:web"])];
    for (loggable, told) in [
        (&[][..], "which also asks for 2 selectors"),
        (
            &["unix"][..],
            "which also asks for unix:uid:1001 (the process has unix:uid:1000) and 1 more selector",
        ),
    ] {
        let world = World::new(fakes(), loggable);
        world.tell(entries()).await;
        let caller = world.source.attest(&world.peer, None).await.unwrap();
        let shown = world.source.shortfall(&caller);
        assert!(shown.ends_with(told), "{shown}");
    }
}

#[test]
fn a_label_is_told_in_place_of_the_same_label() {
    let world = fake::selectors(&[
        "k8s:pod-label:app:shop",
        "k8s:pod-label:tier:front",
        "k8s:pod-label:zone:a",
    ]);
    let mut state = crate::cache::State::new(
        Arc::new(fake::bundle(&[])),
        crate::cache::Capacity::default(),
    );
    let entries = [
        Arc::new(entry("a", &["k8s:pod-label:tier:back"])),
        Arc::new(entry("b", &["k8s:pod-label:team:x"])),
    ];
    state.apply(
        crate::cache::Event::Synced(entries.into_iter().collect()),
        epoch(),
    );
    let account = state.account(&world, epoch());
    let instead = |at: usize| account.nearest[at].missing[0].instead.len();
    assert_eq!(
        account.nearest[0].missing[0].instead,
        fake::selectors(&["k8s:pod-label:tier:front"])
            .iter()
            .cloned()
            .collect::<Vec<_>>()
    );
    assert_eq!((instead(0), instead(1)), (1, 3));
}
