//! Follows the bundle of the authority above: what counts there counts here.
//!
//! As SPIRE does: what is new joins our bundle; where what signs now leads to something tainted, another
//! authority signs before the taint is passed on, so that whoever replaces an SVID gets a sound one; and
//! what was tainted and is gone above leaves ours too. What was never tainted stays until it ends: it may be
//! our own, from before there was an authority above.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use identity::bundle::{Bundle, JwtAuthority, X509Authority};
use runtime::{backoff::Backoff, report, shutdown::Shutdown};
use tracing::{debug, info, warn};

use super::{
    Authorities, Config, Keepers, Kind, RotateError, State, Upstream,
    journal::{Authority, Keeper},
};
use crate::{
    bundles::{self, Additions, Updated},
    store::Txn,
};

/// How often the bundle above is asked for. SPIRE's interval.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// How long the pauses grow while it does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After so many failures in a row the log is told at the level `debug` alone.
const TOLD_FAILURES: u32 = 3;

impl Authorities {
    pub(super) async fn follow_upstream(self, upstream: Upstream, shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.requested() => {}
            () = self.poll_upstream(&upstream) => {}
        }
    }

    async fn poll_upstream(&self, upstream: &Upstream) {
        let mut backoff = Backoff::new(POLL_INTERVAL, LONGEST_PAUSE);
        // What an operator took out of our bundle alone does not come back before the one above changes.
        let mut taken = None;
        loop {
            let polled = self.poll(upstream, &mut taken).await;
            let pause = match polled {
                Ok(()) => {
                    if backoff.failures() > 0 {
                        info!("Following the upstream bundle works again");
                    }
                    backoff.reset();
                    POLL_INTERVAL
                }
                Err(cause) => {
                    let pause = backoff.next_delay();
                    tell_failure(&cause, pause, backoff.failures());
                    pause
                }
            };
            self.0.clock.sleep(pause).await;
        }
    }

    async fn poll(
        &self,
        upstream: &Upstream,
        taken: &mut Option<Bundle>,
    ) -> Result<(), RotateError> {
        let Some(above) = upstream.bundle().await? else {
            return Ok(());
        };
        if taken.as_ref() != Some(&above) {
            self.mirror(&above).await?;
            *taken = Some(above);
        }
        Ok(())
    }

    /// Takes over what the bundle above says.
    async fn mirror(&self, above: &Bundle) -> Result<(), RotateError> {
        // Held to the end: an operator's step in between would meet half of it.
        let mut keepers = self.0.keepers.lock().await;
        let own = self.change_own(&keepers, |own| add(own, above)).await?;
        let spoiled = newly_tainted(&own, above);
        if !spoiled.is_empty() {
            let now = self.0.clock.now();
            let left = keepers.leave(&spoiled, &self.0.config, now).await;
            self.sign_with(&keepers);
            left?;
        }
        let passed_on = |own: &mut Bundle| bundles::taint_as(own, above) | revoke(own, above);
        let own = self.change_own(&keepers, passed_on).await?;
        drop(keepers);
        self.renew_server_svid(&own, self.0.clock.now())
    }

    /// Changes our bundle, and returns once the index shows it.
    async fn change_own(
        &self,
        keepers: &Keepers,
        mut change: impl FnMut(&mut Bundle) -> bool,
    ) -> Result<Bundle, RotateError> {
        let (store, trust_domain) = (&self.0.store, &self.0.config.trust_domain);
        let mut before = None;
        let remembered = |own: &mut Bundle| {
            before = Some(own.clone());
            change(own)
        };
        let updated = bundles::update(store, trust_domain, &Txn::new(), remembered).await?;
        match updated {
            Updated::Made { bundle, revision } => {
                keepers.x509.visible().reached(revision).await?;
                tell_changes(&before.unwrap_or_else(|| bundle.clone()), &bundle);
                Ok(bundle)
            }
            // Nothing but the bundle was expected.
            Updated::Conflict { key } => Err(RotateError::JournalTaken { key }),
        }
    }
}

impl Keepers {
    /// Lets others sign, where what signs leads to one of `spoiled`.
    async fn leave(
        &mut self,
        spoiled: &Names,
        config: &Config,
        now: SystemTime,
    ) -> Result<(), RotateError> {
        let x509 = self.x509.leave(&spoiled.x509, config, now).await;
        let jwt = self.jwt.leave(&spoiled.jwt, config, now).await;
        self.read_again_after(x509.and(jwt), config, now).await
    }
}

impl<A: Authority> Keeper<A> {
    async fn leave(
        &mut self,
        spoiled: &BTreeSet<String>,
        config: &Config,
        now: SystemTime,
    ) -> Result<(), RotateError> {
        let is_spoiled = |authority: &A| spoiled.contains(&name_in_bundle(authority));
        if !self.slots().active().is_some_and(is_spoiled) {
            return Ok(());
        }
        let slot = self.slots().next_slot();
        let next = self.slots().get(slot);
        let is_ready =
            next.is_some_and(|held| held.state == State::Prepared && !is_spoiled(&held.authority));
        if !is_ready {
            self.prepare(slot, config, now).await?;
        }
        self.activate(slot).await
    }
}

