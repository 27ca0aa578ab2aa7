//! One process's directory in `/proc`, opened once.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{Mode, fstatat};

use super::Program;

/// `/proc/PID/stat` is one line of 52 numbers and a name of at most 64 bytes.
const MAX_STAT: usize = 4096;

/// `/proc/PID/status` grows with the supplementary groups, of which there are at most 65536.
const MAX_STATUS: usize = 1 << 20;

/// Most files of a process are shorter.
const USUAL_BYTES: usize = 2048;

/// Leave to look below `/proc/PID`, whoever has that pid later: the kernel answers "no such
/// process" below the directory of a process that is gone.
#[derive(Debug)]
pub(super) struct ProcDir(OwnedFd);

impl ProcDir {
    /// Of the process that has this pid in `all`.
    pub(super) fn open(all: BorrowedFd<'_>, pid: u32) -> io::Result<Self> {
        let name = pid.to_string();
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(Self(openat(all, name.as_str(), flags, Mode::empty())?))
    }

    pub(super) fn read(&self, name: &str, max: usize) -> io::Result<Vec<u8>> {
        let mut file = self.open_below(name, OFlag::O_NOFOLLOW)?;
        let mut bytes = vec![0; USUAL_BYTES];
        let read = file.read(&mut bytes)?;
        bytes.truncate(read);
        // The kernel makes these texts in one piece, and gives all of one if there is room for it.
        let is_whole = read < USUAL_BYTES && bytes.ends_with(b"\n");
        if !is_whole && read > 0 {
            let limit = u64::try_from(max).unwrap_or(u64::MAX);
            // One byte more than allowed tells "too large" from "exactly as large".
            file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        }
        if bytes.len() > max {
            let text = format!("`{name}` is larger than {max} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        Ok(bytes)
    }

    pub(super) fn link(&self, name: &str) -> io::Result<OsString> {
        Ok(readlinkat(&self.0, one_component(name)?)?)
    }

    pub(super) fn exe(&self) -> io::Result<File> {
        // This link is the kernel's: it leads to the open file itself and not along a path.
        self.open_below("exe", OFlag::empty())
    }

    /// The file behind `exe`, without opening it.
    pub(super) fn program(&self) -> io::Result<Program> {
        let found = fstatat(&self.0, "exe", AtFlags::empty())?;
        Ok(Program {
            device: found.st_dev,
            inode: found.st_ino,
        })
    }

    pub(super) fn start_time(&self) -> io::Result<u64> {
        let stat = self.read("stat", MAX_STAT)?;
        start_time_in_stat(&stat)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "`stat` has no start time"))
    }

    /// The effective user and group id.
    pub(super) fn effective_ids(&self) -> io::Result<(u32, u32)> {
        let status = self.read("status", MAX_STATUS)?;
        effective_ids_in_status(&status)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "`status` has no ids"))
    }

    pub(super) fn is_running_since(&self, start_time: u64) -> bool {
        self.read("stat", MAX_STAT).is_ok_and(|stat| {
            let ended = matches!(
                fields_after_name(&stat).next(),
                None | Some(b"Z" | b"X" | b"x")
            );
            !ended && start_time_in_stat(&stat) == Some(start_time)
        })
    }

    fn open_below(&self, name: &str, flags: OFlag) -> io::Result<File> {
        let flags = flags | OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        Ok(File::from(openat(
            &self.0,
            one_component(name)?,
            flags,
            Mode::empty(),
        )?))
    }
}

/// The 22nd field of `/proc/PID/stat`: when the process started, in clock ticks since boot.
///
/// The second field is a name that its process chooses, in parentheses, and may contain anything;
/// the last closing parenthesis ends it.
pub fn start_time_in_stat(stat: &[u8]) -> Option<u64> {
    // The first field after the name is the third.
    let field = fields_after_name(stat).nth(22 - 3)?;
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// The second numbers of the lines `Uid:` and `Gid:`. The name that the process chooses comes before
/// them, with its newlines escaped.
pub(super) fn effective_ids_in_status(status: &[u8]) -> Option<(u32, u32)> {
    // The name may be no UTF-8; what counts here is.
    let status = String::from_utf8_lossy(status);
    let id = |label: &str| {
        let mut lines = status.lines();
        let numbers = lines.find_map(|line| line.strip_prefix(label))?;
        numbers.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    Some((id("Uid:")?, id("Gid:")?))
}

fn fields_after_name(stat: &[u8]) -> impl Iterator<Item = &[u8]> {
    let name_end = stat.iter().rposition(|byte| *byte == b')');
    let rest = name_end
        .and_then(|end| stat.get(end + 1..))
        .unwrap_or_default();
    rest.split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty())
}

/// The directory `/proc`, if it numbers processes as the kernel numbers them for us: in a foreign one a pid means
/// another process.
///
/// It is looked at until it is ours, and then kept: whatever is mounted over it later, the pids in it stay ours.
pub(super) fn of_our_pid_namespace() -> Option<BorrowedFd<'static>> {
    static OURS: OnceLock<OwnedFd> = OnceLock::new();
    if OURS.get().is_none() {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let found = open("/proc", flags, Mode::empty()).ok()?;
        let shown = readlinkat(&found, "self").ok()?;
        if shown.to_str() != Some(std::process::id().to_string().as_str()) {
            return None;
        }
        // Whoever came first has found the same.
        let _ = OURS.set(found);
    }
    OURS.get().map(AsFd::as_fd)
}

/// Whether this is how the kernel answers below the directory of a process that is gone.
pub(super) fn means_exited(error: &io::Error) -> bool {
    [Errno::ENOENT, Errno::ESRCH]
        .into_iter()
        .any(|errno| error.raw_os_error() == Some(errno as i32))
}

fn one_component(name: &str) -> io::Result<&str> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not the name of one file",
        ));
    }
    Ok(name)
}
