//! Files that survive a crash at any instruction.
//!
//! A private file is written beside its place, flushed, and renamed over the old one, so a reader finds
//! the whole old content or the whole new one, never a mixture and never nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::failpoint;

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} `{path}`", path = .path.display())]
pub struct FileError {
    /// What was tried: a verb, for the message.
    pub action: &'static str,
    /// Which file or folder it was tried on.
    pub path: PathBuf,
    /// What the system answered.
    pub source: io::Error,
}

impl FileError {
    fn new(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self {
            action,
            path,
            source,
        }
    }

    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self.source.kind() {
            io::ErrorKind::NotFound => "file_not_found",
            io::ErrorKind::PermissionDenied => "file_permission_denied",
            io::ErrorKind::StorageFull => "disk_full",
            io::ErrorKind::FileTooLarge => "file_too_large",
            _ => "file_io",
        }
    }
}

/// Replaces a file by `content`, mode 0600, durable when this returns.
///
/// On an error the old file is as it was; a temporary file beside it is removed.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // One writer at a time owns a file of ours, so a fixed name is enough, and leaves at most one
    // orphan after a crash.
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let written = write_new(&new, content).and_then(|()| {
        failpoint::reach("file", "written");
        std::fs::rename(&new, path).map_err(FileError::new("replace", path))?;
        failpoint::reach("file", "replaced");
        sync_folder(folder)
    });
    if written.is_err() {
        // The error that matters is the first one; an orphan is overwritten by the next write.
        let _ = std::fs::remove_file(&new);
    }
    written
}

/// Flushes a folder, so that the names in it survive a power cut.
pub fn sync_folder(folder: &Path) -> Result<(), FileError> {
    File::open(folder)
        .and_then(|handle| handle.sync_all())
        .map_err(FileError::new("flush", folder))
}

/// Reads a whole file, `None` if there is none. A file of more than `limit` bytes is an error.
pub fn read_limited(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::new("open", path)(error)),
    };
    let mut content = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut content)
        .map_err(FileError::new("read", path))?;
    if content.len() as u64 > limit {
        return Err(FileError::new("read", path)(
            io::ErrorKind::FileTooLarge.into(),
        ));
    }
    Ok(Some(content))
}

fn write_new(path: &Path, content: &[u8]) -> Result<(), FileError> {
    // A left-over of a crash may have another mode or be a link: it is removed, not reused.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(FileError::new("remove", path)(error));
        }
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(FileError::new("create", path))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(FileError::new("write", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replaces_a_file_whole_and_keeps_it_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        std::fs::write(&path, "old and much longer").unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(read_limited(&path, 100).unwrap().unwrap(), b"new");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_left_over_link_is_not_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let (path, victim) = (folder.path().join("a"), folder.path().join("victim"));
        std::fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, folder.path().join("a.new")).unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"untouched");
    }

    #[test]
    fn an_error_names_the_file_and_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("is-a-folder");
        std::fs::create_dir(&path).unwrap();
        let error = write_private(&path, b"new").unwrap_err();
        assert!(error.to_string().contains("is-a-folder"), "{error}");
        assert!(path.is_dir());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_above_the_limit_is_refused_and_a_missing_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        assert_eq!(read_limited(&path, 3).unwrap(), None);
        std::fs::write(&path, "four").unwrap();
        assert_eq!(read_limited(&path, 4).unwrap().unwrap().len(), 4);
        assert_eq!(
            read_limited(&path, 3).unwrap_err().reason(),
            "file_too_large"
        );
    }
}
