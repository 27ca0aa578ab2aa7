//! The agent, put together.

mod admin_socket;
mod obtain;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use attestors::workload::k8s::volumes::Volumes;
use identity::bundle::Bundle;
use runtime::admin::{self, Pages};
use runtime::backoff::Backoff;
use runtime::clock::Clock;
use runtime::config::HostPort;
use runtime::files::FileError;
use runtime::listen::{self, BoundUnix, ListenError, ListenMetrics, Serve};
use runtime::log::LogHandle;
use runtime::metrics::Metrics;
use runtime::readiness::{Health, Readiness, ReadinessGuard};
use runtime::report;
use runtime::shutdown::Reason;
use runtime::tasks::TaskGroup;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use crate::attest::Attestors;
use crate::attestation::{AttestationError, Attestor, Kept, Remote, Standing};
use crate::cache::{self, Capacity, driver};
use crate::config::{Config, NodeAttestor, SocketConfig};
use crate::credentials::Credentials;
use crate::custody::{Custody, CustodyConfig, CustodyError};
use crate::endpoints;
use crate::lifecycle::{self, Inputs, Lifecycle};
use crate::lock::{Lock, LockError};
use crate::proof::Proof;
use crate::rebootstrap::Impossible;
use crate::rotation::Strategy;
use crate::sealed::{self, Item, SealedCache, Trust};
use crate::source::Source;
use crate::state::{StateError, StateFile};
use crate::sync::{self, Sync};
use crate::upstream::grpc::{Patience, Server, Target};
use crate::upstream::{Denial, UpstreamError};

/// The version that the server is told.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The pause between two tries of the first synchronization.
const SYNC_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How many denials wait to be acted on; one is enough to act.
const DENIALS: usize = 4;

/// What an agent needs of its process.
#[derive(Clone, Debug)]
pub struct Deps {
    pub clock: Clock,
    pub metrics: Metrics,
    pub tasks: TaskGroup,
    pub readiness: Readiness,
    /// The process's log, if its level may be changed on the admin socket.
    pub log: Option<LogHandle>,
}

