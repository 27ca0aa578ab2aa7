//! Commands that ask an agent over its admin socket.

mod debug;
mod explain;
mod logger;

use std::path::Path;

use tonic::transport::Channel;

use crate::failure::Failure;
use crate::flags::Values;
use crate::rpc;
use crate::session::Session;
use crate::table::AgentAction;

/// Runs a command that asks an agent's operator's side.
pub(crate) async fn run(
    action: AgentAction,
    session: &mut Session,
    values: &Values,
) -> Result<(), Failure> {
    match action {
        AgentAction::DebugGetInfo => debug::info(session, values).await,
        AgentAction::Explain => explain::explain(session, values).await,
        AgentAction::LoggerGet => logger::get(session, values).await,
        AgentAction::LoggerReset => logger::reset(session, values).await,
        AgentAction::LoggerSet => logger::set(session, values).await,
        AgentAction::FetchJwt
        | AgentAction::FetchX509
        | AgentAction::Healthcheck
        | AgentAction::Run
        | AgentAction::Validate
        | AgentAction::ValidateJwt
        | AgentAction::Watch => Err(Failure::new("not a question to the admin socket")),
    }
}

async fn connect(values: &Values) -> Result<Channel, Failure> {
    let path = values.text("socketPath");
    rpc::connect(Path::new(path), &format!("//{path}")).await
}
