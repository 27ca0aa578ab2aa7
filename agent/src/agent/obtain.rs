//! The identity that an agent begins with: the one that it kept, or a new one.

use std::time::Duration;

use runtime::backoff::Backoff;
use runtime::report;
use tracing::warn;

use super::{Deps, StartError};
use crate::attestation::{AttestationError, Attestor, Gate, Kept, Standing};
use crate::config::Config;
use crate::rebootstrap::{Doubt, Impossible, Mode};
use crate::sealed::{self, Trust};

/// The pause between two tries to attest. The first is short: a pod may be quicker than what it needs.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The identity that is kept, or a new one, for which the server is asked as long as that may help.
pub(super) async fn identity<G: Gate>(
    attestor: &Attestor<G>,
    kept: &mut Kept,
    config: &Config,
    deps: &Deps,
) -> Result<(Standing, Trust), StartError> {
    if let Some(standing) = kept.restore(attestor, deps.clock.now()) {
        return Ok((standing, Trust::Restored));
    }
    if config.rebootstrap.mode == Mode::Always && !attestor.proof.is_repeatable() {
        // Before a token is spent for nothing.
        return Err(Impossible.into());
    }
    // Whoever it was, it is not any more, and nothing that it was entitled to is served again.
    sealed::remove(&config.data_dir);
    let shutdown = deps.tasks.shutdown();
    let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
    let mut doubt = Doubt::new(config.rebootstrap, deps.clock.clone());
    loop {
        // Without a bundle to begin with, each try fetches it anew.
        let trust = kept.bundle(attestor).filter(|_| !doubt.is_due());
        let attested = tokio::select! {
            () = shutdown.requested() => return Err(StartError::ShutDown),
            attested = attestor.attest(kept, trust.as_ref(), None) => attested,
        };
        let error = match attested {
            Ok(standing) => return Ok((standing, Trust::New)),
            Err(error) => error,
        };
        if !may_go_on(&error, attestor, kept) {
            return Err(StartError::Identity(error));
        }
        if trust.is_some() && error.is_unknown_authority() {
            doubt.raised();
        }
        let pause = backoff.next_delay();
        warn!(
            server.addr = %attestor.server(),
            error.reason = error.reason(),
            error = %report::chain(&error),
            retry.pause = ?pause,
            "Could not attest, and will try on"
        );
        tokio::select! {
            () = shutdown.requested() => return Err(StartError::ShutDown),
            () = deps.clock.sleep(pause) => {}
        }
        // It may have been the clock that was wrong, and not the SVID.
        if let Some(standing) = kept.restore(attestor, deps.clock.now()) {
            return Ok((standing, Trust::New));
        }
    }
}

/// Whoever starts an agent for the first time is told what is wrong; one that has been an agent comes back
/// without a person, as long as that is possible.
fn may_go_on<G: Gate>(error: &AttestationError, attestor: &Attestor<G>, kept: &Kept) -> bool {
    let may_recover = kept.was_an_agent() && attestor.may_recover(error);
    attestor.may_try_again(error) || may_recover
}
