//! The life of authorities: restarts, rotation, kills, failing stores.

mod kills;
mod nested;
mod upstream;

use std::{
    collections::BTreeSet,
    time::{Duration, UNIX_EPOCH},
};

use identity::{bundle::JwtAuthority, jwt, spiffe_id::SpiffeId, trust_domain::TrustDomain};
use proptest::prelude::*;
use runtime::shutdown::{Reason, Shutdown};

use super::*;
use crate::{
    keys::KeyType,
    records::authorities as codec,
    store::{Committed, Expect, Family, Key, Record, Revision, Txn, WatchEvent},
};

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn own() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

struct Server {
    authorities: Authorities,
    tasks: TaskGroup,
}

impl Server {
    async fn start(store: &Store, keys: &Keys, clock: &Clock) -> Self {
        Self::start_with(Config::new(own()), store, keys, clock)
            .await
            .unwrap()
    }

    async fn start_with(
        config: Config,
        store: &Store,
        keys: &Keys,
        clock: &Clock,
    ) -> Result<Self, StartError> {
        let tasks = TaskGroup::new(Shutdown::new().0);
        let deps = Deps {
            store: store.clone(),
            keys: keys.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            visible: Visible::at_once(),
        };
        Authorities::start(config, deps)
            .await
            .map(|authorities| Self { authorities, tasks })
    }

    async fn stop(self) {
        self.tasks.trigger().trigger(Reason::Failed("test"));
        self.tasks.drain(Duration::from_secs(10)).await;
    }
}

async fn change_bundle(store: &Store, change: impl Fn(&mut Bundle)) {
    let change = |bundle: &mut Bundle| {
        change(bundle);
        true
    };
    assert!(
        bundles::update(store, &own(), &Txn::new(), change)
            .await
            .is_ok()
    );
}

async fn bundle(store: &Store) -> Bundle {
    bundles::read(store, &own()).await.unwrap().unwrap().bundle
}

#[tokio::test(start_paused = true)]
async fn a_first_start_makes_both_authorities_and_publishes_them() {
    let store = Store::memory();
    let server = Server::start(&store, &Keys::memory(), &Clock::simulated(now())).await;
    let (x509, jwt) = server.authorities.active_ids();
    let bundle = bundle(&store).await;
    assert_eq!(bundle.x509_authorities.len(), 1);
    assert_eq!(bundle.x509_authorities[0].authority_id(), x509);
    assert_eq!(bundle.jwt_authorities[0].key_id, jwt);
    assert_eq!(bundle.sequence, 1, "as SPIRE's after its first start");
    assert_eq!(
        (jwt.len(), jwt.chars().all(|c| c.is_ascii_alphanumeric())),
        (32, true)
    );
    assert_eq!(*server.authorities.own_bundle().borrow().as_ref(), bundle);
    let svid = server.authorities.server_svid().borrow().clone();
    assert!(svid.id().is_server());
}

