//! `logger get|set|reset`.

use proto::spire::server::logger::logger_client::LoggerClient;
use proto::spire::server::logger::{GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest};
use tonic::transport::Channel;

use super::connect_to;
use crate::failure::Failure;
use crate::flags::Values;
use crate::logger::{level, print};
use crate::session::Session;

pub(super) async fn get(session: &mut Session, values: &Values) -> Result<(), Failure> {
    const TRIED: &str = "error fetching logger";
    let mut client = client(session, values, TRIED).await?;
    let answer = client.get_logger(GetLoggerRequest {}).await;
    print(session, values, answer, TRIED)
}

pub(super) async fn set(session: &mut Session, values: &Values) -> Result<(), Failure> {
    const TRIED: &str = "failed to set log level";
    let new_level = level(values)?.into();
    let mut client = client(session, values, TRIED).await?;
    let answer = client.set_log_level(SetLogLevelRequest { new_level }).await;
    print(session, values, answer, TRIED)
}

pub(super) async fn reset(session: &mut Session, values: &Values) -> Result<(), Failure> {
    const TRIED: &str = "failed to reset logger";
    let mut client = client(session, values, TRIED).await?;
    let answer = client.reset_log_level(ResetLogLevelRequest {}).await;
    print(session, values, answer, TRIED)
}

async fn client(
    session: &Session,
    values: &Values,
    tried: &str,
) -> Result<LoggerClient<Channel>, Failure> {
    let channel = connect_to(session, values, tried).await?;
    Ok(LoggerClient::new(channel))
}
