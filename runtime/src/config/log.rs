//! What is said of logs, in a file and on the command line.

use std::path::PathBuf;

use super::{Problems, given, overrule};
use crate::log::{Format, Level, LogConfig};

/// The four settings of logs as written, the same in a file and as flags.
#[derive(Clone, Debug, Default)]
pub struct LogSettings {
    /// `log_level`.
    pub level: Option<String>,
    /// `log_format`.
    pub format: Option<String>,
    /// `log_file`.
    pub file: Option<PathBuf>,
    /// `log_source_location`.
    pub source_location: Option<bool>,
}

impl LogSettings {
    /// Lets the command line win, where it says something.
    #[must_use]
    pub fn overruled(mut self, by: Self) -> Self {
        overrule(&mut self.level, by.level);
        overrule(&mut self.format, by.format);
        overrule(&mut self.file, by.file);
        overrule(&mut self.source_location, by.source_location);
        self
    }

    /// What they mean. `section` is where they stand.
    pub fn read(self, section: &str, problems: &mut Problems) -> LogConfig {
        let level = given(self.level)
            .and_then(|level| problems.take(&format!("{section}.log_level"), Level::parse(&level)));
        let format = self.format.and_then(|format| {
            problems.take(&format!("{section}.log_format"), Format::parse(&format))
        });
        LogConfig {
            level: level.unwrap_or_default(),
            format: format.unwrap_or_default(),
            file: given(self.file),
            source_location: self.source_location == Some(true),
        }
    }
}
