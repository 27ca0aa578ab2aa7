//! The state folder of `signet dev`: who may use it, one process at a time, for one trust domain.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use identity::trust_domain::TrustDomain;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;

use crate::failure::{Failure, os_error};
use crate::socket::Environment;

/// The longest path of a Unix socket (`sun_path`, without its final zero).
const MAX_SOCKET_PATH: usize = 107;

/// The file that marks the folder as ours: the name of the trust domain.
const MARKER: &str = "trust-domain";

/// The file that is locked while a process uses the folder.
const LOCK: &str = "lock";

/// The longest content of the file that names the trust domain.
const MAX_NAME: u64 = 1024;

/// A folder that this process alone uses, until it is dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Folder {
    /// Opens the folder, making it where it is missing.
    pub(crate) fn open(path: &Path, trust_domain: &TrustDomain) -> Result<Self, Failure> {
        let path = std::path::absolute(path)
            .map_err(|error| failed("find the state folder", path, &error))?;
        let longest = path.join("server.sock");
        if longest.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(Failure::new(format!(
                "the path of the socket {} is longer than {MAX_SOCKET_PATH} bytes; choose a shorter -dir",
                longest.display()
            )));
        }
        own(&path)?;
        let folder = Self {
            _lock: lock(&path)?,
            path,
        };
        folder.belongs_to(trust_domain)?;
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn server_socket(&self) -> PathBuf {
        self.path.join("server.sock")
    }

    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.path.join("agent.sock")
    }

    pub(crate) fn server_data(&self) -> PathBuf {
        self.path.join("server")
    }

    pub(crate) fn agent_data(&self) -> PathBuf {
        self.path.join("agent")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("dev.log")
    }

    /// Holds the folder to the trust domain that it was made for.
    fn belongs_to(&self, trust_domain: &TrustDomain) -> Result<(), Failure> {
        let path = self.path.join(MARKER);
        let found = runtime::files::read_limited(&path, MAX_NAME)
            .map_err(|error| Failure::chain(&error))?;
        let Some(found) = found else {
            let content = format!("{trust_domain}\n");
            return runtime::files::write_private(&path, content.as_bytes())
                .map_err(|error| Failure::chain(&error));
        };
        let found = String::from_utf8_lossy(&found);
        if found.trim() == trust_domain.name() {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{} holds the state of trust domain {:?}, not of {:?}; use -trust-domain {}, another -dir, or remove the folder",
            self.path.display(),
            found.trim(),
            trust_domain.name(),
            found.trim(),
        )))
    }
}

/// The folder where none is named.
pub(crate) fn default_path(environment: &Environment) -> Result<PathBuf, Failure> {
    // XDG Base Directory: a relative path is to be taken for no path.
    let absolute = |name| {
        let path = environment.get(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .ok_or_else(|| Failure::new("no state folder is known; set HOME, or use -dir"))?;
    Ok(state.join("signet/dev"))
}

/// Makes the folder, or checks that the one that is there is ours and closed to others: it holds the
/// keys of a trust domain.
fn own(path: &Path) -> Result<(), Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| failed("make the state folder", path, &error))?;
    let unreadable = |error: io::Error| failed("look at the state folder", path, &error);
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.uid() != Uid::effective().as_raw() {
        return Err(Failure::new(format!(
            "the state folder {} belongs to another user; choose another -dir",
            path.display()
        )));
    }
    // Whatever else the user keeps here is not for us to close or to mix with keys.
    let mut foreign = false;
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        // A crash may have come between the lock and the marker.
        foreign |= name != LOCK && !name.to_string_lossy().starts_with(MARKER);
    }
    let marked = path.join(MARKER).try_exists().map_err(unreadable)?;
    if foreign && !marked {
        return Err(Failure::new(format!(
            "{} holds other files, and no state of `signet dev`; choose an empty or a new -dir",
            path.display()
        )));
    }
    if metadata.mode() & 0o077 != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(0o700))
            .map_err(|error| failed("close the state folder to others", path, &error))?;
    }
    Ok(())
}

fn lock(folder: &Path) -> Result<Flock<File>, Failure> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| failed("open", &path, &error))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_file, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => Failure::new(format!(
            "another `signet dev` runs in {}; end it, or choose another -dir",
            folder.display()
        )),
        errno => failed("lock", &path, &io::Error::from(errno)),
    })
}

fn failed(tried: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!(
        "could not {tried} {}: {}",
        path.display(),
        os_error(error)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust_domain(name: &str) -> TrustDomain {
        TrustDomain::parse(name).unwrap()
    }

    #[test]
    fn a_folder_is_private_and_kept_for_its_trust_domain() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        drop(Folder::open(&path, &trust_domain("example.org")).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        drop(Folder::open(&path, &trust_domain("example.org")).unwrap());
        let refusal = Folder::open(&path, &trust_domain("other.org")).unwrap_err();
        assert!(
            refusal
                .to_string()
                .contains("holds the state of trust domain \"example.org\", not of \"other.org\""),
            "{refusal}"
        );
    }

    #[test]
    fn an_open_folder_that_is_ours_is_closed() {
        let parent = tempfile::tempdir().unwrap();
        std::fs::set_permissions(parent.path(), Permissions::from_mode(0o755)).unwrap();
        drop(Folder::open(parent.path(), &trust_domain("example.org")).unwrap());
        assert_eq!(
            std::fs::metadata(parent.path()).unwrap().mode() & 0o777,
            0o700
        );
    }

    #[test]
    fn a_folder_with_other_files_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        std::fs::set_permissions(parent.path(), Permissions::from_mode(0o755)).unwrap();
        std::fs::write(parent.path().join("letter.txt"), "").unwrap();
        let refusal = Folder::open(parent.path(), &trust_domain("example.org")).unwrap_err();
        assert!(
            refusal.to_string().contains("holds other files"),
            "{refusal}"
        );
        assert_eq!(
            std::fs::metadata(parent.path()).unwrap().mode() & 0o777,
            0o755
        );
    }

    #[test]
    fn two_processes_cannot_use_one_folder() {
        let parent = tempfile::tempdir().unwrap();
        let first = Folder::open(parent.path(), &trust_domain("example.org")).unwrap();
        let refusal = Folder::open(parent.path(), &trust_domain("example.org")).unwrap_err();
        assert!(
            refusal
                .to_string()
                .starts_with("another `signet dev` runs in ")
        );
        drop(first);
        assert!(Folder::open(parent.path(), &trust_domain("example.org")).is_ok());
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused_before_anything_is_made() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("x".repeat(120));
        let refusal = Folder::open(&path, &trust_domain("example.org")).unwrap_err();
        assert!(refusal.to_string().contains("choose a shorter -dir"));
        assert!(!path.try_exists().unwrap());
    }

    #[test]
    fn the_default_is_below_the_users_state_directory() {
        let environment = |pairs: &[(&str, &str)]| {
            Environment::new(
                pairs
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
            )
        };
        for (pairs, path) in [
            (&[("HOME", "/h")][..], Some("/h/.local/state/signet/dev")),
            (
                &[("HOME", "/h"), ("XDG_STATE_HOME", "/s")],
                Some("/s/signet/dev"),
            ),
            (
                &[("HOME", "/h"), ("XDG_STATE_HOME", "s")],
                Some("/h/.local/state/signet/dev"),
            ),
            (&[("HOME", "")], None),
        ] {
            assert_eq!(
                default_path(&environment(pairs)).ok(),
                path.map(PathBuf::from)
            );
        }
    }
}
