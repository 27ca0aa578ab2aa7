//! How often one caller may ask for what costs the server a signature or a proof.
//!
//! An agent has a measure of its own, wherever it calls from. Who attests is nobody yet, so there the address
//! has one: wide enough for a thousand agents behind it to come back together after an outage.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use identity::spiffe_id::SpiffeId;
use parking_lot::Mutex;
use runtime::listen::{Rate, site};
use runtime::rate::Bucket;
use tokio::time::Instant;

use crate::config::RateLimits;

/// Attestations from one address.
const ATTESTATIONS: Rate = Rate::new(50, 1_000);
/// Signatures for one caller: two of a SPIRE agent's largest batches at once.
const SIGNATURES: Rate = Rate::new(500, 1_000);
/// With how many callers those are looked for that have their whole measure again.
const FIRST_SWEEP: usize = 1_024;

/// The limits of a server.
#[derive(Debug, Default)]
pub(crate) struct CallLimits {
    attestations: Option<Measures<IpAddr>>,
    signatures: Option<Measures<SpiffeId>>,
}

/// Why a call was not let through.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Exceeded {
    #[error("more than {at_once} at once are never let through")]
    TooMany { at_once: u32 },
    #[error("more than {per_second} a second; try again in {} ms", after.as_millis())]
    TooOften { per_second: u32, after: Duration },
}

impl CallLimits {
    /// The limits that the configuration asks for.
    pub(crate) fn new(asked: RateLimits) -> Self {
        Self {
            attestations: asked.attestation.then(|| Measures::new(ATTESTATIONS)),
            signatures: asked.signing.then(|| Measures::new(SIGNATURES)),
        }
    }

    /// Counts an attestation. Processes of this machine, which have no address, are not limited.
    pub(crate) fn attest(&self, from: Option<IpAddr>) -> Result<(), Exceeded> {
        match (&self.attestations, from) {
            (Some(measures), Some(address)) => measures.take(&site(address), 1),
            _ => Ok(()),
        }
    }

    /// Counts so many signatures for a caller.
    pub(crate) fn sign(&self, caller: &SpiffeId, count: usize) -> Result<(), Exceeded> {
        match &self.signatures {
            Some(measures) => measures.take(caller, u32::try_from(count).unwrap_or(u32::MAX)),
            None => Ok(()),
        }
    }
}

/// What each caller has left of one rate.
#[derive(Debug)]
struct Measures<K> {
    rate: Rate,
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K> {
    buckets: HashMap<K, Bucket>,
    sweep_at: usize,
}

impl<K: Clone + Eq + Hash> Measures<K> {
    fn new(rate: Rate) -> Self {
        let state = State {
            buckets: HashMap::new(),
            sweep_at: FIRST_SWEEP,
        };
        Self {
            rate,
            state: Mutex::new(state),
        }
    }

    fn take(&self, caller: &K, count: u32) -> Result<(), Exceeded> {
        let (rate, now) = (self.rate, Instant::now());
        let mut state = self.state.lock();
        if state.buckets.len() >= state.sweep_at {
            state.buckets.retain(|_, bucket| !bucket.is_full(now));
            state.sweep_at = FIRST_SWEEP.max(state.buckets.len() * 2);
        }
        let taken = match state.buckets.get_mut(caller) {
            Some(bucket) => bucket.take_all(count, rate, now),
            None => {
                let bucket = state.buckets.entry(caller.clone()).or_default();
                bucket.take_all(count, rate, now)
            }
        };
        taken.map_err(|wait| match wait {
            None => Exceeded::TooMany {
                at_once: rate.burst,
            },
            Some(after) => Exceeded::TooOften {
                per_second: rate.per_second,
                after,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn limits(on: bool) -> CallLimits {
        CallLimits::new(RateLimits {
            attestation: on,
            signing: on,
        })
    }

    fn agent(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://example.org/spire/agent/x/{name}")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn one_agent_that_asks_too_often_waits_alone() {
        let limits = limits(true);
        for _ in 0..2 {
            limits.sign(&agent("a"), 500).unwrap();
        }
        let after = Duration::from_secs(1);
        let refused = Exceeded::TooOften {
            per_second: 500,
            after,
        };
        assert_eq!(limits.sign(&agent("a"), 500), Err(refused));
        limits.sign(&agent("b"), 500).unwrap();
        tokio::time::advance(after).await;
        limits.sign(&agent("a"), 500).unwrap();
        assert!(limits.sign(&agent("a"), 1).is_err());
        assert_eq!(
            limits.sign(&agent("c"), 1_001),
            Err(Exceeded::TooMany { at_once: 1_000 })
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_agents_behind_one_address_attest_within_a_minute() {
        let limits = limits(true);
        let nat: IpAddr = "192.0.2.1".parse().unwrap();
        for _ in 0..1_000 {
            limits.attest(Some(nat)).unwrap();
        }
        assert!(limits.attest(Some(nat)).is_err());
        limits.attest(Some("192.0.2.2".parse().unwrap())).unwrap();
        limits.attest(None).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn adv_addresses_of_one_network_are_one_and_who_asked_long_ago_is_forgotten() {
        let limits = limits(true);
        for host in 0..1_000_u128 {
            let address = Ipv6Addr::from((0x2001_0db8_u128 << 96) + host);
            limits.attest(Some(address.into())).unwrap();
        }
        assert!(
            limits
                .attest(Some("2001:db8::ffff".parse().unwrap()))
                .is_err()
        );
        for network in 0..10_000_u128 {
            let address = Ipv6Addr::from((0x2001_0db9_u128 << 96) + (network << 64));
            limits.attest(Some(address.into())).unwrap();
            tokio::time::advance(Duration::from_millis(20)).await;
        }
        let measures = limits.attestations.as_ref().unwrap();
        let kept = measures.state.lock().buckets.len();
        assert!(kept <= 2 * FIRST_SWEEP, "{kept}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_limits_nothing_is_counted() {
        let limits = limits(false);
        for _ in 0..5_000 {
            limits.sign(&agent("a"), 500).unwrap();
            limits.attest(Some("192.0.2.1".parse().unwrap())).unwrap();
        }
    }
}
