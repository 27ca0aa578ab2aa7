//! The life of the agent's own identity: renewed in time, and given up when the server says so.
//!
//! One task owns keys and state, so their writes have one order: a new key, then the SVID that
//! certifies it, and only then is it used.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use identity::bundle::Bundle;
use identity::validity::{Renewal, Schedule};
use identity::x509::X509Svid;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use runtime::backoff::Backoff;
use runtime::clock::Clock;
use runtime::random;
use runtime::readiness::Health;
use runtime::report;
use runtime::shutdown::{Reason, ShutdownTrigger};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use crate::attestation::{AttestationError, Attestor, Kept, Standing};
use crate::credentials::{AgentSvid, Credentials};
use crate::custody;
use crate::rotation::Strategy;
use crate::sealed::SealedCache;
use crate::upstream::grpc::Server;
use crate::upstream::{Denial, UpstreamError};

/// SPIRE's pause between two tries to renew.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause; an SVID of an hour has time for many tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What the life of the agent's SVID shows.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    not_after: Gauge,
    renewed: Counter,
    failed: Counter,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "agent_svid_not_after_seconds",
            "When the agent's own SVID expires, in seconds since 1970",
            metrics.not_after.clone(),
        );
        registry.register(
            "agent_svid_renewals",
            "Renewals of the agent's own SVID",
            metrics.renewed.clone(),
        );
        registry.register(
            "agent_svid_renewal_failures",
            "Failed renewals of the agent's own SVID",
            metrics.failed.clone(),
        );
        metrics
    }

    fn show(&self, own: &AgentSvid) {
        let not_after = own
            .svid
            .validity()
            .not_after()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.not_after
            .set(i64::try_from(not_after.as_secs()).unwrap_or(i64::MAX));
    }
}

/// What the life cycle works with.
#[derive(Debug)]
pub struct Deps {
    pub attestor: Attestor,
    pub credentials: Arc<Credentials>,
    pub server: Arc<Server>,
    pub strategy: Strategy,
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
}

/// The owner of the agent's identity.
#[derive(Debug)]
pub struct Lifecycle {
    deps: Deps,
    kept: Kept,
    schedule: Schedule,
    // Later than the schedule after a failure, now after a taint.
    next: SystemTime,
    backoff: Backoff,
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
}

impl Lifecycle {
    pub fn new(kept: Kept, deps: Deps) -> Self {
        let own = deps.credentials.own();
        deps.metrics.show(&own);
        deps.health.ready();
        let schedule = deps.strategy.plan(own.svid.validity(), random::jitter);
        let backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        Self {
            kept,
            schedule,
            next: schedule.due(),
            backoff,
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
                Some(denial) = inputs.denials.recv() => self.denied(denial, inputs).await,
                Ok(()) = inputs.bundle.changed() => {
                    let bundle = Arc::clone(&inputs.bundle.borrow_and_update());
                    self.take_bundle(bundle);
                    Life::GoesOn
                }
                () = clock.sleep_until(self.next) => self.renew(inputs).await,
            };
            if let Life::Over(reason) = life {
                return reason;
            }
        }
    }

    async fn renew(&mut self, inputs: &mut Inputs) -> Life {
        let own = self.deps.credentials.own();
        let renewed = if own.reattestable {
            self.attest_again().await
        } else {
            self.renew_in_place(&own).await
        };
        let failure = match renewed {
            Ok(standing) => {
                self.deps.metrics.renewed.inc();
                self.begin(standing);
                // A stream of the identity before may have been ended for its sake.
                return self.drain(inputs);
            }
            Err(failure) => failure,
        };
        self.deps.metrics.failed.inc();
        if let Some(denial) = failure.denial() {
            return self.denied(denial, inputs).await;
        }
        let pause = self.backoff.next_delay();
        let now = self.deps.clock.now();
        self.next = now + pause;
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
        Life::GoesOn
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

    async fn attest_again(&mut self) -> Result<Standing, RenewalError> {
        let (trust, own) = (self.deps.credentials.trust(), self.deps.credentials.own());
        Ok(self
            .deps
            .attestor
            .attest(&mut self.kept, Some(&trust), Some(&own))
            .await?)
    }

    fn begin(&mut self, standing: Standing) {
        let own = standing.own;
        info!(spiffe.id = %own.svid.id(), svid.not_after = own.not_after(), "Renewed the agent's SVID");
        self.schedule = self.deps.strategy.plan(own.svid.validity(), random::jitter);
        self.next = self.schedule.due();
        self.backoff.reset();
        self.deps.metrics.show(&own);
        self.deps.health.ready();
        self.deps.credentials.trust_now(standing.bundle);
        self.deps
            .sealed
            .resume(own.svid.id(), self.deps.clock.now());
        self.deps.credentials.renew(own);
    }

    async fn denied(&mut self, denial: Denial, inputs: &mut Inputs) -> Life {
        if denial.ends_identity() {
            self.deps.sealed.wipe();
        }
        let own = self.deps.credentials.own();
        if denial == Denial::Banned {
            return self.banned(&own);
        }
        if !own.reattestable && !self.deps.attestor.proof.is_left_to(own.svid.id()) {
            error!(
                spiffe.id = %own.svid.id(),
                error.reason = denial.reason(),
                "The agent has to attest again, and has no join token that it has not used; \
                 create one on the server with `token generate`, and start the agent with it"
            );
            return self.give_up("the server does not take the agent's identity any more");
        }
        warn!(spiffe.id = %own.svid.id(), error.reason = denial.reason(), "The agent has to attest again");
        self.deps.health.not_ready("the agent attests again");
        loop {
            let failure = match self.attest_again().await {
                Ok(standing) => {
                    self.begin(standing);
                    return self.drain(inputs);
                }
                Err(failure) => failure,
            };
            let attestor = &self.deps.attestor;
            let curable = matches!(&failure, RenewalError::Attestation(error) if attestor.may_try_again(error));
            let chain = report::chain(&failure);
            if failure.denial() == Some(Denial::Banned) {
                return self.banned(&own);
            }
            if !curable {
                error!(error.reason = failure.reason(), error = %chain, "The agent could not attest again");
                return self.give_up("the agent could not attest again");
            }
            let pause = self.backoff.next_delay();
            warn!(error.reason = failure.reason(), error = %chain, retry.pause = ?pause, "Could not attest again, and will try on");
            self.deps.clock.sleep(pause).await;
        }
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
            self.next = self.deps.clock.now();
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
