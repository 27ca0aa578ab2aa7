//! Who asks, and whom for.

use std::sync::Arc;
use std::time::Duration;

use identity::selector::{Selector, Selectors};
use proto::spire::types;
use runtime::report;
use runtime::unix::Peer;
use tokio::time::{Instant, sleep_until};
use tonic::Extensions;
use tonic::Status;
use tracing::{debug, warn};
use workload_api::source::AttestError;

use super::{Shared, shutting_down};
use crate::attest::Caller;
use crate::upstream::Upstream;

/// How often delegates and the processes that they name are attested again: as workloads are.
const ATTEST_AGAIN: Duration = Duration::from_secs(60);

/// A caller that was a delegate when it was last looked at.
pub(super) struct Delegate<U> {
    shared: Arc<Shared<U>>,
    caller: Caller,
    attest_again: Instant,
}

impl<U: Upstream> Delegate<U> {
    /// Finds out who is calling, and whether it is a delegate.
    pub(super) async fn open(
        shared: &Arc<Shared<U>>,
        extensions: &Extensions,
    ) -> Result<Self, Status> {
        let peer = extensions.get::<Arc<Peer>>().ok_or_else(not_attested)?;
        let caller = attest(shared, peer, None).await?;
        let delegate = Self {
            shared: Arc::clone(shared),
            caller,
            attest_again: Instant::now() + ATTEST_AGAIN,
        };
        delegate.check()?;
        debug!(
            peer.pid = peer.pid(),
            peer.uid = peer.uid(),
            "Caller is a delegate"
        );
        Ok(delegate)
    }

    /// Whether it is a delegate still, by the entries of now.
    pub(super) fn check(&self) -> Result<(), Status> {
        if !self.shared.driver.knows_entries() {
            return Err(Status::unavailable(
                "the agent has not synchronized with its server yet",
            ));
        }
        let entries = self.shared.driver.entries_of(self.caller.selectors());
        let is_delegate = |id| self.shared.delegates.contains(id);
        if entries.iter().any(|entry| is_delegate(&entry.spiffe_id)) {
            return Ok(());
        }
        let (text, reason) = if entries.is_empty() {
            ("no identity issued", "no_identity")
        } else {
            (
                "caller not configured as an authorized delegate",
                "not_a_delegate",
            )
        };
        let peer = self.caller.peer();
        if let Some(passed_over) = self.shared.quota.take() {
            warn!(
                peer.pid = peer.pid(),
                peer.uid = peer.uid(),
                error.reason = reason,
                passed_over,
                "Refused a caller that is no delegate"
            );
        }
        Err(Status::permission_denied(text))
    }

    pub(super) fn shared(&self) -> &Arc<Shared<U>> {
        &self.shared
    }

    /// Waits until it is to be attested again.
    pub(super) async fn is_due(&self) {
        tokio::select! {
            () = sleep_until(self.attest_again) => {}
            () = self.caller.suspect() => {}
        }
    }

    pub(super) async fn attest_again(&mut self) -> Result<(), Status> {
        self.caller = attest(&self.shared, self.caller.peer(), Some(&self.caller)).await?;
        self.attest_again = Instant::now() + ATTEST_AGAIN;
        self.check()
    }
}

/// The workload whose identities are asked for.
pub(super) enum Target {
    /// The delegate knows what it is.
    Selectors(Selectors),
    /// The delegate knows which process it is. It is held, so that no other comes to be meant; whether
    /// it was the right one at first, only the delegate can know.
    Process(Caller),
}

impl Target {
    /// Exactly one of both is given; no process has the number zero.
    pub(super) async fn of<U: Upstream>(
        shared: &Shared<U>,
        selectors: &[types::Selector],
        pid: i32,
    ) -> Result<Self, Status> {
        match (selectors.is_empty(), pid) {
            (false, 0) => {
                let parsed = selectors
                    .iter()
                    .map(|selector| Selector::new(&selector.r#type, &selector.value));
                let parsed = parsed.collect::<Result<Selectors, _>>();
                parsed.map(Self::Selectors).map_err(|error| {
                    debug!(error = %report::chain(&error), "Could not read a delegate's selectors");
                    Status::invalid_argument("could not parse provided selectors")
                })
            }
            (true, pid) if pid != 0 => {
                let pid = u32::try_from(pid).map_err(|_negative| not_attested())?;
                let peer = Peer::of_pid(pid).map_err(|error| {
                    warn!(peer.pid = pid, error.reason = error.reason(), error = %report::chain(&error), "Could not attest for a delegate");
                    not_attested()
                })?;
                let caller = attest(shared, &Arc::new(peer), None).await?;
                Ok(Self::Process(caller))
            }
            _ => Err(Status::invalid_argument(
                "must provide either selectors or non-zero PID, but not both",
            )),
        }
    }

    pub(super) fn selectors(&self) -> &Selectors {
        match self {
            Self::Selectors(selectors) => selectors,
            Self::Process(caller) => caller.selectors(),
        }
    }

    /// Waits until the process has exited, if it is one.
    pub(super) async fn exited(&self) -> Status {
        match self {
            Self::Selectors(_) => std::future::pending().await,
            Self::Process(caller) => {
                caller.peer().exited().await;
                not_attested()
            }
        }
    }

    /// Waits until something new was said of the process's pod.
    pub(super) async fn suspect(&self) {
        match self {
            Self::Selectors(_) => std::future::pending().await,
            Self::Process(caller) => caller.suspect().await,
        }
    }

    pub(super) async fn attest_again<U: Upstream>(
        &mut self,
        shared: &Shared<U>,
    ) -> Result<(), Status> {
        if let Self::Process(caller) = self {
            *caller = attest(shared, caller.peer(), Some(caller)).await?;
        }
        Ok(())
    }
}

async fn attest<U: Upstream>(
    shared: &Shared<U>,
    peer: &Arc<Peer>,
    before: Option<&Caller>,
) -> Result<Caller, Status> {
    let attested = tokio::select! {
        () = shared.shutdown.requested() => return Err(shutting_down()),
        attested = shared.attestors.attest(peer, &*shared.driver, before) => attested,
    };
    attested.map_err(|error| {
        if let Some(passed_over) = shared.quota.take() {
            warn!(peer.pid = peer.pid(), peer.uid = peer.uid(), error.reason = error.reason(), error = %report::chain(&error), passed_over, "Could not attest for a delegate");
        }
        match error {
            // It would be denied again, as one without an entry is.
            AttestError::Denied(_) => Status::permission_denied("workload attestation failed"),
            _ => not_attested(),
        }
    })
}

fn not_attested() -> Status {
    Status::unavailable("workload attestation failed")
}
