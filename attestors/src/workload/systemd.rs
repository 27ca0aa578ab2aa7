//! The workload attestor `systemd`: in which unit the caller runs, as systemd tells over D-Bus.
//!
//! systemd is shown the process itself, by its pidfd, where it can look at one (version 254); else it
//! is told the pid, which is the caller's own as long as the process lives, and that is looked at after
//! the answer. Units are what systemd has started: what a process writes of itself has no part in it.
//!
//! A process in no unit has no selectors.

mod address;
mod bus;
mod error;
#[cfg(any(test, feature = "test-util"))]
pub mod fake;
pub mod message;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use identity::selector::{Selector, Selectors};
use runtime::unix::Peer;
use tokio::time::timeout;

pub use self::address::{AddressError, bus_path};
use self::bus::{Answer, Bus, Call};
pub use self::error::SystemdError;
use self::message::Body;
use super::{Denial, Verdict};

/// The name of this attestor in configuration, and the kind of its selectors.
pub const NAME: &str = "systemd";

const SYSTEMD: &str = "org.freedesktop.systemd1";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const NO_UNIT: &str = "org.freedesktop.systemd1.NoUnitForPID";
/// How a systemd answers, or the bus in its place, that does not know a method.
const UNKNOWN: [&str; 3] = [
    "org.freedesktop.DBus.Error.UnknownMethod",
    "org.freedesktop.DBus.Error.AccessDenied",
    "org.freedesktop.DBus.Error.NotSupported",
];

/// What is asked, and for how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// The socket of the system bus.
    pub bus: PathBuf,
    /// How long all answers together may take.
    pub timeout: Duration,
}

impl Options {
    /// Where the system bus listens.
    pub const BUS: &str = "/run/dbus/system_bus_socket";
    /// systemd answers from its memory.
    pub const TIMEOUT: Duration = Duration::from_secs(4);
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bus: PathBuf::from(Self::BUS),
            timeout: Self::TIMEOUT,
        }
    }
}

/// The attestor.
#[derive(Clone, Debug)]
pub struct Systemd(Arc<Options>);

impl Systemd {
    /// An attestor. Nothing is connected before somebody asks.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self(Arc::new(options))
    }

    /// Finds out in which unit a process runs.
    pub async fn attest(&self, peer: &Arc<Peer>) -> Result<Verdict, SystemdError> {
        let limit = self.0.timeout;
        let asked = tokio::select! {
            biased;
            () = peer.exited() => return Ok(Verdict::Denied(Denial::Exited)),
            asked = timeout(limit, self.ask(peer)) => asked.unwrap_or(Err(SystemdError::Timeout(limit))),
        };
        // The process has lived all the while, so its pid was nobody else's.
        if !peer.is_alive() {
            return Ok(Verdict::Denied(Denial::Exited));
        }
        Ok(Verdict::Attested(asked?))
    }

    async fn ask(&self, peer: &Peer) -> Result<Selectors, SystemdError> {
        let mut bus = Bus::connect(&self.0.bus).await?;
        // Calls go to the connection that has the name now, so that the answer can be told from others'.
        let systemd = bus.owner(SYSTEMD).await?;
        let Some(unit) = unit_of(&mut bus, &systemd, peer).await? else {
            return Ok(Selectors::default());
        };
        let id = property(&mut bus, &systemd, &unit, "Id").await?;
        let path = property(&mut bus, &systemd, &unit, "FragmentPath").await?;
        let selectors = [format!("id:{id}"), format!("fragment_path:{path}")];
        let selectors = selectors.map(|value| Selector::new(NAME, &value));
        Ok(selectors.into_iter().collect::<Result<_, _>>()?)
    }
}

async fn unit_of(
    bus: &mut Bus,
    systemd: &str,
    peer: &Peer,
) -> Result<Option<String>, SystemdError> {
    let manager = |member| Call {
        destination: systemd,
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
        member,
    };
    if let Some(pidfd) = peer.pidfd().filter(|_| bus.passes_fds()) {
        let body = Body::number("h", 0);
        let answer = bus
            .call(manager("GetUnitByPIDFD"), body, Some(pidfd))
            .await?;
        if !answer
            .as_ref()
            .is_err_and(|error| UNKNOWN.contains(&error.as_str()))
        {
            return unit(answer);
        }
    }
    let body = Body::number("u", peer.pid());
    unit(bus.call(manager("GetUnitByPID"), body, None).await?)
}

fn unit(answer: Answer) -> Result<Option<String>, SystemdError> {
    match answer {
        Ok(body) if body.signature().starts_with('o') => {
            let path = body.text()?;
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'/');
            if path.starts_with('/') && path.bytes().all(is_plain) {
                Ok(Some(path))
            } else {
                Err(SystemdError::NotAUnit)
            }
        }
        Ok(_) => Err(SystemdError::NotAUnit),
        Err(error) if error == NO_UNIT => Ok(None),
        Err(error) => Err(SystemdError::Refused(error)),
    }
}

async fn property(
    bus: &mut Bus,
    systemd: &str,
    unit: &str,
    name: &str,
) -> Result<String, SystemdError> {
    let call = Call {
        destination: systemd,
        path: unit,
        interface: "org.freedesktop.DBus.Properties",
        member: "Get",
    };
    let answer = bus.call(call, Body::strings(&[UNIT, name]), None).await?;
    Ok(answer.map_err(SystemdError::Refused)?.text()?)
}

#[cfg(test)]
mod tests;
