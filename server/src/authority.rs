//! The signing authorities of this server: kept over restarts, replaced in time, and the only ones
//! that sign.

mod errors;
mod journal;
mod jwt;
mod server_svid;
mod slots;
#[cfg(test)]
mod tests;
mod x509;

use std::{
    fmt,
    num::NonZero,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use identity::{bundle::Bundle, trust_domain::TrustDomain, x509::X509Svid};
use runtime::{clock::Clock, tasks::TaskGroup};
use tokio::sync::{Mutex, Semaphore, watch};
use tracing::{error, info, warn};

pub(crate) use self::slots::{SlotId, State};
pub use self::{
    errors::{CreateError, RotateError, SignError, StartError, Unusable},
    jwt::{IssuedJwtSvid, JwtSvidRequest},
    slots::Refused,
    x509::{IssuedX509Svid, Subject, X509SvidRequest},
};
use self::{journal::Keeper, jwt::JwtKey, server_svid::ServerSvid, x509::X509Ca};
use crate::{
    bundles::{self, PRUNE_INTERVAL, Pruned, Updated},
    keys::{KeyType, Keys},
    store::{Family, Key, Revision, Store, StoreError, Txn, Watch, WatchEvent},
};

/// How often the authorities look whether something is due. SPIRE's interval.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// What the authorities are to be.
#[derive(Clone, Debug)]
pub struct Config {
    pub trust_domain: TrustDomain,
    pub ca_subject: CaSubject,
    /// The lifetime of both kinds of authorities.
    pub ca_ttl: Duration,
    pub ca_key_type: KeyType,
    pub jwt_key_type: KeyType,
    /// The lifetime of this server's own SVID.
    pub server_svid_ttl: Duration,
    pub jwt_issuer: Option<String>,
}

impl Config {
    /// SPIRE's defaults.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            ca_subject: CaSubject::default(),
            ca_ttl: Duration::from_secs(24 * 60 * 60),
            ca_key_type: KeyType::default(),
            jwt_key_type: KeyType::default(),
            server_svid_ttl: Duration::from_secs(60 * 60),
            jwt_issuer: None,
        }
    }
}

/// The name in the certificate of an X.509 authority; its serial number is added.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CaSubject {
    pub country: Option<String>,
    pub organization: Option<String>,
    pub common_name: Option<String>,
}

impl Default for CaSubject {
    fn default() -> Self {
        Self {
            country: Some("US".to_owned()),
            organization: Some("SPIFFE".to_owned()),
            common_name: None,
        }
    }
}

/// Whom the authorities work with.
#[derive(Clone, Debug)]
pub struct Deps {
    pub store: Store,
    pub keys: Keys,
    pub clock: Clock,
    pub tasks: TaskGroup,
    pub visible: Visible,
}

/// Tells when what a commit wrote can be seen by everybody who asks this server.
#[derive(Clone)]
pub struct Visible(Arc<Reached>);

type Reached = dyn Fn(Revision) -> BoxFuture<'static, Result<(), VisibleError>> + Send + Sync;
type VisibleError = Box<dyn std::error::Error + Send + Sync>;

impl Visible {
    /// Asks an index.
    pub fn new(
        reached: impl Fn(Revision) -> BoxFuture<'static, Result<(), VisibleError>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self(Arc::new(reached))
    }

    /// At once: there is no index, as in tests.
    pub fn at_once() -> Self {
        Self::new(|_| Box::pin(async { Ok(()) }))
    }

    async fn reached(&self, revision: Revision) -> Result<(), RotateError> {
        (self.0)(revision)
            .await
            .map_err(|source| RotateError::NotVisible { source })
    }
}

