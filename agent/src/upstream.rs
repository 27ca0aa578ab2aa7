//! What the agent asks of its server.
//!
//! The trait is a process boundary: `grpc` speaks SPIRE's protocol behind it, tests put an in-process
//! signer there. Nothing above it knows protobuf, and nothing below it knows the cache.

#[cfg(test)]
pub(crate) mod fake;

pub mod feed;
pub mod grpc;

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use identity::bundle::Bundle;
use identity::entry::{Entry, EntryId};
use identity::jwt::JwtSvid;
use identity::trust_domain::TrustDomain;
use identity::x509::Certificate;

/// The server, as seen by an attested agent.
///
/// Every call has its own deadline inside (SPIRE: 30 s for all agent RPCs), so that no caller hangs
/// on a server that has stopped answering.
pub trait Upstream: Send + Sync + 'static {
    /// Brings the entries that this agent may serve up to date.
    ///
    /// The answer is the whole set. Entries that `known` already holds in the same revision come
    /// back as the same `Arc`; only the others need to be transferred.
    fn sync_entries(
        &self,
        known: &EntrySet,
    ) -> impl Future<Output = Result<EntrySet, UpstreamError>> + Send;

    /// Fetches the bundle of a trust domain: the agent's own, or one that the server federates with.
    /// `None` is a foreign trust domain that the server has no bundle of.
    fn bundle(
        &self,
        of: &TrustDomain,
    ) -> impl Future<Output = Result<Option<Bundle>, UpstreamError>> + Send;

    /// Has at most [`MAX_BATCH`] X509-SVIDs signed. One answer for each request, in their order.
    fn sign_x509(
        &self,
        requests: Vec<SigningRequest>,
    ) -> impl Future<Output = Result<Vec<Result<Vec<Certificate>, Refusal>>, UpstreamError>> + Send;

    /// Has one JWT-SVID signed, for exactly this audience. Tries once; the caller decides to repeat.
    fn sign_jwt(
        &self,
        entry_id: &EntryId,
        audience: &[String],
    ) -> impl Future<Output = Result<JwtSvid, UpstreamError>> + Send;
}

/// The most requests in one call of [`Upstream::sign_x509`]; SPIRE's server refuses more.
pub const MAX_BATCH: usize = 500;

/// One X509-SVID that the agent wants signed.
#[derive(Clone, Debug)]
pub struct SigningRequest {
    pub entry_id: EntryId,
    /// The certificate signing request, DER. The server takes nothing but the public key from it.
    pub csr: Vec<u8>,
}

/// Why the server did not sign one item of a batch.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the server refused the item with {code}: {message}")]
pub struct Refusal {
    pub code: Code,
    /// The server's own words; for logs, never for a workload.
    pub message: String,
}

/// A gRPC status code as a stable word, such as `not_found`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Code(pub &'static str);

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// The server says that this agent is no longer what it was.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Denial {
    /// The agent's SVID has expired.
    Expired,
    /// The server does not know the agent, or an operator evicted it.
    NotAttested,
    /// The agent's SVID is not the one that the server has for it.
    NotActive,
    /// The agent has to attest again instead of renewing.
    MustReattest,
    /// The agent is banned: it wipes its identity and shuts down.
    Banned,
}

impl Denial {
    /// Whether the agent is no longer who it was, rather than asked to come by another way.
    pub fn ends_identity(self) -> bool {
        match self {
            Self::Expired | Self::NotAttested | Self::NotActive | Self::Banned => true,
            Self::MustReattest => false,
        }
    }

    /// The stable label of metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Expired => "agent_expired",
            Self::NotAttested => "agent_not_attested",
            Self::NotActive => "agent_not_active",
            Self::MustReattest => "agent_must_reattest",
            Self::Banned => "agent_banned",
        }
    }
}

/// Why a call of the server failed.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The server denied this agent, and said what the agent has to do about it.
    #[error("the server denied the agent: {}", .0.reason())]
    Denied(Denial),
    /// The server cannot be reached, or did not answer in time.
    #[error("could not reach the server")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// The server's certificate does not chain to the bundle that the agent trusts.
    #[error("the server's certificate is not signed by an authority of the trust bundle")]
    UnknownAuthority(#[source] Box<dyn Error + Send + Sync>),
    /// The server sheds load.
    #[error("the server is overloaded: {message}")]
    Overloaded { message: String },
    /// The server answered with an error that repeating the same call does not cure.
    #[error("the server refused the call with {code}: {message}")]
    Refused { code: Code, message: String },
    /// The server answered, but not as the protocol demands.
    #[error("the server broke the protocol: {what}")]
    Protocol {
        what: &'static str,
        source: Option<Box<dyn Error + Send + Sync>>,
    },
}

impl UpstreamError {
    /// The label of a server that the agent does not know.
    pub const UNKNOWN_AUTHORITY: &str = "unknown_authority";

    /// The stable label of metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Denied(denial) => denial.reason(),
            Self::Unavailable(_) => "unavailable",
            Self::UnknownAuthority(_) => Self::UNKNOWN_AUTHORITY,
            Self::Overloaded { .. } => "overloaded",
            Self::Refused { .. } => "refused",
            Self::Protocol { .. } => "protocol",
        }
    }

    /// Whether the same call may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Overloaded { .. })
    }
}

/// The entries that the server lets this agent serve, by id.
#[derive(Clone, Debug, Default)]
pub struct EntrySet(BTreeMap<EntryId, Arc<Entry>>);

impl EntrySet {
    /// The entry of this id.
    pub fn get(&self, id: &EntryId) -> Option<&Arc<Entry>> {
        self.0.get(id)
    }

    /// The entry of this id, if it is still the one that the server means.
    ///
    /// An entry that was deleted and created again under the same id may have the same revision, so
    /// the time of creation counts too. `created_at` is `None` towards a server that does not send it.
    pub fn current(
        &self,
        id: &EntryId,
        revision: i64,
        created_at: Option<SystemTime>,
    ) -> Option<&Arc<Entry>> {
        self.get(id).filter(|entry| {
            entry.revision == revision && created_at.is_none_or(|time| time == entry.created_at)
        })
    }

    /// Adds an entry, in place of one with the same id.
    pub fn insert(&mut self, entry: Arc<Entry>) {
        self.0.insert(entry.id.clone(), entry);
    }

    /// The entries, sorted by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.0.values()
    }

    /// Takes the entry of this id out.
    pub fn remove(&mut self, id: &EntryId) -> Option<Arc<Entry>> {
        self.0.remove(id)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Arc<Entry>> for EntrySet {
    fn from_iter<I: IntoIterator<Item = Arc<Entry>>>(entries: I) -> Self {
        Self(
            entries
                .into_iter()
                .map(|entry| (entry.id.clone(), entry))
                .collect(),
        )
    }
}
