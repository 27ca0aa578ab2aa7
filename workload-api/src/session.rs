//! One call of one process: attested first, then let in.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use http::Extensions;
use runtime::clock::Clock;
use runtime::quota::Quota;
use runtime::report;
use runtime::shutdown::Shutdown;
use runtime::unix::Peer;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::metrics::{Method, Metrics, Open};
use crate::options::SocketOptions;
use crate::source::{AttestError, IdentitySource, Subscription, Update};
use crate::status::Refusal;

/// What all calls share.
pub(crate) struct Context<S> {
    pub(crate) source: Arc<S>,
    pub(crate) options: SocketOptions,
    pub(crate) clock: Clock,
    pub(crate) shutdown: Shutdown,
    pub(crate) metrics: Metrics,
    pub(crate) quota: Quota,
}

impl<S> fmt::Debug for Context<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// An attestation that has begun.
type Attesting<C> = Pin<Box<dyn Future<Output = Result<C, AttestError>> + Send>>;

/// A call by an attested process.
pub(crate) struct Session<S: IdentitySource> {
    context: Arc<Context<S>>,
    method: Method,
    peer: Arc<Peer>,
    caller: Arc<S::Caller>,
    // It goes on while the waiting is begun anew: a client that never rests must not put it off.
    attesting: Option<Attesting<S::Caller>>,
    // Not by the wall clock: a step back of it must not put the attestation off.
    attest_again: Instant,
    subscription: Option<Subscription>,
    _open: Open,
}

impl<S: IdentitySource> Session<S> {
    /// Finds out who is calling.
    pub(crate) async fn open(
        context: &Arc<Context<S>>,
        method: Method,
        extensions: &Extensions,
    ) -> Result<Self, Refusal> {
        let peer = extensions.get::<Arc<Peer>>().ok_or(Refusal::NoPeer);
        let peer = Arc::clone(peer.inspect_err(|refusal| context.refused(method, None, refusal))?);
        let caller = tokio::select! {
            () = context.shutdown.requested() => Err(Refusal::ShuttingDown),
            caller = context.source.attest(&peer, None) => caller.map_err(Refusal::Attest),
        }
        .inspect_err(|refusal| context.refused(method, Some(&peer), refusal))?;
        Ok(Self {
            context: Arc::clone(context),
            method,
            peer,
            caller: Arc::new(caller),
            attesting: None,
            attest_again: Instant::now() + context.options.reattest_every,
            subscription: None,
            _open: context.metrics.opened(method),
        })
    }

    pub(crate) fn context(&self) -> &Context<S> {
        &self.context
    }

    pub(crate) fn caller(&self) -> &S::Caller {
        &self.caller
    }

    /// Waits for the next state of the caller. An update may say the same as the one before it.
    ///
    /// Cancelling it loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Arc<Update>, Refusal> {
        let context = Arc::clone(&self.context);
        loop {
            if let Some(attesting) = &mut self.attesting {
                let caller = tokio::select! {
                    biased;
                    () = context.shutdown.requested() => return Err(Refusal::ShuttingDown),
                    caller = attesting => caller,
                };
                self.attesting = None;
                self.caller = Arc::new(caller.map_err(Refusal::Attest)?);
                self.subscription = None;
                self.attest_again = Instant::now() + context.options.reattest_every;
            }
            let subscription = self
                .subscription
                .get_or_insert_with(|| context.source.subscribe(&self.caller));
            tokio::select! {
                biased;
                () = context.shutdown.requested() => return Err(Refusal::ShuttingDown),
                // A stream outlives what its caller was: labels change, programs are replaced. So this
                // comes before what the caller would be told.
                () = sleep_until(self.attest_again) => self.attesting = Some(self.attest()),
                () = context.source.suspect(&self.caller) => self.attesting = Some(self.attest()),
                update = subscription.next() => return update.ok_or(Refusal::ShuttingDown),
            }
        }
    }

    fn attest(&self) -> Attesting<S::Caller> {
        let context = Arc::clone(&self.context);
        let (peer, caller) = (Arc::clone(&self.peer), Arc::clone(&self.caller));
        Box::pin(async move { context.source.attest(&peer, Some(&caller)).await })
    }

    /// Notes why the call is refused, and hands the refusal back.
    pub(crate) fn refused(&self, refusal: Refusal) -> Refusal {
        let context = &self.context;
        context.count(self.method, &refusal);
        let why = || context.source.shortfall(&self.caller);
        context.log(self.method, Some(&self.peer), &refusal, why);
        refusal
    }
}

impl<S> Context<S> {
    /// Counts and logs a refusal, once.
    pub(crate) fn refused(&self, method: Method, peer: Option<&Peer>, refusal: &Refusal) {
        self.count(method, refusal);
        self.log(method, peer, refusal, String::new);
    }

    fn count(&self, method: Method, refusal: &Refusal) {
        self.metrics.refused(method, refusal.reason());
    }

    /// Anybody on the node can be refused as often as it likes, so the log takes a few lines a second
    /// of that, and `why` is asked for those alone.
    fn log(
        &self,
        method: Method,
        peer: Option<&Peer>,
        refusal: &Refusal,
        why: impl FnOnce() -> String,
    ) {
        let reason = refusal.reason();
        let (pid, uid) = peer.map_or((None, None), |peer| (Some(peer.pid()), Some(peer.uid())));
        let method = method.name();
        let is_told = match refusal {
            Refusal::Attest(_) | Refusal::JwtFetch(_) => true,
            // The agent probes its own socket, and has no identity there.
            Refusal::NoIdentity => pid != Some(std::process::id()),
            _ => false,
        };
        let room = is_told.then(|| self.quota.take()).flatten();
        match (refusal, room) {
            (Refusal::Attest(_) | Refusal::JwtFetch(_), Some(passed_over)) => warn!(
                rpc.method = method, peer.pid = pid, peer.uid = uid, error.reason = reason,
                error = %report::chain(refusal), passed_over, "Could not serve a workload"
            ),
            (Refusal::NoIdentity, Some(passed_over)) => info!(
                rpc.method = method,
                peer.pid = pid,
                peer.uid = uid,
                error.reason = reason,
                explanation = why(),
                passed_over,
                "No identity issued"
            ),
            _ => debug!(
                rpc.method = method, peer.pid = pid, peer.uid = uid, error.reason = reason,
                error = %report::chain(refusal), "Refused a workload"
            ),
        }
    }
}
