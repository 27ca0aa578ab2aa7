//! Files that a command writes for its user.

use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::failure::{Failure, os_error};

/// Who may read a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Readers {
    /// Everybody: a certificate.
    All,
    /// Its owner alone: a key, a token.
    Owner,
}

/// Writes a file, in place of one that is there.
pub(crate) fn write(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), Failure> {
    let mode = match readers {
        Readers::All => 0o644,
        Readers::Owner => 0o600,
    };
    let written = || -> io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(path)?;
        // A file that was there keeps its mode on opening; a key must not lie open from before.
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)
    };
    written()
        .map_err(|error| Failure::new(format!("open {}: {}", path.display(), os_error(&error))))
}
