//! What an operator does with the authorities of this server: look, prepare, activate, taint, revoke.
//!
//! The way out of a leaked key. A successor is prepared and activated; what the leaked one signed is
//! tainted, so that everybody replaces it while it is still good; then the key is revoked and counts
//! for nobody. Each step is one commit, and is told once the index shows it.

use std::time::SystemTime;

use identity::bundle::Bundle;
use runtime::failpoint;
use tracing::info;

use super::{
    Authorities, Keepers, Kind, Refused, RotateError,
    journal::{Authority, Keeper},
    slots::{SlotId, Slots, State, Term},
};
use crate::{
    bundles::{self, Updated},
    errand,
    store::Txn,
};

/// An authority, as an operator sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Known {
    pub(crate) authority_id: String,
    pub(crate) not_after: SystemTime,
    /// The name in the bundle of the authority that signed it, if it did not sign itself.
    pub(crate) upstream_id: Option<String>,
}

/// The authorities of a kind. None is active only while a server begins.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct States {
    pub(crate) active: Option<Known>,
    pub(crate) prepared: Option<Known>,
    pub(crate) old: Option<Known>,
}

impl States {
    fn of<A: Term>(slots: &Slots<A>) -> Self {
        let mut states = Self::default();
        for held in SlotId::ALL.into_iter().filter_map(|slot| slots.get(slot)) {
            let known = Known {
                authority_id: held.authority.authority_id().to_owned(),
                not_after: held.authority.not_after(),
                upstream_id: held.authority.upstream_id(),
            };
            match held.state {
                State::Active => states.active = Some(known),
                State::Prepared => states.prepared = Some(known),
                State::Old => states.old = Some(known),
            }
        }
        states
    }
}

/// How an authority leaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Leave {
    Taint,
    Revoke,
}

impl Leave {
    const fn name(self) -> &'static str {
        match self {
            Self::Taint => "taint",
            Self::Revoke => "revoke",
        }
    }
}

impl Authorities {
    /// The authorities of a kind.
    pub(crate) async fn states(&self, kind: Kind) -> States {
        let keepers = self.0.keepers.lock().await;
        match kind {
            Kind::X509 => States::of(keepers.x509.slots()),
            Kind::Jwt => States::of(keepers.jwt.slots()),
        }
    }

    /// Runs a step to its end, also when whoever asked for it goes away: it would be stored and not known here.
    async fn to_its_end<T, S>(&self, step: impl FnOnce(Self) -> S) -> Result<T, RotateError>
    where
        T: Send + 'static,
        S: Future<Output = Result<T, RotateError>> + Send + 'static,
    {
        let step = step(self.clone());
        let outcome = errand::run(&self.0.tasks, "authority step", step).await;
        outcome.unwrap_or(Err(RotateError::CutShort))
    }

    /// Makes the next authority, and publishes it. One that was prepared before is given up.
    pub(crate) async fn prepare(&self, kind: Kind) -> Result<States, RotateError> {
        self.to_its_end(move |this| async move { this.prepare_next(kind).await })
            .await
    }

    async fn prepare_next(&self, kind: Kind) -> Result<States, RotateError> {
        let (config, now) = (&self.0.config, self.0.clock.now());
        let mut keepers = self.0.keepers.lock().await;
        let prepared = match kind {
            Kind::X509 => keepers.x509.prepare_next(config, now).await,
            Kind::Jwt => keepers.jwt.prepare_next(config, now).await,
        };
        let prepared = keepers.read_again_after(prepared, config, now).await;
        self.sign_with(&keepers);
        failpoint::reach(kind.name(), "prepare.done");
        drop(keepers);
        prepared?;
        Ok(self.states(kind).await)
    }

    /// Lets the prepared authority of this name sign from now on.
    pub(crate) async fn activate(&self, kind: Kind, id: &str) -> Result<States, RotateError> {
        let id = id.to_owned();
        self.to_its_end(move |this| async move { this.activate_named(kind, &id).await })
            .await
    }

    async fn activate_named(&self, kind: Kind, id: &str) -> Result<States, RotateError> {
        let (config, now) = (&self.0.config, self.0.clock.now());
        let mut keepers = self.0.keepers.lock().await;
        let activated = match kind {
            Kind::X509 => keepers.x509.activate_named(id).await,
            Kind::Jwt => keepers.jwt.activate_named(id).await,
        };
        let activated = keepers.read_again_after(activated, config, now).await;
        self.sign_with(&keepers);
        failpoint::reach(kind.name(), "activate.signing");
        drop(keepers);
        activated?;
        Ok(self.states(kind).await)
    }

