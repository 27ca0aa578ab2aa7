//! What the sockets see of the agent.

use std::sync::Arc;

use identity::selector::Selectors;
use identity::spiffe_id::SpiffeId;
use runtime::unix::Peer;
use workload_api::source::{
    AttestError, Bundles, IdentitySource, JwtFetchError, JwtGrant, Subscription,
};

use crate::attest::{Attestors, Caller};
use crate::cache::driver::Driver;
use crate::upstream::Upstream;

/// The agent's identities, for those who attest.
#[derive(Debug)]
pub struct Source<U> {
    attestors: Attestors,
    driver: Arc<Driver<U>>,
}

impl<U: Upstream> Source<U> {
    pub fn new(attestors: Attestors, driver: Arc<Driver<U>>) -> Self {
        Self { attestors, driver }
    }
}

impl<U: Upstream> IdentitySource for Source<U> {
    type Caller = Caller;

    async fn attest(&self, peer: &Arc<Peer>) -> Result<Caller, AttestError> {
        self.attestors.attest(peer).await
    }

    fn subscribe(&self, caller: &Caller) -> Subscription {
        self.driver.subscribe(caller.selectors())
    }

    async fn jwt_svids(
        &self,
        caller: &Caller,
        audience: Vec<String>,
        id: Option<SpiffeId>,
    ) -> Result<Vec<JwtGrant>, JwtFetchError> {
        jwt_grants(&self.driver, caller.selectors(), &audience, id.as_ref()).await
    }

    fn bundles(&self, caller: &Caller) -> Arc<Bundles> {
        self.driver.bundles_of(caller.selectors())
    }
}

async fn jwt_grants<U: Upstream>(
    driver: &Arc<Driver<U>>,
    caller: &Selectors,
    audience: &[String],
    id: Option<&SpiffeId>,
) -> Result<Vec<JwtGrant>, JwtFetchError> {
    let entries = driver
        .entries_of(caller)
        .into_iter()
        .filter(|entry| id.is_none_or(|id| entry.spiffe_id == *id));
    let grants = entries.map(|entry| async move {
        let svid = driver.jwt_svid(&entry, audience).await?;
        Ok(JwtGrant {
            entry_id: entry.id.clone(),
            hint: entry.hint.clone(),
            created_at: entry.created_at,
            svid,
        })
    });
    // All at once: a caller with many identities waits for the slowest, not for the sum.
    futures_util::future::try_join_all(grants).await
}
