//! The life of the agent's own identity: renewed in time, and given up when the server says so.
//!
//! One task owns keys and state, so their writes have one order: a new key, then the SVID that
//! certifies it, and only then is it used.
//!
//! Whatever its server, its network or its clock do, an agent that may come to an identity again goes
//! on trying, and workloads keep what is valid meanwhile. It ends when it is banned, and when the server
//! has done away with it and nothing is left that it could attest by.

mod metrics;
#[cfg(test)]
mod tests;
mod timer;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use identity::bundle::Bundle;
use identity::validity::{Renewal, Schedule};
use identity::x509::{Certificate, X509Svid};
use runtime::backoff::Backoff;
use runtime::clock::Clock;
use runtime::random;
use runtime::readiness::Health;
use runtime::report;
use runtime::shutdown::{Reason, ShutdownTrigger};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

pub use self::metrics::Metrics;
pub use self::timer::Timer;
use crate::attestation::{AttestationError, Attestor, Gate, Kept, Remote, Standing};
use crate::credentials::{AgentSvid, Credentials};
use crate::custody;
use crate::rebootstrap::{Doubt, Rebootstrap};
use crate::rotation::{Strategy, wait_from_issue};
use crate::sealed::SealedCache;
use crate::sync;
use crate::upstream::grpc::Server;
use crate::upstream::{Denial, UpstreamError};

/// SPIRE's pause between two tries to renew.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause; an SVID of an hour has time for many tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Where an attested agent has a new key certified: a server, or in tests what stands for one.
pub trait Registrar: Send + Sync + 'static {
    /// Has a new key of this agent certified by the identity at hand, which stays usable until the new
    /// one is first used.
    fn renew(
        &self,
        csr: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<Certificate>, UpstreamError>> + Send;
}

/// What the life cycle works with.
#[derive(Debug)]
pub struct Deps<G = Remote, R = Server> {
    pub attestor: Attestor<G>,
    pub credentials: Arc<Credentials>,
    pub server: Arc<R>,
    pub strategy: Strategy,
    pub rebootstrap: Rebootstrap,
    pub clock: Clock,
    pub health: Health,
    pub metrics: Metrics,
    pub trigger: ShutdownTrigger,
    /// What is kept for workloads. It goes with the identity.
    pub sealed: SealedCache,
}

/// What comes in.
#[derive(Debug)]
pub struct Inputs {
    /// What the server said about this agent.
    pub denials: mpsc::Receiver<Denial>,
    /// The bundle of the trust domain, as synchronization brings it.
    pub bundle: watch::Receiver<Arc<Bundle>>,
    /// How synchronization goes.
    pub sync: watch::Receiver<sync::Status>,
}

/// The owner of the agent's identity.
#[derive(Debug)]
pub struct Lifecycle<G = Remote, R = Server> {
    deps: Deps<G, R>,
    kept: Kept,
    schedule: Schedule,
    // Later than the schedule after a failure, now after a taint or a denial.
    next: Timer,
    backoff: Backoff,
    // What the server says against the identity at hand.
    denied: Option<Denial>,
    doubt: Doubt,
}

/// Whether there is a life to go on with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Life {
    GoesOn,
    /// The process is to end, for this reason.
    Over(&'static str),
}

/// Why the identity was not renewed.
#[derive(Debug, thiserror::Error)]
enum RenewalError {
    #[error(transparent)]
    Server(#[from] UpstreamError),
    #[error(transparent)]
    Attestation(#[from] AttestationError),
    #[error("the server renewed the SVID of somebody else")]
    OtherId,
}

impl RenewalError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Server(error) => error.reason(),
            Self::Attestation(error) => error.reason(),
            Self::OtherId => "other_id",
        }
    }

    fn denial(&self) -> Option<Denial> {
        match self {
            Self::Server(UpstreamError::Denied(denial))
            | Self::Attestation(AttestationError::Server {
                source: UpstreamError::Denied(denial),
                ..
            }) => Some(*denial),
            _ => None,
        }
    }

    fn is_unknown_authority(&self) -> bool {
        match self {
            Self::Server(error) => matches!(error, UpstreamError::UnknownAuthority(_)),
            Self::Attestation(error) => error.is_unknown_authority(),
            Self::OtherId => false,
        }
    }
}

