//! What the agent was told, and where that is in the life of what it may serve.
//!
//! Pure: parts of changes go in, and what the cache is to be told comes out. A change counts as a
//! whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use identity::bundle::Bundle;
use identity::entry::{EntriesDigest, Entry, EntryId};
use identity::trust_domain::TrustDomain;

use crate::cache::driver::AllBundles;
use crate::upstream::feed::{MAX_CHANGE_BYTES, MAX_CHANGE_ITEMS, Piece, Position, Stamp, Told};
use crate::upstream::{EntrySet, UpstreamError};

/// How many entries may be unreadable. Of a server with more, nothing else is believed either.
const MAX_UNREADABLE: usize = 10_000;

/// The parts of a change that have come so far.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    told: BTreeMap<EntryId, Told>,
    bundles: BTreeMap<TrustDomain, Option<Arc<Bundle>>>,
    bytes: usize,
}

/// All of a change.
#[derive(Debug)]
pub(super) struct Change {
    told: BTreeMap<EntryId, Told>,
    bundles: BTreeMap<TrustDomain, Option<Arc<Bundle>>>,
    position: Position,
}

impl Gathered {
    /// Takes a part. Gives the change when that was the last one.
    pub(super) fn add(&mut self, piece: Piece) -> Result<Option<Change>, UpstreamError> {
        self.bytes = self.bytes.saturating_add(piece.bytes);
        self.told.extend(piece.told);
        self.bundles.extend(piece.bundles);
        let items = self.told.len() + self.bundles.len();
        if self.bytes > MAX_CHANGE_BYTES || items > MAX_CHANGE_ITEMS {
            return Err(protocol("a change tells more than an agent can take"));
        }
        let Some(position) = piece.position else {
            return Ok(None);
        };
        let Self { told, bundles, .. } = std::mem::take(self);
        Ok(Some(Change {
            told,
            bundles,
            position,
        }))
    }
}

/// How a change is to be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Extent {
    /// It tells everything, and what it does not name is gone.
    Everything,
    /// It tells all bundles, and which entries changed.
    AllBundles,
    /// It tells what changed.
    Difference,
}

/// What the cache is to be told.
#[derive(Debug)]
pub(super) enum News {
    /// All bundles and entries.
    Everything(AllBundles, EntrySet),
    Difference {
        /// All of them, if any changed.
        bundles: Option<AllBundles>,
        entries: Vec<Arc<Entry>>,
        removed: Vec<EntryId>,
    },
}

/// What the agent holds.
#[derive(Debug)]
pub(super) struct Held {
    trust_domain: TrustDomain,
    entries: EntrySet,
    bundles: BTreeMap<TrustDomain, Arc<Bundle>>,
    // Entries that nobody could read. The server counts them as held.
    unreadable: BTreeMap<EntryId, Stamp>,
    // `None` until it is needed: polling has no use for it.
    digest: Option<EntriesDigest>,
    // Lineage and revision, if a feed told them for just these entries.
    place: Option<(Vec<u8>, u64)>,
    is_told: bool,
}

