//! What keeps a process from seeing who calls it, found out before anybody does.

use super::proc;

/// The pid namespace of a machine's first processes, as every kernel numbers it.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Why a process cannot tell who some callers are, or any.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blindness {
    /// `/proc` is missing, or belongs to another pid namespace: nobody can be told.
    ForeignProc,
    /// This process is not in the machine's own pid namespace: processes outside of it have no pid here.
    OwnPidNamespace,
}

impl Blindness {
    /// Looks at this process's own place.
    pub fn of_this_process() -> Option<Self> {
        if proc::of_our_pid_namespace().is_none() {
            return Some(Self::ForeignProc);
        }
        let own = nix::fcntl::readlink("/proc/self/ns/pid").ok();
        let is_first = own.is_some_and(|own| own.to_str() == Some(FIRST_PID_NAMESPACE));
        (!is_first).then_some(Self::OwnPidNamespace)
    }

    /// The stable label for logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ForeignProc => "foreign_proc",
            Self::OwnPidNamespace => "own_pid_namespace",
        }
    }
}
