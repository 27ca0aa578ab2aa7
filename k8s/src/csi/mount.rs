//! Mounts the folder of the agent's sockets where a pod's volume is, and takes it away again.
//!
//! The folder is mounted, not the socket: an agent that restarts puts a new socket into the folder, and
//! every pod sees it. The mount is writable on the node, so that SELinux can label it; the kubelet
//! makes it read-only in the containers, since the pod had to ask for that.
//!
//! Every folder on the way is opened without following a symbolic link, and what is done is done
//! through the open folder, so a path that changes meanwhile leads nowhere else.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::target::{MOUNT, Target};

/// The kubelet's other folders of volumes have this mode.
const FOLDER_MODE: Mode = Mode::from_bits_truncate(0o750);
/// How many mounts may lie over each other. An older driver put one more there at each restart of the
/// kubelet; a mount namespace holds 100,000.
const MAX_STACKED: usize = 200_000;
/// What the kernel writes about a descriptor is a few lines.
const MAX_FDINFO_BYTES: u64 = 4096;

/// The two folders: where pods' volumes are, and what is mounted there.
#[derive(Debug)]
pub(crate) struct Mounts {
    pods: PathBuf,
    sockets: PathBuf,
}

/// What a publication came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Published {
    Mounted,
    /// It was there already.
    Already,
    /// Another folder was there, as it is when the folder of the sockets was made anew.
    Replaced,
}

/// What was there to take away.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Unpublished {
    pub(crate) mounts: usize,
    /// Some were in use. They are out of the tree, and gone with their last user.
    pub(crate) busy: bool,
}

/// How a volume is.
#[derive(Debug)]
pub(crate) enum Condition {
    Mounted,
    NotMounted,
    /// Something else is mounted: the folder of the sockets was removed and made anew, say.
    Foreign,
    Unreadable(Errno),
}

/// Why a volume could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("unable to open `{}`, the folder of the agent's sockets", .path.display())]
    Sockets {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    #[error("unable to find the folder of the volume below `{}`", .0.display())]
    NoVolume(PathBuf),
    #[error("refused to follow a path that leads out of the pod's folder")]
    Diverted(#[source] Errno),
    #[error("unable to {tried}")]
    Failed {
        tried: &'static str,
        #[source]
        errno: Errno,
    },
    #[error("unable to read what is mounted on the target path")]
    MountId(#[source] std::io::Error),
    #[error("the kernel does not say what is mounted on the target path")]
    NoMountId,
    #[error("more than {MAX_STACKED} mounts lie over each other on the target path")]
    Endless,
}

impl MountError {
    /// The stable label of logs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Sockets { .. } => "sockets_folder",
            Self::NoVolume(_) => "no_volume_folder",
            Self::Diverted(_) => "path_diverted",
            Self::Failed { .. } => "mount_failed",
            Self::MountId(_) | Self::NoMountId => "mount_unknown",
            Self::Endless => "mounts_endless",
        }
    }
}

fn failed(tried: &'static str) -> impl FnOnce(Errno) -> MountError {
    move |errno| MountError::Failed { tried, errno }
}

impl Mounts {
    pub(crate) fn new(pods: PathBuf, sockets: PathBuf) -> Self {
        Self { pods, sockets }
    }

    pub(crate) fn pods(&self) -> &Path {
        &self.pods
    }

    /// Mounts the folder of the sockets. Once it is there, does nothing.
    pub(crate) fn publish(&self, target: &Target) -> Result<Published, MountError> {
        let sockets = self.sockets()?;
        let parent = self
            .parent(target)?
            .ok_or_else(|| MountError::NoVolume(self.pods.clone()))?;
        let made = match mkdirat(&parent, MOUNT, FOLDER_MODE) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(errno) => return Err(failed("create the target path")(errno)),
        };
        let mut published = Published::Mounted;
        for _ in 0..MAX_STACKED {
            let folder = open_below(&parent, MOUNT)?;
            if !is_mount_point(&folder, &parent)? {
                let mounted = bind(&sockets, &folder);
                if mounted.is_err() && made {
                    // The first error is the one to tell.
                    let _ = unlinkat(&parent, MOUNT, UnlinkatFlags::RemoveDir);
                }
                return mounted.map(|()| published);
            }
            if is_same(&folder, &sockets)? {
                return Ok(Published::Already);
            }
            drop(folder);
            unmount(&parent)?;
            published = Published::Replaced;
        }
        Err(MountError::Endless)
    }

    /// Takes away whatever is mounted, and the folder. Where nothing is, does nothing.
    pub(crate) fn unpublish(&self, target: &Target) -> Result<Unpublished, MountError> {
        let mut found = Unpublished::default();
        let Some(parent) = self.parent(target)? else {
            return Ok(found);
        };
        while let Some(folder) = look_below(&parent, MOUNT)? {
            if !is_mount_point(&folder, &parent)? {
                break;
            }
            if found.mounts == MAX_STACKED {
                return Err(MountError::Endless);
            }
            // An open folder would itself keep the mount busy.
            drop(folder);
            found.busy |= unmount(&parent)?;
            found.mounts += 1;
        }
        match unlinkat(&parent, MOUNT, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(found),
            Err(errno) => Err(failed("remove the target path")(errno)),
        }
    }

    /// Looks at a volume.
    pub(crate) fn condition(&self, target: &Target) -> Result<Condition, MountError> {
        let Some(parent) = self.parent(target)? else {
            return Ok(Condition::NotMounted);
        };
        let Some(folder) = look_below(&parent, MOUNT)? else {
            return Ok(Condition::NotMounted);
        };
        if !is_mount_point(&folder, &parent)? {
            return Ok(Condition::NotMounted);
        }
        if !is_same(&folder, &self.sockets()?)? {
            return Ok(Condition::Foreign);
        }
        let readable = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(match openat(&folder, ".", readable, Mode::empty()) {
            Ok(_) => Condition::Mounted,
            Err(errno) => Condition::Unreadable(errno),
        })
    }

    fn sockets(&self) -> Result<OwnedFd, MountError> {
        open_folder(&self.sockets).map_err(|errno| MountError::Sockets {
            path: self.sockets.clone(),
            errno,
        })
    }

    /// The folder that holds the target, or nothing if it is not there.
    fn parent(&self, target: &Target) -> Result<Option<OwnedFd>, MountError> {
        let mut folder = match open_folder(&self.pods) {
            Ok(folder) => folder,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(failed("open the kubelet's folder of pods")(errno)),
        };
        for name in target.folders() {
            match look_below(&folder, name)? {
                Some(below) => folder = below,
                None => return Ok(None),
            }
        }
        Ok(Some(folder))
    }
}

