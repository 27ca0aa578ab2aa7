//! The key of the seal: 32 random bytes in a file of their own, for this agent's user alone.
//!
//! It lies beside what it seals, since an agent must be able to read its cache after a reboot with nobody
//! at hand: it protects single records, and what is left behind once it is removed; it does not protect
//! against whoever can read the folder. The kernel's keyrings would forget it at a reboot, and are closed
//! to most containers.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use runtime::files;
use runtime::random;
use zeroize::Zeroizing;

use super::seal::KEY_LEN;

/// What the file begins with, so that another file is told from a key.
const MAGIC: &[u8; 8] = b"SIGNETK1";

pub(super) type Key = Zeroizing<[u8; KEY_LEN]>;

/// Reads the key; `None` if there is no file. A file that others can read, that is another's, a link, or of
/// another size is an error.
pub(super) fn read(path: &Path) -> io::Result<Option<Key>> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path);
    let mut file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let found = file.metadata()?;
    let own = nix::unistd::geteuid().as_raw();
    if !found.is_file() || found.uid() != own || found.mode() & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the key file is not this agent's alone",
        ));
    }
    let mut content = Zeroizing::new([0; MAGIC.len() + KEY_LEN]);
    let is_whole = found.len() == content.len() as u64;
    if !is_whole {
        return Err(damaged());
    }
    file.read_exact(&mut *content)?;
    let (magic, rest) = content.split_first_chunk().ok_or_else(damaged)?;
    let key = rest.first_chunk().ok_or_else(damaged)?;
    if magic != MAGIC {
        return Err(damaged());
    }
    Ok(Some(Zeroizing::new(*key)))
}

/// Makes a key where there is none. Durable when this returns.
pub(super) fn create(path: &Path) -> io::Result<Key> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    random::fill(&mut *key);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)?;
    let mut content = Zeroizing::new([0; MAGIC.len() + KEY_LEN]);
    let (magic, rest) = content.split_at_mut(MAGIC.len());
    magic.copy_from_slice(MAGIC);
    rest.copy_from_slice(&*key);
    file.write_all(&*content)?;
    file.sync_all()?;
    sync_parent(path)?;
    Ok(key)
}

/// Overwrites and removes the key. Durable when this returns: nothing that it sealed is read again.
pub(super) fn destroy(path: &Path) -> io::Result<()> {
    // Not every disk forgets what is overwritten, so this is as good as it gets, and its failure no failure.
    if let Ok(file) = OpenOptions::new()
        .write(true)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
    {
        let _ = overwrite(file);
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed?,
    }
    sync_parent(path)
}

fn overwrite(mut file: File) -> io::Result<()> {
    file.write_all(&[0; MAGIC.len() + KEY_LEN])?;
    file.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => files::sync_folder(folder).map_err(|error| error.source),
        None => Ok(()),
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the key file is damaged")
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_private_comes_back_and_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert!(read(&path).unwrap().is_none());
        let key = create(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(read(&path).unwrap().unwrap(), key);
        assert!(create(&path).is_err());
        destroy(&path).unwrap();
        assert!(read(&path).unwrap().is_none());
        destroy(&path).unwrap();
        assert_ne!(create(&path).unwrap(), key);
    }

    #[test]
    fn a_key_that_others_may_read_or_a_link_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("key"), folder.path().join("link"));
        create(&path).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(read(&link).is_err());
        assert!(create(&link).is_err());
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(read(&path).is_err());
    }

    #[test]
    fn a_truncated_or_foreign_file_is_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        create(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(read(&path).is_err(), "{length}");
        }
        std::fs::write(&path, [b'x'; 40]).unwrap();
        assert!(read(&path).is_err());
    }
}
