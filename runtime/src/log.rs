//! Logs, with SPIRE's keys and in the shape of its lines.
//!
//! Operators filter these lines with what they have written for SPIRE's: `time=… level=… msg="…"`
//! and then fields, or one JSON object a line with the same names.

mod layer;
mod line;
mod output;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt};
use tracing_subscriber::reload;

use self::layer::Lines;
use self::output::Output;

/// Libraries that tell more than anybody asked for. Below `trace` only their warnings are kept.
const TALKATIVE: [&str; 10] = [
    "h2",
    "hyper",
    "hyper_util",
    "mio",
    "rustls",
    "tokio_rustls",
    "tokio_util",
    "tonic",
    "tower",
    "want",
];

/// What to log, and where to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LogConfig {
    /// `log_level`.
    pub level: Level,
    /// `log_format`.
    pub format: Format,
    /// `log_file`; standard output if absent.
    pub file: Option<PathBuf>,
    /// `log_source_location`.
    pub source_location: bool,
}

/// From which weight on an event is logged.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Level {
    /// A person must act. SPIRE's `fatal` and `panic` are no more than this.
    Error,
    /// Degraded, and retrying.
    Warn,
    /// The life of identities.
    #[default]
    Info,
    /// Decisions and their reasons.
    Debug,
    /// The wire.
    Trace,
}

/// The shape of a line.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Format {
    /// `key=value`, quoted where needed.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A level that is none.
    #[error("unknown log level `{0}` (use debug, info, warn or error)")]
    UnknownLevel(String),
    /// A format that is none.
    #[error("unknown log format `{0}` (use text or json)")]
    UnknownFormat(String),
    /// The file cannot be written.
    #[error("could not open log file `{}`", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody logs already.
    #[error("logging was started twice")]
    StartedTwice,
}

impl LogError {
    /// A stable label for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownLevel(_) => "unknown_log_level",
            Self::UnknownFormat(_) => "unknown_log_format",
            Self::File { .. } => "log_file",
            Self::StartedTwice => "started_twice",
        }
    }
}

/// Changes logging while it runs.
#[derive(Clone)]
pub struct LogHandle {
    filter: reload::Handle<Targets, Registry>,
    output: Arc<Output>,
    launch: Level,
    current: Arc<Mutex<Level>>,
}

/// Starts logging for the whole process.
pub fn init(config: &LogConfig) -> Result<LogHandle, LogError> {
    let output = Output::open(config.file.clone())?;
    let (subscriber, handle) = build(config, output);
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|_started_already| LogError::StartedTwice)?;
    Ok(handle)
}

fn build(
    config: &LogConfig,
    output: Output,
) -> (impl tracing::Subscriber + Send + Sync, LogHandle) {
    let output = Arc::new(output);
    let (filter, reload) = reload::Layer::new(targets(config.level));
    let lines = Lines {
        format: config.format,
        source_location: config.source_location,
        output: Arc::clone(&output),
    };
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
    (
        subscriber,
        LogHandle {
            filter: reload,
            output,
            launch: config.level,
            current: Arc::new(Mutex::new(config.level)),
        },
    )
}

impl LogHandle {
    /// The handle of a log that nobody writes to.
    #[cfg(any(test, feature = "test-util"))]
    pub fn for_test(config: &LogConfig) -> Result<Self, LogError> {
        Ok(build(config, Output::open(config.file.clone())?).1)
    }

    /// Logs from this level on.
    pub fn set_level(&self, level: Level) {
        *self.current.lock() = level;
        // It fails only once the subscriber is gone, and then nobody logs.
        let _ = self.filter.reload(targets(level));
    }

    /// The level of now.
    pub fn level(&self) -> Level {
        *self.current.lock()
    }

    /// The level of the configuration.
    pub fn launch_level(&self) -> Level {
        self.launch
    }

    /// Opens the log file anew, after it was moved away. Does nothing without a file.
    pub fn reopen(&self) -> Result<(), LogError> {
        self.output.reopen()
    }
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogHandle").finish_non_exhaustive()
    }
}

impl Level {
    /// Reads SPIRE's names, in any case.
    pub fn parse(name: &str) -> Result<Self, LogError> {
        match name.to_ascii_lowercase().as_str() {
            "panic" | "fatal" | "error" => Ok(Self::Error),
            "warn" | "warning" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            _ => Err(LogError::UnknownLevel(name.to_owned())),
        }
    }

    /// The name in configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

impl Format {
    /// Reads SPIRE's names, in any case; an empty one is text.
    pub fn parse(name: &str) -> Result<Self, LogError> {
        match name.to_ascii_lowercase().as_str() {
            "" | "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(LogError::UnknownFormat(name.to_owned())),
        }
    }
}

fn targets(level: Level) -> Targets {
    let all = Targets::new().with_default(level.filter());
    if level == Level::Trace {
        return all;
    }
    let quiet = level.filter().min(LevelFilter::WARN);
    all.with_targets(TALKATIVE.map(|library| (library, quiet)))
}

#[cfg(test)]
mod tests;