fn flags() -> OFlag {
    OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC
}

/// Opens a folder that the operator names; it may be a symbolic link.
fn open_folder(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, flags(), Mode::empty())
}

fn open_below(folder: &OwnedFd, name: &str) -> Result<OwnedFd, MountError> {
    let opened = openat(folder, name, flags() | OFlag::O_NOFOLLOW, Mode::empty());
    opened.map_err(|errno| match errno {
        // A file or a symbolic link where a folder should be.
        Errno::ENOTDIR | Errno::ELOOP => MountError::Diverted(errno),
        errno => failed("open a folder of the target path")(errno),
    })
}

fn look_below(folder: &OwnedFd, name: &str) -> Result<Option<OwnedFd>, MountError> {
    match open_below(folder, name) {
        Ok(folder) => Ok(Some(folder)),
        Err(MountError::Failed {
            errno: Errno::ENOENT,
            ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn bind(sockets: &OwnedFd, folder: &OwnedFd) -> Result<(), MountError> {
    let none = None::<&str>;
    let (from, to) = (handle(sockets), handle(folder));
    mount(
        Some(from.as_str()),
        to.as_str(),
        none,
        MsFlags::MS_BIND,
        none,
    )
    .map_err(failed("mount the folder of the agent's sockets"))
}

/// Takes the uppermost mount away; `true` says that it was in use.
fn unmount(parent: &OwnedFd) -> Result<bool, MountError> {
    let path = format!("{}/{MOUNT}", handle(parent));
    let flags = MntFlags::UMOUNT_NOFOLLOW;
    match umount2(path.as_str(), flags) {
        Ok(()) => Ok(false),
        // It shows a folder of sockets: nothing is written through it, so nothing is lost when it is
        // only taken out of the tree. A pod that hangs in its termination would be worse.
        Err(Errno::EBUSY) => umount2(path.as_str(), flags | MntFlags::MNT_DETACH)
            .map(|()| true)
            .map_err(failed("detach the target path")),
        Err(errno) => Err(failed("unmount the target path")(errno)),
    }
}

/// Whether something is mounted on a folder: it lies on another mount than the folder it is in.
fn is_mount_point(folder: &OwnedFd, parent: &OwnedFd) -> Result<bool, MountError> {
    Ok(mount_id(folder)? != mount_id(parent)?)
}

fn is_same(folder: &OwnedFd, other: &OwnedFd) -> Result<bool, MountError> {
    let file = |fd: &OwnedFd| {
        fstat(fd.as_fd())
            .map(|file| (file.st_dev, file.st_ino))
            .map_err(failed("look at the target path"))
    };
    Ok(file(folder)? == file(other)?)
}

fn mount_id(folder: &OwnedFd) -> Result<u64, MountError> {
    let mut text = String::new();
    let path = format!("/proc/self/fdinfo/{}", folder.as_raw_fd());
    File::open(path)
        .and_then(|file| file.take(MAX_FDINFO_BYTES).read_to_string(&mut text))
        .map_err(MountError::MountId)?;
    mount_id_in(&text).ok_or(MountError::NoMountId)
}

fn mount_id_in(fdinfo: &str) -> Option<u64> {
    let ids = fdinfo.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    ids?.trim().parse().ok()
}

/// A path that means the open folder, whatever its name has become.
fn handle(folder: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", folder.as_raw_fd())
}

#[cfg(test)]
mod tests;
