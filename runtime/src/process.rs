//! What a process that holds keys gives up at its start.
//!
//! Another process of the same user could else read its memory, by `/proc/PID/mem` or a debugger, and a
//! crash would leave its keys in a core file. And what it never does, the kernel can keep it from doing:
//! running programs, and writing anywhere but into its own folders.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope,
};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What is asked of Landlock. A kernel that knows less does less.
const KNOWN: ABI = ABI::V6;

/// Closes the memory of this process to others of its user, and leaves no core file. Root can still look.
pub fn hide_memory() -> io::Result<()> {
    prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// Raises the soft limit of open files to the hard one, and returns it.
///
/// A held connection takes three descriptors, and the usual soft limit of 1024 is there only for
/// programs that use `select`.
pub fn raise_open_file_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// How much of the sandbox the kernel holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sandbox {
    /// All of it.
    Whole,
    /// What this kernel knows of.
    Partial,
    /// Nothing: the kernel has no Landlock, or it is switched off.
    Unsupported,
}

impl Sandbox {
    /// The word for logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Partial => "partial",
            Self::Unsupported => "unsupported",
        }
    }
}

/// Why the sandbox could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A folder that is to stay writable cannot be opened.
    #[error("could not open the folder `{}`", .0.display())]
    Folder(PathBuf, #[source] landlock::PathFdError),
    /// The kernel refused.
    #[error("the kernel refused the sandbox")]
    Refused(#[from] landlock::RulesetError),
}

impl SandboxError {
    /// A stable label for logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Folder(..) => "sandbox_folder",
            Self::Refused(_) => "sandbox_refused",
        }
    }
}

/// Gives up, for this thread and all that it starts: to run a program, to write outside of these
/// folders, and to signal processes of others.
///
/// Reading is not touched, since a workload's program lies in the mounts of its container, which no rule
/// can name. But the kernel lets nobody in a sandbox look into a process outside of it any further than
/// any user may: `/proc/PID/exe` is closed, `status`, `stat` and `cgroup` are not.
pub fn enter_sandbox(writable: &[impl AsRef<Path>]) -> Result<Sandbox, SandboxError> {
    let writes = AccessFs::from_write(KNOWN);
    let mut rules = Ruleset::default()
        .handle_access(writes | AccessFs::Execute)?
        .scope(Scope::from_all(KNOWN))?
        .create()?;
    for folder in writable {
        let folder = folder.as_ref();
        let opened = PathFd::new(folder);
        let opened = opened.map_err(|error| SandboxError::Folder(folder.into(), error))?;
        rules = rules.add_rule(PathBeneath::new(opened, writes))?;
    }
    Ok(match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Sandbox::Whole,
        RulesetStatus::PartiallyEnforced => Sandbox::Partial,
        RulesetStatus::NotEnforced => Sandbox::Unsupported,
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Runs a look at the world in a thread of its own: a sandbox is for its thread and for ever.
    fn inside<T: Send>(writable: &[&Path], look: impl FnOnce() -> T + Send) -> Option<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| match enter_sandbox(writable).unwrap() {
                Sandbox::Unsupported => None,
                Sandbox::Whole | Sandbox::Partial => Some(look()),
            });
            inside.join().unwrap()
        })
    }

    #[test]
    fn inside_there_is_writing_in_the_own_folders_alone_and_no_program_runs() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [new, foreign] = [own.path(), other.path()].map(|folder| folder.join("file"));
        std::fs::write(&foreign, "old").unwrap();
        let looked = inside(&[own.path()], || {
            std::fs::write(&new, "new").unwrap();
            std::fs::rename(&new, own.path().join("renamed")).unwrap();
            let bound = std::os::unix::net::UnixListener::bind(own.path().join("socket"));
            bound.unwrap();
            let denied = [
                std::fs::write(&foreign, "new").unwrap_err(),
                std::fs::remove_file(&foreign).unwrap_err(),
                std::os::unix::net::UnixListener::bind(other.path().join("socket")).unwrap_err(),
                Command::new("true").spawn().unwrap_err(),
            ];
            denied.map(|error| error.kind())
        });
        // A kernel without Landlock has nothing to show.
        if let Some(denied) = looked {
            assert_eq!(denied, [io::ErrorKind::PermissionDenied; 4]);
        }
        assert_eq!(std::fs::read_to_string(&foreign).unwrap(), "old");
    }

    #[test]
    fn inside_one_reads_what_everybody_may_read_of_a_process_and_not_its_program() {
        let mut other = Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let of_it = |name: &str| format!("/proc/{}/{name}", other.id());
        let looked = inside(&[], || {
            for name in ["stat", "status", "cgroup"] {
                assert!(!std::fs::read(of_it(name)).unwrap().is_empty(), "{name}");
            }
            std::fs::read("/proc/self/cgroup").unwrap();
            std::fs::read_link(of_it("exe")).unwrap_err().kind()
        });
        if let Some(of_exe) = looked {
            assert_eq!(of_exe, io::ErrorKind::PermissionDenied);
        }
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
