//! What happens to the cache, and what it has done about it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use identity::bundle::Bundle;
use identity::entry::{Entry, EntryId};
use identity::jwt::JwtSvid;
use identity::selector::Selectors;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::validity::Schedule;
use workload_api::source::Update;

use super::signing::BatchId;
use super::slot::Signed;
use crate::sealed::Revision;
use crate::upstream::EntrySet;

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// This was kept since before the agent's restart.
    Restored(Vec<Restored>),
    /// The server told all entries of this agent.
    Synced(EntrySet),
    /// The server told which of its entries are new or different, and which are gone, since it told
    /// all of them.
    Changed {
        entries: Vec<Arc<Entry>>,
        removed: Vec<EntryId>,
    },
    /// The server answers, and has nothing new to say.
    Reached,
    /// All bundles as the server has them. Fed before the entries of the same synchronization or change.
    Bundles {
        own: Arc<Bundle>,
        federated: BTreeMap<TrustDomain, Arc<Bundle>>,
    },
    /// The server answered a batch. An entry without an answer counts as refused.
    Answered {
        batch: BatchId,
        answers: BTreeMap<EntryId, Result<Signed, Refused>>,
    },
    /// A batch got no answer at all. `spread` is drawn at random, up to the caller.
    Unanswered { batch: BatchId, spread: Duration },
    /// Somebody with these selectors opened a stream.
    Joined(Selectors),
    /// The last stream with these selectors ended.
    Left(Selectors),
    /// Callers that have at least these selectors are about to come.
    Expected(Selectors),
    /// The time has come that [`super::State::alarm`] named.
    TimePassed,
    /// The clock was set, or the machine slept: pauses that were to end at some time end now.
    ClockSet,
    /// The server banned this agent.
    Banned,
}

/// One thing that was kept.
#[derive(Debug)]
pub enum Restored {
    /// The bundles come before what they are asked about.
    Bundles {
        own: Arc<Bundle>,
        federated: BTreeMap<TrustDomain, Arc<Bundle>>,
    },
    /// The entries come before what was signed for them.
    Entry(Arc<Entry>),
    X509 {
        entry_id: EntryId,
        revision: Revision,
        signed: Signed,
    },
    Jwt {
        entry_id: EntryId,
        revision: Revision,
        svid: JwtSvid,
        schedule: Schedule,
    },
}

/// The server did not sign this entry's SVID, or signed what is of no use.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// Added to the wait before the next try; drawn at random.
    pub spread: Duration,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    /// Have X509-SVIDs signed, each with a new key, and answer with the same batch id.
    Sign {
        batch: BatchId,
        entries: Vec<Arc<Entry>>,
    },
    /// Show this to every stream of the subscriber.
    Publish {
        subscriber: Selectors,
        update: Arc<Update>,
    },
    /// Show nothing to the subscriber's new streams until the next update.
    Withdraw { subscriber: Selectors },
    /// Fetch the bundles now: an SVID was signed by an authority that they do not have.
    FetchBundles,
    /// Tell the operator that an SVID expired before the server renewed it.
    Expired {
        entry_id: EntryId,
        spiffe_id: SpiffeId,
    },
}
