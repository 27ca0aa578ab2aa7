//! What another process uses.

use std::fs;
use std::time::Duration;

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// A process that is watched from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    pid: u32,
}

/// Memory, in MiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) resident: f64,
    /// That part of it which no file backs.
    pub(crate) anonymous: f64,
}

impl Meter {
    pub(crate) fn of(pid: u32) -> Self {
        Self { pid }
    }

    /// The processor's time that all its threads have used.
    pub(crate) fn processor(self) -> Duration {
        let clock = clock_getcpuclockid(Pid::from_raw(self.pid.try_into().unwrap())).unwrap();
        clock.now().unwrap().into()
    }

    pub(crate) fn memory(self) -> Memory {
        let status = self.file("status");
        let mebibytes = |name| field(&status, name) / 1024.0;
        Memory {
            resident: mebibytes("VmRSS:"),
            anonymous: mebibytes("RssAnon:"),
        }
    }

    /// How often it has read from files. Sockets do not count: they are received from.
    pub(crate) fn file_reads(self) -> f64 {
        field(&self.file("io"), "syscr:")
    }

    fn file(self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid)).unwrap()
    }
}

fn field(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
