//! The signing authorities of this server: kept over restarts, replaced in time, and the only ones
//! that sign.

mod batch;
mod composer;
mod config;
mod errors;
mod journal;
mod jwt;
mod local;
mod mirror;
mod server_svid;
mod slots;
#[cfg(test)]
mod tests;
mod upkeep;
mod upstream;
mod visible;
mod x509;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use identity::{
    bundle::{Bundle, JwtAuthority},
    key::PublicKey,
    x509::X509Svid,
};
use runtime::{backoff::Backoff, clock::Clock, report, tasks::TaskGroup};
use tokio::sync::{Mutex, Semaphore, watch};
use tracing::warn;

pub(crate) use self::local::{Known, States};
pub(crate) use self::slots::{SlotId, State};
use self::{
    batch::cores,
    journal::Keeper,
    jwt::JwtKey,
    server_svid::ServerSvid,
    slots::Term as _,
    x509::{DownstreamRequest, X509Ca},
};
pub use self::{
    composer::Composer,
    config::{CaSubject, Config},
    errors::{CreateError, RotateError, SignError, StartError, Unusable},
    jwt::{IssuedJwtSvid, JwtSvidRequest},
    slots::Refused,
    upstream::{
        DiskConfig, DiskError, SpireConfig, SpireError, Upstream, UpstreamConfig, UpstreamError,
    },
    visible::{Visible, VisibleError},
    x509::{IssuedX509Svid, Subject, X509SvidRequest},
};
use crate::{bundles, keys::Keys, store::Store};

/// The pauses of a server that waits for its first authority from above.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Whom the authorities work with.
#[derive(Clone, Debug)]
pub struct Deps {
    pub store: Store,
    pub keys: Keys,
    pub clock: Clock,
    pub tasks: TaskGroup,
    pub visible: Visible,
}

/// The kinds of authorities.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Kind {
    X509,
    Jwt,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
        }
    }
}

/// The authorities of this server. Clones share them.
#[derive(Clone, Debug)]
pub struct Authorities(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    store: Store,
    clock: Clock,
    tasks: TaskGroup,
    active: ArcSwap<Active>,
    keepers: Mutex<Keepers>,
    bundle: watch::Sender<Arc<Bundle>>,
    server_svid: watch::Sender<Arc<X509Svid>>,
    /// One permit for each core that may sign batches.
    signers: Arc<Semaphore>,
}

/// What signs now.
#[derive(Debug)]
struct Active {
    x509: X509Ca,
    jwt: JwtKey,
}

#[derive(Debug)]
struct Keepers {
    x509: Keeper<X509Ca>,
    jwt: Keeper<JwtKey>,
}

impl Keepers {
    /// Performs what is due in both kinds; the second is not held up by the first's failure.
    async fn settle(&mut self, config: &Config, now: SystemTime) -> Result<(), RotateError> {
        let x509 = self.x509.settle(config, now).await;
        let jwt = self.jwt.settle(config, now).await;
        self.read_again_after(x509.and(jwt), config, now).await
    }

    /// Performs what is due before anything is signed. Where the authority above does not sign, what signed
    /// before goes on; where nothing did, it is waited for.
    async fn settle_first(&mut self, config: &Config, clock: &Clock) -> Result<(), RotateError> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let Err(cause) = self.settle(config, clock.now()).await else {
                return Ok(());
            };
            if !cause.may_pass() {
                return Err(cause);
            }
            let (error, reason) = (report::chain(&cause), cause.reason());
            if self.active().is_some() {
                warn!(
                    error,
                    error.reason = reason,
                    "Could not rotate the authorities; those of before sign on"
                );
                return Ok(());
            }
            let pause = backoff.next_delay();
            warn!(error, error.reason = reason, retry.pause = ?pause, "Could not get a first authority from the upstream authority; trying again");
            clock.sleep(pause).await;
        }
    }

    /// After a journal that is not as it was left: a commit was made, and its answer was lost. What it says
    /// counts, so that the next step goes on from there.
    async fn read_again_after(
        &mut self,
        outcome: Result<(), RotateError>,
        config: &Config,
        now: SystemTime,
    ) -> Result<(), RotateError> {
        if let Err(RotateError::JournalTaken { key }) = &outcome {
            warn!(store.key = %key, "The journal of the authorities is not as it was left: reading it again");
            self.x509 = self.x509.again(config, now).await?;
            self.jwt = self.jwt.again(config, now).await?;
        }
        outcome
    }

    /// When something will be due of which nothing is due at `now`.
    fn next_due(&self, now: SystemTime) -> Option<SystemTime> {
        let (x509, jwt) = (self.x509.slots(), self.jwt.slots());
        x509.next_due(now)
            .into_iter()
            .chain(jwt.next_due(now))
            .min()
    }

    fn active(&self) -> Option<Active> {
        let x509 = self.x509.slots().active()?.clone();
        let jwt = self.jwt.slots().active()?.clone();
        Some(Active { x509, jwt })
    }
}

