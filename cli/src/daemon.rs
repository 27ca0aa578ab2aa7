//! `run` and `validate` of both programs: a configuration file, the flags over it, and the start.

use std::io;
use std::path::{Path, PathBuf};

use runtime::config::{ConfigError, Document, LogSettings};

use crate::failure::{Failure, os_error};
use crate::flags::Values;
use crate::session::Session;

pub(crate) mod agent;
pub(crate) mod server;

/// Does what both do while there is no thread but the first: nobody of the same user is to look into a
/// process that holds keys, and it is to have as many descriptors as it may.
pub(crate) fn prepare() -> Result<(), Failure> {
    let hidden = runtime::process::hide_memory();
    hidden.map_err(|error| {
        Failure::new(format!(
            "could not close the memory of this process to others: {}",
            os_error(&error)
        ))
    })?;
    // Without it there are fewer connections, and listeners pause in time.
    let _ = runtime::process::raise_open_file_limit();
    Ok(())
}

/// Reads the file that `-config` names.
fn document(session: &Session, values: &Values, default: &str) -> Result<Document, Failure> {
    let path = Path::new(values.given("config").unwrap_or(default));
    let environment = |name: &str| session.environment.get(name).map(str::to_owned);
    let expand = values.switch("expandEnv");
    let loaded = runtime::config::load(path, expand.then_some(&environment));
    loaded.map_err(|error| match error {
        ConfigError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            Failure::new(format!(
                "could not find config file {}: please use the -config flag",
                path.display()
            ))
        }
        ConfigError::Read { source, .. } => Failure::new(format!(
            "unable to read configuration at {:?}: {}",
            path.display().to_string(),
            os_error(&source)
        )),
        other => Failure::chain(&other).context(format_args!(
            "unable to decode configuration at {:?}",
            path.display().to_string()
        )),
    })
}

/// The flags of logs.
fn log(values: &Values) -> LogSettings {
    LogSettings {
        level: text(values, "logLevel"),
        format: text(values, "logFormat"),
        file: path(values, "logFile"),
        source_location: switch(values, "logSourceLocation"),
    }
}

fn text(values: &Values, flag: &str) -> Option<String> {
    values.given(flag).map(str::to_owned)
}

fn path(values: &Values, flag: &str) -> Option<PathBuf> {
    values.given(flag).map(PathBuf::from)
}

/// A switch that is off says nothing: the file may still set it.
fn switch(values: &Values, flag: &str) -> Option<bool> {
    values.switch(flag).then_some(true)
}

/// Zero says nothing, as everywhere in SPIRE's flags.
fn number(values: &Values, flag: &str) -> Option<i64> {
    Some(values.int(flag)).filter(|number| *number != 0)
}
