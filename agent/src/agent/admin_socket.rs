//! The admin socket, put together.

use std::collections::BTreeSet;
use std::sync::Arc;

use attestors::workload::k8s::volumes::Volume;
use identity::selector::{Selector, Selectors};
use identity::spiffe_id::SpiffeId;
use runtime::listen::{BoundUnix, Limits, Serve};
use runtime::report;
use runtime::shutdown::Reason;
use tokio::time::Instant;
use tracing::error;

use super::{Deps, Driver, Steps};
use crate::api;
use crate::credentials::Credentials;
use crate::endpoints;

/// Serves what runs beside the agent. It is there before the agent has synchronized: a storage driver
/// has something to tell by then, and an operator something to ask.
pub(super) fn serve(
    bound: BoundUnix,
    delegates: BTreeSet<SpiffeId>,
    driver: &Driver,
    credentials: &Arc<Credentials>,
    steps: &Steps,
    deps: &Deps,
) {
    let expected = Arc::clone(driver);
    let services = api::Services {
        volumes: Arc::clone(&steps.volumes),
        starts: Arc::new(move |volume| expected.expect(selectors_of(volume))),
        source: steps.source(driver),
        delegates,
        credentials: Arc::clone(credentials),
        log: deps.log.clone(),
        started: Instant::now(),
    };
    let serve = Serve {
        limits: Limits::admin(),
        shutdown: deps.tasks.shutdown(),
        tasks: deps.tasks.clone(),
        metrics: steps.listeners.socket(endpoints::ADMIN_NAME),
    };
    let served = api::serve(bound, services, serve);
    let trigger = deps.tasks.trigger().clone();
    deps.tasks.spawn("agent.admin_socket", async move {
        if let Err(error) = served.await {
            error!(error.reason = error.reason(), error = %report::chain(&error), "Could not serve the admin socket");
            trigger.trigger(Reason::Failed("could not serve the admin socket"));
        }
    });
}

/// What every process of the volume's pod will have for selectors, whatever its container is.
fn selectors_of(volume: &Volume) -> Selectors {
    let known = [
        ("ns", volume.namespace.as_str()),
        ("sa", &volume.service_account),
        ("pod-name", &volume.pod_name),
        ("pod-uid", volume.pod.as_str()),
    ];
    known
        .into_iter()
        .filter_map(|(name, value)| Selector::new("k8s", &format!("{name}:{value}")).ok())
        .collect()
}
