//! A change on its way: in messages that any agent takes.

use std::fmt;
use std::iter::Peekable;

use identity::entry::EntriesDigest;
use prost::Message;
use proto::signet::agent::follow_response::Message as Content;
use proto::signet::agent::{Change, FollowResponse, Position};
use proto::spire::types;
use proto::spire::types::EntryMask;

use super::super::convert::{bundle, entry};
use crate::feed::{Delta, Lineage, Told};

/// No message is larger, unless one entry or one bundle alone is.
pub(super) const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Room for the position, and for what stands around the change.
const FRAME_BYTES: usize = 256;
/// Room for the tag and the length of an item.
const ITEM_BYTES: usize = 6;

/// What an agent has a use for. Lifetimes and DNS names are ours to know when we sign, and the parent
/// is the agent's own affair.
const MASK: EntryMask = EntryMask {
    spiffe_id: true,
    parent_id: false,
    selectors: true,
    x509_svid_ttl: false,
    jwt_svid_ttl: false,
    federates_with: true,
    admin: true,
    downstream: true,
    expires_at: true,
    dns_names: false,
    revision_number: true,
    store_svid: true,
    hint: true,
    created_at: true,
    additional_attributes: true,
};

enum Item {
    Entry(types::Entry),
    RemovedEntry(String),
    Bundle(types::Bundle),
    RemovedBundle(String),
}

/// The messages of one change. Each is made when it is asked for, so that a slow reader of a long
/// change costs a list of pointers.
pub(super) struct Outgoing {
    items: Peekable<Box<dyn Iterator<Item = Item> + Send + Sync>>,
    /// Goes with the last message.
    position: Option<Position>,
}

impl Outgoing {
    pub(super) fn new(lineage: &Lineage, told: Told) -> Self {
        let position = Some(Position {
            lineage: lineage.to_vec().into(),
            revision: told.snapshot.revision.number(),
            digest: digest(told.digest),
        });
        let items: Box<dyn Iterator<Item = Item> + Send + Sync> = Box::new(items(told.delta));
        Self {
            items: items.peekable(),
            position,
        }
    }

    /// The next message; none once the last was taken.
    pub(super) fn next(&mut self) -> Option<FollowResponse> {
        let position = self.position.take()?;
        let mut change = Change::default();
        let mut room = MAX_MESSAGE_BYTES - FRAME_BYTES;
        let mut is_first = true;
        let fits = |item: &Item, room: usize| item.bytes() <= room;
        while let Some(item) = self.items.next_if(|item| is_first || fits(item, room)) {
            is_first = false;
            room = room.saturating_sub(item.bytes());
            item.add_to(&mut change);
        }
        if self.items.peek().is_some() {
            self.position = Some(position);
        } else {
            change.position = Some(position);
        }
        Some(FollowResponse {
            message: Some(Content::Change(change)),
        })
    }
}

fn digest(digest: EntriesDigest) -> bytes::Bytes {
    digest.to_bytes().to_vec().into()
}

fn items(delta: Delta) -> impl Iterator<Item = Item> + Send + Sync {
    let Delta {
        entries,
        removed,
        bundles,
        removed_bundles,
    } = delta;
    let bundles = bundles.into_iter();
    let gone = removed_bundles.into_iter();
    let removed = removed.into_iter();
    let entries = entries.into_iter();
    bundles
        .map(|stored| Item::Bundle(bundle::to_proto(&stored.value, None)))
        .chain(gone.map(|name| Item::RemovedBundle(name.name().to_owned())))
        .chain(removed.map(|id| Item::RemovedEntry(id.as_str().to_owned())))
        .chain(
            entries.map(|stored| {
                Item::Entry(entry::to_proto(&stored.value, entry::Mask(Some(&MASK))))
            }),
        )
}

impl Item {
    fn bytes(&self) -> usize {
        ITEM_BYTES
            + match self {
                Self::Entry(entry) => entry.encoded_len(),
                Self::Bundle(bundle) => bundle.encoded_len(),
                Self::RemovedEntry(name) | Self::RemovedBundle(name) => name.len(),
            }
    }

