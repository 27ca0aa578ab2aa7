//! A server, put together. Nothing is decided here; the parts are started in their order.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use attestors::node::k8s_psat::ConnectError;
use identity::spiffe_id::SpiffeIdError;
use identity::trust_domain::TrustDomain;
use runtime::clock::Clock;
use runtime::config::HealthConfig;
use runtime::listen::{BoundTcp, Limits, ListenError, ListenMetrics, Serve, bind_host, bind_unix};
use runtime::log::LogHandle;
use runtime::metrics::Metrics;
use runtime::readiness::Readiness;
use runtime::tasks::TaskGroup;
use runtime::{admin, listen};
use tracing::info;

use crate::api::{Gate, JwtSvids, Probe, RpcMetrics, Services, Ttls, admin_routes, port_routes};
use crate::audit::Audit;
use crate::authority::{self, Authorities, Upstream, Visible};
use crate::config::{
    BundleEndpointConfig, Config, KeysConfig, OidcConfig, ServingConfig, StoreConfig,
};
use crate::federation::{self, BundleDocument, Refresher};
use crate::feed::{Hub, Metrics as FeedMetrics};
use crate::housekeeping::{Pruner, watch_health};
use crate::index::{Index, IndexError};
use crate::keys::{Keys, KeysError};
use crate::limits::CallLimits;
use crate::oidc::Discovery;
use crate::presence::Presence;
use crate::publish::{self, Connection, Publisher, TargetConfig};
use crate::store::{OpenError, Store, StoreError};
use crate::tls::{Clients, Resolver, server_config};
use crate::verifiers::Verifiers;
use crate::web::{self, CertificateError, CertificateFiles, FileCertificate};
use crate::writes::Writer;

/// Whoever can write to the socket administers the server.
const ADMIN_SOCKET_MODE: u32 = 0o770;

/// How long the feed of the index may take to see that the store is closed.
const FEED_GRACE: Duration = Duration::from_secs(1);

/// What a server is handed by its process.
#[derive(Clone, Debug)]
pub struct Deps {
    pub clock: Clock,
    pub metrics: Metrics,
    pub tasks: TaskGroup,
    pub readiness: Readiness,
    /// The process's log, if its level may be changed on the admin socket.
    pub log: Option<LogHandle>,
}

/// A running server. It ends when its tasks are told to; see [`Handle::close`].
#[derive(Debug)]
pub struct Handle {
    /// The port that agents connect to, as bound.
    pub addr: SocketAddr,
    pub admin_socket: PathBuf,
    pub health_addr: Option<SocketAddr>,
    pub metrics_addr: Option<SocketAddr>,
    pub bundle_endpoint_addr: Option<SocketAddr>,
    pub oidc_addr: Option<SocketAddr>,
    store: Store,
    feed: TaskGroup,
}