    /// Whether the X.509 authorities are signed by one above.
    pub(crate) fn has_upstream(&self) -> bool {
        self.0.config.upstream.is_some()
    }

    /// Marks what was signed below an upstream authority as to be replaced.
    pub(crate) async fn taint_upstream(&self, id: &str) -> Result<(), RotateError> {
        self.leave_upstream(id, Leave::Taint).await
    }

    /// Takes a tainted upstream authority out of the bundle.
    pub(crate) async fn revoke_upstream(&self, id: &str) -> Result<(), RotateError> {
        self.leave_upstream(id, Leave::Revoke).await
    }

    async fn leave_upstream(&self, id: &str, leave: Leave) -> Result<(), RotateError> {
        let id = id.to_owned();
        self.to_its_end(move |this| async move { this.upstream_leaves(&id, leave).await })
            .await
    }

    async fn upstream_leaves(&self, id: &str, leave: Leave) -> Result<(), RotateError> {
        if !self.has_upstream() {
            return Err(Refused::NoUpstream.into());
        }
        let keepers = self.0.keepers.lock().await;
        keepers.x509.slots().check_upstream(id)?;
        let check = |is_tainted| match (leave, is_tainted) {
            (Leave::Taint, false) | (Leave::Revoke, true) => Ok(()),
            (Leave::Taint, true) => Err(Refused::AlreadyTainted),
            (Leave::Revoke, false) => Err(Refused::NotTainted),
        };
        let bundle = self
            .change_bundle(&keepers, Kind::X509, id, leave, |is_tainted| {
                is_tainted.map_or(Err(Refused::NotInBundle), check)
            })
            .await?;
        match leave {
            Leave::Taint => info!(authority.id = id, "Upstream authority tainted"),
            Leave::Revoke => info!(authority.id = id, "Upstream authority revoked"),
        }
        drop(keepers);
        self.renew_server_svid(&bundle, self.0.clock.now())?;
        failpoint::reach(leave.name(), "done");
        Ok(())
    }

    /// Marks what an old authority signed as to be replaced. Our own SVID is, at once.
    pub(crate) async fn taint(&self, kind: Kind, id: &str) -> Result<States, RotateError> {
        self.leave(kind, id, Leave::Taint).await
    }

    /// Takes a tainted authority out of the bundle.
    pub(crate) async fn revoke(&self, kind: Kind, id: &str) -> Result<States, RotateError> {
        self.leave(kind, id, Leave::Revoke).await
    }

    async fn leave(&self, kind: Kind, id: &str, leave: Leave) -> Result<States, RotateError> {
        let id = id.to_owned();
        self.to_its_end(move |this| async move { this.leave_bundle(kind, &id, leave).await })
            .await
    }

    async fn leave_bundle(
        &self,
        kind: Kind,
        id: &str,
        leave: Leave,
    ) -> Result<States, RotateError> {
        if kind == Kind::X509 && self.has_upstream() {
            return Err(Refused::HasUpstream.into());
        }
        // Held to the end, so that no other step comes between the check and the commit.
        let keepers = self.0.keepers.lock().await;
        let of_slots = |is_tainted| match (kind, leave) {
            (Kind::X509, Leave::Taint) => keepers.x509.slots().check_taint(id, is_tainted),
            (Kind::Jwt, Leave::Taint) => keepers.jwt.slots().check_taint(id, is_tainted),
            (Kind::X509, Leave::Revoke) => keepers.x509.slots().check_revoke(id, is_tainted),
            (Kind::Jwt, Leave::Revoke) => keepers.jwt.slots().check_revoke(id, is_tainted),
        };
        let of_bundle = |is_tainted| match (of_slots(is_tainted), kind, leave) {
            // Keys outlive their slots, and those of a lost server, or of one below, have none here.
            (Err(Refused::Unknown), Kind::Jwt, Leave::Revoke) if is_tainted => Ok(()),
            (Err(Refused::Unknown), Kind::Jwt, Leave::Revoke) => Err(Refused::NotTainted),
            (Err(Refused::Unknown), Kind::Jwt, Leave::Taint) if is_tainted => {
                Err(Refused::AlreadyTainted)
            }
            (Err(Refused::Unknown), Kind::Jwt, Leave::Taint) => Ok(()),
            (checked, ..) => checked,
        };
        let check = |is_tainted: Option<bool>| match is_tainted {
            Some(is_tainted) => of_bundle(is_tainted),
            // What else is wrong with it is said first.
            None => of_slots(leave == Leave::Revoke).and(Err(Refused::NotInBundle)),
        };
        let bundle = self.change_bundle(&keepers, kind, id, leave, check).await?;
        let states = match kind {
            Kind::X509 => States::of(keepers.x509.slots()),
            Kind::Jwt => States::of(keepers.jwt.slots()),
        };
        match leave {
            Leave::Taint => info!(
                authority.kind = kind.name(),
                authority.id = id,
                "Authority tainted"
            ),
            Leave::Revoke => info!(
                authority.kind = kind.name(),
                authority.id = id,
                "Authority revoked"
            ),
        }
        drop(keepers);
        self.renew_server_svid(&bundle, self.0.clock.now())?;
        failpoint::reach(leave.name(), "done");
        Ok(states)
    }

