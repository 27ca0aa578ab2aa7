//! Where each agent is: the address of its last call, and when that was.
//!
//! In memory only, and only a hint: it tells a credential that is used at two places from one whose
//! owner has moved. Whoever can choose his address can be where he likes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use identity::spiffe_id::SpiffeId;
use parking_lot::Mutex;
use tokio::time::Instant;

/// An agent that called within this time is alive. SPIRE's agents call every five seconds.
const ALIVE_WITHIN: Duration = Duration::from_secs(30);

/// The map is cleared of agents that are no longer alive whenever it has grown by this many.
const ROOM: usize = 4096;

/// The last call of each agent: a handle that is cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Presence {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    last: HashMap<SpiffeId, (IpAddr, Instant)>,
    clear_at: usize,
}

/// Where an agent was seen last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) addr: IpAddr,
    /// Whether that is so short ago that it is there still.
    pub(crate) alive: bool,
}

impl Presence {
    /// Notes a call of an agent, made with the SVID that is in use.
    pub(crate) fn note(&self, agent: &SpiffeId, addr: IpAddr) {
        let now = Instant::now();
        let mut seen = self.seen.lock();
        if let Some(last) = seen.last.get_mut(agent) {
            *last = (addr, now);
            return;
        }
        if seen.last.len() >= seen.clear_at.max(ROOM) {
            seen.last
                .retain(|_, (_, at)| now.duration_since(*at) <= ALIVE_WITHIN);
            seen.clear_at = seen.last.len() + ROOM;
        }
        seen.last.insert(agent.clone(), (addr, now));
    }

    /// Where an agent was seen last.
    pub(crate) fn of(&self, agent: &SpiffeId) -> Option<Place> {
        let seen = self.seen.lock();
        let (addr, at) = seen.last.get(agent)?;
        Some(Place {
            addr: *addr,
            alive: at.elapsed() <= ALIVE_WITHIN,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(number: usize) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://example.org/spire/agent/x/{number}")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_is_alive_where_it_called_last_for_half_a_minute() {
        let presence = Presence::default();
        let [here, there] = ["10.0.0.1", "10.0.0.2"].map(|addr| addr.parse().unwrap());
        assert_eq!(presence.of(&agent(1)), None);
        presence.note(&agent(1), here);
        presence.note(&agent(1), there);
        let place = |alive| Some(Place { addr: there, alive });
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(presence.of(&agent(1)), place(true));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(presence.of(&agent(1)), place(false));
    }

    #[tokio::test(start_paused = true)]
    async fn agents_that_are_gone_do_not_fill_the_memory() {
        let presence = Presence::default();
        let addr = "10.0.0.1".parse().unwrap();
        for number in 0..ROOM {
            presence.note(&agent(number), addr);
        }
        tokio::time::advance(Duration::from_secs(31)).await;
        presence.note(&agent(ROOM), addr);
        assert_eq!(presence.seen.lock().last.len(), 1);
    }
}
