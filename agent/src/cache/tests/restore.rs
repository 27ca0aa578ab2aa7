//! What is kept over a restart, and what is served of it.

use futures_util::FutureExt as _;
use identity::bundle::JwtAuthority;
use runtime::clock::Clock;
use runtime::shutdown::Shutdown;
use runtime::tasks::TaskGroup;
use tokio::sync::mpsc;

use super::super::driver::{Deps, Driver, Options};
use super::super::event::Restored;
use super::super::jwt::{Found, JwtKey};
use super::*;
use crate::sealed::{Item, Metrics as SealedMetrics, SealedCache, Trust};
use crate::upstream::fake::{FakeServer, Mood, entry, selectors};
use crate::upstream::{Denial, EntrySet, Upstream};

/// What an agent had kept, and a new state that gets it.
struct Restart {
    ca: Ca,
    own: Bundle,
    entry: Entry,
    signed_at: SystemTime,
    revision: (i64, SystemTime),
    now: SystemTime,
}

impl Restart {
    fn new() -> Self {
        let ca = Ca::new();
        let mut own = fake::bundle(&[&ca.certificate]);
        own.jwt_authorities.push(JwtAuthority {
            key_id: "key-1".to_owned(),
            public_key: ca.certificate.public_key().clone(),
            expires_at: None,
            tainted: false,
        });
        Self {
            ca,
            own,
            entry: entry("e", &["a:1"]),
            signed_at: at(0),
            revision: (0, epoch()),
            now: at(60),
        }
    }

    fn restore(&self) -> (State, Vec<Action>) {
        let own = Arc::new(fake::bundle(&[&Ca::new().certificate]));
        let mut state = State::new(own, Capacity::default());
        let mut actions = state.apply(Event::Joined(selectors(&["a:1"])), self.now);
        let signed = signed(&self.ca, &self.entry, self.signed_at, TTL);
        let svid = fake::jwt(
            &self.entry.spiffe_id,
            &["db".to_owned()],
            self.signed_at,
            TTL,
            0,
        );
        let schedule = signed.schedule;
        let items = vec![
            Restored::Bundles {
                own: Arc::new(self.own.clone()),
                federated: BTreeMap::new(),
            },
            Restored::Entry(Arc::new(self.entry.clone())),
            Restored::X509 {
                entry_id: self.entry.id.clone(),
                revision: self.revision,
                signed,
            },
            Restored::Jwt {
                entry_id: self.entry.id.clone(),
                revision: self.revision,
                svid,
                schedule,
            },
        ];
        actions.extend(state.apply(Event::Restored(items), self.now));
        (state, actions)
    }

    /// How many X509-SVIDs and JWT-SVIDs are served of what was kept.
    fn served(&self) -> (usize, usize) {
        let (mut state, actions) = self.restore();
        let published = actions
            .iter()
            .filter(|action| matches!(action, Action::Publish { update, .. } if update.identities().len() == 1));
        let key = JwtKey::new(self.entry.id.clone(), vec!["db".to_owned()]);
        let found = state.jwt().find(&key, self.now);
        (
            published.count(),
            usize::from(!matches!(found, Found::Nothing)),
        )
    }
}

#[test]
fn what_was_kept_is_served_before_the_server_has_spoken() {
    let restart = Restart::new();
    assert_eq!(restart.served(), (1, 1));
    let (state, _) = restart.restore();
    // What lies on disk may still be needed, until the server says otherwise.
    assert!(state.keepsakes(restart.now).is_none());
}

#[test]
fn an_expired_svid_and_one_of_the_future_are_never_served() {
    let mut restart = Restart::new();
    restart.now = at(TTL.as_secs());
    assert_eq!(restart.served(), (0, 0));
    // The clock was set back.
    restart.now = at(60);
    restart.signed_at = at(120);
    assert_eq!(restart.served(), (0, 0));
}

#[test]
fn an_svid_of_a_tainted_or_unknown_authority_is_never_served() {
    let mut restart = Restart::new();
    restart.own.x509_authorities[0].tainted = true;
    restart.own.jwt_authorities[0].tainted = true;
    assert_eq!(restart.served(), (0, 0));
    let mut restart = Restart::new();
    restart.own = fake::bundle(&[&Ca::new().certificate]);
    assert_eq!(restart.served(), (0, 0));
}