    /// Taints an authority in the stored bundle, or takes it out, if `check` lets it: it is told whether the
    /// authority is tainted, or `None` if the bundle lacks it. Returns once the index shows it.
    async fn change_bundle(
        &self,
        keepers: &Keepers,
        kind: Kind,
        id: &str,
        leave: Leave,
        check: impl Fn(Option<bool>) -> Result<(), Refused>,
    ) -> Result<Bundle, RotateError> {
        let mut checked = Err(Refused::Unknown);
        let nothing_else = Txn::new();
        let update = bundles::update(
            &self.0.store,
            &self.0.config.trust_domain,
            &nothing_else,
            |bundle| {
                checked = check(tainted(kind, bundle, id));
                if checked.is_ok() {
                    match leave {
                        Leave::Taint => taint_in(kind, bundle, id),
                        Leave::Revoke => remove_from(kind, bundle, id),
                    }
                }
                checked.is_ok()
            },
        );
        let updated = update.await?;
        checked?;
        match updated {
            Updated::Made { bundle, revision } => {
                keepers.x509.visible().reached(revision).await?;
                failpoint::reach(leave.name(), "visible");
                Ok(bundle)
            }
            // Nothing but the bundle was expected.
            Updated::Conflict { key } => Err(RotateError::JournalTaken { key }),
        }
    }
}

impl<A: Authority> Keeper<A> {
    async fn prepare_next(
        &mut self,
        config: &super::Config,
        now: SystemTime,
    ) -> Result<(), RotateError> {
        self.prepare(self.slots().next_slot(), config, now).await
    }

    async fn activate_named(&mut self, id: &str) -> Result<(), RotateError> {
        match self.slots().place(id)? {
            (slot, State::Prepared) => self.activate(slot).await,
            (_, State::Active) => Err(Refused::Active.into()),
            (_, State::Old) => Err(Refused::NotPrepared.into()),
        }
    }
}

/// Whether the authority of that name is tainted, if the bundle has it. One key may have several certificates
/// there, and all of them are to be tainted.
fn tainted(kind: Kind, bundle: &mut Bundle, id: &str) -> Option<bool> {
    let mut found = None;
    each(kind, bundle, id, |tainted| {
        found = Some(*tainted && found.unwrap_or(true));
    });
    found
}

fn taint_in(kind: Kind, bundle: &mut Bundle, id: &str) {
    each(kind, bundle, id, |tainted| *tainted = true);
}

/// Calls `with` the mark of each authority of that name.
fn each(kind: Kind, bundle: &mut Bundle, id: &str, with: impl FnMut(&mut bool)) {
    match kind {
        Kind::X509 => {
            let all = bundle.x509_authorities.iter_mut();
            all.filter(|authority| authority.authority_id() == id)
                .map(|authority| &mut authority.tainted)
                .for_each(with);
        }
        Kind::Jwt => {
            let all = bundle.jwt_authorities.iter_mut();
            all.filter(|authority| authority.key_id == id)
                .map(|authority| &mut authority.tainted)
                .for_each(with);
        }
    }
}

fn remove_from(kind: Kind, bundle: &mut Bundle, id: &str) {
    match kind {
        Kind::X509 => bundle
            .x509_authorities
            .retain(|authority| authority.authority_id() != id),
        Kind::Jwt => bundle
            .jwt_authorities
            .retain(|authority| authority.key_id != id),
    }
}
