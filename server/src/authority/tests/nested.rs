//! Servers below one another, in simulated time.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use identity::{
    key::PublicKey,
    x509::{Certificate, Purpose, verify_peer},
};
use rcgen::{KeyPair, PublicKeyData as _};

use super::*;
use crate::authority::upstream::tests::Beside;

/// How long authorities live: where time itself replaces them, and where an operator does.
const CA_TTL: Duration = Duration::from_secs(60);
const LONG_CA_TTL: Duration = Duration::from_secs(3_600);
const SVID_TTL: Duration = Duration::from_secs(10);
const TEN_MINUTES: Duration = Duration::from_secs(600);
/// How long a change above may take to come below: two polls, and what is done after each.
const POLLED: Duration = Duration::from_secs(12);

struct Layer {
    server: Server,
    store: Store,
    keys: Keys,
    is_away: Arc<AtomicBool>,
}

impl Layer {
    async fn start(above: Option<&Self>, clock: &Clock) -> Self {
        Self::start_for(CA_TTL, above, clock).await
    }

    async fn start_for(ca_ttl: Duration, above: Option<&Self>, clock: &Clock) -> Self {
        let (store, keys) = (Store::memory(), Keys::memory());
        let config = Config {
            ca_ttl,
            server_svid_ttl: SVID_TTL,
            upstream: above.map(Self::as_upstream),
            ..Config::new(own())
        };
        let server = Server::start_with(config, &store, &keys, clock).await;
        Self {
            server: server.unwrap(),
            store,
            keys,
            is_away: Arc::default(),
        }
    }

    fn as_upstream(&self) -> Upstream {
        Upstream::beside(Beside {
            authorities: self.server.authorities.clone(),
            store: self.store.clone(),
            is_away: Arc::clone(&self.is_away),
        })
    }

    fn go_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::Relaxed);
    }

    fn svid(&self, now: SystemTime) -> Result<Vec<Certificate>, SignError> {
        let key = KeyPair::generate().unwrap();
        let public_key = PublicKey::from_spki_der(&key.subject_public_key_info()).unwrap();
        let id = SpiffeId::from_path(&own(), "/workload").unwrap();
        let request = X509SvidRequest {
            id: &id,
            public_key: &public_key,
            dns_names: &[],
            ttl: SVID_TTL,
            subject: Subject::Workload,
            name: None,
        };
        let issued = self.server.authorities.sign_x509_svid(&request, now)?;
        let chain = issued.chain.iter().map(|der| Certificate::parse(der));
        Ok(chain.collect::<Result<_, _>>().unwrap())
    }

    async fn bundle(&self) -> Bundle {
        bundle(&self.store).await
    }

    async fn roots(&self) -> Vec<String> {
        let authorities = self.bundle().await.x509_authorities;
        authorities.iter().map(|each| each.authority_id()).collect()
    }

    /// The name of the root that its active authority leads to.
    async fn root(&self) -> Option<String> {
        let active = self.server.authorities.states(Kind::X509).await.active;
        active.and_then(|active| active.upstream_id)
    }

    /// Lets another authority sign, and tells the names of the one before and of this one.
    async fn replace(&self, kind: Kind) -> (String, String) {
        let authorities = &self.server.authorities;
        let before = authorities.states(kind).await.active.unwrap();
        let next = authorities.prepare(kind).await.unwrap().prepared.unwrap();
        let activated = authorities.activate(kind, &next.authority_id).await;
        activated.unwrap();
        (before.authority_id, next.authority_id)
    }
}

fn verify(chain: &[Certificate], bundle: &Bundle, now: SystemTime) -> bool {
    verify_peer(chain, Purpose::ServerAuth, |_| Some(bundle), now).is_ok()
}

