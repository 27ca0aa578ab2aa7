//! The life of a process that serves: from its first task to the last, and what signals do to it.

use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use runtime::clock::Clock;
use runtime::log::LogHandle;
use runtime::metrics::Metrics;
use runtime::readiness::Readiness;
use runtime::shutdown::{Reason, Shutdown};
use runtime::tasks::{Drained, TaskGroup};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::failure::{Failure, os_error};

/// How long connections and tasks may take to end after a signal. Kubernetes kills after 30 s.
const GRACE: Duration = Duration::from_secs(10);

/// What everything in one process shares.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    pub(crate) tasks: TaskGroup,
    stop: Stop,
}

impl Life {
    /// Begins. From here on SIGINT and SIGTERM are requests, and not the end.
    pub(crate) fn begin(clock: Clock) -> Result<Self, Failure> {
        let (trigger, _) = Shutdown::new();
        Ok(Self {
            clock,
            metrics: Metrics::new(),
            readiness: Readiness::new(),
            tasks: TaskGroup::new(trigger),
            stop: Stop::new()?,
        })
    }

    /// Waits for a step of the start; nothing if a signal came first.
    pub(crate) async fn unless_stopped<T>(&mut self, step: impl Future<Output = T>) -> Option<T> {
        let shutdown = self.tasks.shutdown();
        tokio::select! {
            biased;
            name = self.stop.next() => {
                self.tasks.trigger().trigger(Reason::Requested(name));
                None
            }
            () = shutdown.requested() => None,
            done = step => Some(done),
        }
    }

    /// Serves until a signal or a failure.
    pub(crate) async fn serve(&mut self) {
        let _never = self.unless_stopped(std::future::pending::<()>()).await;
    }

    /// Asks everything to end.
    pub(crate) fn stop(&self, why: &'static str) {
        self.tasks.trigger().trigger(Reason::Requested(why));
    }

    /// Lets everything end within a grace period; a second signal ends it at once.
    pub(crate) async fn end(mut self) -> Result<(), Failure> {
        let reason = self.tasks.shutdown().reason();
        let why = reason.map_or("", |reason| reason.text());
        info!(reason = why, "Shutting down");
        tokio::select! {
            biased;
            name = self.stop.next() => {
                warn!(signal = name, "Ended at once by a second signal");
                return Err(Failure::new(format!("ended at once by a second signal ({name})")));
            }
            drained = self.tasks.drain(GRACE) => {
                if let Drained::Aborted(late) = drained {
                    warn!(tasks = late.join(","), "Tasks did not end in time");
                }
            }
        }
        match reason.filter(Reason::is_failure) {
            None => {
                info!("Stopped gracefully");
                Ok(())
            }
            Some(reason) => {
                let why = reason.text();
                error!(reason = why, "Stopped by a failure");
                Err(Failure::new(format!(
                    "stopped by a failure of {why}; the log tells more"
                )))
            }
        }
    }

    /// Heeds the two signals that are SPIRE's, and would end the process otherwise: SIGUSR2 opens the log file
    /// anew, after a log rotation, and SIGUSR1 asks for plugins to be configured anew.
    pub(crate) fn heed_user_signals(&self, log: LogHandle) -> Result<(), Failure> {
        self.heed("cli.log_reopener", SignalKind::user_defined2(), move || {
            reopen(&log);
        })?;
        self.heed("cli.reconfigurer", SignalKind::user_defined1(), || {
            warn!("Asked to configure plugins anew, which takes a restart");
        })
    }

    /// Answers each signal of a kind until the end.
    fn heed(
        &self,
        task: &'static str,
        kind: SignalKind,
        answer: impl Fn() + Send + 'static,
    ) -> Result<(), Failure> {
        let mut asked = listen(kind)?;
        let shutdown = self.tasks.shutdown();
        self.tasks.spawn(task, async move {
            loop {
                tokio::select! {
                    () = shutdown.requested() => return,
                    _ = asked.recv() => answer(),
                }
            }
        });
        Ok(())
    }
}

fn reopen(log: &LogHandle) {
    match log.reopen() {
        Ok(()) => info!("Opened the log file anew"),
        Err(error) => {
            warn!(
                error = runtime::report::chain(&error),
                "Could not open the log file anew"
            );
        }
    }
}

/// The signals that ask for the end.
#[derive(Debug)]
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| {
        Failure::new(format!(
            "could not listen for signals: {}",
            os_error(&error)
        ))
    })
}

/// Closes what this process will make to others, as SPIRE does: no write for the group, nothing for
/// the rest. What must be open (a socket of workloads) gets its mode by name.
pub(crate) fn close_umask() {
    let least = Mode::from_bits_truncate(0o027);
    let found = umask(least);
    umask(found | least);
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    // One test, because a signal reaches every test of the process.
    #[tokio::test]
    async fn a_panic_of_a_component_and_a_second_signal_are_failures() {
        let mut life = Life::begin(Clock::system()).unwrap();
        life.tasks.spawn("fragile", async { panic!("injected") });
        life.serve().await;
        let failure = life.end().await.unwrap_err();
        assert!(
            failure.to_string().contains("failure of fragile"),
            "{failure}"
        );

        let mut life = Life::begin(Clock::system()).unwrap();
        life.tasks.spawn("stubborn", std::future::pending());
        raise(Signal::SIGTERM).unwrap();
        life.serve().await;
        assert!(life.tasks.shutdown().is_requested());
        raise(Signal::SIGINT).unwrap();
        let failure = life.end().await.unwrap_err();
        assert_eq!(
            failure.to_string(),
            "ended at once by a second signal (SIGINT)"
        );
    }
}
