//! What workloads may have of their socket: the block `limits` among our own keys.

use runtime::config::Problems;
use runtime::listen::{self, Rate, Share};
use serde::Deserialize;

/// The shares of the socket, as they are written. What is not written is the default.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Limits {
    process: Numbers,
    container: Numbers,
    user: Numbers,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Numbers {
    connections: Option<i64>,
    streams: Option<i64>,
    calls_per_second: Option<i64>,
    calls_burst: Option<i64>,
}

/// What a process, a container, and a user outside of containers may have of the workloads' socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shares {
    pub process: Share,
    pub container: Share,
    pub user: Share,
}

impl Default for Shares {
    fn default() -> Self {
        let usual = listen::Limits::workload();
        Self {
            process: usual.process,
            container: usual.container,
            user: usual.user,
        }
    }
}

impl Limits {
    pub(super) fn read(&self, problems: &mut Problems) -> Shares {
        let usual = Shares::default();
        Shares {
            process: self.process.read("process", usual.process, problems),
            container: self.container.read("container", usual.container, problems),
            user: self.user.read("user", usual.user, problems),
        }
    }
}

impl Numbers {
    fn read(&self, holder: &str, usual: Share, problems: &mut Problems) -> Share {
        let mut number = |key: &str, written: Option<i64>, least: u32, usual: u32| {
            let Some(written) = written else { return usual };
            let number = u32::try_from(written).ok();
            let number = number.filter(|number| (least..=MOST).contains(number));
            let refused = number.ok_or_else(|| format!("must be from {least} to {MOST}"));
            let path = format!("signet.limits.{holder}.{key}");
            problems.take(&path, refused).unwrap_or(usual)
        };
        let share = |usual: usize| u32::try_from(usual).unwrap_or(MOST);
        let connections = number("connections", self.connections, 1, share(usual.connections));
        let streams = number("streams", self.streams, 1, share(usual.streams));
        let calls = Rate {
            // Zero is no limit, as of SPIRE's rates.
            per_second: number(
                "calls_per_second",
                self.calls_per_second,
                0,
                usual.calls.per_second,
            ),
            burst: number("calls_burst", self.calls_burst, 1, usual.calls.burst),
        };
        Share {
            connections: connections as usize,
            streams: streams as usize,
            calls,
        }
    }
}

/// More of anything is a mistake.
const MOST: u32 = 1_000_000;
