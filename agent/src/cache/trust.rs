//! The bundles that the agent hands out, and what they say about its SVIDs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use identity::bundle::Bundle;
use identity::trust_domain::TrustDomain;
use identity::x509::{Certificate, Purpose, X509Svid, verify_peer};
use workload_api::source::Bundles;

/// How many selections of federated bundles are remembered. More are made again on demand.
const REMEMBERED: usize = 1024;
/// About how many revoked JWT authorities are remembered.
const REVOKED: usize = 64;

/// The bundles of the agent's own trust domain and of those that its entries federate with.
#[derive(Debug)]
pub(super) struct Trust {
    own: Arc<Bundle>,
    federated: BTreeMap<TrustDomain, Arc<Bundle>>,
    // One `Bundles` for all callers that see the same trust domains, for it holds their encoding.
    shared: BTreeMap<BTreeSet<TrustDomain>, Arc<Bundles>>,
    // How often they were replaced.
    version: u64,
    // JWT authorities that an earlier bundle had and this one has not. A token may still come in that
    // one of them signed.
    revoked: BTreeSet<String>,
}

/// What the own bundle says about the authority that signed an SVID.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    /// The bundle has it.
    Trusted,
    /// It is in the bundle, and marked as compromised.
    Tainted,
    /// It is not in the bundle: not yet, or no longer.
    Unknown,
}

impl Trust {
    pub(super) fn new(own: Arc<Bundle>) -> Self {
        Self {
            own,
            federated: BTreeMap::new(),
            shared: BTreeMap::new(),
            version: 0,
            revoked: BTreeSet::new(),
        }
    }

    /// Takes a new set of bundles. `false` says that nothing changed.
    pub(super) fn replace(
        &mut self,
        own: Arc<Bundle>,
        federated: BTreeMap<TrustDomain, Arc<Bundle>>,
    ) -> bool {
        if *self.own == *own && self.federated == federated {
            return false;
        }
        let key_ids = |bundle: &Bundle| -> BTreeSet<_> {
            let authorities = bundle.jwt_authorities.iter();
            authorities
                .map(|authority| authority.key_id.clone())
                .collect()
        };
        let (before, now) = (key_ids(&self.own), key_ids(&own));
        let mut revoked = std::mem::take(&mut self.revoked);
        if revoked.len() >= REVOKED {
            revoked.clear();
        }
        revoked.extend(before);
        revoked.retain(|key_id| !now.contains(key_id));
        *self = Self {
            own,
            federated,
            shared: BTreeMap::new(),
            version: self.version + 1,
            revoked,
        };
        true
    }

    /// How often the bundles were replaced.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// All bundles, the own one among them.
    pub(super) fn all(&self) -> Vec<Arc<Bundle>> {
        let own = std::iter::once(&self.own);
        own.chain(self.federated.values()).cloned().collect()
    }

    pub(super) fn own(&self) -> &Arc<Bundle> {
        &self.own
    }

    pub(super) fn federated(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.federated.values()
    }

    /// The own bundle, and those of `federated` that are known.
    pub(super) fn select(&mut self, federated: BTreeSet<TrustDomain>) -> Arc<Bundles> {
        if let Some(shared) = self.shared.get(&federated) {
            return Arc::clone(shared);
        }
        let known = federated
            .iter()
            .filter_map(|trust_domain| self.federated.get_key_value(trust_domain))
            .map(|(trust_domain, bundle)| (trust_domain.clone(), Arc::clone(bundle)))
            .collect();
        let bundles = Arc::new(Bundles::new(Arc::clone(&self.own), known));
        if self.shared.len() >= REMEMBERED {
            self.shared.clear();
        }
        self.shared.insert(federated, Arc::clone(&bundles));
        bundles
    }

    /// What the own bundle says about the authority of an SVID.
    ///
    /// A chain comes without its root, so its last certificate names the root, mostly by an
    /// authority key identifier. Where it does not, the path is verified as a peer would.
    pub(super) fn standing(&self, svid: &X509Svid, now: SystemTime) -> Standing {
        let named = svid.chain().last().and_then(Certificate::authority_key_id);
        let authority = self
            .own
            .x509_authorities
            .iter()
            .find(|authority| Some(authority.authority_id()) == named);
        match authority {
            Some(authority) if authority.tainted => Standing::Tainted,
            Some(_) => Standing::Trusted,
            None => {
                let bundle = |trust_domain: &TrustDomain| {
                    (*trust_domain == self.own.trust_domain).then_some(self.own.as_ref())
                };
                match verify_peer(svid.chain(), Purpose::ServerAuth, bundle, now) {
                    Ok(_) => Standing::Trusted,
                    Err(_) => Standing::Unknown,
                }
            }
        }
    }

    /// Whether tokens of this JWT authority are no longer to be handed out: it is marked as
    /// compromised, or it was revoked.
    pub(super) fn distrusts(&self, key_id: &str) -> bool {
        let mut authorities = self.own.jwt_authorities.iter();
        let tainted = authorities.any(|authority| authority.tainted && authority.key_id == key_id);
        tainted || self.revoked.contains(key_id)
    }
}
