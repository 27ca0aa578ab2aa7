//! Whether this process is live, and whether it is ready to serve.
//!
//! Each component reports for itself; the process is ready when all are. A start-up step that ends
//! holds a [`ReadinessGuard`]; a component whose state comes and goes holds a [`Health`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// What one component says of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum State {
    /// It does its work.
    Ready,
    /// It cannot serve now, and will again when what it waits for comes. The words say what.
    NotReady(Cow<'static, str>),
    /// It cannot recover by itself: the process is to be restarted. The words say why.
    NotLive(Cow<'static, str>),
}

/// The states of all components.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<BTreeMap<&'static str, State>>>);

/// A step of the start. It is done when this is dropped.
#[derive(Debug)]
#[must_use = "dropping it says that the step is done"]
pub struct ReadinessGuard(Health);

/// One component's voice.
#[derive(Clone, Debug)]
pub struct Health {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// No components yet, hence ready.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeMap::new())))
    }

    /// Holds readiness back until the guard is dropped.
    pub fn register(&self, name: &'static str) -> ReadinessGuard {
        ReadinessGuard(self.component(name))
    }

    /// Adds a component that reports for itself; until it first does, it is starting.
    pub fn component(&self, name: &'static str) -> Health {
        let health = Health {
            name,
            readiness: self.clone(),
        };
        health.report(State::NotReady("starting".into()));
        health
    }

    /// Whether all components are ready.
    pub fn is_ready(&self) -> bool {
        all_ready(&self.0.borrow())
    }

    /// Whether no component has given up.
    pub fn is_live(&self) -> bool {
        !self
            .0
            .borrow()
            .values()
            .any(|state| matches!(state, State::NotLive(_)))
    }

    /// Every component with its state, by name.
    pub fn states(&self) -> BTreeMap<&'static str, State> {
        self.0.borrow().clone()
    }

    /// Waits until all components are ready.
    pub async fn ready(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.0.subscribe().wait_for(all_ready).await;
    }

    /// Waits until some component reports a state that differs from its last.
    pub fn changes(&self) -> watch::Receiver<BTreeMap<&'static str, State>> {
        self.0.subscribe()
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl ReadinessGuard {
    /// Says that the step is done.
    pub fn ready(self) {
        drop(self);
    }
}

impl Drop for ReadinessGuard {
    fn drop(&mut self) {
        self.0.report(State::Ready);
    }
}

impl Health {
    /// Reports the component's state.
    pub fn report(&self, state: State) {
        self.readiness.0.send_if_modified(|states| {
            let changed = states.get(self.name) != Some(&state);
            if changed {
                states.insert(self.name, state);
            }
            changed
        });
    }

    /// Reports that the component does its work.
    pub fn ready(&self) {
        self.report(State::Ready);
    }

    /// Reports that the component cannot serve now.
    pub fn not_ready(&self, why: impl Into<Cow<'static, str>>) {
        self.report(State::NotReady(why.into()));
    }

    /// Reports that the component cannot recover.
    pub fn not_live(&self, why: impl Into<Cow<'static, str>>) {
        self.report(State::NotLive(why.into()));
    }
}

fn all_ready(states: &BTreeMap<&'static str, State>) -> bool {
    states.values().all(|state| *state == State::Ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn is_ready_when_the_last_guard_is_gone() {
        let readiness = Readiness::new();
        let first = readiness.register("listener");
        let second = readiness.register("bundle");
        first.ready();
        assert!(!readiness.is_ready());
        let mut ready = Box::pin(readiness.ready());
        assert!(futures_util::poll!(&mut ready).is_pending());
        drop(second);
        ready.await;
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_component_that_waits_is_live_but_not_ready() {
        let readiness = Readiness::new();
        let health = readiness.component("upstream");
        health.ready();
        assert!(readiness.is_ready());
        health.not_ready("server is gone");
        assert!(!readiness.is_ready());
        assert!(readiness.is_live());
        let why = State::NotReady("server is gone".into());
        assert_eq!(readiness.states(), BTreeMap::from([("upstream", why)]));
    }

    #[test]
    fn a_component_that_gave_up_is_neither_live_nor_ready() {
        let readiness = Readiness::new();
        readiness.component("store").not_live("disk is gone");
        assert!(!readiness.is_live());
        assert!(!readiness.is_ready());
    }
}
