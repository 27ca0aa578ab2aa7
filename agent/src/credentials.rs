//! What the agent shows to its server, and what it trusts: read anew for each connection.

use std::sync::Arc;

use arc_swap::ArcSwap;
use identity::bundle::Bundle;
use identity::x509::X509Svid;

/// The agent's own identity.
#[derive(Clone, Debug)]
pub struct AgentSvid {
    pub svid: X509Svid,
    /// Whether the server lets this agent attest again instead of renewing.
    pub reattestable: bool,
}

/// The agent's identity and the bundle of its trust domain, as they are now.
#[derive(Debug)]
pub struct Credentials {
    own: ArcSwap<AgentSvid>,
    trust: ArcSwap<Bundle>,
}

impl Credentials {
    pub fn new(own: Arc<AgentSvid>, trust: Arc<Bundle>) -> Self {
        Self {
            own: ArcSwap::new(own),
            trust: ArcSwap::new(trust),
        }
    }

    /// The identity to connect with.
    pub fn own(&self) -> Arc<AgentSvid> {
        self.own.load_full()
    }

    /// The bundle to check the server against.
    pub fn trust(&self) -> Arc<Bundle> {
        self.trust.load_full()
    }

    pub fn renew(&self, own: Arc<AgentSvid>) {
        self.own.store(own);
    }

    pub fn trust_now(&self, trust: Arc<Bundle>) {
        self.trust.store(trust);
    }
}
