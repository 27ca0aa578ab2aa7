//! `logger get|set|reset`.

use proto::spire::agent::logger::logger_client::LoggerClient;
use proto::spire::agent::logger::{GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest};

use super::connect;
use crate::failure::Failure;
use crate::flags::Values;
use crate::logger::{level, print};
use crate::session::Session;

pub(super) async fn get(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let mut client = LoggerClient::new(connect(values).await?);
    let answer = client.get_logger(GetLoggerRequest {}).await;
    print(session, values, answer, "error fetching logger")
}

pub(super) async fn set(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let new_level = level(values)?.into();
    let mut client = LoggerClient::new(connect(values).await?);
    let answer = client.set_log_level(SetLogLevelRequest { new_level }).await;
    print(session, values, answer, "failed to set log level")
}

pub(super) async fn reset(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let mut client = LoggerClient::new(connect(values).await?);
    let answer = client.reset_log_level(ResetLogLevelRequest {}).await;
    print(session, values, answer, "failed to reset log level")
}