#[tokio::test(start_paused = true)]
async fn through_ten_minutes_every_svid_at_the_bottom_of_three_leads_to_the_top() {
    let clock = Clock::simulated(now());
    let top = Layer::start(None, &clock).await;
    // Not in step, as no servers are.
    clock.sleep(Duration::from_secs(7)).await;
    let middle = Layer::start(Some(&top), &clock).await;
    clock.sleep(Duration::from_secs(4)).await;
    let bottom = Layer::start(Some(&middle), &clock).await;
    let mut seen = [const { BTreeSet::new() }; 3];
    let mut current: Vec<Vec<Certificate>> = Vec::new();
    while clock.now() < now() + TEN_MINUTES {
        let at = clock.now();
        let chain = bottom.svid(at).expect("something signs at every moment");
        for (seen, certificate) in seen.iter_mut().zip(&chain) {
            seen.insert(certificate.authority_key_id().unwrap());
        }
        current.push(chain);
        let roots = top.bundle().await;
        current.retain(|chain| at <= chain[0].validity().not_after());
        for chain in &current {
            assert!(verify(chain, &roots, at), "{:?}", at.duration_since(now()));
        }
        clock.sleep(Duration::from_secs(1)).await;
    }
    for seen in &seen {
        assert!(seen.len() > 10, "{} authorities", seen.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_root_that_is_replaced_tainted_and_revoked_above_is_so_two_servers_below() {
    let clock = Clock::simulated(now());
    let top = Layer::start_for(LONG_CA_TTL, None, &clock).await;
    let middle = Layer::start_for(LONG_CA_TTL, Some(&top), &clock).await;
    let bottom = Layer::start_for(LONG_CA_TTL, Some(&middle), &clock).await;
    let authorities = &top.server.authorities;
    let leaked = bottom.svid(clock.now()).unwrap();
    let (first, second) = top.replace(Kind::X509).await;
    clock.sleep(2 * POLLED).await;
    assert_eq!(bottom.roots().await, [first.clone(), second.clone()]);
    authorities.taint(Kind::X509, &first).await.unwrap();
    clock.sleep(2 * POLLED).await;
    for layer in [&middle, &bottom] {
        assert_eq!(layer.root().await, Some(second.clone()));
        let tainted = layer.bundle().await.x509_authorities;
        assert!(tainted[0].tainted && !tainted[1].tainted);
        let svid = layer.server.authorities.server_svid().borrow().clone();
        assert_eq!(svid.authority_key_id(), Some(second.clone()));
    }
    authorities.revoke(Kind::X509, &first).await.unwrap();
    clock.sleep(2 * POLLED).await;
    assert!(!bottom.roots().await.contains(&first));
    assert!(!verify(&leaked[1..], &bottom.bundle().await, clock.now()));
    let sound = bottom.svid(clock.now()).unwrap();
    assert!(verify(&sound, &top.bundle().await, clock.now()));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_tainted_below_before_what_signs_there_is_sound() {
    let clock = Clock::simulated(now());
    let top = Layer::start_for(LONG_CA_TTL, None, &clock).await;
    let below = Layer::start_for(LONG_CA_TTL, Some(&top), &clock).await;
    let (first, second) = top.replace(Kind::X509).await;
    clock.sleep(POLLED).await;
    let authorities = &top.server.authorities;
    authorities.taint(Kind::X509, &first).await.unwrap();
    let mut changes = below.server.authorities.own_bundle();
    let is_tainted = |bundle: &Arc<Bundle>| bundle.x509_authorities.iter().any(|a| a.tainted);
    let _tainted = changes.wait_for(is_tainted).await.unwrap().clone();
    assert_eq!(below.root().await, Some(second));
}

#[tokio::test(start_paused = true)]
async fn jwt_keys_go_up_to_the_top_and_come_down_with_their_taints() {
    let clock = Clock::simulated(now());
    let top = Layer::start(None, &clock).await;
    let middle = Layer::start(Some(&top), &clock).await;
    let bottom = Layer::start(Some(&middle), &clock).await;
    let key = bottom.server.authorities.active_ids().1;
    let has = async |layer: &Layer| layer.bundle().await.jwt_authority(&key).is_some();
    assert!(has(&top).await && has(&middle).await && has(&bottom).await);
    clock.sleep(2 * POLLED).await;
    assert_eq!(bottom.bundle().await.jwt_authorities.len(), 3);
    // The top does not know whose it is; the bottom signs with another one from then on.
    let authorities = &top.server.authorities;
    authorities.taint(Kind::Jwt, &key).await.unwrap();
    clock.sleep(2 * POLLED).await;
    assert_ne!(bottom.server.authorities.active_ids().1, key);
    let tainted = bottom.bundle().await.jwt_authority(&key).unwrap().tainted;
    assert!(tainted);
    authorities.revoke(Kind::Jwt, &key).await.unwrap();
    clock.sleep(2 * POLLED).await;
    assert!(!has(&middle).await && !has(&bottom).await);
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_upstream_is_away_signs_on_and_starts_again_and_rotates_later() {
    let clock = Clock::simulated(now());
    let top = Layer::start(None, &clock).await;
    let below = Layer::start(Some(&top), &clock).await;
    let first = below.server.authorities.active_ids();
    top.go_away(true);
    clock.sleep(CA_TTL / 2 + POLLED).await;
    assert!(below.svid(clock.now()).is_ok(), "nothing could be prepared");
    let (store, keys) = (below.store.clone(), below.keys.clone());
    below.server.stop().await;
    let upstream = top.as_upstream();
    let config = Config {
        ca_ttl: CA_TTL,
        upstream: Some(upstream),
        ..Config::new(own())
    };
    let again = Server::start_with(config, &store, &keys, &clock).await;
    let again = again.unwrap();
    assert_eq!(again.authorities.active_ids(), first);
    top.go_away(false);
    clock.sleep(CA_TTL / 2).await;
    assert_ne!(again.authorities.active_ids().0, first.0);
}

#[tokio::test(start_paused = true)]
async fn a_first_start_waits_for_the_upstream_authority() {
    let clock = Clock::simulated(now());
    let top = Layer::start(None, &clock).await;
    top.go_away(true);
    let back = async {
        clock.sleep(Duration::from_secs(20)).await;
        top.go_away(false);
    };
    let (below, ()) = tokio::join!(Layer::start(Some(&top), &clock), back);
    assert!(below.svid(clock.now()).is_ok());
    assert!(clock.now() >= now() + Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_took_out_here_alone_does_not_come_back_by_itself() {
    let clock = Clock::simulated(now());
    let top = Layer::start_for(LONG_CA_TTL, None, &clock).await;
    let below = Layer::start_for(LONG_CA_TTL, Some(&top), &clock).await;
    let (first, _) = top.replace(Kind::X509).await;
    clock.sleep(POLLED).await;
    below.replace(Kind::X509).await;
    let authorities = &below.server.authorities;
    authorities.taint_upstream(&first).await.unwrap();
    authorities.revoke_upstream(&first).await.unwrap();
    clock.sleep(POLLED).await;
    assert!(!below.roots().await.contains(&first));
}
