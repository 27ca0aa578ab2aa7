//! What the names of a request stand for.
//!
//! A lookup sees one [`Update`], the caller's own. So whatever a name says, the answer is a secret of
//! the caller or nothing.

use std::collections::{BTreeMap, BTreeSet};

use identity::spiffe_id::SpiffeId;

use super::node::Validator;
use super::secret::Secret;
use crate::options::SdsOptions;
use crate::source::Update;
use crate::status::Refusal;

/// The type of every resource here.
pub(crate) const SECRET_TYPE: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// An Envoy asks for one name, or a few, on one stream.
pub(crate) const MAX_NAMES: usize = 1024;

/// What the names of one stream may take of memory, all together.
pub(crate) const MAX_NAME_BYTES: usize = 128 * 1024;

/// A secret under the name it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    pub(crate) name: String,
    pub(crate) secret: Secret,
}

/// The names that one stream asks for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Names {
    set: BTreeSet<String>,
    bytes: usize, // INVARIANT: the length of all names, and at most MAX_NAME_BYTES.
}

impl Names {
    /// Reads names. An empty one is no name.
    pub(crate) fn read(names: impl IntoIterator<Item = String>) -> Result<Self, Refusal> {
        let mut read = Self::default();
        for name in names {
            read.insert(name)?;
        }
        Ok(read)
    }

    /// Adds a name, as long as there is room for it.
    pub(crate) fn insert(&mut self, name: String) -> Result<(), Refusal> {
        if name.is_empty() || self.set.contains(&name) {
            return Ok(());
        }
        let bytes = self.bytes + name.len();
        if self.set.len() == MAX_NAMES || bytes > MAX_NAME_BYTES {
            return Err(Refusal::TooManyNames(MAX_NAMES, MAX_NAME_BYTES));
        }
        self.bytes = bytes;
        self.set.insert(name);
        Ok(())
    }

    /// Takes a name out, and tells whether it was there.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let there = self.set.remove(name);
        if there {
            self.bytes -= name.len();
        }
        there
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.set.contains(name)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &String> {
        self.set.iter()
    }
}

/// What there is of the names that were asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// In the order of the names.
    pub(crate) resources: Vec<Resource>,
    /// The names that stand for nothing now. They may later.
    pub(crate) pending: Vec<String>,
}

/// All that a caller may ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Catalog<'a> {
    pub(crate) update: &'a Update,
    pub(crate) options: &'a SdsOptions,
    pub(crate) validator: Validator,
}

impl Catalog<'_> {
    /// Looks every name up on its own, so that one identity may be asked for by several names at
    /// once. No names stand for everything.
    pub(crate) fn find(&self, names: &Names) -> Found {
        let mut found = Found::default();
        if names.is_empty() {
            let everything = self.everything().into_iter();
            found.resources = everything
                .map(|(name, secret)| Resource { name, secret })
                .collect();
            return found;
        }
        for name in names.iter().cloned() {
            match self.secret(&name) {
                Some(secret) => found.resources.push(Resource { name, secret }),
                None => found.pending.push(name),
            }
        }
        found
    }

    /// Every identity and every bundle, each by its SPIFFE ID.
    pub(crate) fn everything(&self) -> BTreeMap<String, Secret> {
        let mut all = BTreeMap::new();
        for identity in self.update.identities() {
            // Of two entries with one SPIFFE ID it is the first, as when it is asked for by name.
            all.entry(identity.svid.id().to_string())
                .or_insert_with(|| identity.tls_certificate().clone());
        }
        let bundles = self.update.bundles();
        for (place, bundle) in bundles.iter().enumerate() {
            if let Some(context) = bundles.contexts().one(place, bundle, self.validator) {
                all.insert(bundle.trust_domain.id().to_string(), context.clone());
            }
        }
        all
    }

    /// What one name stands for. Names of other systems, such as `file-cert:` of Istio, stand for
    /// nothing.
    pub(crate) fn secret(&self, name: &str) -> Option<Secret> {
        let identities = self.update.identities();
        if name == self.options.default_svid_name
            && let Some(first) = identities.first()
        {
            return Some(first.tls_certificate().clone());
        }
        let bundles = self.update.bundles();
        if name == self.options.default_bundle_name {
            let own = bundles.contexts().one(0, bundles.own(), self.validator);
            return own.cloned();
        }
        if name == self.options.default_all_bundles_name {
            // Plain authorities cannot be told apart by trust domain, so without the SPIFFE validator
            // there is nothing that stands for all bundles: any of them would vouch for anybody.
            return (self.validator == Validator::Spiffe)
                .then(|| bundles.contexts().all(bundles.iter()).clone());
        }
        let id = SpiffeId::parse(name).ok()?;
        if id.has_path() {
            let identity = identities.iter().find(|identity| *identity.svid.id() == id);
            return identity.map(|identity| identity.tls_certificate().clone());
        }
        let mut known = bundles.iter().enumerate();
        let (place, bundle) =
            known.find(|(_, bundle)| bundle.trust_domain == *id.trust_domain())?;
        bundles
            .contexts()
            .one(place, bundle, self.validator)
            .cloned()
    }
}