/// An agent that runs. It ends by the shutdown of its task group.
#[derive(Clone, Debug)]
pub struct Handle {
    /// The socket of the workloads; it is there once the process is ready.
    pub socket: Option<PathBuf>,
    pub health: Option<SocketAddr>,
    pub prometheus: Option<SocketAddr>,
    pub readiness: Readiness,
    pub credentials: Arc<Credentials>,
}

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Folder(FileError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Custody(#[from] CustodyError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("could not obtain the agent's identity")]
    Identity(#[source] AttestationError),
    #[error(transparent)]
    Rebootstrap(#[from] Impossible),
    #[error("shutdown was requested before the agent had an identity")]
    ShutDown,
}

impl StartError {
    /// The stable label of metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Folder(error) => error.reason(),
            Self::Lock(error) => error.reason(),
            Self::State(error) => error.reason(),
            Self::Custody(error) => error.reason(),
            Self::Listen(error) => error.reason(),
            Self::Identity(error) => error.reason(),
            Self::Rebootstrap(_) => "rebootstrap_impossible",
            Self::ShutDown => "shut_down",
        }
    }
}

/// Starts an agent. Returns when it has its identity: a server that cannot be reached is asked
/// again and again, one that refuses is an error.
pub async fn start(config: Config, deps: Deps) -> Result<Handle, StartError> {
    let mut kept = open(&config)?;
    let admin = open_sockets(&config)?;
    let health = health_listener(&config, &deps).await?;
    let prometheus = metrics_listener(&config, &deps).await?;
    let attestor = attestor(&config, &deps.clock);
    let identity = deps.readiness.component("identity");
    let steps = Steps::new(&config, &deps);
    let (standing, trust) = obtain::identity(&attestor, &mut kept, &config, &deps).await?;
    let rebootstrap = config.rebootstrap.checked(standing.own.reattestable)?;
    let (sealed, items) = open_sealed(&config, &kept, &standing, trust, &deps);
    let credentials = Arc::new(Credentials::new(standing.own, Arc::clone(&standing.bundle)));
    let server = Server::new(
        attestor.gate.target.clone(),
        Arc::clone(&credentials),
        deps.clock.clone(),
    );
    let server = Arc::new(server);
    let (denials, denied) = mpsc::channel(DENIALS);
    let driver = cache(
        &config,
        Arc::clone(&server),
        standing.bundle,
        denials,
        sealed.clone(),
        &deps,
    );
    let is_restored = driver.restore(items);
    let lifecycle = Lifecycle::new(
        kept,
        lifecycle::Deps {
            attestor,
            credentials: Arc::clone(&credentials),
            server: Arc::clone(&server),
            strategy: strategy(&config),
            rebootstrap,
            clock: deps.clock.clone(),
            health: identity,
            metrics: deps.metrics.register(lifecycle::Metrics::register),
            trigger: deps.tasks.trigger().clone(),
            sealed,
        },
    );
    let inputs = Inputs {
        denials: denied,
        bundle: driver.own_bundle(),
        sync: steps.status.subscribe(),
    };
    deps.tasks.spawn("agent.lifecycle", lifecycle.run(inputs));
    keep(&driver, &deps.tasks);
    if let Some(bound) = admin {
        let delegates = config.delegates.clone();
        admin_socket::serve(bound, delegates, &driver, &credentials, &steps, &deps);
    }
    let socket = config.socket.as_ref().map(|socket| socket.path.clone());
    deps.tasks.spawn(
        "agent.work",
        work(config, server, driver, is_restored, steps, deps.clone()),
    );
    Ok(Handle {
        socket,
        health,
        prometheus,
        readiness: deps.readiness,
        credentials,
    })
}

/// Keeps what the cache holds fresh, and kept on disk.
fn keep(driver: &Driver, tasks: &TaskGroup) {
    let shutdown = || tasks.shutdown();
    tasks.spawn("agent.cache", Arc::clone(driver).run(shutdown()));
    tasks.spawn("agent.sealed", Arc::clone(driver).keep_sealed(shutdown()));
}

fn open(config: &Config) -> Result<Kept, StartError> {
    make_folder(&config.data_dir)?;
    let mut locks = vec![Lock::take(&config.data_dir)?];
    if let CustodyConfig::Disk { directory } = &config.custody {
        make_folder(directory)?;
        if !is_same_folder(directory, &config.data_dir)? {
            locks.push(Lock::take(directory)?);
        }
    }
    let state = StateFile::open(&config.data_dir, &config.trust_domain)?;
    let custody = Custody::open(&config.custody)?;
    if !custody.is_durable() && matches!(config.node_attestor, NodeAttestor::JoinToken) {
        warn!(
            "The agent's key is in memory only: after a restart the agent needs a new join token"
        );
    }
    Ok(Kept {
        state,
        custody,
        fetches: None,
        locks,
    })
}

fn is_same_folder(one: &Path, other: &Path) -> Result<bool, StartError> {
    let place = |path: &Path| {
        std::fs::canonicalize(path).map_err(|source| {
            StartError::Folder(FileError {
                action: "find",
                path: path.to_owned(),
                source,
            })
        })
    };
    Ok(place(one)? == place(other)?)
}

/// Opens the admin socket, if there is to be one, and looks whether the other can be opened later.
fn open_sockets(config: &Config) -> Result<Option<BoundUnix>, ListenError> {
    if let Some(socket) = &config.socket {
        endpoints::check(socket)?;
    }
    let admin = config.admin_socket.as_deref();
    admin.map(endpoints::open_admin).transpose()
}

fn make_folder(folder: &Path) -> Result<(), StartError> {
    std::fs::create_dir_all(folder).map_err(|source| {
        StartError::Folder(FileError {
            action: "create",
            path: folder.to_owned(),
            source,
        })
    })
}

fn attestor(config: &Config, clock: &Clock) -> Attestor {
    let target = Target {
        host: config.server.host.clone(),
        port: config.server.port,
        more: config.more_servers.clone(),
        trust_domain: config.trust_domain.clone(),
        patience: Patience::USUAL,
        demands_pq: config.demands_pq,
    };
    Attestor {
        gate: Remote {
            target,
            clock: clock.clone(),
        },
        server: config.server.clone(),
        trust_domain: config.trust_domain.clone(),
        trust_source: config.trust_source.clone(),
        proof: Proof::of(&config.node_attestor, config.join_token.clone()),
        clock: clock.clone(),
    }
}

fn strategy(config: &Config) -> Strategy {
    Strategy {
        availability_target: config.cache.availability_target,
    }
}

fn cache_options(config: &Config) -> driver::Options {
    let usual = driver::Options::default();
    driver::Options {
        capacity: Capacity {
            x509_svids: config.cache.x509_svids,
            jwt_svids: config.cache.jwt_svids,
        },
        key_algorithm: config.cache.key_algorithm,
        rotation: strategy(config),
        jwt_hit_timeout: config
            .cache
            .jwt_hit_timeout
            .unwrap_or(usual.jwt_hit_timeout),
    }
}

/// Opens what was kept for the workloads, if it is to be kept.
fn open_sealed(
    config: &Config,
    kept: &Kept,
    standing: &Standing,
    trust: Trust,
    deps: &Deps,
) -> (SealedCache, Vec<Item>) {
    if !config.sealed_cache || !kept.custody.is_durable() {
        if config.sealed_cache {
            // Keys that are to stay in memory do not go to the disk by another way, and without the
            // agent's own key nothing of it could be served after a restart.
            info!("The agent's key is in memory only: nothing is kept for a restart");
        }
        sealed::remove(&config.data_dir);
        return (SealedCache::default(), Vec::new());
    }
    SealedCache::open(
        &config.data_dir,
        standing.own.svid.id(),
        trust,
        deps.clock.now(),
        deps.metrics.register(sealed::Metrics::register),
    )
}

/// What readiness waits for after the identity, and what the sockets share.
#[derive(Debug)]
struct Steps {
    synchronization: Health,
    socket: Option<ReadinessGuard>,
    listeners: ListenMetrics,
    /// What storage drivers say of pods.
    volumes: Arc<Volumes>,
    attestors: Arc<Attestors>,
    /// How synchronization goes.
    status: watch::Sender<sync::Status>,
}

impl Steps {
    /// All of them before the first is taken: whoever waits for readiness must not find a component
    /// missing.
    fn new(config: &Config, deps: &Deps) -> Self {
        let socket = config.socket.as_ref();
        let volumes = Volumes::new();
        Self {
            synchronization: deps.readiness.component("synchronization"),
            socket: socket.map(|_| deps.readiness.register("socket")),
            listeners: deps.metrics.register(ListenMetrics::register),
            attestors: Arc::new(endpoints::attestors(config, &volumes, deps)),
            volumes,
            status: watch::Sender::default(),
        }
    }
}

impl Steps {
    /// What the sockets see of the agent.
    fn source(&self, driver: &Driver) -> Arc<Source<Server>> {
        let (attestors, driver) = (Arc::clone(&self.attestors), Arc::clone(driver));
        Arc::new(Source::new(attestors, driver, self.status.subscribe()))
    }
}

type Driver = Arc<driver::Driver<Server>>;

fn cache(
    config: &Config,
    server: Arc<Server>,
    bundle: Arc<Bundle>,
    denials: mpsc::Sender<Denial>,
    sealed: SealedCache,
    deps: &Deps,
) -> Driver {
    let deps = driver::Deps {
        upstream: server,
        clock: deps.clock.clone(),
        tasks: deps.tasks.clone(),
        metrics: deps.metrics.register(cache::Metrics::register),
        denials,
        sealed,
    };
    driver::Driver::new(bundle, cache_options(config), deps)
}

/// Opens the socket after the first synchronization, or at once when there is something to serve from
/// before the restart; and synchronizes on until shutdown.
async fn work(
    config: Config,
    server: Arc<Server>,
    driver: Driver,
    is_restored: bool,
    mut steps: Steps,
    deps: Deps,
) {
    let mut sync = Sync::new(
        config.trust_domain.clone(),
        config.sync_interval,
        sync::Deps {
            upstream: Arc::clone(&server),
            driver: Arc::clone(&driver),
            clock: deps.clock.clone(),
            health: steps.synchronization.clone(),
            metrics: deps.metrics.register(sync::Metrics::register),
        },
    )
    .telling(steps.status.clone());
    let shutdown = deps.tasks.shutdown();
    if is_restored && !open_workload_socket(&config, &driver, &mut steps, &deps) {
        return;
    }
    tokio::select! {
        () = shutdown.requested() => return,
        () = begin(&server, &driver, &mut sync, &deps.clock) => {}
    }
    if !is_restored && !open_workload_socket(&config, &driver, &mut steps, &deps) {
        return;
    }
    sync.run(shutdown).await;
}

/// Opens the socket of the workloads, if there is to be one. `false` says that the process is to end.
fn open_workload_socket(config: &Config, driver: &Driver, steps: &mut Steps, deps: &Deps) -> bool {
    if let Some(socket) = &config.socket
        && let Err(error) = serve(socket, driver, steps, deps)
    {
        error!(error.reason = error.reason(), error = %report::chain(&error), "Could not open the socket of the workloads");
        deps.tasks
            .trigger()
            .trigger(Reason::Failed("could not open the socket of the workloads"));
        return false;
    }
    drop(steps.socket.take());
    true
}

/// Synchronizes until it succeeds once. What the server says against the agent, the life cycle hears.
async fn begin(server: &Server, driver: &Driver, sync: &mut Sync<Server>, clock: &Clock) {
    match server.post_status(VERSION).await {
        Ok(()) => {}
        Err(UpstreamError::Denied(denial)) => driver.denied(denial),
        // Older servers do not know the call.
        Err(error) => info!(
            error.reason = error.reason(),
            "Could not tell the server this agent's version"
        ),
    }
    let (first, longest) = SYNC_PAUSE;
    let mut backoff = Backoff::new(first, longest);
    while sync.once().await.is_err() {
        clock.sleep(backoff.next_delay()).await;
    }
}

fn serve(
    socket: &SocketConfig,
    driver: &Driver,
    steps: &Steps,
    deps: &Deps,
) -> Result<(), ListenError> {
    let bound = endpoints::open(socket)?;
    let source = steps.source(driver);
    let routes = workload_api::routes::Deps {
        clock: deps.clock.clone(),
        shutdown: deps.tasks.shutdown(),
        metrics: deps
            .metrics
            .register(workload_api::metrics::Metrics::register),
    };
    let serve = Serve {
        limits: endpoints::limits(socket),
        shutdown: deps.tasks.shutdown(),
        tasks: deps.tasks.clone(),
        metrics: steps.listeners.socket(endpoints::NAME),
    };
    let served = endpoints::serve(bound, source, endpoints::options(socket), routes, serve);
    let trigger = deps.tasks.trigger().clone();
    deps.tasks.spawn("agent.socket", async move {
        if let Err(error) = served.await {
            error!(error.reason = error.reason(), error = %report::chain(&error), "Could not serve the socket of the workloads");
            trigger.trigger(Reason::Failed("could not serve the socket of the workloads"));
        }
    });
    Ok(())
}

async fn health_listener(config: &Config, deps: &Deps) -> Result<Option<SocketAddr>, StartError> {
    let Some(health) = &config.health else {
        return Ok(None);
    };
    let pages = Pages::Health {
        live_path: health.live_path.clone(),
        ready_path: health.ready_path.clone(),
        readiness: deps.readiness.clone(),
    };
    listener(&health.address, pages, deps).await.map(Some)
}

async fn metrics_listener(config: &Config, deps: &Deps) -> Result<Option<SocketAddr>, StartError> {
    let Some(address) = &config.prometheus else {
        return Ok(None);
    };
    listener(address, Pages::Metrics(deps.metrics.clone()), deps)
        .await
        .map(Some)
}

async fn listener(address: &HostPort, pages: Pages, deps: &Deps) -> Result<SocketAddr, StartError> {
    let bound = listen::bind_host(address).await?;
    Ok(admin::start(bound, pages, &deps.tasks))
}

#[cfg(test)]
mod tests;
