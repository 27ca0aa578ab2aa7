//! What a server pushes to its agents, beside the calls that ask for it again and again.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::BoxStream;
use identity::bundle::Bundle;
use identity::entry::{EntriesDigest, Entry, EntryId};
use identity::trust_domain::TrustDomain;
use tokio::sync::watch;

use super::UpstreamError;

/// The most that one change may tell, so that a server cannot take all memory of the node. A server
/// that has more for one agent is asked for it page by page.
pub const MAX_CHANGE_ITEMS: usize = 1_000_000;
/// The most bytes that the messages of one change may have.
pub const MAX_CHANGE_BYTES: usize = 256 << 20;

/// A server that may push. It is asked for the feed before anything else.
pub trait Feed: Send + Sync + 'static {
    /// Opens the feed, at the position that the agent has reached. `None` is a server without one.
    fn follow(
        &self,
        held: Option<Position>,
    ) -> impl Future<Output = Result<Option<Followed>, UpstreamError>> + Send;

    /// Tells of every identity after the one of now. A feed is followed with the agent's own.
    fn renewals(&self) -> watch::Receiver<()>;

    /// Nothing comes from the server any more: the next call is to make a new connection.
    fn hang_up(&self);
}

/// A point in the life of what this agent may serve.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Position {
    /// Which store counted the revision; empty if nobody told a revision.
    pub lineage: Vec<u8>,
    pub revision: u64,
    /// Of the entries held.
    pub digest: [u8; EntriesDigest::BYTES],
}

/// A feed that has begun.
pub struct Followed {
    /// Whether the server goes on where the agent is; otherwise the first change tells everything.
    pub resumed: bool,
    /// The server is never silent for longer.
    pub keepalive: Duration,
    pub parts: BoxStream<'static, Result<Part, UpstreamError>>,
}

impl std::fmt::Debug for Followed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Followed")
            .field("resumed", &self.resumed)
            .field("keepalive", &self.keepalive)
            .finish_non_exhaustive()
    }
}

/// What comes over a feed.
#[derive(Debug)]
pub enum Part {
    /// A change, or a part of one.
    Piece(Piece),
    Keepalive,
}

/// A part of a change, in the order in which it was told.
#[derive(Debug, Default)]
pub struct Piece {
    pub told: Vec<(EntryId, Told)>,
    /// `None` is a bundle that the agent has no use for any more.
    pub bundles: BTreeMap<TrustDomain, Option<Arc<Bundle>>>,
    /// What the agent has reached with this part; the last part of a change has it.
    pub position: Option<Position>,
    /// How long the message was.
    pub bytes: usize,
}

/// What became of an entry.
#[derive(Clone, Debug)]
pub enum Told {
    /// It is new or different.
    Entry(Arc<Entry>),
    /// The same, but nobody can read it: whatever it was before, it is served no more. Who tells the
    /// digest of what the agent holds counts it.
    Unreadable(Stamp),
    /// The agent may not serve it any more.
    Removed,
}

/// By what an entry that nobody can read is counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    pub revision: i64,
    pub created_at: SystemTime,
}
