//! The addresses that a process listens on.

use std::num::ParseIntError;

use serde::Deserialize;

use super::{Problems, given};

/// Where health is shown unless the file says otherwise: SPIRE's address, port and paths.
const LOCALHOST: &str = "localhost";
const DEFAULT_HEALTH_PORT: i64 = 80;
const DEFAULT_LIVE_PATH: &str = "/live";
const DEFAULT_READY_PATH: &str = "/ready";

/// An address to listen on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostPort {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// Zero leaves the choice to the kernel.
    pub port: u16,
}

/// The listener that says whether the process is live and ready.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HealthConfig {
    /// Where it listens.
    pub address: HostPort,
    /// `live_path`.
    pub live_path: String,
    /// `ready_path`.
    pub ready_path: String,
}

/// The section `health_checks` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct HealthChecks {
    listener_enabled: Option<bool>,
    bind_address: Option<String>,
    bind_port: Option<String>,
    live_path: Option<String>,
    ready_path: Option<String>,
}

impl HostPort {
    /// Reads an address whose port stands at `path`. No host is `localhost`.
    pub fn read(
        path: &str,
        host: Option<&str>,
        port: i64,
        problems: &mut Problems,
    ) -> Option<Self> {
        Some(Self {
            host: given(host)
                .unwrap_or(LOCALHOST)
                .trim_matches(['[', ']'])
                .to_owned(),
            port: problems.port(path, port)?,
        })
    }
}

impl HealthChecks {
    /// The listener, if there is to be one.
    pub fn read(self, problems: &mut Problems) -> Option<HealthConfig> {
        if self.listener_enabled != Some(true) {
            return None;
        }
        let key = "health_checks.bind_port";
        let port = given(self.bind_port.as_deref()).map_or(Ok(DEFAULT_HEALTH_PORT), |port| {
            port.parse()
                .map_err(|_number: ParseIntError| format!("`{port}` is not a port"))
        });
        let port = problems.take(key, port)?;
        let path = |path, default: &str| given(path).unwrap_or_else(|| default.to_owned());
        Some(HealthConfig {
            address: HostPort::read(key, self.bind_address.as_deref(), port, problems)?,
            live_path: path(self.live_path, DEFAULT_LIVE_PATH),
            ready_path: path(self.ready_path, DEFAULT_READY_PATH),
        })
    }
}
