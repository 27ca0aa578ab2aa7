//! The gRPC surface: decode, authorize, call, encode.
//!
//! Two listeners carry it. The TCP port has the services that agents and remote administrators use;
//! the admin socket has those and, for processes of this machine alone, logger, debug, backup, import
//! and health.

mod agent;
mod authorize;
mod backup;
mod bundle;
mod caller;
pub(crate) mod convert;
mod debug;
mod entry;
mod feed;
mod health;
mod import;
mod localauthority;
mod logger;
mod metrics;
mod status;
mod svid;
mod trustdomain;
mod unbuilt;

use std::sync::Arc;
use std::time::Duration;

use identity::trust_domain::TrustDomain;
use proto::spire::server;
use runtime::clock::Clock;
use runtime::log::LogHandle;
use runtime::shutdown::Shutdown;
use runtime::tasks::TaskGroup;
use tonic::service::Routes;

use crate::audit::Audit;
use crate::authority::Authorities;
use crate::config::Config;
use crate::federation::Refresher;
use crate::feed::Hub;
use crate::index::Index;
use crate::limits::CallLimits;
use crate::presence::Presence;
use crate::verifiers::Verifiers;
use crate::writes::Writer;

pub(crate) use self::authorize::Gate;
pub(crate) use self::health::Probe;
pub(crate) use self::metrics::RpcMetrics;

use self::authorize::gated;

/// The largest request on the TCP port: an agent's batch of 500 CSRs fits several times.
const MAX_AGENT_REQUEST: usize = 1 << 20;
/// The largest request on the admin socket, as in SPIRE.
const MAX_ADMIN_REQUEST: usize = 4 << 20;

/// What the services work with.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) index: Index,
    pub(crate) writer: Writer,
    pub(crate) authorities: Authorities,
    pub(crate) clock: Clock,
    pub(crate) audit: Audit,
    pub(crate) ttls: Ttls,
    pub(crate) limits: CallLimits,
    pub(crate) jwt_svids: JwtSvids,
    /// Whether an agent's own SPIFFE ID is one of its selectors.
    pub(crate) agent_id_as_selector: bool,
    pub(crate) verifiers: Verifiers,
    pub(crate) presence: Presence,
    pub(crate) feed: Hub,
    pub(crate) refresher: Refresher,
    /// An agent that follows is never left without a word for longer.
    pub(crate) feed_keepalive: Duration,
    /// `None` leaves the log's level as it is.
    pub(crate) log: Option<LogHandle>,
    /// Streams without an end of their own end with it.
    pub(crate) shutdown: Shutdown,
    /// What must run to its end when its caller goes away.
    pub(crate) tasks: TaskGroup,
}

/// How long SVIDs live where the entry does not say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ttls {
    pub(crate) x509_svid: Duration,
    pub(crate) jwt_svid: Duration,
    pub(crate) agent: Duration,
}

impl Ttls {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            x509_svid: config.default_x509_svid_ttl,
            jwt_svid: config.default_jwt_svid_ttl,
            agent: config.agent_ttl,
        }
    }
}

/// Whether the server issues JWT-SVIDs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum JwtSvids {
    Issued,
    Disabled,
}

impl JwtSvids {
    pub(crate) fn of(config: &Config) -> Self {
        if config.disable_jwt_svids {
            Self::Disabled
        } else {
            Self::Issued
        }
    }
}

/// The services of the TCP port.
pub(crate) fn port_routes(services: &Arc<Services>, gate: &Arc<Gate>) -> Routes {
    common_routes(services, gate, MAX_AGENT_REQUEST).prepare()
}

/// The services of the admin socket.
pub(crate) fn admin_routes(
    services: &Arc<Services>,
    gate: &Arc<Gate>,
    probe: Probe,
    shutdown: Shutdown,
) -> Routes {
    use proto::signet::server::backup_server::BackupServer;
    use proto::signet::server::import_server::ImportServer;
    use server::debug::debug_server::DebugServer;
    use server::logger::logger_server::LoggerServer;
    use tonic_health::pb::health_server::HealthServer;
    let backup = BackupServer::new(backup::Service::new(services, probe.store.clone()));
    let import = ImportServer::new(import::Service::new(Arc::clone(services)));
    let health = HealthServer::new(health::Service::new(
        probe,
        services.clock.clone(),
        shutdown,
    ));
    let debug = DebugServer::new(debug::Service::new(Arc::clone(services)));
    let routes = common_routes(services, gate, MAX_ADMIN_REQUEST);
    let routes = match &services.log {
        None => routes.add_service(gated(gate, unbuilt::Logger)),
        Some(log) => {
            let logger = logger::Service::new(log.clone(), services.audit.clone());
            routes.add_service(gated(gate, LoggerServer::new(logger)))
        }
    };
    routes
        .add_service(gated(gate, debug))
        .add_service(gated(gate, backup))
        .add_service(gated(
            gate,
            import.max_decoding_message_size(MAX_ADMIN_REQUEST),
        ))
        .add_service(gated(gate, health))
        .prepare()
}

fn common_routes(services: &Arc<Services>, gate: &Arc<Gate>, max_request: usize) -> Routes {
    use proto::signet::agent::feed_server::FeedServer;
    use server::agent::agent_server::AgentServer;
    use server::bundle::bundle_server::BundleServer;
    use server::entry::entry_server::EntryServer;
    use server::localauthority::local_authority_server::LocalAuthorityServer;
    use server::svid::svid_server::SvidServer;
    use server::trustdomain::trust_domain_server::TrustDomainServer;

    let of = || Arc::clone(services);
    let agent = AgentServer::new(agent::Service::new(of()));
    let bundle = BundleServer::new(bundle::Service::new(of()));
    let entry = EntryServer::new(entry::Service::new(of()));
    let svid = SvidServer::new(svid::Service::new(of()));
    let trust_domain = TrustDomainServer::new(trustdomain::Service::new(of()));
    Routes::default()
        .add_service(gated(gate, agent.max_decoding_message_size(max_request)))
        .add_service(gated(gate, bundle.max_decoding_message_size(max_request)))
        .add_service(gated(gate, entry.max_decoding_message_size(max_request)))
        .add_service(gated(gate, svid.max_decoding_message_size(max_request)))
        .add_service(gated(
            gate,
            trust_domain.max_decoding_message_size(max_request),
        ))
        .add_service(gated(
            gate,
            LocalAuthorityServer::new(localauthority::Service::new(of())),
        ))
        .add_service(gated(gate, FeedServer::new(feed::Service::new(of()))))
}

/// The answer of an RPC that is in the protocol and not built.
fn not_built(method: &str) -> tonic::Status {
    tonic::Status::unimplemented(format!("{method} is not implemented by this server"))
}