impl Authorities {
    /// Takes up the authorities of the journal, or prepares, publishes and activates new ones; then
    /// keeps them up in tasks of `deps.tasks`.
    pub async fn start(config: Config, deps: Deps) -> Result<Self, StartError> {
        let Deps {
            store,
            keys,
            clock,
            tasks,
            visible,
        } = deps;
        let now = clock.now();
        let mut keepers = Keepers {
            x509: Keeper::restore(store.clone(), keys.clone(), visible.clone(), &config, now)
                .await?,
            jwt: Keeper::restore(store.clone(), keys, visible, &config, now).await?,
        };
        keepers.settle_first(&config, &clock).await?;
        keepers.x509.forget_orphans().await;
        keepers.jwt.forget_orphans().await;
        let active = keepers.active().ok_or(StartError::NoAuthority)?;
        let stored = bundles::read(&store, &config.trust_domain)
            .await
            .map_err(RotateError::from)?;
        let stored = stored.ok_or(StartError::NoAuthority)?;
        let server_svid = ServerSvid::issue(&config, &active.x509, clock.now())?;
        let inner = Inner {
            store,
            clock,
            tasks: tasks.clone(),
            active: ArcSwap::from_pointee(active),
            keepers: Mutex::new(keepers),
            bundle: watch::Sender::new(Arc::new(stored.bundle)),
            server_svid: watch::Sender::new(Arc::new(server_svid)),
            signers: Arc::new(Semaphore::new(cores())),
            config,
        };
        let authorities = Self(Arc::new(inner));
        tasks.spawn("authorities", authorities.clone().keep_up(tasks.shutdown()));
        let follow = authorities
            .clone()
            .follow_bundle(stored.revision, tasks.shutdown());
        tasks.spawn("own-bundle", follow);
        if let Some(upstream) = authorities.followed_upstream() {
            let follow = authorities
                .clone()
                .follow_upstream(upstream, tasks.shutdown());
            tasks.spawn("upstream bundle", follow);
        }
        Ok(authorities)
    }

    fn followed_upstream(&self) -> Option<Upstream> {
        let upstream = self.0.config.upstream.clone();
        upstream.filter(Upstream::has_bundle)
    }

    /// Has a JWT authority of a server below this one counted above, if there is something above.
    pub(crate) async fn publish_above(
        &self,
        authority: &JwtAuthority,
    ) -> Result<(), UpstreamError> {
        match &self.0.config.upstream {
            Some(upstream) => upstream.publish(authority).await,
            None => Ok(()),
        }
    }

    /// From now on what is active signs.
    fn sign_with(&self, keepers: &Keepers) {
        if let Some(active) = keepers.active() {
            self.0.active.store(Arc::new(active));
        }
    }

    /// Signs an X509-SVID. This is work for a processor core, not for a thread that serves others:
    /// see [`Self::sign_batch`].
    pub fn sign_x509_svid(
        &self,
        request: &X509SvidRequest<'_>,
        now: SystemTime,
    ) -> Result<IssuedX509Svid, SignError> {
        let composer = self.0.config.composer;
        let name = composer.and_then(|composer| composer.name(request));
        let request = X509SvidRequest {
            name: name.as_ref().or(request.name),
            ..*request
        };
        self.0.active.load().x509.sign(&request, now)
    }

    /// Signs an authority of a server below this one; without a `ttl` it lives as long as ours do.
    pub(crate) fn sign_downstream_ca(
        &self,
        public_key: &PublicKey,
        ttl: Option<Duration>,
        now: SystemTime,
    ) -> Result<IssuedX509Svid, SignError> {
        let ttl = ttl.unwrap_or(self.0.config.ca_ttl);
        let request = DownstreamRequest { public_key, ttl };
        self.0.active.load().x509.sign_downstream(&request, now)
    }

    /// Signs a JWT-SVID.
    pub fn sign_jwt_svid(
        &self,
        request: &JwtSvidRequest<'_>,
        now: SystemTime,
    ) -> Result<IssuedJwtSvid, SignError> {
        self.0.active.load().jwt.sign(request, &self.0.config, now)
    }

    /// This server's own SVID, `spiffe://TD/spire/server`, and its successors.
    pub fn server_svid(&self) -> watch::Receiver<Arc<X509Svid>> {
        self.0.server_svid.subscribe()
    }

    /// The bundle of this server's trust domain, and its successors.
    pub fn own_bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.0.bundle.subscribe()
    }

    /// The name of the X.509 authority that signs now, and of the JWT authority.
    pub fn active_ids(&self) -> (String, String) {
        let active = self.0.active.load();
        (
            active.x509.authority_id().to_owned(),
            active.jwt.authority_id().to_owned(),
        )
    }
}