impl Held {
    pub(super) fn nothing(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            entries: EntrySet::default(),
            bundles: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            digest: None,
            place: None,
            is_told: false,
        }
    }

    pub(super) fn entries(&self) -> &EntrySet {
        &self.entries
    }

    /// Where the agent is. `None` before it was told anything, or if what it was told is in doubt.
    pub(super) fn position(&mut self) -> Option<Position> {
        if !self.is_told {
            return None;
        }
        let digest = self.digest().to_bytes();
        let (lineage, revision) = self.place.clone().unwrap_or_default();
        Some(Position {
            lineage,
            revision,
            digest,
        })
    }

    /// What is held is in doubt: the next feed is to tell everything.
    pub(super) fn doubt(&mut self) {
        self.is_told = false;
    }

    /// Takes what polling brought.
    pub(super) fn polled(&mut self, (own, federated): &AllBundles, entries: &EntrySet) {
        self.entries = entries.clone();
        self.bundles.clone_from(federated);
        self.bundles
            .insert(self.trust_domain.clone(), Arc::clone(own));
        self.unreadable.clear();
        self.digest = None;
        self.place = None;
        self.is_told = true;
    }

    /// Takes a bundle that was asked for by itself, unless a newer one has come by now. Gives all.
    pub(super) fn fetched(&mut self, own: Bundle) -> Result<AllBundles, UpstreamError> {
        let known = self.bundles.get(&self.trust_domain);
        if known.is_none_or(|known| known.sequence < own.sequence)
            && !own.x509_authorities.is_empty()
        {
            self.bundles
                .insert(self.trust_domain.clone(), Arc::new(own));
        }
        split(&self.trust_domain, &self.bundles)
    }

    /// Takes a change, unless the server counts differently: then nothing of it is taken.
    pub(super) fn take(&mut self, change: Change, extent: Extent) -> Result<News, UpstreamError> {
        let bundles = self.merged(change.bundles, extent);
        let all = split(&self.trust_domain, &bundles)?;
        let news = if extent == Extent::Everything {
            let told = self.list(change.told);
            told.check(change.position.digest)?;
            self.digest = Some(told.digest);
            self.unreadable = told.unreadable;
            self.entries = told.entries.clone();
            News::Everything(all, told.entries)
        } else {
            self.check_unreadable(&change.told)?;
            let digest = self.digest_after(&change.told);
            agree(digest, change.position.digest)?;
            self.digest = Some(digest);
            let differs = bundles != self.bundles;
            let (entries, removed) = self.edit(change.told);
            News::Difference {
                bundles: differs.then_some(all),
                entries,
                removed,
            }
        };
        self.bundles = bundles;
        self.place = Some((change.position.lineage, change.position.revision));
        self.is_told = true;
        Ok(news)
    }

    fn merged(
        &self,
        told: BTreeMap<TrustDomain, Option<Arc<Bundle>>>,
        extent: Extent,
    ) -> BTreeMap<TrustDomain, Arc<Bundle>> {
        let mut bundles = match extent {
            Extent::Difference => self.bundles.clone(),
            Extent::Everything | Extent::AllBundles => BTreeMap::new(),
        };
        for (trust_domain, bundle) in told {
            // A bundle that was fetched may have overtaken this one.
            let is_older = |known: &Arc<Bundle>| {
                bundle
                    .as_ref()
                    .is_some_and(|told| told.sequence < known.sequence)
            };
            if bundles.get(&trust_domain).is_some_and(is_older) {
                continue;
            }
            match bundle {
                Some(bundle) => bundles.insert(trust_domain, bundle),
                None => bundles.remove(&trust_domain),
            };
        }
        bundles
    }

    /// A whole list. Entries that are known in the same revision stay the same `Arc`.
    fn list(&self, told: BTreeMap<EntryId, Told>) -> List {
        let mut list = List::default();
        for (id, told) in told {
            match told {
                Told::Entry(entry) => {
                    list.digest.add(&id, entry.revision, entry.created_at);
                    let known =
                        self.entries
                            .current(&entry.id, entry.revision, Some(entry.created_at));
                    let entry = known.filter(|known| **known == entry).unwrap_or(&entry);
                    list.entries.insert(Arc::clone(entry));
                }
                Told::Unreadable(stamp) => {
                    list.digest.add(&id, stamp.revision, stamp.created_at);
                    list.unreadable.insert(id, stamp);
                }
                Told::Removed => {}
            }
        }
        list
    }

    fn digest(&mut self) -> EntriesDigest {
        *self.digest.get_or_insert_with(|| {
            let entries = self.entries.iter().map(|entry| &**entry);
            let mut digest: EntriesDigest = entries.collect();
            for (id, stamp) in &self.unreadable {
                digest.add(id, stamp.revision, stamp.created_at);
            }
            digest
        })
    }

    /// The digest with a change, without the change being taken.
    fn digest_after(&mut self, told: &BTreeMap<EntryId, Told>) -> EntriesDigest {
        let mut digest = self.digest();
        for (id, told) in told {
            if let Some(held) = self.entries.get(id) {
                digest.remove(id, held.revision, held.created_at);
            }
            if let Some(stamp) = self.unreadable.get(id) {
                digest.remove(id, stamp.revision, stamp.created_at);
            }
            match told {
                Told::Entry(entry) => digest.add(id, entry.revision, entry.created_at),
                Told::Unreadable(stamp) => digest.add(id, stamp.revision, stamp.created_at),
                Told::Removed => {}
            }
        }
        digest
    }

    fn check_unreadable(&self, told: &BTreeMap<EntryId, Told>) -> Result<(), UpstreamError> {
        let new = told.values();
        let new = new.filter(|told| matches!(told, Told::Unreadable(_)));
        check_unreadable(self.unreadable.len() + new.count())
    }

    fn edit(&mut self, told: BTreeMap<EntryId, Told>) -> (Vec<Arc<Entry>>, Vec<EntryId>) {
        let (mut entries, mut removed) = (Vec::new(), Vec::new());
        for (id, told) in told {
            self.unreadable.remove(&id);
            match told {
                Told::Entry(entry) => {
                    self.entries.insert(Arc::clone(&entry));
                    entries.push(entry);
                    continue;
                }
                Told::Unreadable(stamp) => {
                    self.unreadable.insert(id.clone(), stamp);
                }
                Told::Removed => {}
            }
            if self.entries.remove(&id).is_some() {
                removed.push(id);
            }
        }
        (entries, removed)
    }
}

#[derive(Debug, Default)]
struct List {
    entries: EntrySet,
    unreadable: BTreeMap<EntryId, Stamp>,
    digest: EntriesDigest,
}

impl List {
    fn check(&self, told: [u8; EntriesDigest::BYTES]) -> Result<(), UpstreamError> {
        check_unreadable(self.unreadable.len())?;
        agree(self.digest, told)
    }
}

fn check_unreadable(count: usize) -> Result<(), UpstreamError> {
    if count > MAX_UNREADABLE {
        return Err(protocol("too many of its entries cannot be read"));
    }
    Ok(())
}

fn agree(found: EntriesDigest, told: [u8; EntriesDigest::BYTES]) -> Result<(), UpstreamError> {
    if found.to_bytes() == told {
        Ok(())
    } else {
        Err(protocol("it counts other entries than it told"))
    }
}

fn split(
    own: &TrustDomain,
    bundles: &BTreeMap<TrustDomain, Arc<Bundle>>,
) -> Result<AllBundles, UpstreamError> {
    let mut federated = bundles.clone();
    let own = federated.remove(own);
    // An agent without authorities could not even recognize its server any more.
    let own = own
        .filter(|own| !own.x509_authorities.is_empty())
        .ok_or_else(no_authority)?;
    Ok((own, federated))
}

pub(super) fn no_authority() -> UpstreamError {
    protocol("it has no X.509 authority in the bundle of its own trust domain")
}

fn protocol(what: &'static str) -> UpstreamError {
    UpstreamError::Protocol { what, source: None }
}

/// The trust domains whose bundles these entries need beside their own.
pub(super) fn federated(own: &TrustDomain, entries: &EntrySet) -> BTreeSet<TrustDomain> {
    entries
        .iter()
        .flat_map(|entry| &entry.federates_with)
        .filter(|trust_domain| *trust_domain != own)
        .cloned()
        .collect()
}
