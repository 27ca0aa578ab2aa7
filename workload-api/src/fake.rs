//! An [`IdentitySource`] that a test fills by hand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use identity::bundle::Bundle;
use identity::spiffe_id::SpiffeId;
use parking_lot::Mutex;
use runtime::unix::Peer;
use tokio::sync::watch;

#[doc(hidden)]
pub use crate::sds::{Replayed, replay, replay_delta};
use crate::source::{
    AttestError, Bundles, Identity, IdentitySource, JwtFetchError, JwtGrant, Subscription, Update,
};

/// Everybody who calls is the same caller, and has what the test says.
#[derive(Debug)]
pub struct FakeSource {
    updates: watch::Sender<Option<Arc<Update>>>,
    bundles: Mutex<Arc<Bundles>>,
    grants: Mutex<Vec<JwtGrant>>,
    attestations: AtomicUsize,
    suspicions: watch::Sender<usize>,
    slow_attestation: AtomicBool,
    fail_attestation: AtomicBool,
    fail_jwt: AtomicBool,
}

/// A process that [`FakeSource`] has attested.
#[derive(Debug)]
pub struct FakeCaller {
    // How many suspicions there had been when it was attested.
    suspicions: usize,
}

impl FakeSource {
    /// A source that has not had its first update: subscribers wait.
    #[must_use]
    pub fn new(own: Arc<Bundle>) -> Arc<Self> {
        Arc::new(Self {
            updates: watch::Sender::new(None),
            bundles: Mutex::new(Arc::new(Bundles::new(own, BTreeMap::new()))),
            grants: Mutex::default(),
            attestations: AtomicUsize::new(0),
            suspicions: watch::Sender::new(0),
            slow_attestation: AtomicBool::new(false),
            fail_attestation: AtomicBool::new(false),
            fail_jwt: AtomicBool::new(false),
        })
    }

    /// Sets the bundles that the next update carries.
    pub fn set_bundles(&self, bundles: Bundles) {
        *self.bundles.lock() = Arc::new(bundles);
    }

    /// Publishes an update with these identities and the bundles of now.
    pub fn publish(&self, identities: Vec<Arc<Identity>>) -> Arc<Update> {
        let update = Arc::new(Update::new(identities, Arc::clone(&self.bundles.lock())));
        self.updates.send_replace(Some(Arc::clone(&update)));
        update
    }

    /// Sets the JWT-SVIDs that may be fetched.
    pub fn grant(&self, grants: Vec<JwtGrant>) {
        *self.grants.lock() = grants;
    }

    /// Says that everybody may be somebody else by now.
    pub fn suspect(&self) {
        self.suspicions.send_modify(|count| *count += 1);
    }

    /// Lets attestation take a few turns of the runtime.
    pub fn slow_attestation(&self, slow: bool) {
        self.slow_attestation.store(slow, Ordering::SeqCst);
    }

    /// Lets attestation fail, or succeed again.
    pub fn fail_attestation(&self, fail: bool) {
        self.fail_attestation.store(fail, Ordering::SeqCst);
    }

    /// Lets the fetching of JWT-SVIDs fail, or succeed again.
    pub fn fail_jwt(&self, fail: bool) {
        self.fail_jwt.store(fail, Ordering::SeqCst);
    }

    /// How often somebody was attested.
    pub fn attestations(&self) -> usize {
        self.attestations.load(Ordering::SeqCst)
    }

    /// How many streams are subscribed.
    pub fn subscribers(&self) -> usize {
        self.updates.receiver_count()
    }
}

impl IdentitySource for FakeSource {
    type Caller = FakeCaller;

    async fn attest(
        &self,
        _: &Arc<Peer>,
        _: Option<&FakeCaller>,
    ) -> Result<FakeCaller, AttestError> {
        let suspicions = *self.suspicions.borrow();
        if self.slow_attestation.load(Ordering::SeqCst) {
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
        }
        self.attestations.fetch_add(1, Ordering::SeqCst);
        if self.fail_attestation.load(Ordering::SeqCst) {
            return Err(AttestError::NoAttestor("told to fail".into()));
        }
        Ok(FakeCaller { suspicions })
    }

    async fn suspect(&self, caller: &FakeCaller) {
        let mut suspicions = self.suspicions.subscribe();
        // The sender lives as long as this.
        let _ = suspicions
            .wait_for(|count| *count > caller.suspicions)
            .await;
    }

    fn subscribe(&self, _: &FakeCaller) -> Subscription {
        Subscription::new(self.updates.subscribe())
    }

    async fn jwt_svids(
        &self,
        _: &FakeCaller,
        _: Vec<String>,
        id: Option<SpiffeId>,
    ) -> Result<Vec<JwtGrant>, JwtFetchError> {
        if self.fail_jwt.load(Ordering::SeqCst) {
            return Err(JwtFetchError::Upstream("told to fail".into()));
        }
        let mut grants = self.grants.lock().clone();
        grants.retain(|grant| id.as_ref().is_none_or(|id| grant.svid.id() == id));
        Ok(grants)
    }

    fn bundles(&self, _: &FakeCaller) -> Arc<Bundles> {
        Arc::clone(&self.bundles.lock())
    }
}
