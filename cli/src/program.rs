//! From a command line to an exit code.

use crate::command::{Command, Program, Route};
use crate::console::tell;
use crate::failure::Failure;
use crate::flags::{FlagError, Values};
use crate::session::Session;
use crate::table::{Action, AgentAction, K8sAction, ServerAction};
use crate::{admin, agent_admin, backup, daemon, dev, k8s, migrate, workload};

/// The version that `-version` prints.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Does what has to be done while there is no thread but the first.
pub(crate) fn prepare(called: &str, args: &[String], session: &mut Session) -> Result<(), Failure> {
    let (program, rest) = Program::choose(called, args);
    let Route::Run(command, args) = program.route(rest) else {
        return Ok(());
    };
    // A command line that is not understood is told of later.
    let Ok(values) = command.flags.parse(args) else {
        return Ok(());
    };
    match command.action {
        Action::K8s(K8sAction::Csi) => k8s::prepare_csi(&values),
        Action::Agent(AgentAction::Run) => daemon::agent::prepare(session, &values),
        Action::Server(ServerAction::Run) => daemon::prepare(),
        _ => Ok(()),
    }
}

/// Runs the program under the name it was called by, and answers with its exit code.
pub(crate) async fn run(called: &str, args: &[String], session: &mut Session) -> u8 {
    let (program, rest) = Program::choose(called, args);
    let code = match program.route(rest) {
        Route::Version => {
            tell!(session.console, "{VERSION}");
            0
        }
        Route::Help { text, code } => {
            session.console.err(format_args!("{text}"));
            code
        }
        Route::Run(command, args) => match command.flags.parse(args) {
            Err(error) => misread(command, &error, session),
            Ok(values) => match perform(command.action, session, &values).await {
                Ok(()) => 0,
                Err(failure) => {
                    tell!(session.console, "{}{failure}", command.manners.failure);
                    1
                }
            },
        },
    };
    match session.console.finish() {
        // What was asked for did not reach its reader: that is no success.
        Some(error) => {
            tell!(
                session.console,
                "could not write to standard output: {error}"
            );
            code.max(1)
        }
        None => code,
    }
}

fn misread(command: &Command, error: &FlagError, session: &mut Session) -> u8 {
    if *error != FlagError::Help {
        tell!(session.console, "{error}");
    }
    session
        .console
        .err(format_args!("{}", command.flags.usage()));
    if command.manners.repeats_flag_errors {
        tell!(session.console, "{}{error}", command.manners.failure);
    }
    1
}

async fn perform(action: Action, session: &mut Session, values: &Values) -> Result<(), Failure> {
    match action {
        Action::Dev => dev::run(session, values).await,
        Action::Migrate => migrate::run(session, values).await,
        Action::K8s(K8sAction::Csi) => k8s::run_csi(session, values).await,
        Action::K8s(K8sAction::Healthcheck) => k8s::probe(session, values).await,
        Action::Agent(AgentAction::Run) => daemon::agent::run(session, values).await,
        Action::Agent(AgentAction::Validate) => daemon::agent::validate(session, values),
        Action::Agent(
            action @ (AgentAction::DebugGetInfo
            | AgentAction::Explain
            | AgentAction::LoggerGet
            | AgentAction::LoggerReset
            | AgentAction::LoggerSet),
        ) => agent_admin::run(action, session, values).await,
        Action::Agent(action) => workload::run(action, session, values).await,
        Action::Server(ServerAction::Run) => daemon::server::run(session, values).await,
        Action::Server(ServerAction::Validate) => daemon::server::validate(session, values),
        Action::Server(ServerAction::Backup) => backup::save(session, values).await,
        Action::Server(ServerAction::Restore) => backup::restore(session, values),
        Action::Server(action) => admin::run(action, session, values).await,
    }
}
