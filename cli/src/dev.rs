//! `signet dev`: a trust domain in one process, for trying out.
//!
//! The same server and agent as anywhere, with real sockets and mutual TLS between them. What an
//! operator would do by hand is done here: a join token, an entry for the calling user. What is shown
//! at the end was fetched through the socket, as any workload would fetch it.

mod config;
mod fetch;
mod folder;
mod report;
mod setup;
mod user;

use std::io;
use std::path::{Path, PathBuf};

use agent::state::{self, StateFile};
use identity::bundle::Bundle;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use runtime::clock::Clock;
use runtime::log::{Level, LogConfig};
use runtime::metrics::Metrics;
use runtime::readiness::Readiness;
use runtime::tasks::TaskGroup;

use self::folder::Folder;
use self::report::Report;
use self::setup::Operator;
use self::user::Caller;
use crate::console::{Console, say};
use crate::failure::{Failure, os_error};
use crate::flags::Values;
use crate::life::{Life, close_umask};
use crate::session::Session;

pub(crate) async fn run(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let name = values
        .given("trustDomain")
        .unwrap_or_else(|| values.text("trust-domain"));
    let trust_domain = TrustDomain::parse(name).map_err(|error| {
        Failure::chain(&error).context(format_args!("could not parse trust domain {name:?}"))
    })?;
    let path = match values.given("dir") {
        Some(path) => PathBuf::from(path),
        None => folder::default_path(&session.environment)?,
    };
    let folder = Folder::open(&path, &trust_domain)?;
    close_umask();
    start_log(&folder, values.text("logLevel"))?;

    let told_where_the_log_is = |failure: Failure| {
        failure.context(format_args!(
            "`signet dev` failed (its log is {})",
            folder.log().display()
        ))
    };

    let mut life = Life::begin(session.clock.clone())?;
    let parts = Parts::of(&life);
    let (console, program) = (&mut session.console, session.program.as_str());
    let started = Box::pin(start(console, &folder, &trust_domain, program, parts));
    let started = life.unless_stopped(started).await;
    let running = match started {
        None => None,
        Some(Ok(running)) => {
            match values.switch("once") {
                true => life.stop("-once"),
                false => life.serve().await,
            }
            Some(running)
        }
        Some(Err(failure)) => {
            life.stop("failed start");
            let _ended = life.end().await;
            return Err(told_where_the_log_is(failure));
        }
    };
    let ended = life.end().await.map_err(told_where_the_log_is);
    let closed = match running {
        Some(running) => running.server.close().await,
        None => Ok(()),
    };
    ended?;
    closed.map_err(|error| Failure::chain(&error))
}

/// What runs until the end.
#[derive(Debug)]
struct Running {
    server: server::Handle,
    _agent: agent::agent::Handle,
}

/// Starts the two halves, and shows what the agent gives to the calling user.
async fn start(
    console: &mut Console,
    folder: &Folder,
    trust_domain: &TrustDomain,
    program: &str,
    parts: Parts,
) -> Result<Running, Failure> {
    let caller = Caller::of_this_process(trust_domain)?;
    // The entry hangs below this name and not below the agent's own, which changes with each token.
    let node = SpiffeId::from_segments(trust_domain, ["signet-dev", "node"])
        .map_err(|error| Failure::chain(&error))?;

    let (config, _) = server::config::Config::load(
        &config::server(folder, trust_domain)?,
        server::config::Overrides {
            server_port: Some(0),
            ..Default::default()
        },
    )
    .map_err(|error| Failure::chain(&error))?;
    let server = server::start(config, parts.server())
        .await
        .map_err(|error| Failure::chain(&error))?;

    let operator = Operator::connect(&folder.server_socket()).await?;
    operator.entry(&caller, &node).await?;
    let bundle = folder.path().join("bundle.pem");
    save(&operator.bundle().await?, trust_domain, &bundle)?;
    let token = match has_identity(folder, trust_domain, &operator, &parts.clock).await? {
        true => None,
        false => Some(operator.token(&node).await?),
    };

    let (config, _) = agent::config::Config::load(
        &config::agent(folder, trust_domain, server.addr, &bundle, token.as_deref())?,
        agent::config::Overrides::default(),
        &|_variable| None,
    )
    .map_err(|error| Failure::chain(&error))?;
    let agent = agent::agent::start(config, parts.agent())
        .await
        .map_err(|error| Failure::chain(&error))?;

    let socket = folder.agent_socket();
    let fetched = fetch::identity(&socket, &caller.spiffe_id, &parts.clock).await?;
    let report = Report {
        folder: folder.path(),
        server_socket: &folder.server_socket(),
        server_address: server.addr,
        agent_socket: &socket,
        x509: &fetched.x509,
        bundle: &fetched.bundle,
        jwt: &fetched.jwt,
        jwt_validity: fetched.jwt_validity,
        program,
    };
    say!(console, "{}", report.page());
    say!(console, "{}", report.endpoint());
    Ok(Running {
        server,
        _agent: agent,
    })
}

