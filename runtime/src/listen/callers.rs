//! Processes that have connected a moment ago.
//!
//! A process that connects again and again is held by what it was held by before, and is in the container that it
//! was in. Only these two are remembered, and for a second or two: who it is, is found out for each call anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::limits::ContainerKey;
use crate::unix::{Credentials, Peer};

/// Each takes two descriptors for as long as it is remembered.
const MAX_REMEMBERED: usize = 64;

/// The processes that have connected to one listener, by their pids.
#[derive(Debug, Default)]
pub(super) struct Callers(Mutex<BTreeMap<u32, Remembered>>);

#[derive(Debug)]
struct Remembered {
    peer: Arc<Peer>,
    container: Option<ContainerKey>,
    // Whether it has connected since the last sweep.
    is_fresh: bool,
}

impl Callers {
    /// The process of a connection, if it is one of these, and its container. To be asked in the order of the
    /// connections, as [`Peer::again`] says.
    pub(super) fn again(
        &self,
        credentials: Credentials,
    ) -> Option<(Arc<Peer>, Option<ContainerKey>)> {
        let pid = credentials.pid?;
        let mut known = self.0.lock();
        let remembered = known.get_mut(&pid)?;
        let Some(peer) = remembered.peer.again(credentials) else {
            known.remove(&pid);
            return None;
        };
        remembered.is_fresh = true;
        Some((Arc::new(peer), remembered.container))
    }

    /// Remembers a process, if there is room.
    pub(super) fn remember(&self, peer: &Arc<Peer>, container: Option<ContainerKey>) {
        let mut known = self.0.lock();
        if known.len() < MAX_REMEMBERED {
            let remembered = Remembered {
                peer: Arc::clone(peer),
                container,
                is_fresh: true,
            };
            known.insert(peer.pid(), remembered);
        }
    }

    /// Forgets those that have not connected since the last sweep.
    pub(super) fn sweep(&self) {
        let keeps = |_: &u32, remembered: &mut Remembered| std::mem::take(&mut remembered.is_fresh);
        self.0.lock().retain(keeps);
    }

    /// Forgets all, and says whether there were any.
    pub(super) fn clear(&self) -> bool {
        !std::mem::take(&mut *self.0.lock()).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unix::tests::Sleeper;

    fn sleeper() -> (Sleeper, Arc<Peer>) {
        let sleeper = Sleeper::start();
        let peer = Arc::new(sleeper.peer());
        (sleeper, peer)
    }

    fn credentials(peer: &Peer) -> Credentials {
        Credentials {
            pid: Some(peer.pid()),
            uid: peer.uid(),
            gid: peer.gid(),
        }
    }

    #[tokio::test]
    async fn one_that_connects_again_is_remembered_until_it_has_not_for_a_while() {
        let callers = Callers::default();
        let (_process, peer) = sleeper();
        let container = Some(ContainerKey::of("one"));
        assert!(callers.again(credentials(&peer)).is_none());
        callers.remember(&peer, container);
        for _ in 0..3 {
            let (again, found) = callers.again(credentials(&peer)).unwrap();
            assert_eq!((again.pid(), found), (peer.pid(), container));
            callers.sweep();
        }
        callers.sweep();
        assert!(callers.again(credentials(&peer)).is_none());
        callers.remember(&peer, container);
        assert!(callers.clear() && !callers.clear());
        assert!(callers.again(credentials(&peer)).is_none());
    }

    #[tokio::test]
    async fn whoever_has_the_pid_of_one_that_ended_is_not_taken_for_it() {
        let callers = Callers::default();
        let (mut process, peer) = sleeper();
        callers.remember(&peer, None);
        process.kill();
        assert!(callers.again(credentials(&peer)).is_none());
        assert!(callers.0.lock().is_empty());
    }

    #[tokio::test]
    async fn so_many_are_remembered_and_no_more() {
        let callers = Callers::default();
        let all: Vec<_> = (0..=MAX_REMEMBERED).map(|_| sleeper()).collect();
        for (_, peer) in &all {
            callers.remember(peer, None);
        }
        assert_eq!(callers.0.lock().len(), MAX_REMEMBERED);
    }
}