/// The name of what the bundle has of an authority: of itself, or of what it leads to.
fn name_in_bundle<A: Authority>(authority: &A) -> String {
    let own = || authority.authority_id().to_owned();
    authority.upstream_id().unwrap_or_else(own)
}

/// Names of authorities in a bundle.
#[derive(Debug, Default, Eq, PartialEq)]
struct Names {
    x509: BTreeSet<String>,
    jwt: BTreeSet<String>,
}

impl Names {
    /// Of the authorities that `x509` and `jwt` are true for.
    fn of(
        bundle: &Bundle,
        x509: impl Fn(&X509Authority) -> bool,
        jwt: impl Fn(&JwtAuthority) -> bool,
    ) -> Self {
        let (all_x509, all_jwt) = (
            bundle.x509_authorities.iter(),
            bundle.jwt_authorities.iter(),
        );
        let jwt = all_jwt.filter(|authority| jwt(authority));
        Self {
            x509: all_x509
                .filter(|authority| x509(authority))
                .map(X509Authority::authority_id)
                .collect(),
            jwt: jwt.map(|authority| authority.key_id.clone()).collect(),
        }
    }

    fn all(bundle: &Bundle) -> Self {
        Self::of(bundle, |_| true, |_| true)
    }

    fn tainted(bundle: &Bundle) -> Self {
        Self::of(
            bundle,
            |authority| authority.tainted,
            |authority| authority.tainted,
        )
    }

    fn without(&self, other: &Self) -> Self {
        Self {
            x509: &self.x509 - &other.x509,
            jwt: &self.jwt - &other.jwt,
        }
    }

    fn and(&self, other: &Self) -> Self {
        Self {
            x509: &self.x509 & &other.x509,
            jwt: &self.jwt & &other.jwt,
        }
    }

    fn is_empty(&self) -> bool {
        self.x509.is_empty() && self.jwt.is_empty()
    }

    fn iter(&self) -> impl Iterator<Item = (Kind, &String)> {
        let x509 = self.x509.iter().map(|id| (Kind::X509, id));
        x509.chain(self.jwt.iter().map(|id| (Kind::Jwt, id)))
    }
}

/// Adds what the bundle above has and ours lacks. Tells whether there was anything.
fn add(own: &mut Bundle, above: &Bundle) -> bool {
    let mut changed = false;
    for authority in &above.x509_authorities {
        changed |= own.add_x509_authority(authority.clone());
    }
    for authority in &above.jwt_authorities {
        let one = Additions {
            jwt: vec![authority.clone()],
            ..Additions::default()
        };
        // One whose name another key has here, or for which there is no room, is left out: ours stay.
        changed |= bundles::append(own, &one).unwrap_or(false);
    }
    changed
}

/// What is tainted above and not yet here.
fn newly_tainted(own: &Bundle, above: &Bundle) -> Names {
    let sound = Names::all(own).without(&Names::tainted(own));
    Names::tainted(above).and(&sound)
}

/// Takes out what is tainted here and gone above. Tells whether there was anything.
fn revoke(own: &mut Bundle, above: &Bundle) -> bool {
    let there = Names::all(above);
    let (x509, jwt) = (own.x509_authorities.len(), own.jwt_authorities.len());
    own.x509_authorities
        .retain(|authority| !authority.tainted || there.x509.contains(&authority.authority_id()));
    own.jwt_authorities
        .retain(|authority| !authority.tainted || there.jwt.contains(&authority.key_id));
    (x509, jwt) != (own.x509_authorities.len(), own.jwt_authorities.len())
}

fn tell_changes(before: &Bundle, after: &Bundle) {
    let (known, now) = (Names::all(before), Names::all(after));
    for (kind, id) in now.without(&known).iter() {
        info!(
            authority.kind = kind.name(),
            authority.id = id,
            "Upstream authority added"
        );
    }
    for (kind, id) in newly_tainted(before, after).iter() {
        info!(
            authority.kind = kind.name(),
            authority.id = id,
            "Upstream authority tainted"
        );
    }
    for (kind, id) in known.without(&now).iter() {
        info!(
            authority.kind = kind.name(),
            authority.id = id,
            "Upstream authority revoked"
        );
    }
}

fn tell_failure(cause: &RotateError, pause: Duration, failures: u32) {
    let (error, reason) = (report::chain(cause), cause.reason());
    if failures <= TOLD_FAILURES {
        warn!(error, error.reason = reason, retry.pause = ?pause, "Could not follow the upstream bundle; ours stays as it is");
    } else {
        debug!(error, error.reason = reason, retry.pause = ?pause, "Could not follow the upstream bundle; ours stays as it is");
    }
}
