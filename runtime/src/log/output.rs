//! Where lines go.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::LogError;

/// SPIRE's mode for log files.
const MODE: u32 = 0o640;

/// Takes whole lines.
pub(super) struct Output {
    path: Option<PathBuf>,
    sink: Mutex<Sink>,
}

enum Sink {
    Stdout,
    File(File),
    #[cfg(test)]
    Memory(Vec<u8>),
}

impl Output {
    /// Opens the file, or standard output if there is none.
    pub(super) fn open(path: Option<PathBuf>) -> Result<Self, LogError> {
        let sink = match &path {
            Some(path) => Sink::File(open(path)?),
            None => Sink::Stdout,
        };
        Ok(Self {
            path,
            sink: Mutex::new(sink),
        })
    }

    pub(super) fn reopen(&self) -> Result<(), LogError> {
        if let Some(path) = &self.path {
            let file = open(path)?;
            *self.sink.lock() = Sink::File(file);
        }
        Ok(())
    }

    /// Writes a line in one piece. A full disk loses it: there is nowhere to say so.
    pub(super) fn write(&self, line: &str) {
        let mut sink = self.sink.lock();
        let written: io::Result<()> = match &mut *sink {
            Sink::Stdout => io::stdout().lock().write_all(line.as_bytes()),
            Sink::File(file) => file.write_all(line.as_bytes()),
            #[cfg(test)]
            Sink::Memory(bytes) => bytes.write_all(line.as_bytes()),
        };
        drop(written);
    }

    #[cfg(test)]
    pub(super) fn memory() -> Self {
        Self {
            path: None,
            sink: Mutex::new(Sink::Memory(Vec::new())),
        }
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> String {
        match &mut *self.sink.lock() {
            Sink::Memory(bytes) => String::from_utf8(std::mem::take(bytes)).unwrap(),
            _ => String::new(),
        }
    }
}

fn open(path: &Path) -> Result<File, LogError> {
    let opened = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(MODE)
        .open(path);
    opened.map_err(|source| LogError::File {
        path: path.into(),
        source,
    })
}
