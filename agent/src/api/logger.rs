//! SPIRE's Logger API: the level of the log, while the agent runs.

use proto::spire::agent::logger::logger_server;
use proto::spire::agent::logger::{GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest};
use proto::spire::types::{LogLevel, Logger};
use runtime::log::{Level, LogHandle};
use tonic::{Request, Response, Status};
use tracing::info;

use super::authorize;

/// The service.
pub(super) struct Service(LogHandle);

impl Service {
    pub(super) fn new(log: LogHandle) -> Self {
        Self(log)
    }

    fn set(&self, level: Level) -> Response<Logger> {
        // Told before, where it is heard in any case if the level is one that hears it at all.
        info!(level = level.name(), "Log level is set");
        self.0.set_level(level);
        self.tell()
    }

    fn tell(&self) -> Response<Logger> {
        Response::new(Logger {
            current_level: number(self.0.level()).into(),
            launch_level: number(self.0.launch_level()).into(),
        })
    }
}

#[tonic::async_trait]
impl logger_server::Logger for Service {
    async fn get_logger(
        &self,
        request: Request<GetLoggerRequest>,
    ) -> Result<Response<Logger>, Status> {
        authorize(&request)?;
        Ok(self.tell())
    }

    async fn set_log_level(
        &self,
        request: Request<SetLogLevelRequest>,
    ) -> Result<Response<Logger>, Status> {
        authorize(&request)?;
        let asked = LogLevel::try_from(request.get_ref().new_level);
        let level = match asked {
            Err(_) => return Err(Status::invalid_argument("unsupported log level")),
            Ok(LogLevel::Unspecified) => {
                return Err(Status::invalid_argument(
                    "newLevel value cannot be LogLevel_UNSPECIFIED",
                ));
            }
            // Nothing here is logged above `error`.
            Ok(LogLevel::Panic | LogLevel::Fatal | LogLevel::Error) => Level::Error,
            Ok(LogLevel::Warn) => Level::Warn,
            Ok(LogLevel::Info) => Level::Info,
            Ok(LogLevel::Debug) => Level::Debug,
            Ok(LogLevel::Trace) => Level::Trace,
        };
        Ok(self.set(level))
    }

    async fn reset_log_level(
        &self,
        request: Request<ResetLogLevelRequest>,
    ) -> Result<Response<Logger>, Status> {
        authorize(&request)?;
        Ok(self.set(self.0.launch_level()))
    }
}

fn number(level: Level) -> LogLevel {
    match level {
        Level::Error => LogLevel::Error,
        Level::Warn => LogLevel::Warn,
        Level::Info => LogLevel::Info,
        Level::Debug => LogLevel::Debug,
        Level::Trace => LogLevel::Trace,
    }
}
