//! Where the cache lies: a folder of its own, which is moved aside when it is damaged and goes when the
//! identity goes.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, FUSE_SUPER_MAGIC, NFS_SUPER_MAGIC, statfs};
use runtime::files;

use super::key;

/// The folder below `data_dir`.
const FOLDER: &str = "cache";
/// What the folder is renamed to, with the time, when it is damaged.
const ASIDE: &str = "cache.corrupt-";
/// How many damaged ones are left for a look at what happened.
const MOST_ASIDE: usize = 2;

/// The folder of the cache.
#[derive(Clone, Debug)]
pub(super) struct Place {
    data_dir: PathBuf,
}

impl Place {
    pub(super) fn below(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
        }
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.data_dir.join(FOLDER)
    }

    pub(super) fn key(&self) -> PathBuf {
        self.folder().join("key")
    }

    /// What a key is called that counts no more and still has to be destroyed.
    fn void_key(&self) -> PathBuf {
        self.folder().join("key.void")
    }

    pub(super) fn db(&self) -> PathBuf {
        self.folder().join("db")
    }

    pub(super) fn ledger(&self) -> PathBuf {
        self.folder().join("ledger")
    }

    /// The name of the file system, if the engine is known to fail on such a one.
    pub(super) fn unfit(&self) -> io::Result<Option<&'static str>> {
        let found = statfs(&self.data_dir)?.filesystem_type();
        let unfit = [
            (BTRFS_SUPER_MAGIC, "btrfs"),
            (NFS_SUPER_MAGIC, "nfs"),
            (FUSE_SUPER_MAGIC, "fuse"),
        ];
        let mut unfit = unfit.into_iter().filter(|(magic, _)| *magic == found);
        Ok(unfit.next().map(|(_, name)| name))
    }

    /// Makes the folder. One that is there must be a folder, and no link to one.
    pub(super) fn make(&self) -> io::Result<()> {
        let folder = self.folder();
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if std::fs::symlink_metadata(&folder)?.is_dir() {
                    return Ok(());
                }
                Err(error)
            }
            made => made,
        }
    }

    /// Whether there is anything.
    pub(super) fn is_there(&self) -> bool {
        self.folder().symlink_metadata().is_ok()
    }

    /// Moves what is there aside, without its key: nobody is to read it again. Returns where it lies now.
    pub(super) fn set_aside(&self, now: SystemTime) -> io::Result<PathBuf> {
        key::destroy(&self.key())?;
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let aside = (seconds..)
            .map(|seconds| self.data_dir.join(format!("{ASIDE}{seconds}")))
            .find(|path| path.symlink_metadata().is_err())
            .unwrap_or_else(|| self.data_dir.join(ASIDE));
        std::fs::rename(self.folder(), &aside)?;
        let mut all = self.all_aside()?;
        all.sort_unstable();
        let surplus = all.len().saturating_sub(MOST_ASIDE);
        for old in all.iter().filter(|path| **path != aside).take(surplus) {
            remove(old)?;
        }
        self.sync()?;
        Ok(aside)
    }

    /// Takes the key from its place: no process that starts from now on reads what it sealed. It does not wait
    /// for the disk, so a power cut in the next moments may bring the key back.
    pub(super) fn void(&self) -> io::Result<()> {
        match std::fs::rename(self.key(), self.void_key()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed,
        }
    }

    /// Removes everything, what was set aside as well. Durable when this returns: no later start finds any
    /// of it.
    pub(super) fn wipe(&self) -> io::Result<()> {
        self.clear()?;
        for path in self.all_aside()? {
            remove(&path)?;
        }
        self.sync()
    }

    /// Removes the cache, the key first. Durable when this returns.
    pub(super) fn clear(&self) -> io::Result<()> {
        // The key alone makes the rest unreadable, so it goes first, and for itself.
        let (current, void) = (key::destroy(&self.key()), key::destroy(&self.void_key()));
        let destroyed = current.and(void);
        remove(&self.folder())?;
        self.sync()?;
        // A key that could not be overwritten, say, is gone with its folder.
        if self.is_there() { destroyed } else { Ok(()) }
    }

    fn all_aside(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for item in std::fs::read_dir(&self.data_dir)? {
            let item = item?;
            if item
                .file_name()
                .to_str()
                .is_some_and(|name| name.starts_with(ASIDE))
            {
                found.push(item.path());
            }
        }
        Ok(found)
    }

    fn sync(&self) -> io::Result<()> {
        files::sync_folder(&self.data_dir).map_err(|error| error.source)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn at_most_two_damaged_ones_stay_and_none_with_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::below(folder.path());
        let mut last = PathBuf::new();
        for round in [1, 2, 2, 3, 3] {
            place.make().unwrap();
            key::create(&place.key()).unwrap();
            std::fs::write(place.db(), "content").unwrap();
            last = place
                .set_aside(UNIX_EPOCH + Duration::from_secs(1_800_000_000 + round))
                .unwrap();
            assert!(!place.is_there());
            assert!(
                !last.join("key").try_exists().unwrap() && last.join("db").try_exists().unwrap()
            );
        }
        assert_eq!(place.all_aside().unwrap().len(), MOST_ASIDE);
        assert!(last.try_exists().unwrap());
        place.wipe().unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_key_that_was_voided_is_not_found_again_and_goes_with_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::below(folder.path());
        place.void().unwrap();
        place.make().unwrap();
        key::create(&place.key()).unwrap();
        place.void().unwrap();
        assert!(key::read(&place.key()).unwrap().is_none());
        place.clear().unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let place = Place::below(folder.path());
        std::fs::write(other.path().join("mine"), "untouched").unwrap();
        std::os::unix::fs::symlink(other.path(), place.folder()).unwrap();
        assert!(place.make().is_err());
        place.wipe().unwrap();
        assert!(other.path().join("mine").try_exists().unwrap());
        place.make().unwrap();
    }

    #[test]
    fn this_file_system_will_do() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Place::below(folder.path()).unfit().unwrap(), None);
    }
}