#[test]
fn an_svid_of_an_entry_that_changed_or_is_gone_or_over_is_never_served() {
    let mut restart = Restart::new();
    restart.revision = (1, epoch());
    assert_eq!(restart.served(), (0, 0));
    let mut restart = Restart::new();
    restart.revision = (0, at(1));
    assert_eq!(restart.served(), (0, 0));
    let mut restart = Restart::new();
    restart.entry.expires_at = Some(at(30));
    assert_eq!(restart.served(), (0, 0));
    let mut restart = Restart::new();
    restart.entry.store_svid = true;
    assert_eq!(restart.served(), (0, 0));
}

#[test]
fn who_has_no_kept_entry_waits_for_the_server_and_is_told_by_it() {
    let (mut state, _) = Restart::new().restore();
    let joined = state.apply(Event::Joined(selectors(&["b:1"])), at(60));
    assert!(joined.is_empty(), "{joined:?}");
    let told = state.apply(synced(&[entry("e", &["a:1"])]), at(61));
    let told: Vec<_> = told
        .iter()
        .filter(|action| matches!(action, Action::Publish { update, .. } if update.identities().is_empty()))
        .collect();
    assert_eq!(told.len(), 1);
}

#[test]
fn half_of_the_identities_are_served_once_the_server_cannot_be_asked_for_the_rest() {
    let restart = Restart::new();
    let (mut state, _) = restart.restore();
    let mut lost = entry("lost", &["b:1"]);
    lost.created_at = at(1);
    let state_with_both = || {
        let own = Arc::new(restart.own.clone());
        let mut state = State::new(Arc::clone(&own), Capacity::default());
        let items = vec![
            Restored::Bundles {
                own,
                federated: BTreeMap::new(),
            },
            Restored::Entry(Arc::new(restart.entry.clone())),
            Restored::Entry(Arc::new(lost.clone())),
            Restored::X509 {
                entry_id: restart.entry.id.clone(),
                revision: restart.revision,
                signed: signed(&restart.ca, &restart.entry, at(0), TTL),
            },
        ];
        state.apply(Event::Restored(items), at(60));
        state
    };
    let mut both = state_with_both();
    let actions = both.apply(Event::Joined(selectors(&["a:1", "b:1"])), at(60));
    let [Action::Sign { batch, .. }] = &actions[..] else {
        panic!("{actions:?}")
    };
    let unanswered = Event::Unanswered {
        batch: *batch,
        spread: Duration::ZERO,
    };
    let actions = both.apply(unanswered, at(61));
    assert!(
        matches!(&actions[..], [Action::Publish { update, .. }] if update.identities().len() == 1),
        "{actions:?}"
    );
    // With nothing at all, nobody is told that it has no identity.
    state.apply(Event::Left(selectors(&["a:1"])), at(60));
}

/// A driver with a sealed cache below `folder`.
fn driver(
    server: &Arc<FakeServer>,
    folder: &std::path::Path,
    trust: Trust,
) -> (Arc<Driver<FakeServer>>, bool) {
    let tasks = TaskGroup::new(Shutdown::new().0);
    driver_in(tasks, server, folder, trust)
}

/// The same, whose tasks are of this group.
fn driver_in(
    tasks: TaskGroup,
    server: &Arc<FakeServer>,
    folder: &std::path::Path,
    trust: Trust,
) -> (Arc<Driver<FakeServer>>, bool) {
    let now = server.clock.now();
    let agent = SpiffeId::from_path(&fake::trust_domain(), "/spire/agent/x").unwrap();
    let (sealed, items) = SealedCache::open(folder, &agent, trust, now, SealedMetrics::default());
    let deps = Deps {
        upstream: Arc::clone(server),
        clock: server.clock.clone(),
        tasks,
        metrics: Metrics::default(),
        denials: mpsc::channel(4).0,
        sealed,
    };
    let driver = Driver::new(Arc::new(server.own_bundle()), Options::default(), deps);
    let restored = driver.restore(items);
    (driver, restored)
}

async fn serial(driver: &Arc<Driver<FakeServer>>) -> String {
    let mut updates = driver.subscribe(&selectors(&["a:1"]));
    let update = updates.next().await.unwrap();
    update.identities()[0]
        .svid
        .leaf()
        .serial_decimal()
        .to_owned()
}

