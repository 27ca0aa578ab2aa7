//! What a socket needs of the agent.
//!
//! The trait stands here because the sockets consume it; the agent implements it. The order "attest,
//! then look up" is held by its types: a [`IdentitySource::Caller`] comes out of
//! [`IdentitySource::attest`] alone, no other crate can make one, and every other method asks for one.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use identity::entry::{EntryId, Hint};
use identity::jwt::JwtSvid;
use identity::spiffe_id::SpiffeId;
use runtime::unix::Peer;
use tokio::sync::watch;

pub use crate::update::{Bundles, Identity, Update};

/// The identities that an agent holds for the processes of its node.
pub trait IdentitySource: Send + Sync + 'static {
    /// An attested process: what the agent has proven about it.
    type Caller: Send + Sync + 'static;

    /// Finds out who is calling. A caller without any identity is a success: the denial comes later.
    ///
    /// `before` is what was found out of the same process, if its stream goes on: what cannot be asked
    /// now stands as it was, so that an outage on the node ends no stream.
    fn attest(
        &self,
        peer: &Arc<Peer>,
        before: Option<&Self::Caller>,
    ) -> impl Future<Output = Result<Self::Caller, AttestError>> + Send;

    /// Waits until what the caller was attested by may have changed, so that it is to be attested again
    /// at once and not only in time. Cancelling it loses nothing.
    fn suspect(&self, caller: &Self::Caller) -> impl Future<Output = ()> + Send {
        let _ = caller;
        std::future::pending()
    }

    /// Follows the identities and bundles of a caller.
    ///
    /// The first update comes when every matching entry has its X509-SVID, or at once when no entry
    /// matches.
    fn subscribe(&self, caller: &Self::Caller) -> Subscription;

    /// Obtains JWT-SVIDs for all identities of the caller, or for those named `id`. An empty list
    /// says that the caller has no such identity.
    fn jwt_svids(
        &self,
        caller: &Self::Caller,
        audience: Vec<String>,
        id: Option<SpiffeId>,
    ) -> impl Future<Output = Result<Vec<JwtGrant>, JwtFetchError>> + Send;

    /// Why the caller has no identity, in short, for the log alone. It may show only what an operator
    /// allows there.
    fn shortfall(&self, caller: &Self::Caller) -> String {
        let _ = caller;
        String::new()
    }

    /// The bundles that the caller may see now, without waiting for any signature.
    fn bundles(&self, caller: &Self::Caller) -> Arc<Bundles>;
}

/// A JWT-SVID and what its entry says about it.
#[derive(Clone, Debug)]
pub struct JwtGrant {
    /// The entry that grants it.
    pub entry_id: EntryId,
    /// What the entry tells the workload about this identity.
    pub hint: Option<Hint>,
    /// When the entry was created: of two equal hints the older entry keeps it.
    pub created_at: SystemTime,
    /// The token.
    pub svid: JwtSvid,
}

/// A caller's updates, newest only: one that came and went between two calls is never seen.
#[derive(Debug)]
pub struct Subscription {
    updates: watch::Receiver<Option<Arc<Update>>>,
    fresh: bool,
}

impl Subscription {
    /// Follows a channel that holds `None` until the first update is complete.
    ///
    /// The source sees the subscription end by its sender's receiver count.
    #[must_use]
    pub fn new(updates: watch::Receiver<Option<Arc<Update>>>) -> Self {
        Self {
            updates,
            fresh: true,
        }
    }

    /// Waits for the next update. `None` says that the source has ended.
    ///
    /// Cancelling it loses nothing.
    pub async fn next(&mut self) -> Option<Arc<Update>> {
        loop {
            if !self.fresh {
                self.updates.changed().await.ok()?;
            }
            self.fresh = false;
            if let Some(update) = self.updates.borrow_and_update().as_ref() {
                return Some(Arc::clone(update));
            }
        }
    }
}

/// Why a caller could not be attested. None of these says anything about what it is entitled to.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// Every configured attestor failed.
    #[error("no workload attestor could identify the caller")]
    NoAttestor(#[source] Box<dyn Error + Send + Sync>),
    /// The process exited, or changed into another one, while it was looked at.
    #[error("the caller did not stay the same process while it was attested")]
    PeerChanged,
    /// What was seen of the caller contradicts itself, or is not to be attested.
    #[error("the caller is not attested")]
    Denied(#[source] Box<dyn Error + Send + Sync>),
    /// The attestors did not answer in time.
    #[error("workload attestation took longer than its deadline")]
    Deadline,
    /// Too many attestations are waiting.
    #[error("too many callers are being attested")]
    Overloaded,
}

impl AttestError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoAttestor(_) => "no_attestor",
            Self::PeerChanged => "peer_changed",
            Self::Denied(_) => "attestation_denied",
            Self::Deadline => "attestation_deadline",
            Self::Overloaded => "attestation_overloaded",
        }
    }
}

/// Why a JWT-SVID could not be had now.
#[derive(Debug, thiserror::Error)]
pub enum JwtFetchError {
    /// The server refused or failed, and nothing valid is cached.
    #[error("the server did not issue the JWT-SVID")]
    Upstream(#[source] Box<dyn Error + Send + Sync>),
    /// The server did not answer in time, and nothing valid is cached.
    #[error("the server did not answer in time")]
    Deadline,
    /// The agent is shutting down.
    #[error("the agent is shutting down")]
    ShuttingDown,
}

impl JwtFetchError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Upstream(_) => "jwt_upstream",
            Self::Deadline => "jwt_deadline",
            Self::ShuttingDown => "shutting_down",
        }
    }
}