impl Handle {
    /// Lets the store go, after the tasks of the server were drained.
    pub async fn close(self) -> Result<(), StoreError> {
        let closed = self.store.close().await;
        let _ended = self.feed.drain(FEED_GRACE).await;
        closed
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error("could not load the index")]
    Index(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("could not start the signing authorities")]
    Authorities(#[from] authority::StartError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("could not prepare to publish the trust bundle by `{plugin}`")]
    Publish {
        plugin: publish::Plugin,
        #[source]
        source: ConnectError,
    },
    #[error("could not use the name of a Kubernetes cluster in agent IDs")]
    ClusterName(#[from] SpiffeIdError),
    #[error("could not use a serving certificate")]
    ServingCertificate(#[from] CertificateError),
    #[error("could not set up TLS")]
    Tls(#[from] rustls::Error),
}

impl StartError {
    /// The stable label of metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Store(error) => error.reason(),
            Self::Keys(error) => error.reason(),
            Self::Index(_) => "index",
            Self::Authorities(error) => error.reason(),
            Self::Listen(error) => error.reason(),
            Self::Publish { source, .. } => source.reason(),
            Self::ClusterName(error) => error.reason(),
            Self::ServingCertificate(error) => error.reason(),
            Self::Tls(_) => "tls",
        }
    }
}

impl From<IndexError> for StartError {
    fn from(error: IndexError) -> Self {
        Self::Index(Box::new(error))
    }
}

/// The sockets of a server. They are bound before anything is written, so that a second server on
/// the same port leaves no trace.
struct Bound {
    port: BoundTcp,
    admin: listen::BoundUnix,
    health: Option<(BoundTcp, HealthConfig)>,
    metrics: Option<BoundTcp>,
    bundle_endpoint: Option<(BoundTcp, BundleEndpointConfig)>,
    oidc: Option<(BoundTcp, OidcConfig)>,
}

/// Starts a server, and returns when it answers.
pub async fn start(config: Config, deps: Deps) -> Result<Handle, StartError> {
    let ready = deps.readiness.register("server");
    let mut bound = bind(&config).await?;
    let publishing = publishing(&config).await?;
    let keys = open_keys(&config.keys)?;
    let store = open_store(&config, &deps.metrics)?;
    // A group of its own: the index follows the store until the last write is acknowledged, so it ends
    // with the store and not with the listeners.
    let feed = TaskGroup::new(deps.tasks.trigger().clone());
    let index = Index::start(store.clone(), &config.trust_domain, &feed).await?;
    let authorities = start_authorities(&config, &deps, &store, keys, &index).await?;
    let audit = deps
        .metrics
        .register(|registry| Audit::new(config.audit_log_enabled, registry));
    let writer = Writer::new(store.clone(), index.clone());
    let probe = Probe {
        store: store.clone(),
        index: index.clone(),
        trust_domain: config.trust_domain.clone(),
    };
    let refresher = start_refresher(&config, &index, &writer, &audit, &deps);
    let services = Arc::new(Services {
        trust_domain: config.trust_domain.clone(),
        index: index.clone(),
        writer: writer.clone(),
        authorities: authorities.clone(),
        clock: deps.clock.clone(),
        audit: audit.clone(),
        ttls: Ttls::of(&config),
        limits: CallLimits::new(config.rate_limits),
        jwt_svids: JwtSvids::of(&config),
        agent_id_as_selector: config.agent_id_as_selector,
        verifiers: Verifiers::of(&config)?,
        presence: Presence::default(),
        feed: start_feed(&index, &deps),
        refresher,
        feed_keepalive: config.feed_keepalive,
        log: deps.log.clone(),
        shutdown: deps.tasks.shutdown(),
        tasks: deps.tasks.clone(),
    });
    let gate = Arc::new(Gate {
        trust_domain: config.trust_domain.clone(),
        index: index.clone(),
        writer: writer.clone(),
        clock: deps.clock.clone(),
        admin_ids: config.admin_ids.clone(),
        audit: audit.clone(),
        metrics: deps.metrics.register(RpcMetrics::register),
        presence: services.presence.clone(),
        tasks: deps.tasks.clone(),
    });
    let tls = server_config(authorities.server_svid(), clients(&config, &index, &deps))?;
    let handle = bound.handle(&config, store, feed);
    serve_documents(&mut bound, &config, &authorities, &index, &deps)?;
    bound.serve(&deps, tls, &services, &gate, probe.clone());
    publish(publishing, &index, &deps);
    keep_house(
        &config,
        &deps,
        Pruner {
            writer,
            clock: deps.clock.clone(),
            audit,
            agents: config.prune_agents,
        },
        probe,
    );
    ready.ready();
    info!(trust_domain = %config.trust_domain, listener.addr = %handle.addr, "Started the server");
    Ok(handle)
}

async fn bind(config: &Config) -> Result<Bound, StartError> {
    let metrics = match &config.prometheus {
        None => None,
        Some(address) => Some(bind_host(address).await?),
    };
    let health = match &config.health {
        None => None,
        Some(health) => Some((bind_host(&health.address).await?, health.clone())),
    };
    let bundle_endpoint = match &config.federation.bundle_endpoint {
        None => None,
        Some(endpoint) => Some((bind_host(&endpoint.address).await?, endpoint.clone())),
    };
    let oidc = match &config.oidc {
        None => None,
        Some(oidc) => Some((bind_host(&oidc.address).await?, oidc.clone())),
    };
    Ok(Bound {
        port: bind_host(&config.bind).await?,
        admin: bind_unix(&config.socket_path, ADMIN_SOCKET_MODE)?,
        health,
        metrics,
        bundle_endpoint,
        oidc,
    })
}

fn open_keys(config: &KeysConfig) -> Result<Keys, KeysError> {
    match config {
        KeysConfig::Memory => Ok(Keys::memory()),
        KeysConfig::Disk { path } => Keys::disk(path),
    }
}

fn open_store(config: &Config, metrics: &Metrics) -> Result<Store, OpenError> {
    let store = match config.store {
        StoreConfig::Memory => Store::memory(),
        StoreConfig::Embedded => Store::open(&config.data_dir, config.trust_domain.name())?,
    };
    metrics.register(|registry| store.register(registry));
    Ok(store)
}

fn start_feed(index: &Index, deps: &Deps) -> Hub {
    let metrics = deps.metrics.register(FeedMetrics::register);
    Hub::start(index, metrics, &deps.tasks)
}

async fn start_authorities(
    config: &Config,
    deps: &Deps,
    store: &Store,
    keys: Keys,
    index: &Index,
) -> Result<Authorities, authority::StartError> {
    let index = index.clone();
    let visible = Visible::new(move |revision| {
        let index = index.clone();
        Box::pin(async move { Ok(index.reached(revision).await?) })
    });
    let authority = authority::Config {
        trust_domain: TrustDomain::clone(&config.trust_domain),
        ca_subject: config.authority.ca_subject.clone(),
        ca_ttl: config.authority.ca_ttl,
        ca_key_type: config.authority.ca_key_type,
        jwt_key_type: config.authority.jwt_key_type,
        server_svid_ttl: config.default_x509_svid_ttl,
        jwt_issuer: config.authority.jwt_issuer.clone(),
        composer: config.authority.composer,
        upstream: match config.authority.upstream.clone() {
            Some(upstream) => Some(Upstream::open(
                upstream,
                &config.trust_domain,
                &deps.clock,
                &deps.tasks,
            )?),
            None => None,
        },
    };
    let deps = authority::Deps {
        store: store.clone(),
        keys,
        clock: deps.clock.clone(),
        tasks: deps.tasks.clone(),
        visible,
    };
    Authorities::start(authority, deps).await
}

impl Bound {
    fn handle(&self, config: &Config, store: Store, feed: TaskGroup) -> Handle {
        Handle {
            addr: self.port.addr(),
            admin_socket: config.socket_path.clone(),
            health_addr: self.health.as_ref().map(|(bound, _)| bound.addr()),
            metrics_addr: self.metrics.as_ref().map(BoundTcp::addr),
            bundle_endpoint_addr: self.bundle_endpoint.as_ref().map(|(bound, _)| bound.addr()),
            oidc_addr: self.oidc.as_ref().map(|(bound, _)| bound.addr()),
            store,
            feed,
        }
    }

    fn serve(
        self,
        deps: &Deps,
        tls: listen::TlsConfigSource,
        services: &Arc<Services>,
        gate: &Arc<Gate>,
        probe: Probe,
    ) {
        let metrics = deps.metrics.register(ListenMetrics::register);
        let serve = |limits, name| Serve {
            limits,
            shutdown: deps.tasks.shutdown(),
            tasks: deps.tasks.clone(),
            metrics: metrics.socket(name),
        };
        let port = listen::serve_tls(
            self.port,
            tls,
            port_routes(services, gate),
            serve(Limits::server(), "server"),
        );
        deps.tasks
            .spawn("server listener", listen::told("server", port));
        let admin_socket = listen::serve_unix(
            self.admin,
            admin_routes(services, gate, probe, deps.tasks.shutdown()),
            serve(Limits::admin(), "admin"),
        );
        deps.tasks
            .spawn("admin listener", listen::told("admin", admin_socket));
        if let Some((bound, health)) = self.health {
            let pages = admin::Pages::Health {
                live_path: health.live_path,
                ready_path: health.ready_path,
                readiness: deps.readiness.clone(),
            };
            admin::start(bound, pages, &deps.tasks);
        }
        if let Some(bound) = self.metrics {
            let pages = admin::Pages::Metrics(deps.metrics.clone());
            admin::start(bound, pages, &deps.tasks);
        }
    }
}

/// Starts to fetch the bundles of other trust domains.
fn start_refresher(
    config: &Config,
    index: &Index,
    writer: &Writer,
    audit: &Audit,
    deps: &Deps,
) -> Refresher {
    let settings = federation::Settings {
        configured: config.federation.federates_with.clone(),
        web_roots: config.federation.web_roots.clone(),
        deadline: config.federation.fetch_deadline,
    };
    let metrics = deps.metrics.register(federation::Metrics::register);
    let clock = deps.clock.clone();
    let refresher = Refresher::new(
        settings,
        index.clone(),
        writer.clone(),
        clock,
        metrics,
        audit.clone(),
    );
    deps.tasks
        .spawn("follow bundles", refresher.clone().run(deps.tasks.clone()));
    refresher
}

fn clients(config: &Config, index: &Index, deps: &Deps) -> Clients {
    Clients {
        trust_domain: config.trust_domain.clone(),
        admin_ids: config.admin_ids.clone(),
        index: index.clone(),
        clock: deps.clock.clone(),
    }
}

/// Starts the listeners for those who know nothing of gRPC.
fn serve_documents(
    bound: &mut Bound,
    config: &Config,
    authorities: &Authorities,
    index: &Index,
    deps: &Deps,
) -> Result<(), StartError> {
    serve_bundle(bound.bundle_endpoint.take(), authorities, index, deps)?;
    serve_discovery(bound.oidc.take(), config, index, deps)
}

/// Serves our own bundle to other trust domains.
fn serve_bundle(
    endpoint: Option<(BoundTcp, BundleEndpointConfig)>,
    authorities: &Authorities,
    index: &Index,
    deps: &Deps,
) -> Result<(), StartError> {
    let Some((bound, config)) = endpoint else {
        return Ok(());
    };
    let tls = match config.serving {
        ServingConfig::HttpsSpiffe => web::tls(Arc::new(Resolver::new(authorities.server_svid())))?,
        ServingConfig::HttpsWeb(files) => web::tls(kept_certificate(files, deps)?)?,
    };
    let document = BundleDocument {
        index: index.clone(),
        refresh_hint: config.refresh_hint,
    };
    web::start(
        "bundle_endpoint",
        bound,
        tls,
        Arc::new(document),
        &deps.tasks,
    );
    Ok(())
}

/// A certificate that is read again when its files change.
fn kept_certificate(
    files: CertificateFiles,
    deps: &Deps,
) -> Result<Arc<FileCertificate>, CertificateError> {
    let certificate = Arc::new(FileCertificate::load(files)?);
    let keep = Arc::clone(&certificate).keep(deps.clock.clone(), deps.tasks.shutdown());
    deps.tasks.spawn("serving certificate", keep);
    Ok(certificate)
}

/// Serves our JWT authorities to those who know OpenID Connect alone.
fn serve_discovery(
    oidc: Option<(BoundTcp, OidcConfig)>,
    config: &Config,
    index: &Index,
    deps: &Deps,
) -> Result<(), StartError> {
    let Some((bound, oidc)) = oidc else {
        return Ok(());
    };
    let tls = web::tls(kept_certificate(oidc.certificate, deps)?)?;
    let discovery = Discovery {
        index: index.clone(),
        domains: oidc.domains,
        issuer: config.authority.jwt_issuer.clone(),
    };
    web::start(
        "oidc_discovery",
        bound,
        tls,
        Arc::new(discovery),
        &deps.tasks,
    );
    Ok(())
}

/// The places where the bundle is put, each with a way to it. A setting that can never work ends the
/// start; a cluster that does not answer does not.
async fn publishing(config: &Config) -> Result<Vec<(TargetConfig, Connection)>, StartError> {
    let mut publishing = Vec::new();
    for target in &config.publish {
        let connection = Connection::new(&target.kube_config).await;
        let connection = connection.map_err(|source| StartError::Publish {
            plugin: target.plugin,
            source,
        })?;
        publishing.push((target.clone(), connection));
    }
    Ok(publishing)
}

fn publish(publishing: Vec<(TargetConfig, Connection)>, index: &Index, deps: &Deps) {
    if publishing.is_empty() {
        return;
    }
    let metrics = deps.metrics.register(publish::Metrics::register);
    for (target, connection) in publishing {
        let publisher = Publisher {
            target,
            connection,
            index: index.clone(),
            clock: deps.clock.clone(),
            metrics: metrics.clone(),
        };
        deps.tasks
            .spawn("publish bundle", publisher.run(deps.tasks.shutdown()));
    }
}

fn keep_house(config: &Config, deps: &Deps, pruner: Pruner, probe: Probe) {
    let shutdown = deps.tasks.shutdown();
    let pruner = Arc::new(pruner);
    let (entries, stop) = (Arc::clone(&pruner), shutdown.clone());
    deps.tasks.spawn("prune entries", async move {
        entries.prune_entries(&stop).await;
    });
    if config.prune_agents.is_some() {
        let stop = shutdown.clone();
        deps.tasks.spawn("prune agents", async move {
            pruner.prune_agents(&stop).await;
        });
    }
    let health = deps.readiness.component("store");
    deps.tasks.spawn(
        "health",
        watch_health(probe, health, deps.clock.clone(), shutdown),
    );
}