/// Whether the agent can go on as who it was. If not, what is left of that identity is removed.
async fn has_identity(
    folder: &Folder,
    trust_domain: &TrustDomain,
    operator: &Operator,
    clock: &Clock,
) -> Result<bool, Failure> {
    let data = folder.agent_data();
    let file = StateFile::open(&data, trust_domain).map_err(|error| Failure::chain(&error))?;
    if let Some(leaf) = file.state().svid.first()
        && !leaf.validity().is_over(clock.now())
    {
        let id = leaf.spiffe_id().map_err(|error| Failure::chain(&error))?;
        if operator
            .agent(&id)
            .await?
            .is_some_and(|agent| !agent.banned)
        {
            return Ok(true);
        }
    }
    match std::fs::remove_file(data.join(state::FILE_NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::new(format!(
            "could not remove the agent's old identity: {}",
            os_error(&error)
        ))),
        _ => Ok(false),
    }
}

/// Writes the bundle that the agent trusts at first.
fn save(
    bundle: &proto::spire::types::Bundle,
    trust_domain: &TrustDomain,
    path: &Path,
) -> Result<(), Failure> {
    let der: Vec<u8> = bundle
        .x509_authorities
        .iter()
        .flat_map(|authority| authority.asn1.iter().copied())
        .collect();
    let bundle = Bundle::from_x509_der(trust_domain.clone(), &der)
        .map_err(|error| Failure::chain(&error))?;
    runtime::files::write_private(path, bundle.x509_pem().as_bytes())
        .map_err(|error| Failure::chain(&error))
}

/// The log goes to a file: the screen is for what was issued.
fn start_log(folder: &Folder, level: &str) -> Result<(), Failure> {
    let file = folder.log();
    // The log of the last run is of no use any more.
    let _ = std::fs::remove_file(&file);
    let config = LogConfig {
        level: Level::parse(level).map_err(|error| Failure::chain(&error))?,
        file: Some(file),
        ..LogConfig::default()
    };
    runtime::log::init(&config)
        .map(drop)
        .map_err(|error| Failure::chain(&error))
}

/// What both halves are given.
#[derive(Clone, Debug)]
struct Parts {
    clock: Clock,
    metrics: Metrics,
    readiness: Readiness,
    tasks: TaskGroup,
}

impl Parts {
    fn of(life: &Life) -> Self {
        Self {
            clock: life.clock.clone(),
            metrics: life.metrics.clone(),
            readiness: life.readiness.clone(),
            tasks: life.tasks.clone(),
        }
    }

    fn server(&self) -> server::Deps {
        server::Deps {
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            readiness: self.readiness.clone(),
            tasks: self.tasks.clone(),
            log: None,
        }
    }

    fn agent(&self) -> agent::agent::Deps {
        agent::agent::Deps {
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            readiness: self.readiness.clone(),
            tasks: self.tasks.clone(),
            log: None,
        }
    }
}
