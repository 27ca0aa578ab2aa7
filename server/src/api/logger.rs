//! `spire.api.server.logger.v1.Logger`: the level of the log, while the server runs.

use proto::spire::server::logger::logger_server;
use proto::spire::server::logger::{GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest};
use proto::spire::types::{LogLevel, Logger};
use runtime::log::{Level, LogHandle};
use tonic::{Request, Response, Status};

use super::caller::Caller;
use crate::audit::{Audit, Event};

#[derive(Debug)]
pub(super) struct Service {
    log: LogHandle,
    audit: Audit,
}

impl Service {
    pub(super) fn new(log: LogHandle, audit: Audit) -> Self {
        Self { log, audit }
    }

    /// Told before it changes, where it is heard if the old level is one that hears it.
    fn set(&self, caller: &Caller, level: Level) -> Response<Logger> {
        self.audit.record(caller, Event::LogLevelSet(level));
        self.log.set_level(level);
        self.tell()
    }

    fn tell(&self) -> Response<Logger> {
        Response::new(Logger {
            current_level: number(self.log.level()).into(),
            launch_level: number(self.log.launch_level()).into(),
        })
    }
}

#[tonic::async_trait]
impl logger_server::Logger for Service {
    async fn get_logger(
        &self,
        _request: Request<GetLoggerRequest>,
    ) -> Result<Response<Logger>, Status> {
        Ok(self.tell())
    }

    async fn set_log_level(
        &self,
        request: Request<SetLogLevelRequest>,
    ) -> Result<Response<Logger>, Status> {
        let caller = Caller::of(&request)?;
        let asked = LogLevel::try_from(request.get_ref().new_level);
        if asked == Ok(LogLevel::Unspecified) {
            return Err(Status::invalid_argument(
                "newLevel value cannot be LogLevel_UNSPECIFIED",
            ));
        }
        let asked = asked.ok().map(|level| level.as_str_name());
        // The names are those of the configuration; nothing here is logged above `error`.
        let level = asked.and_then(|name| Level::parse(name).ok());
        let level = level.ok_or_else(|| Status::invalid_argument("unsupported log level"))?;
        Ok(self.set(&caller, level))
    }

    async fn reset_log_level(
        &self,
        request: Request<ResetLogLevelRequest>,
    ) -> Result<Response<Logger>, Status> {
        let caller = Caller::of(&request)?;
        Ok(self.set(&caller, self.log.launch_level()))
    }
}

fn number(level: Level) -> LogLevel {
    let name = level.name().to_ascii_uppercase();
    LogLevel::from_str_name(&name).unwrap_or(LogLevel::Unspecified)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_its_number() {
        for (level, expected) in [
            (Level::Error, LogLevel::Error),
            (Level::Warn, LogLevel::Warn),
            (Level::Info, LogLevel::Info),
            (Level::Debug, LogLevel::Debug),
            (Level::Trace, LogLevel::Trace),
        ] {
            assert_eq!(number(level), expected);
            assert_eq!(Level::parse(expected.as_str_name()).unwrap(), level);
        }
    }
}
