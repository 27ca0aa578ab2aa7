//! `logger get|set|reset`.

use proto::spire::agent::logger::logger_client::LoggerClient;
use proto::spire::agent::logger::{GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest};

use tonic::transport::Channel;

use super::connect;
use crate::failure::Failure;
use crate::flags::Values;
use crate::logger::{level, print};
use crate::session::Session;

pub(super) async fn get(session: &mut Session, values: &Values) -> Result<(), Failure> {
    const TRIED: &str = "error fetching logger";
    let mut client = client(values, TRIED).await?;
    let answer = client.get_logger(GetLoggerRequest {}).await;
    print(session, values, answer, TRIED)
}

pub(super) async fn set(session: &mut Session, values: &Values) -> Result<(), Failure> {
    const TRIED: &str = "failed to set log level";
    let new_level = level(values)?.into();
    let mut client = client(values, TRIED).await?;
    let answer = client.set_log_level(SetLogLevelRequest { new_level }).await;
    print(session, values, answer, TRIED)
}

pub(super) async fn reset(session: &mut Session, values: &Values) -> Result<(), Failure> {
    const TRIED: &str = "failed to reset logger";
    let mut client = client(values, TRIED).await?;
    let answer = client.reset_log_level(ResetLogLevelRequest {}).await;
    print(session, values, answer, TRIED)
}

/// SPIRE's connects only when it calls, so what was tried is said of an agent that is not there too.
async fn client(values: &Values, tried: &str) -> Result<LoggerClient<Channel>, Failure> {
    let channel = connect(values).await;
    let channel = channel.map_err(|failure| failure.context(tried))?;
    Ok(LoggerClient::new(channel))
}
