//! Points at which a debug build can be told to die, as by `kill -9`.
//!
//! A test names one of them; the process kills itself when it gets there, with what it had made durable
//! by then and nothing else. A release has none of this: there [`reach`] does nothing, and nobody can arm
//! a point. The profile decides and not a feature, so that every test runs the very program that has the
//! points, and no second one is built.

#[cfg(debug_assertions)]
pub use self::armed::{VARIABLE, arm, reach};

/// Does nothing: this is a release.
#[cfg(not(debug_assertions))]
#[inline]
pub const fn reach(_scope: &str, _point: &str) {}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    /// The variable that names the point at which the process dies.
    pub const VARIABLE: &str = "SIGNET_FAILPOINT";

    /// Of the process, since that is what dies: whoever writes a file need not be handed it.
    static ARMED: OnceLock<String> = OnceLock::new();

    /// Lets the process die at this point, `SCOPE.POINT`. The first point that is named counts.
    pub fn arm(point: &str) {
        let _first = ARMED.set(point.to_owned());
    }

    /// Dies here, if this is the point. Nothing of the process runs on: no destructor, no flush.
    pub fn reach(scope: &str, point: &str) {
        let Some(armed) = ARMED.get() else { return };
        let is_here = armed
            .strip_prefix(scope)
            .and_then(|rest| rest.strip_prefix('.'))
            == Some(point);
        if is_here {
            // A process may always kill itself; and it does not return from that.
            let _never = kill(Pid::this(), Signal::SIGKILL);
        }
    }
}
