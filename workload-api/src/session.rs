//! One call of one process: attested first, then let in.

use std::fmt;
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
use crate::source::{IdentitySource, Subscription, Update};
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

/// A call by an attested process.
pub(crate) struct Session<S: IdentitySource> {
    context: Arc<Context<S>>,
    method: Method,
    peer: Arc<Peer>,
    caller: S::Caller,
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
            caller,
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
        let context = &self.context;
        loop {
            let subscription = self
                .subscription
                .get_or_insert_with(|| context.source.subscribe(&self.caller));
            tokio::select! {
                biased;
                () = context.shutdown.requested() => return Err(Refusal::ShuttingDown),
                update = subscription.next() => return update.ok_or(Refusal::ShuttingDown),
                () = sleep_until(self.attest_again) => {
                    // A stream outlives what its caller was: labels change, programs are replaced.
                    let caller = context.source.attest(&self.peer, Some(&self.caller)).await;
                    self.caller = caller.map_err(Refusal::Attest)?;
                    self.subscription = None;
                    self.attest_again = Instant::now() + context.options.reattest_every;
                }
            }
        }
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
