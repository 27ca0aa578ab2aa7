//! `logger get|set|reset`.

use proto::spire::agent::logger::logger_client::LoggerClient;
use proto::spire::agent::logger::{GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest};
use proto::spire::types::{LogLevel, Logger};
use tonic::{Response, Status};

use super::connect;
use crate::console::say;
use crate::failure::Failure;
use crate::flags::{Output, Values};
use crate::session::Session;
use crate::{json, rpc};

pub(super) async fn get(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let mut client = LoggerClient::new(connect(values).await?);
    let answer = client.get_logger(GetLoggerRequest {}).await;
    print(session, values, answer, "error fetching logger")
}

pub(super) async fn set(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let given = values.given("level");
    let name = given.ok_or_else(|| Failure::new("a value (-level) must be set"))?;
    let level = match name.to_ascii_lowercase().as_str() {
        "panic" => LogLevel::Panic,
        "fatal" => LogLevel::Fatal,
        "error" => LogLevel::Error,
        "warn" | "warning" => LogLevel::Warn,
        "info" => LogLevel::Info,
        "debug" => LogLevel::Debug,
        "trace" => LogLevel::Trace,
        _ => {
            return Err(Failure::new(format!(
                "the value {name:?} is not a valid setting"
            )));
        }
    };
    let mut client = LoggerClient::new(connect(values).await?);
    let new_level = level.into();
    let answer = client.set_log_level(SetLogLevelRequest { new_level }).await;
    print(session, values, answer, "failed to set log level")
}

pub(super) async fn reset(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let mut client = LoggerClient::new(connect(values).await?);
    let answer = client.reset_log_level(ResetLogLevelRequest {}).await;
    print(session, values, answer, "failed to reset log level")
}

fn print(
    session: &mut Session,
    values: &Values,
    answer: Result<Response<Logger>, Status>,
    failure: &str,
) -> Result<(), Failure> {
    let logger = answer.map_err(|status| rpc::failed(&status).context(failure))?;
    let logger = logger.into_inner();
    let console = &mut session.console;
    if values.output() == Output::Json {
        say!(
            console,
            "{}",
            json::agent(".spire.api.types.Logger", &logger)?
        );
        return Ok(());
    }
    say!(console, "Logger Level : {}", name(logger.current_level()));
    say!(console, "Launch Level : {}", name(logger.launch_level()));
    say!(console);
    Ok(())
}

fn name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Unspecified => "unspecified",
        LogLevel::Panic => "panic",
        LogLevel::Fatal => "fatal",
        LogLevel::Error => "error",
        LogLevel::Warn => "warning",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}