#[tokio::test(start_paused = true)]
async fn a_restart_keeps_the_authorities() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::simulated(now());
    let mut ids = BTreeSet::new();
    for _ in 0..3 {
        let store = Store::open(folder.path(), "example.org").unwrap();
        let keys = Keys::disk(&folder.path().join("keys.json")).unwrap();
        let server = Server::start(&store, &keys, &clock).await;
        ids.insert(server.authorities.active_ids());
        assert_eq!(bundle(&store).await.sequence, 1);
        server.stop().await;
        store.close().await.unwrap();
    }
    assert_eq!(ids.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_key_means_a_new_authority_and_the_old_one_stays_in_the_bundle() {
    let (store, clock) = (Store::memory(), Clock::simulated(now()));
    let first = Server::start(&store, &Keys::memory(), &clock).await;
    let lost = first.authorities.active_ids();
    first.stop().await;
    let second = Server::start(&store, &Keys::memory(), &clock).await;
    assert_ne!(second.authorities.active_ids().0, lost.0);
    assert_ne!(second.authorities.active_ids().1, lost.1);
    let bundle = bundle(&store).await;
    assert!(
        bundle
            .x509_authorities
            .iter()
            .any(|authority| authority.authority_id() == lost.0)
    );
    assert_eq!(
        (bundle.x509_authorities.len(), bundle.jwt_authorities.len()),
        (2, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn a_prepared_authority_takes_over_when_the_active_ones_key_is_lost() {
    let (store, keys, clock) = (Store::memory(), Keys::memory(), Clock::simulated(now()));
    let first = Server::start(&store, &keys, &clock).await;
    clock.sleep(Duration::from_secs(12 * 3_600 + 60)).await;
    first.stop().await;
    let prepared = bundle(&store).await.x509_authorities[1].authority_id();
    keys.generate("x509-CA-A", KeyType::EcP256).await.unwrap();
    let second = Server::start(&store, &keys, &clock).await;
    assert_eq!(second.authorities.active_ids().0, prepared);
    let (_, records) = store.snapshot().await.unwrap();
    check_state(&records);
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_the_bundle_lost_signs_no_more() {
    let (store, keys, clock) = (Store::memory(), Keys::memory(), Clock::simulated(now()));
    let first = Server::start(&store, &keys, &clock).await;
    let gone = first.authorities.active_ids();
    first.stop().await;
    change_bundle(&store, |bundle| bundle.x509_authorities.clear()).await;
    let second = Server::start(&store, &keys, &clock).await;
    let (x509, jwt) = second.authorities.active_ids();
    assert_ne!(x509, gone.0);
    assert_eq!(jwt, gone.1);
}

#[tokio::test(start_paused = true)]
async fn rotates_in_time_and_publishes_long_before_it_signs() {
    let (store, clock) = (Store::memory(), Clock::simulated(now()));
    let server = Server::start(&store, &Keys::memory(), &clock).await;
    let hours = |n: u64| Duration::from_secs(n * 3_600 + 60);
    let first = server.authorities.active_ids();
    clock.sleep(hours(12)).await;
    let prepared = bundle(&store).await;
    assert_eq!(
        (
            prepared.x509_authorities.len(),
            prepared.jwt_authorities.len()
        ),
        (2, 2)
    );
    assert_eq!(
        server.authorities.active_ids(),
        first,
        "not before the last sixth"
    );
    clock.sleep(hours(8)).await;
    let second = server.authorities.active_ids();
    assert_eq!(prepared.x509_authorities[1].authority_id(), second.0);
    assert_eq!(prepared.jwt_authorities[1].key_id, second.1);
    // The third takes the slot of the first, whose end the bundle awaits.
    clock.sleep(hours(20)).await;
    let third = server.authorities.active_ids();
    assert_eq!(BTreeSet::from([&first.0, &second.0, &third.0]).len(), 3);
    // The ended are pruned a day after their end.
    clock.sleep(hours(48)).await;
    let ids: Vec<_> = bundle(&store)
        .await
        .x509_authorities
        .iter()
        .map(|a| a.authority_id())
        .collect();
    assert!(
        !ids.contains(&first.0) && ids.contains(&server.authorities.active_ids().0),
        "{ids:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn renews_its_own_svid_at_half_life_and_when_its_authority_is_tainted() {
    let (store, clock) = (Store::memory(), Clock::simulated(now()));
    let server = Server::start(&store, &Keys::memory(), &clock).await;
    let mut svids = server.authorities.server_svid();
    let first = svids.borrow_and_update().clone();
    svids.changed().await.unwrap();
    let second = svids.borrow_and_update().clone();
    assert_ne!(first.leaf().serial(), second.leaf().serial());
    assert_ne!(first.leaf().public_key(), second.leaf().public_key());
    let waited = clock.now().duration_since(now()).unwrap();
    assert!((1_795..=1_830).contains(&waited.as_secs()), "{waited:?}");

    change_bundle(&store, |bundle| bundle.x509_authorities[0].tainted = true).await;
    let before = clock.now();
    svids.changed().await.unwrap();
    assert!(clock.now().duration_since(before).unwrap() <= Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_delays_a_rotation_and_ends_nothing() {
    let (store, faults) = Store::memory_with_faults();
    let clock = Clock::simulated(now());
    let server = Server::start(&store, &Keys::memory(), &clock).await;
    let first = server.authorities.active_ids();
    faults.fail_next(usize::MAX);
    clock.sleep(Duration::from_secs(21 * 3_600)).await;
    assert_eq!(server.authorities.active_ids(), first);
    assert_eq!(bundle(&store).await.x509_authorities.len(), 1);
    faults.fail_next(0);
    clock.sleep(Duration::from_secs(60)).await;
    assert_ne!(server.authorities.active_ids(), first);
    assert!(server.tasks.failed().is_none());
}

#[tokio::test(start_paused = true)]
async fn signs_with_no_authority_before_it_can_be_seen() {
    let (store, clock) = (Store::memory(), Clock::simulated(now()));
    let tasks = TaskGroup::new(Shutdown::new().0);
    let visible = Visible::new(|_| Box::pin(async { Err("the feed is stalled".into()) }));
    let deps = Deps {
        store: store.clone(),
        keys: Keys::memory(),
        clock,
        tasks,
        visible,
    };
    let refused = Authorities::start(Config::new(own()), deps)
        .await
        .unwrap_err();
    assert_eq!(refused.reason(), "not_visible");
    let (_, records) = store.snapshot().await.unwrap();
    assert!(active(&records).is_empty());
}

#[tokio::test(start_paused = true)]
async fn mints_tokens_as_spire_does() {
    let (store, clock) = (Store::memory(), Clock::simulated(now()));
    for (kind, algorithm) in [
        (KeyType::EcP256, "ES256"),
        (KeyType::EcP384, "ES384"),
        (KeyType::Rsa2048, "RS256"),
    ] {
        let config = Config {
            jwt_key_type: kind,
            jwt_issuer: Some("https://issuer.example.org".to_owned()),
            ..Config::new(own())
        };
        let server = Server::start_with(config, &store, &Keys::memory(), &clock)
            .await
            .unwrap();
        let id = SpiffeId::parse("spiffe://example.org/a").unwrap();
        let audience = ["one \"two\"".to_owned(), String::new(), "three".to_owned()];
        let ttl = Duration::from_secs(300);
        let request = JwtSvidRequest {
            id: &id,
            audience: &audience,
            ttl,
            include_jti: true,
        };
        let issued = server
            .authorities
            .sign_jwt_svid(&request, clock.now())
            .unwrap();
        assert_eq!(issued.expires_at, issued.issued_at + ttl);
        let bundle = bundle(&store).await;
        let valid = jwt::validate(&issued.token, "three", |_| Some(&bundle), clock.now()).unwrap();
        assert_eq!(valid.id, id);
        let claims = serde_json::Value::from(valid.claims);
        assert_eq!(claims["aud"], serde_json::json!(["one \"two\"", "three"]));
        assert_eq!(claims["iss"], "https://issuer.example.org");
        assert_eq!(claims["jti"].as_str().unwrap().len(), 22);
        let header = issued.token.split('.').next().unwrap();
        let header =
            base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, header);
        let header: serde_json::Value = serde_json::from_slice(&header.unwrap()).unwrap();
        let key_id = server.authorities.active_ids().1;
        assert_eq!(
            header,
            serde_json::json!({"alg": algorithm, "kid": key_id, "typ": "JWT"})
        );
        server.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn refuses_tokens_without_audience_and_for_ids_not_its_own() {
    let server = Server::start(&Store::memory(), &Keys::memory(), &Clock::simulated(now())).await;
    let mint = |id: &str, audience: &[&str]| {
        let id = SpiffeId::parse(id).unwrap();
        let audience: Vec<String> = audience.iter().map(|name| (*name).to_owned()).collect();
        let ttl = Duration::from_secs(60);
        let request = JwtSvidRequest {
            id: &id,
            audience: &audience,
            ttl,
            include_jti: false,
        };
        server
            .authorities
            .sign_jwt_svid(&request, now())
            .map_err(|refused| refused.reason())
    };
    assert!(mint("spiffe://example.org/a", &["b"]).is_ok());
    assert_eq!(
        mint("spiffe://example.org/a", &[""]).unwrap_err(),
        "no_audience"
    );
    assert_eq!(
        mint("spiffe://other.org/a", &["b"]).unwrap_err(),
        "not_a_member"
    );
    assert_eq!(
        mint("spiffe://example.org", &["b"]).unwrap_err(),
        "reserved_id"
    );
    assert_eq!(
        mint("spiffe://example.org/spire/server", &["b"]).unwrap_err(),
        "reserved_id"
    );
}

#[tokio::test]
async fn a_batch_keeps_its_order() {
    let server = Server::start(&Store::memory(), &Keys::memory(), &Clock::system()).await;
    for length in [0, 1, 2, 7, 100] {
        let work: Vec<u32> = (0..length).collect();
        let done = server
            .authorities
            .sign_batch(work.clone(), |_, item| item)
            .await
            .unwrap();
        assert_eq!(done, work);
    }
}

/// The authority ids of the journal's active records.
fn active(records: &[Record]) -> Vec<(Kind, String)> {
    let journal = records
        .iter()
        .filter(|record| record.key.family() == Some(Family::Authority));
    journal
        .map(|record| codec::decode(&record.value).unwrap())
        .filter(|entry| entry.state == State::Active)
        .map(|entry| (entry.kind, entry.authority_id))
        .collect()
}

/// What stands in the journal is in the bundle, and no kind has two active authorities.
fn check_state(records: &[Record]) {
    let own_bundle = records
        .iter()
        .find(|record| record.key == Key::bundle(own()));
    let own_bundle = own_bundle.map(|record| bundles::from_record(&record.value).unwrap());
    let known: BTreeSet<String> = own_bundle
        .iter()
        .flat_map(|bundle| {
            let x509 = bundle
                .x509_authorities
                .iter()
                .map(|authority| authority.authority_id());
            let jwt = bundle
                .jwt_authorities
                .iter()
                .map(|a: &JwtAuthority| a.key_id.clone());
            x509.chain(jwt).collect::<Vec<_>>()
        })
        .collect();
    let active = active(records);
    for kind in [Kind::X509, Kind::Jwt] {
        assert!(active.iter().filter(|(other, _)| *other == kind).count() <= 1);
    }
    assert!(
        active.iter().all(|(_, id)| known.contains(id)),
        "{active:?} not in {known:?}"
    );
}

async fn copy(records: &[Record]) -> Store {
    let store = Store::memory();
    let txn = records.iter().fold(Txn::new(), |txn, record| {
        txn.expect(record.key.clone(), Expect::Absent)
            .put(record.key.clone(), record.value.clone())
    });
    assert!(matches!(store.commit(txn).await, Ok(Committed::At(_))));
    store
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// A server killed after any of its commits, with any of the keys that it had by then, comes
    /// back to a valid state and signs with what the bundle holds.
    #[test]
    fn comes_back_from_any_prefix_of_its_writes(lives in prop::collection::vec(1..30_u64, 1..4)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (store, keys, clock) = (Store::memory(), Keys::memory(), Clock::simulated(now()));
            let mut watch = store.watch(Revision::ZERO);
            for hours in lives {
                let server = Server::start(&store, &keys, &clock).await;
                clock.sleep(Duration::from_secs(hours * 3_600)).await;
                server.stop().await;
            }
            let mut state: std::collections::BTreeMap<Key, Record> = std::collections::BTreeMap::new();
            while let Some(WatchEvent::Change(change)) = watch.try_next() {
                for record in &change.puts {
                    state.insert(record.key.clone(), record.clone());
                }
                let records: Vec<_> = state.values().cloned().collect();
                check_state(&records);
                let store = copy(&records).await;
                let server = Server::start(&store, &keys, &clock).await;
                let (_, after) = store.snapshot().await.unwrap();
                check_state(&after);
                assert_eq!(active(&after).len(), 2);
                server.stop().await;
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_jwt_authority_of_a_server_below_is_tainted_and_revoked_by_name() {
    let store = Store::memory();
    let server = Server::start(&store, &Keys::memory(), &Clock::simulated(now())).await;
    let key = Keys::memory().generate("x", KeyType::EcP256).await.unwrap();
    let below = JwtAuthority {
        key_id: "below".to_owned(),
        public_key: key.public_key().clone(),
        expires_at: Some(now() + Duration::from_secs(u64::from(u32::MAX))),
        tainted: false,
    };
    change_bundle(&store, |bundle| bundle.jwt_authorities.push(below.clone())).await;
    let authorities = &server.authorities;
    assert!(authorities.revoke(Kind::Jwt, "below").await.is_err());
    authorities.taint(Kind::Jwt, "below").await.unwrap();
    assert!(bundle(&store).await.jwt_authority("below").unwrap().tainted);
    authorities.revoke(Kind::Jwt, "below").await.unwrap();
    assert!(bundle(&store).await.jwt_authority("below").is_none());
    assert!(authorities.taint(Kind::Jwt, "nobody's").await.is_err());
}
