//! The one signal by which a process ends.
//!
//! Whoever may end the process holds a [`ShutdownTrigger`]; everything that must end with it holds
//! a [`Shutdown`]. The first reason given stays: later ones are consequences.

use std::sync::Arc;

use tokio::sync::watch;

/// Why the process is to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// Somebody asked for it: a signal, or the end of the work. The exit code is 0.
    Requested(&'static str),
    /// Something this process cannot live without has failed. The exit code is not 0.
    Failed(&'static str),
}

impl Reason {
    /// The words for the log.
    pub fn text(&self) -> &'static str {
        match self {
            Self::Requested(text) | Self::Failed(text) => text,
        }
    }

    /// Whether the process ends by a failure.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

/// Asks the process to end.
#[derive(Clone, Debug)]
pub struct ShutdownTrigger(Arc<watch::Sender<Option<Reason>>>);

/// Learns that the process is to end.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<Option<Reason>>);

impl Shutdown {
    /// Makes the pair.
    pub fn new() -> (ShutdownTrigger, Self) {
        let (sender, receiver) = watch::channel(None);
        (ShutdownTrigger(Arc::new(sender)), Self(receiver))
    }

    /// Waits until shutdown is requested. Once nobody is left who could, waits forever.
    pub async fn requested(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether shutdown has been requested.
    pub fn is_requested(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// The first reason that was given.
    pub fn reason(&self) -> Option<Reason> {
        *self.0.borrow()
    }
}

impl ShutdownTrigger {
    /// Requests shutdown. Only the first reason counts.
    pub fn trigger(&self, reason: Reason) {
        self.0.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(reason);
            }
            first
        });
    }

    /// Another receiver of this signal.
    pub fn subscribe(&self) -> Shutdown {
        Shutdown(self.0.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_receiver_learns_of_it_also_late_ones() {
        let (trigger, early) = Shutdown::new();
        assert!(!early.is_requested());
        let mut waiting = Box::pin(early.requested());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        trigger.trigger(Reason::Requested("test"));
        waiting.await;
        trigger.subscribe().requested().await;
        assert!(early.is_requested());
    }

    #[test]
    fn the_first_reason_stays() {
        let (trigger, shutdown) = Shutdown::new();
        trigger.trigger(Reason::Failed("first"));
        trigger.trigger(Reason::Requested("second"));
        assert_eq!(shutdown.reason(), Some(Reason::Failed("first")));
    }

    #[tokio::test]
    async fn a_lost_trigger_is_no_request() {
        let (trigger, shutdown) = Shutdown::new();
        drop(trigger);
        let mut waiting = Box::pin(shutdown.requested());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(!shutdown.is_requested());
    }
}
