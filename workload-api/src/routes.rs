//! The services of one socket.

use std::sync::Arc;

use runtime::clock::Clock;
use runtime::quota::Quota;
use runtime::shutdown::Shutdown;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::{Builder, Error};

use crate::health::SocketHealth;
use crate::metrics::Metrics;
use crate::options::SocketOptions;
use crate::sds::{self, SecretDiscovery};
use crate::session::Context;
use crate::source::IdentitySource;
use crate::workload::{self, WorkloadApi};

const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: [&str; 2] = [
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// What the services are handed.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The time.
    pub clock: Clock,
    /// Ends every stream.
    pub shutdown: Shutdown,
    /// Counts the calls.
    pub metrics: Metrics,
}

/// Makes the services of a socket: Workload API, secret discovery, health and reflection.
///
/// Requests must carry the `Arc<Peer>` that the Unix listener puts into their extensions; one
/// without it is refused. Fails only if the descriptors that are built in are damaged.
pub fn routes<S: IdentitySource>(
    source: Arc<S>,
    options: SocketOptions,
    deps: Deps,
) -> Result<Routes, Error> {
    let context = Arc::new(Context {
        source,
        options,
        clock: deps.clock,
        shutdown: deps.shutdown.clone(),
        metrics: deps.metrics,
        quota: Quota::default(),
    });
    let mut routes = Routes::builder();
    let mut services = Vec::new();
    if context.options.workload_api {
        routes.add_service(WorkloadApi::new(Arc::clone(&context)));
        services.push(workload::NAME);
    }
    if let Some(sds) = context.options.sds.clone() {
        routes.add_service(SecretDiscovery::new(context, sds));
        services.push(sds::NAME);
    }
    let health = SocketHealth::new(deps.shutdown, &services);
    routes.add_service(HealthServer::new(health));
    routes.add_service(reflection(&services).build_v1()?);
    routes.add_service(reflection(&services).build_v1alpha()?);
    Ok(routes.routes())
}

/// Workload Endpoint 7: reflection tells what is served. Envoy's descriptors are not in this program,
/// so of secret discovery it tells the name.
fn reflection(services: &[&str]) -> Builder<'static> {
    let named = services.iter().chain([&HEALTH]).chain(&REFLECTION);
    let builder = Builder::configure()
        .include_reflection_service(false)
        .register_encoded_file_descriptor_set(proto::WORKLOAD_DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET);
    named.fold(builder, |builder, name| builder.with_service_name(*name))
}
