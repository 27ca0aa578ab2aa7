//! `k8s csi` and `k8s healthcheck`.

use std::path::PathBuf;

use k8s::csi::{Config, Deps};
use proto::csi::ProbeRequest;
use proto::csi::identity_client::IdentityClient;
use runtime::log::{Format, Level, LogConfig};
use tracing::error;

use crate::console::{say, tell};
use crate::failure::Failure;
use crate::flags::Values;
use crate::life::{Life, close_umask};
use crate::rpc;
use crate::session::Session;

/// The driver leaves the network, which a process with several threads cannot do as a whole.
pub(crate) fn prepare_csi(values: &Values) -> Result<(), Failure> {
    if values.switch("version") {
        return Ok(());
    }
    k8s::csi::leave_network().map_err(|error| Failure::chain(&error))
}

pub(crate) async fn run_csi(session: &mut Session, values: &Values) -> Result<(), Failure> {
    if values.switch("version") {
        tell!(session.console, "{}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    let config = config(session, values);
    runtime::log::init(&log(values)?).map_err(|error| Failure::chain(&error))?;
    close_umask();
    let mut life = Life::begin(session.clock.clone())?;
    let deps = Deps {
        clock: life.clock.clone(),
        metrics: life.metrics.clone(),
        tasks: life.tasks.clone(),
        readiness: life.readiness.clone(),
    };
    if let Err(failed) = k8s::csi::start(&config, &deps) {
        let failure = Failure::chain(&failed);
        error!(error = %failure, error.reason = failed.reason(), "Storage driver crashed");
        life.stop("failed start");
        let _ended = life.end().await;
        return Err(failure);
    }
    life.serve().await;
    life.end().await
}

fn config(session: &Session, values: &Values) -> Config {
    let path = |flag: &str| values.given(flag).map(PathBuf::from);
    let node = values.given("node-id").or_else(|| {
        let name = values.given("node-id-env")?;
        session.environment.get(name)
    });
    let plugin = values.text("plugin-name").to_owned();
    let kubelet = path("kubelet-dir").unwrap_or_default();
    let registration = path("registration-dir").unwrap_or_else(|| kubelet.join("plugins_registry"));
    Config {
        node: node.unwrap_or_default().to_owned(),
        sockets: path("workload-api-socket-dir").unwrap_or_default(),
        socket: path("csi-socket-path").unwrap_or_default(),
        endpoint: path("kubelet-registration-path")
            .unwrap_or_else(|| kubelet.join("plugins").join(&plugin).join("csi.sock")),
        registration: (!values.switch("external-registrar")).then_some(registration),
        agent: path("agent-admin-socket"),
        kubelet,
        plugin,
    }
}

fn log(values: &Values) -> Result<LogConfig, Failure> {
    let level = values.given("logLevel").map(Level::parse).transpose();
    let format = values.given("logFormat").map(Format::parse).transpose();
    Ok(LogConfig {
        level: level
            .map_err(|error| Failure::chain(&error))?
            .unwrap_or_default(),
        format: format
            .map_err(|error| Failure::chain(&error))?
            .unwrap_or_default(),
        ..LogConfig::default()
    })
}

pub(crate) async fn probe(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let path = values.text("csi-socket-path");
    let channel = rpc::connect(path.as_ref(), path).await?;
    let answer = IdentityClient::new(channel)
        .probe(ProbeRequest {})
        .await
        .map_err(|status| rpc::failed(&status))?;
    match answer.into_inner().ready {
        Some(false) => Err(Failure::new("the driver is not ready")),
        _ => {
            say!(session.console, "Storage driver is healthy.");
            Ok(())
        }
    }
}
