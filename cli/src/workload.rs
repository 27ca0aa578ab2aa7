//! Commands that ask an agent over its Workload API socket, as any workload would.

mod health;
mod jwt;
mod x509;

use std::future::Future;
use std::time::Duration;

use proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::failure::Failure;
use crate::flags::Values;
use crate::rpc;
use crate::session::Session;
use crate::socket::AGENT;
use crate::table::AgentAction;

type Client = SpiffeWorkloadApiClient<Channel>;

/// Runs a command that asks an agent.
pub(crate) async fn run(
    action: AgentAction,
    session: &mut Session,
    values: &Values,
) -> Result<(), Failure> {
    match action {
        AgentAction::FetchJwt => jwt::fetch(session, values).await,
        AgentAction::FetchX509 => x509::fetch(session, values).await,
        AgentAction::Healthcheck => health::check(session, values).await,
        AgentAction::ValidateJwt => jwt::validate(session, values).await,
        AgentAction::Watch => x509::watch(session, values).await,
        AgentAction::DebugGetInfo
        | AgentAction::Explain
        | AgentAction::LoggerGet
        | AgentAction::LoggerReset
        | AgentAction::LoggerSet
        | AgentAction::Run
        | AgentAction::Validate => Err(Failure::new("not a question to the Workload API")),
    }
}

async fn channel(session: &Session, values: &Values) -> Result<Channel, Failure> {
    let path = AGENT.path(values, &session.environment)?;
    rpc::connect(&path, &path.display().to_string()).await
}

async fn client(session: &Session, values: &Values) -> Result<Client, Failure> {
    let channel = channel(session, values).await?;
    Ok(Client::new(channel).max_decoding_message_size(rpc::MAX_ANSWER))
}

/// A request with the header that Workload Endpoint 3 asks of every call.
fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(
        "workload.spiffe.io",
        tonic::metadata::MetadataValue::from_static("true"),
    );
    request
}

/// Waits for an answer for `-timeout`; zero waits for ever.
async fn within<T>(
    values: &Values,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match values.duration("timeout") {
        Duration::ZERO => answer.await,
        timeout => tokio::time::timeout(timeout, answer)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("context deadline exceeded"))),
    }
}

/// The first message of a stream.
async fn first<T>(
    opened: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
) -> Result<T, Status> {
    let mut stream = opened.await?.into_inner();
    let message = stream.message().await?;
    message.ok_or_else(|| Status::unavailable("EOF"))
}