async fn sync(driver: &Arc<Driver<FakeServer>>, server: &FakeServer) {
    let entries = server.sync_entries(&EntrySet::default()).await.unwrap();
    driver.synced((Arc::new(server.own_bundle()), BTreeMap::new()), entries);
}

/// What a process that is killed now leaves behind.
fn killed(folder: &std::path::Path) -> tempfile::TempDir {
    fn copy(from: &std::path::Path, to: &std::path::Path) {
        for item in std::fs::read_dir(from).unwrap() {
            let item = item.unwrap();
            let to = to.join(item.file_name());
            if item.file_type().unwrap().is_dir() {
                use std::os::unix::fs::DirBuilderExt;
                std::fs::DirBuilder::new().mode(0o700).create(&to).unwrap();
                copy(&item.path(), &to);
            } else {
                std::fs::copy(item.path(), to).unwrap();
            }
        }
    }
    let left = tempfile::tempdir().unwrap();
    copy(folder, left.path());
    left
}

#[tokio::test]
async fn an_agent_killed_as_soon_as_it_has_shown_an_svid_serves_the_same_again_without_its_server()
{
    let folder = tempfile::tempdir().unwrap();
    let server = FakeServer::new(Clock::system(), TTL);
    server.set_entries([entry("e", &["a:1"])]);
    let (first, restored) = driver(&server, folder.path(), Trust::Restored);
    assert!(!restored);
    sync(&first, &server).await;
    let shown = serial(&first).await;
    let left = killed(folder.path());
    server.set_mood(Mood::Gone);
    let (second, restored) = driver(&server, left.path(), Trust::Restored);
    assert!(restored);
    assert_eq!(serial(&second).await, shown);
}

#[tokio::test]
async fn after_a_ban_an_eviction_or_an_expiry_nothing_is_left_at_once() {
    for denial in [
        Denial::Banned,
        Denial::NotAttested,
        Denial::Expired,
        Denial::NotActive,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let server = FakeServer::new(Clock::system(), TTL);
        server.set_entries([entry("e", &["a:1"])]);
        let tasks = TaskGroup::new(Shutdown::new().0);
        let (first, _) = driver_in(tasks.clone(), &server, folder.path(), Trust::Restored);
        sync(&first, &server).await;
        let mut stream = first.subscribe(&selectors(&["a:1"]));
        stream.next().await.unwrap();
        first.denied(denial);
        if denial == Denial::Banned {
            let told = stream.next().now_or_never().flatten().unwrap();
            assert!(told.identities().is_empty());
        }
        // The disk has not been waited for.
        let left = killed(folder.path());
        assert!(left.path().join("cache/key.void").is_file());
        let (_, restored) = driver(&server, left.path(), Trust::Restored);
        assert!(!restored);
        tasks.drain(TTL).await;
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn an_agent_with_a_new_identity_serves_nothing_of_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let server = FakeServer::new(Clock::system(), TTL);
    server.set_entries([entry("e", &["a:1"])]);
    let (first, _) = driver(&server, folder.path(), Trust::Restored);
    sync(&first, &server).await;
    serial(&first).await;
    let left = killed(folder.path());
    let (_, restored) = driver(&server, left.path(), Trust::New);
    assert!(!restored);
}

#[tokio::test]
async fn what_the_server_took_back_is_gone_from_the_disk_after_the_next_comparison() {
    let folder = tempfile::tempdir().unwrap();
    let server = FakeServer::new(Clock::system(), TTL);
    server.set_entries([entry("e", &["a:1"])]);
    let (first, _) = driver(&server, folder.path(), Trust::Restored);
    sync(&first, &server).await;
    serial(&first).await;
    server.set_entries([]);
    sync(&first, &server).await;
    // At shutdown, the last comparison is made at once.
    let (trigger, shutdown) = Shutdown::new();
    trigger.trigger(runtime::shutdown::Reason::Failed("test"));
    Arc::clone(&first).keep_sealed(shutdown).await;
    let left = killed(folder.path());
    let agent = SpiffeId::from_path(&fake::trust_domain(), "/spire/agent/x").unwrap();
    let (_, items) = SealedCache::open(
        left.path(),
        &agent,
        Trust::Restored,
        server.clock.now(),
        SealedMetrics::default(),
    );
    let kinds: Vec<_> = items
        .iter()
        .map(|item| matches!(item, Item::Format | Item::Own(_)))
        .collect();
    assert_eq!(kinds, [true, true]);
}
