//! The built program under a name of choice.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::mod_module_files,
    clippy::unwrap_used,
    reason = "each test file uses a part of this module, and a test may panic"
)]

pub(crate) mod running;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The program, called by some name.
pub(crate) struct Program {
    path: PathBuf,
    _folder: TempDir,
}

/// What a run of it came to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: Option<i32>,
}

impl Program {
    pub(crate) fn called(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        symlink(env!("CARGO_BIN_EXE_signet"), &path).unwrap();
        Self {
            path,
            _folder: folder,
        }
    }

    /// A command with nothing in its environment that could change what is seen.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.env_clear().stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[impl AsRef<str>]) -> Run {
        let args = args.iter().map(AsRef::as_ref);
        self.command().args(args).output().unwrap().into()
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
            code: output.status.code(),
        }
    }
}

/// A path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