    fn add_to(self, change: &mut Change) {
        match self {
            Self::Entry(entry) => change.entries.push(entry),
            Self::RemovedEntry(id) => change.removed_entries.push(id),
            Self::Bundle(bundle) => change.bundles.push(bundle),
            Self::RemovedBundle(name) => change.removed_bundles.push(name),
        }
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::UNIX_EPOCH;

    use identity::entry::{EntryDraft, EntryId};
    use identity::selector::{Selector, Selectors};
    use identity::spiffe_id::SpiffeId;
    use identity::trust_domain::TrustDomain;

    use super::*;
    use crate::index::entries::StoredEntry;
    use crate::index::{Snapshot, Stored};
    use crate::store::Revision;

    fn entry(own: &TrustDomain, number: usize, selectors: usize) -> StoredEntry {
        let id = |path: &str| SpiffeId::from_path(own, path).unwrap();
        let selector = |n| {
            Selector::new(
                "unix",
                &format!("{n}{}", "v".repeat(4_000 * selectors / 100)),
            )
        };
        let selectors: Selectors = (0..selectors).map(|n| selector(n).unwrap()).collect();
        let parent = id("/spire/agent/x/1");
        let draft = EntryDraft::new(id(&format!("/{number}")), parent, selectors);
        let entry_id = EntryId::parse(&format!("entry-{number}")).unwrap();
        let value = draft
            .check(own)
            .unwrap()
            .into_entry(entry_id, 0, UNIX_EPOCH);
        let revision = Revision::new(1);
        Arc::new(Stored { revision, value })
    }

    fn messages(entries: Vec<StoredEntry>, removed: Vec<EntryId>) -> Vec<Change> {
        let own = TrustDomain::parse("example.org").unwrap();
        let snapshot = Snapshot::from_records(&own, Revision::new(7), &[]).unwrap();
        let told = Told {
            snapshot: Arc::new(snapshot),
            delta: Delta {
                entries,
                removed,
                ..Delta::default()
            },
            digest: EntriesDigest::default(),
        };
        let mut outgoing = Outgoing::new(&[1; 16], told);
        let mut changes = Vec::new();
        while let Some(response) = outgoing.next() {
            assert!(response.encoded_len() <= MAX_MESSAGE_BYTES || changes.len() == 1);
            let Some(Content::Change(change)) = response.message else {
                panic!("no change");
            };
            changes.push(change);
        }
        changes
    }

    #[test]
    fn a_hundred_thousand_entries_go_in_messages_of_a_mebibyte_at_most() {
        let own = TrustDomain::parse("example.org").unwrap();
        let entries: Vec<_> = (0..100_000).map(|n| entry(&own, n, 1)).collect();
        let changes = messages(entries, vec![EntryId::parse("gone").unwrap()]);
        let ids = changes.iter().flat_map(|change| &change.entries);
        let ids: BTreeSet<&str> = ids.map(|entry| entry.id.as_str()).collect();
        assert_eq!(ids.len(), 100_000);
        // Full messages: no more of them than it takes.
        let bytes: usize = changes.iter().map(Change::encoded_len).sum();
        assert!(changes.len() <= bytes / (MAX_MESSAGE_BYTES / 10 * 9) + 1);
        let (last, others) = changes.split_last().unwrap();
        assert_eq!(last.position.as_ref().unwrap().revision, 7);
        assert!(others.iter().all(|change| change.position.is_none()));
    }

    #[test]
    fn an_entry_that_is_larger_than_a_message_goes_alone() {
        let own = TrustDomain::parse("example.org").unwrap();
        let entries = vec![entry(&own, 1, 1), entry(&own, 2, 200), entry(&own, 3, 1)];
        let lengths: Vec<_> = messages(entries, Vec::new())
            .iter()
            .map(|change| change.entries.len())
            .collect();
        assert_eq!(lengths, [1, 1, 1]);
    }

    #[test]
    fn a_change_of_nothing_is_one_message_with_its_position() {
        let changes = messages(Vec::new(), Vec::new());
        assert!(matches!(&changes[..], [only] if only.position.is_some()));
    }
}
