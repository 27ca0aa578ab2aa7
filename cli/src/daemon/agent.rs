//! `agent run` and `agent validate`.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use agent::config::{Config, Overrides};
use agent::confine::{self, Confinement};
use runtime::config::Warning;
use tracing::{error, info, warn};

use super::{document, log, number, path, switch, text};
use crate::console::{say, tell};
use crate::failure::{Failure, os_error};
use crate::flags::Values;
use crate::life::{Life, close_umask};
use crate::session::Session;

/// Where SPIRE's agent looks for its configuration.
const DEFAULT_CONFIG: &str = "conf/agent/agent.conf";

pub(crate) fn validate(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let (_, warnings) = load(session, values)?;
    for warning in warnings {
        tell!(session.console, "Warning: {warning}");
    }
    say!(session.console, "SPIRE agent configuration file is valid.");
    Ok(())
}

/// Confines the agent, which a process with several threads cannot do as a whole. A configuration that
/// cannot be used is told of later.
pub(crate) fn prepare(session: &mut Session, values: &Values) -> Result<(), Failure> {
    super::prepare()?;
    let Ok((config, _)) = load(session, values) else {
        return Ok(());
    };
    if open_folder(&config).is_ok() {
        close_umask();
        session.confinement = Some(confine::confine(&config));
    }
    Ok(())
}

/// Tells what became of the confinement.
fn tell_of(confinement: Option<&Confinement>) {
    match confinement {
        Some(Confinement::Entered(sandbox)) => {
            info!(sandbox = sandbox.name(), "Confined the agent");
        }
        Some(Confinement::Left(reason)) => info!(reason, "The agent is not confined"),
        Some(Confinement::Failed(error)) => {
            warn!(error.reason = error.reason(), error = %runtime::report::chain(error), "Could not confine the agent");
        }
        None => {}
    }
}

pub(crate) async fn run(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let (config, warnings) = load(session, values)?;
    let log = runtime::log::init(&config.log).map_err(|error| Failure::chain(&error))?;
    open_folder(&config)?;
    close_umask();
    let mut life = Life::begin(session.clock.clone())?;
    life.heed_user_signals(log.clone())?;
    for warning in warnings {
        warn!(%warning, "Configuration needs attention");
    }
    info!(version = env!("CARGO_PKG_VERSION"), data_dir = %config.data_dir.display(), "Starting agent");
    tell_of(session.confinement.as_ref());
    let deps = agent::agent::Deps {
        clock: life.clock.clone(),
        metrics: life.metrics.clone(),
        readiness: life.readiness.clone(),
        tasks: life.tasks.clone(),
        log: Some(log),
    };
    match life
        .unless_stopped(Box::pin(agent::agent::start(config, deps)))
        .await
    {
        Some(Err(failed)) => {
            let failure = Failure::chain(&failed);
            error!(error = %failure, error.reason = failed.reason(), "Agent crashed");
            life.stop("failed start");
            let _ended = life.end().await;
            Err(failure)
        }
        Some(Ok(_handle)) => {
            life.serve().await;
            life.end().await
        }
        None => life.end().await,
    }
}

/// Makes the folder of the workloads' socket while others may still get in: workloads are other users.
fn open_folder(config: &Config) -> Result<(), Failure> {
    let path = config
        .socket
        .as_ref()
        .and_then(|socket| socket.path.parent());
    let Some(path) = path.filter(|path| *path != Path::new("")) else {
        return Ok(());
    };
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o755).create(path);
    made.map_err(|error| {
        Failure::new(format!(
            "could not make the folder of the socket, {}: {}",
            path.display(),
            os_error(&error)
        ))
    })
}

/// Reads the configuration with the flags over it.
fn load(session: &Session, values: &Values) -> Result<(Config, Vec<Warning>), Failure> {
    let document = document(session, values, DEFAULT_CONFIG)?;
    let variables = |name: &str| session.environment.get(name).map(str::to_owned);
    Config::load(&document, overrides(values), &variables).map_err(|error| Failure::chain(&error))
}

fn overrides(values: &Values) -> Overrides {
    Overrides {
        data_dir: path(values, "dataDir"),
        join_token: text(values, "joinToken"),
        join_token_file: path(values, "joinTokenFile"),
        log: log(values),
        server_address: text(values, "serverAddress"),
        server_port: number(values, "serverPort"),
        socket_path: path(values, "socketPath"),
        trust_domain: text(values, "trustDomain"),
        trust_bundle_path: path(values, "trustBundle"),
        trust_bundle_url: text(values, "trustBundleUrl"),
        trust_bundle_format: text(values, "trustBundleFormat"),
        insecure_bootstrap: switch(values, "insecureBootstrap"),
        rebootstrap_mode: text(values, "rebootstrapMode"),
        rebootstrap_delay: text(values, "rebootstrapDelay"),
        allow_unauthenticated_verifiers: switch(values, "allowUnauthenticatedVerifiers"),
        disable_workload_api: switch(values, "disableWorkloadAPI"),
        disable_sds_api: switch(values, "disableSDSAPI"),
        allow_unknown_config: values.switch("allowUnknownConfig"),
    }
}