impl<G: Gate, R: Registrar> Lifecycle<G, R> {
    pub fn new(kept: Kept, deps: Deps<G, R>) -> Self {
        let own = deps.credentials.own();
        deps.metrics.show(&own);
        deps.health.ready();
        let schedule = deps.strategy.plan(own.svid.validity(), random::jitter);
        let wait = schedule.due().duration_since(deps.clock.now());
        Self {
            kept,
            schedule,
            next: Timer::after(wait.unwrap_or_default(), &deps.clock),
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            denied: None,
            doubt: Doubt::new(deps.rebootstrap, deps.clock.clone()),
            deps,
        }
    }

    /// Keeps the identity alive until shutdown, or until it is over.
    pub async fn run(mut self, mut inputs: Inputs) {
        let shutdown = self.deps.trigger.subscribe();
        let life = tokio::select! {
            () = shutdown.requested() => return,
            life = self.live(&mut inputs) => life,
        };
        self.deps
            .health
            .not_live("the agent has no identity any more");
        self.deps.trigger.trigger(Reason::Failed(life));
    }

    async fn live(&mut self, inputs: &mut Inputs) -> &'static str {
        loop {
            let clock = self.deps.clock.clone();
            let life = tokio::select! {
                Some(denial) = inputs.denials.recv() => self.denied(denial),
                Ok(()) = inputs.bundle.changed() => {
                    let bundle = Arc::clone(&inputs.bundle.borrow_and_update());
                    self.take_bundle(bundle);
                    Life::GoesOn
                }
                Ok(()) = inputs.sync.changed() => {
                    self.look_at(&inputs.sync.borrow_and_update().clone());
                    Life::GoesOn
                }
                () = self.doubt.due() => self.rebootstrap(inputs).await,
                () = self.next.due(&clock) => self.renew(inputs).await,
            };
            if let Life::Over(reason) = life {
                return reason;
            }
        }
    }

    /// Takes note of whether the server is one that the agent knows.
    fn look_at(&mut self, status: &sync::Status) {
        match &status.failing {
            None if status.last_success.is_some() => self.doubt.settled(),
            Some(failing) if failing.reason == UpstreamError::UNKNOWN_AUTHORITY => {
                self.doubt.raised();
            }
            // A server that is away is neither.
            _ => {}
        }
    }

    async fn renew(&mut self, inputs: &mut Inputs) -> Life {
        let own = self.deps.credentials.own();
        // Until the next identity is in use. A renewal ends none, and is a call that a denial must reach.
        let is_to_attest = self.is_to_attest(&own);
        let _replacing = is_to_attest.then(|| self.deps.credentials.replacing());
        let renewed = if is_to_attest {
            let trust = self.deps.credentials.trust();
            self.attest(Some(&trust), Some(&own)).await
        } else {
            self.renew_in_place(&own).await
        };
        let failure = match renewed {
            Ok(standing) => {
                self.deps.metrics.renewed.inc();
                return self.begin(standing, inputs);
            }
            Err(failure) => failure,
        };
        self.deps.metrics.failed.inc();
        if failure.is_unknown_authority() {
            self.doubt.raised();
        }
        let pause = self.backoff.next_delay();
        let now = self.deps.clock.now();
        self.next = Timer::after(pause, &self.deps.clock);
        error!(
            error.reason = failure.reason(),
            error = %report::chain(&failure),
            svid.not_after = own.not_after(),
            retry.pause = ?pause,
            "Could not renew the agent's SVID"
        );
        if self.schedule.renewal(now) == Renewal::Expired {
            // The server may know better, so it is asked on; workloads keep what is valid. A start could
            // not tell any more that this agent is still one.
            self.deps.sealed.wipe();
            self.deps.health.not_ready("the agent's SVID has expired");
        }
        if let Some(denial) = failure.denial() {
            return self.denied(denial);
        }
        let is_hopeless = matches!(&failure, RenewalError::Attestation(error) if !self.deps.attestor.may_recover(error));
        if self.denied.is_some() && is_hopeless {
            return self.give_up("the agent could not attest again");
        }
        Life::GoesOn
    }

    /// Whether the next SVID comes of an attestation. A join token is left alone while the SVID at hand
    /// may do.
    fn is_to_attest(&self, own: &AgentSvid) -> bool {
        let is_over = own.svid.validity().is_over(self.deps.clock.now());
        let is_needed = self.denied.is_some() || is_over;
        own.reattestable || (is_needed && self.deps.attestor.proof.is_left_to(own.svid.id()))
    }

    /// Has a new key certified by the SVID at hand, which stays usable until the new one is used.
    async fn renew_in_place(&mut self, own: &AgentSvid) -> Result<Standing, RenewalError> {
        let key = self
            .kept
            .custody
            .generate(Some(own.svid.leaf().public_key()))
            .map_err(AttestationError::from)?;
        let csr = custody::request(&key).map_err(AttestationError::from)?;
        let chain = self.deps.server.renew(csr).await?;
        let svid = X509Svid::new(chain, key).map_err(AttestationError::from)?;
        if svid.id() != own.svid.id() {
            return Err(RenewalError::OtherId);
        }
        let bundle = self.deps.credentials.trust();
        // Not used unless kept: a restart with the old one, once the new one was used, would find
        // the server of another mind.
        self.kept
            .keep(&svid, own.reattestable, &bundle)
            .map_err(AttestationError::from)?;
        Ok(Standing {
            own: Arc::new(AgentSvid {
                svid,
                reattestable: own.reattestable,
            }),
            bundle,
        })
    }

    async fn attest(
        &mut self,
        trust: Option<&Bundle>,
        own: Option<&AgentSvid>,
    ) -> Result<Standing, RenewalError> {
        let attestor = &self.deps.attestor;
        Ok(attestor.attest(&mut self.kept, trust, own).await?)
    }

    /// Attests by the trust bundle that is where the agent had its first from. Until that succeeds the
    /// agent has what it has.
    async fn rebootstrap(&mut self, inputs: &mut Inputs) -> Life {
        warn!("The server's authority stays unknown, fetching the trust bundle again");
        let _replacing = self.deps.credentials.replacing();
        // Nothing is shown of the identity before: a server without our authorities could not read it.
        let failure = match self.attest(None, None).await {
            Ok(standing) => {
                self.deps.metrics.rebootstrapped.inc();
                return self.begin(standing, inputs);
            }
            Err(failure) => failure,
        };
        if failure.denial() == Some(Denial::Banned) {
            return self.denied(Denial::Banned);
        }
        let pause = self.doubt.failed();
        warn!(error.reason = failure.reason(), error = %report::chain(&failure), retry.pause = ?pause, "Could not attest by the trust bundle that was fetched again");
        Life::GoesOn
    }

    fn begin(&mut self, standing: Standing, inputs: &mut Inputs) -> Life {
        let (own, now) = (standing.own, self.deps.clock.now());
        info!(spiffe.id = %own.svid.id(), svid.not_after = own.not_after(), "Renewed the agent's SVID");
        let validity = own.svid.validity();
        self.schedule = self.deps.strategy.plan(validity, random::jitter);
        let wait = wait_from_issue(self.schedule, validity, now);
        self.next = Timer::after(wait, &self.deps.clock);
        self.backoff.reset();
        self.denied = None;
        self.doubt.settled();
        self.deps.metrics.show(&own);
        self.deps.health.ready();
        self.deps.credentials.trust_now(standing.bundle);
        self.deps.sealed.resume(own.svid.id(), now);
        self.deps.credentials.renew(own);
        // A stream of the identity before may have been ended for its sake.
        self.drain(inputs)
    }

    fn denied(&mut self, denial: Denial) -> Life {
        if denial.ends_identity() {
            self.deps.sealed.wipe();
        }
        let own = self.deps.credentials.own();
        if denial == Denial::Banned {
            return self.banned(&own);
        }
        let proof = &self.deps.attestor.proof;
        let can_attest = own.reattestable || proof.is_left_to(own.svid.id());
        // What has expired by the server's clock may be valid again when that clock has been set right.
        if !can_attest && !proof.may_change() && denial != Denial::Expired {
            error!(
                spiffe.id = %own.svid.id(),
                error.reason = denial.reason(),
                "The agent has to attest again, and has no join token that it has not used; \
                 create one on the server with `token generate`, and start the agent with it"
            );
            return self.give_up("the server does not take the agent's identity any more");
        }
        if self.denied.replace(denial).is_some() {
            // It is being seen to.
            return Life::GoesOn;
        }
        if can_attest {
            warn!(spiffe.id = %own.svid.id(), error.reason = denial.reason(), "The agent has to attest again");
            self.deps.health.not_ready("the agent attests again");
        } else {
            error!(
                spiffe.id = %own.svid.id(),
                error.reason = denial.reason(),
                "The agent has to attest again, and has no join token that it has not used; \
                 it waits for one in `join_token_file`, if that is set"
            );
            self.deps.health.not_ready("the agent needs a join token");
        }
        self.next = Timer::after(Duration::ZERO, &self.deps.clock);
        Life::GoesOn
    }

    /// Denials that were meant for the identity that is no more. A ban is meant for the agent.
    fn drain(&mut self, inputs: &mut Inputs) -> Life {
        while let Ok(denial) = inputs.denials.try_recv() {
            if denial == Denial::Banned {
                let own = self.deps.credentials.own();
                return self.banned(&own);
            }
        }
        Life::GoesOn
    }

    fn banned(&mut self, own: &AgentSvid) -> Life {
        error!(spiffe.id = %own.svid.id(), "The agent is banned: wiping its identity and shutting down");
        if let Err(error) = self.kept.custody.wipe() {
            error!(error.reason = error.reason(), error = %report::chain(&error), "Could not wipe the agent's keys");
        }
        self.give_up("the agent is banned")
    }

    fn give_up(&mut self, reason: &'static str) -> Life {
        self.deps.sealed.wipe();
        if let Err(error) = self.kept.forget_svid() {
            error!(error.reason = error.reason(), error = %report::chain(&error), "Could not forget the agent's SVID");
        }
        Life::Over(reason)
    }

    fn take_bundle(&mut self, bundle: Arc<Bundle>) {
        let own = self.deps.credentials.own();
        if is_tainted(&own.svid, &bundle) {
            warn!(spiffe.id = %own.svid.id(), "The authority of the agent's SVID is tainted, renewing");
            self.next = Timer::after(Duration::ZERO, &self.deps.clock);
        }
        if let Err(error) = self.kept.keep_bundle(&bundle) {
            // It is kept with the next SVID at the latest.
            warn!(error.reason = error.reason(), error = %report::chain(&error), "Could not keep the trust bundle");
        }
        self.deps.credentials.trust_now(bundle);
    }
}

/// Whether one of the authorities above the SVID is to be replaced.
fn is_tainted(svid: &X509Svid, bundle: &Bundle) -> bool {
    let mut tainted = bundle
        .x509_authorities
        .iter()
        .filter(|authority| authority.tainted);
    tainted.any(|authority| {
        let id = authority.authority_id();
        svid.chain()
            .iter()
            .any(|certificate| certificate.authority_key_id().as_deref() == Some(&id))
    })
}
