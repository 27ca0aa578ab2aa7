//! The names of a Unix socket, and that they stay its own.
//!
//! Whoever may write to a socket's folder can unlink the socket, or put one of their own in its place,
//! and no client can tell the two apart. So the names are looked at every second while the socket is
//! served, and what somebody took is taken back, with an alarm. Connections that were made before are
//! not touched by any of it.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bind::{self, BoundUnix, ListenError};
use crate::random;

/// How often the names are looked at. With the work of taking one back it is well within two seconds.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What had become of a name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Loss {
    /// There was nothing.
    Removed,
    /// Something else was there, which is gone now.
    Replaced,
}

/// A name that was not the socket's any more.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) name: PathBuf,
    pub(super) loss: Loss,
    /// Whether it leads to the socket again.
    pub(super) restored: Result<(), ListenError>,
}

impl Loss {
    /// A stable label for logs and metrics.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Removed => "socket_removed",
            Self::Replaced => "socket_replaced",
        }
    }

    fn of(name: &Path) -> Self {
        match std::fs::symlink_metadata(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Removed,
            _ => Self::Replaced,
        }
    }
}

impl BoundUnix {
    /// Gives the socket a further name in its folder, in place of what has it. It is a relative link,
    /// so that it leads to the socket wherever the folder is mounted. It stays when this is dropped.
    pub fn add_alias(&mut self, name: &str) -> Result<(), ListenError> {
        let alias = self.path.with_file_name(name);
        self.link(&alias)?;
        self.aliases.push(alias);
        Ok(())
    }

    /// Looks at all names and takes back those that are lost. The socket listens anew if its own name
    /// was; whoever connected by then has been accepted, or tries again.
    pub(super) fn restore(&mut self) -> Vec<Lost> {
        let mut lost = Vec::new();
        if !self.is_in_place() {
            lost.push(Lost {
                loss: Loss::of(&self.path),
                restored: self.put_again(),
                name: self.path.clone(),
            });
        }
        let taken = self.aliases.iter().filter(|alias| !self.leads_here(alias));
        let taken: Vec<PathBuf> = taken.cloned().collect();
        lost.extend(taken.into_iter().map(|alias| Lost {
            loss: Loss::of(&alias),
            restored: self.link(&alias),
            name: alias,
        }));
        lost
    }

    /// The folder is not made again: if it is gone, then so is what clients have of it.
    fn put_again(&mut self) -> Result<(), ListenError> {
        (self.listener, self.file) = bind::put(&self.path, self.mode)?;
        Ok(())
    }

    fn leads_here(&self, alias: &Path) -> bool {
        let own = self.path.file_name().map(Path::new);
        std::fs::read_link(alias).is_ok_and(|target| Some(target.as_path()) == own)
    }

    fn link(&self, alias: &Path) -> Result<(), ListenError> {
        let new = alias.with_file_name(format!(".{}", random::token_hex(8)));
        let linked = symlink(self.path.file_name().unwrap_or_default(), &new)
            .and_then(|()| std::fs::rename(&new, alias));
        linked.map_err(|error| {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(&new);
            bind::unix_error(alias, "make an alias")(error)
        })
    }
}
