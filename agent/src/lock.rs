//! One agent for each folder: two would take each other's keys away.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use runtime::files::FileError;

/// The name of the file in `data_dir`, and in the folder of the keys.
pub const FILE_NAME: &str = "agent.lock";

/// Why a folder is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(transparent)]
    File(FileError),
    #[error(
        "another agent runs on `{folder}`; end it, or give this agent folders of its own",
        folder = .0.display()
    )]
    Held(PathBuf),
}

impl LockError {
    /// The stable label of metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::File(error) => error.reason(),
            Self::Held(_) => "data_dir_in_use",
        }
    }
}

/// A folder that is ours until this is dropped, or the process ends, however it does.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the folder, which has to be there.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(FILE_NAME);
        let failed = |action, source| {
            LockError::File(FileError {
                action,
                path: path.clone(),
                source,
            })
        };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| failed("open", source))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Held(folder.to_owned())),
            Err(TryLockError::Error(source)) => Err(failed("lock", source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_agent_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(folder.path()).unwrap();
        let refused = Lock::take(folder.path()).unwrap_err();
        assert_eq!(refused.reason(), "data_dir_in_use");
        drop(first);
        Lock::take(folder.path()).unwrap();
    }
}