impl fmt::Debug for Visible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Visible")
    }
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
        x509.and(jwt)
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
        keepers.settle(&config, now).await?;
        let active = keepers.active().ok_or(StartError::NoAuthority)?;
        let stored = bundles::read(&store, &config.trust_domain)
            .await
            .map_err(RotateError::from)?;
        let stored = stored.ok_or(StartError::NoAuthority)?;
        let server_svid = ServerSvid::issue(&config, &active.x509, now)?;
        let inner = Inner {
            store,
            clock,
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
        Ok(authorities)
    }

    /// Signs an X509-SVID. This is work for a processor core, not for a thread that serves others:
    /// see [`Self::sign_batch`].
    pub fn sign_x509_svid(
        &self,
        request: &X509SvidRequest<'_>,
        now: SystemTime,
    ) -> Result<IssuedX509Svid, SignError> {
        self.0.active.load().x509.sign(request, now)
    }

    /// Signs a JWT-SVID.
    pub fn sign_jwt_svid(
        &self,
        request: &JwtSvidRequest<'_>,
        now: SystemTime,
    ) -> Result<IssuedJwtSvid, SignError> {
        self.0.active.load().jwt.sign(request, &self.0.config, now)
    }

    /// Does `each` of `work` on all cores, and answers in its order.
    ///
    /// At most one thread per core signs for all callers together; the others wait their turn. All
    /// turns are alike: renewals close to their end do not come first yet.
    pub async fn sign_batch<T, R>(
        &self,
        work: Vec<T>,
        each: impl Fn(&Self, T) -> R + Clone + Send + 'static,
    ) -> Result<Vec<R>, SignError>
    where
        T: Send + 'static,
        R: Send + 'static,
    {
        let share = work.len().div_ceil(cores()).max(1);
        let mut shares = Vec::new();
        let mut work = work.into_iter();
        loop {
            let share: Vec<T> = work.by_ref().take(share).collect();
            if share.is_empty() {
                break;
            }
            let (this, each) = (self.clone(), each.clone());
            shares.push(async move {
                let turn = Arc::clone(&this.0.signers).acquire_owned().await;
                let turn = turn.or(Err(SignError::Ended))?;
                let done = tokio::task::spawn_blocking(move || {
                    let _turn = turn;
                    share
                        .into_iter()
                        .map(|item| each(&this, item))
                        .collect::<Vec<R>>()
                });
                done.await.or(Err(SignError::Ended))
            });
        }
        let shares = futures_util::future::try_join_all(shares).await?;
        Ok(shares.into_iter().flatten().collect())
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
        use slots::Term as _;
        let active = self.0.active.load();
        (
            active.x509.authority_id().to_owned(),
            active.jwt.authority_id().to_owned(),
        )
    }

    /// Performs what is due.
    async fn check(&self) -> Result<(), RotateError> {
        let now = self.0.clock.now();
        let mut keepers = self.0.keepers.lock().await;
        let settled = keepers.settle(&self.0.config, now).await;
        // What was stored counts, also when a later step failed.
        if let Some(active) = keepers.active() {
            self.0.active.store(Arc::new(active));
        }
        drop(keepers);
        settled?;
        self.renew_server_svid(now)
    }

    fn renew_server_svid(&self, now: SystemTime) -> Result<(), RotateError> {
        if !ServerSvid::is_due(&self.0.server_svid.borrow(), &self.0.bundle.borrow(), now) {
            return Ok(());
        }
        let svid = ServerSvid::issue(&self.0.config, &self.0.active.load().x509, now)?;
        info!(
            svid.serial = svid.leaf().serial_decimal(),
            "Server's own X509-SVID renewed"
        );
        self.0.server_svid.send_replace(Arc::new(svid));
        Ok(())
    }

    async fn keep_up(self, shutdown: runtime::shutdown::Shutdown) {
        let mut prune_at = self.0.clock.now() + PRUNE_INTERVAL;
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = self.0.clock.sleep(CHECK_INTERVAL) => {}
            }
            if let Err(cause) = self.check().await {
                error!(
                    error.reason = cause.reason(),
                    error = runtime::report::chain(&cause).to_string(),
                    "Could not rotate the authorities; trying again"
                );
            }
            if self.0.clock.now() >= prune_at {
                prune_at = self.0.clock.now() + PRUNE_INTERVAL;
                self.prune().await;
            }
        }
    }

    async fn prune(&self) {
        let now = self.0.clock.now();
        let mut outcome = Pruned::Unchanged;
        let nothing_else = Txn::new();
        let updated = bundles::update(
            &self.0.store,
            &self.0.config.trust_domain,
            &nothing_else,
            |bundle| {
                outcome = bundles::prune(bundle, now);
                outcome == Pruned::Changed
            },
        );
        match (updated.await, outcome) {
            (Err(cause), _) => warn!(
                error.reason = cause.reason(),
                error = runtime::report::chain(&cause),
                "Could not prune the bundle"
            ),
            (Ok(_), Pruned::Refused) => {
                warn!("Every authority of a kind in the bundle has ended; none was pruned");
            }
            (Ok(Updated::Made { bundle, .. }), Pruned::Changed) => {
                info!(
                    bundle.sequence = bundle.sequence,
                    "Ended authorities pruned from the bundle"
                );
            }
            (Ok(_), _) => {}
        }
    }

    async fn follow_bundle(self, from: Revision, shutdown: runtime::shutdown::Shutdown) {
        let mut watch = self.0.store.watch(from);
        loop {
            let event = tokio::select! {
                () = shutdown.requested() => return,
                event = watch.next() => event,
            };
            match event {
                WatchEvent::Change(change) => self.take_bundle(&change),
                WatchEvent::Restart => match self.reread_bundle().await {
                    Ok(restarted) => watch = restarted,
                    Err(cause) => {
                        warn!(error.reason = cause.reason(), error = %cause, "Could not read the own bundle; trying again");
                        self.0.clock.sleep(CHECK_INTERVAL).await;
                    }
                },
                WatchEvent::Closed => return,
            }
        }
    }

    fn take_bundle(&self, change: &crate::store::Change) {
        let key = Key::bundle(&self.0.config.trust_domain);
        for record in change
            .puts
            .iter()
            .filter(|record| record.key.family() == Some(Family::Bundle))
        {
            if record.key != key {
                continue;
            }
            match bundles::from_record(&record.value) {
                Ok(bundle) => {
                    self.0.bundle.send_replace(Arc::new(bundle));
                }
                // The last good one stays.
                Err(cause) => error!(error = %cause, "Stored own bundle is damaged"),
            }
        }
    }

    async fn reread_bundle(&self) -> Result<Watch, StoreError> {
        let (revision, records) = self.0.store.snapshot().await?;
        self.take_bundle(&crate::store::Change {
            revision,
            puts: records,
            deletes: Vec::new(),
        });
        Ok(self.0.store.watch(revision))
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}
