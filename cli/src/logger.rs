//! What `logger get|set|reset` of either program have in common.

use proto::spire::types::{LogLevel, Logger};
use tonic::{Response, Status};

use crate::console::say;
use crate::failure::Failure;
use crate::flags::{Output, Values};
use crate::session::Session;
use crate::{json, rpc};

/// The level that the flags ask for.
pub(crate) fn level(values: &Values) -> Result<LogLevel, Failure> {
    let given = values.given("level");
    let name = given.ok_or_else(|| Failure::new("a value (-level) must be set"))?;
    match name.to_ascii_lowercase().as_str() {
        "panic" => Ok(LogLevel::Panic),
        "fatal" => Ok(LogLevel::Fatal),
        "error" => Ok(LogLevel::Error),
        "warn" | "warning" => Ok(LogLevel::Warn),
        "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        "trace" => Ok(LogLevel::Trace),
        _ => Err(Failure::new(format!(
            "the value {name:?} is not a valid setting"
        ))),
    }
}

/// Prints the answer that all three have.
pub(crate) fn print(
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
