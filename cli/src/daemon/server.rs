//! `server run` and `server validate`.

use runtime::config::Warning;
use server::config::{Config, Overrides};
use tracing::{error, info, warn};

use super::{document, log, number, path, text};
use crate::console::{say, tell};
use crate::failure::Failure;
use crate::flags::Values;
use crate::life::{Life, close_umask};
use crate::session::Session;

/// Where SPIRE's server looks for its configuration.
const DEFAULT_CONFIG: &str = "conf/server/server.conf";

pub(crate) fn validate(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let (_, warnings) = load(session, values)?;
    for warning in warnings {
        tell!(session.console, "Warning: {warning}");
    }
    say!(session.console, "SPIRE server configuration file is valid.");
    Ok(())
}

pub(crate) async fn run(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let (config, warnings) = load(session, values)?;
    let log = runtime::log::init(&config.log).map_err(|error| Failure::chain(&error))?;
    close_umask();
    let mut life = Life::begin(session.clock.clone())?;
    life.heed_user_signals(log.clone())?;
    for warning in warnings {
        warn!(%warning, "Configuration needs attention");
    }
    info!(version = env!("CARGO_PKG_VERSION"), data_dir = %config.data_dir.display(), "Starting server");
    let deps = server::Deps {
        clock: life.clock.clone(),
        metrics: life.metrics.clone(),
        readiness: life.readiness.clone(),
        tasks: life.tasks.clone(),
        log: Some(log),
    };
    match life.unless_stopped(server::start(config, deps)).await {
        Some(Err(failed)) => {
            let failure = Failure::chain(&failed);
            error!(error = %failure, error.reason = failed.reason(), "Server crashed");
            life.stop("failed start");
            let _ended = life.end().await;
            Err(failure)
        }
        Some(Ok(handle)) => {
            life.serve().await;
            let ended = life.end().await;
            let closed = handle.close().await;
            ended?;
            closed.map_err(|error| Failure::chain(&error))
        }
        None => life.end().await,
    }
}

fn load(session: &Session, values: &Values) -> Result<(Config, Vec<Warning>), Failure> {
    let document = document(session, values, DEFAULT_CONFIG)?;
    Config::load(&document, overrides(session, values)).map_err(|error| Failure::chain(&error))
}

/// As Go's programs, and OpenSSL's, read it.
const WEB_ROOTS: &str = "SSL_CERT_FILE";

fn overrides(session: &Session, values: &Values) -> Overrides {
    Overrides {
        bind_address: text(values, "bindAddress"),
        server_port: number(values, "serverPort"),
        socket_path: path(values, "socketPath"),
        data_dir: path(values, "dataDir"),
        log: log(values),
        trust_domain: text(values, "trustDomain"),
        web_roots: session.environment.get(WEB_ROOTS).map(Into::into),
        allow_unknown_config: values.switch("allowUnknownConfig"),
    }
}
