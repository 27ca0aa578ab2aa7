//! What a caller has at one moment, and the one encoding of it.
//!
//! An [`Update`] is shared by every stream that sees the same identities. Its responses are encoded
//! when the first of these streams asks, and never again: a rotation under a thousand streams costs
//! one encoding. The bytes hold private keys, so they are wiped when the last stream lets go.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use identity::bundle::Bundle;
use identity::entry::{EntryId, Hint};
use identity::trust_domain::TrustDomain;
use identity::x509::X509Svid;

use crate::encode;
use crate::sds::{CertificateCell, ContextCells, Secret};

/// Everything that a caller may have: the whole state, never a delta.
pub struct Update {
    identities: Vec<Arc<Identity>>, // INVARIANT: ascending by entry id.
    bundles: Arc<Bundles>,
    x509_svids: OnceLock<Bytes>,
}

impl Update {
    /// Puts identities into the order in which every response lists them: by entry id, so that the
    /// first one, the default, is the same on every stream and after every restart.
    ///
    /// Only an entry opens the bundles of other trust domains; a caller without one sees the own.
    #[must_use]
    pub fn new(mut identities: Vec<Arc<Identity>>, bundles: Arc<Bundles>) -> Self {
        identities.sort_by(|a, b| a.entry_id.cmp(&b.entry_id));
        let bundles = if identities.is_empty() && !bundles.federated.is_empty() {
            Arc::new(Bundles::new(Arc::clone(&bundles.own), BTreeMap::new()))
        } else {
            bundles
        };
        Self {
            identities,
            bundles,
            x509_svids: OnceLock::new(),
        }
    }

    /// The identities, by entry id. Two entries may name the same SPIFFE ID.
    pub fn identities(&self) -> &[Arc<Identity>] {
        &self.identities
    }

    /// The bundles that these identities may use.
    pub fn bundles(&self) -> &Arc<Bundles> {
        &self.bundles
    }

    /// The message of `FetchX509SVID`.
    pub(crate) fn x509_svids(&self) -> &Bytes {
        self.x509_svids.get_or_init(|| encode::x509_svids(self))
    }
}

impl fmt::Debug for Update {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Update")
            .field("identities", &self.identities)
            .finish_non_exhaustive()
    }
}

/// One identity of a workload.
#[derive(Debug)]
pub struct Identity {
    /// The entry that grants it.
    pub entry_id: EntryId,
    /// What the entry tells the workload about this identity.
    pub hint: Option<Hint>,
    /// When the entry was created: of two equal hints the older entry keeps it.
    pub created_at: SystemTime,
    /// The X509-SVID with its key.
    pub svid: X509Svid,
    certificate: CertificateCell,
}

impl Identity {
    /// What an entry grants. The encoding for proxies is made when the first one asks, and then
    /// shared by all that see this identity, for as long as it is the same.
    #[must_use]
    pub fn new(
        entry_id: EntryId,
        hint: Option<Hint>,
        created_at: SystemTime,
        svid: X509Svid,
    ) -> Self {
        Self {
            entry_id,
            hint,
            created_at,
            svid,
            certificate: CertificateCell::default(),
        }
    }

    /// The certificate as Envoy takes it.
    pub(crate) fn tls_certificate(&self) -> &Secret {
        self.certificate.of(&self.svid)
    }
}

/// The own bundle, and those of other trust domains that a caller's entries federate with.
pub struct Bundles {
    own: Arc<Bundle>,
    federated: BTreeMap<TrustDomain, Arc<Bundle>>,
    x509: OnceLock<Bytes>,
    jwt: OnceLock<Bytes>,
    contexts: ContextCells,
}

impl Bundles {
    /// Puts the bundles of other trust domains beside the own one.
    #[must_use]
    pub fn new(own: Arc<Bundle>, federated: BTreeMap<TrustDomain, Arc<Bundle>>) -> Self {
        Self {
            contexts: ContextCells::new(1 + federated.len()),
            own,
            federated,
            x509: OnceLock::new(),
            jwt: OnceLock::new(),
        }
    }

    /// The bundle of the agent's own trust domain.
    pub fn own(&self) -> &Arc<Bundle> {
        &self.own
    }

    /// The bundles of other trust domains.
    pub fn federated(&self) -> &BTreeMap<TrustDomain, Arc<Bundle>> {
        &self.federated
    }

    /// All bundles: the own one first, the others by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        std::iter::once(&self.own).chain(self.federated.values())
    }

    /// The bundle of a trust domain, if the caller may see it.
    pub fn of(&self, trust_domain: &TrustDomain) -> Option<&Arc<Bundle>> {
        if self.own.trust_domain == *trust_domain {
            return Some(&self.own);
        }
        self.federated.get(trust_domain)
    }

    /// The bundles as Envoy takes them, in the order of [`Bundles::iter`].
    pub(crate) fn contexts(&self) -> &ContextCells {
        &self.contexts
    }

    /// The message of `FetchX509Bundles`.
    pub(crate) fn x509(&self) -> &Bytes {
        self.x509.get_or_init(|| encode::x509_bundles(self.iter()))
    }

    /// The message of `FetchJWTBundles`.
    pub(crate) fn jwt(&self) -> &Bytes {
        self.jwt.get_or_init(|| encode::jwt_bundles(self.iter()))
    }
}

impl fmt::Debug for Bundles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundles")
            .field("own", &self.own.trust_domain)
            .field("federated", &self.federated.keys())
            .finish()
    }
}
