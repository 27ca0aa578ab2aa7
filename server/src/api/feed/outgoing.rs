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
