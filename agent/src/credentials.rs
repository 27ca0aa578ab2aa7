//! What the agent shows to its server, and what it trusts: read anew for each connection.

use std::sync::Arc;

use arc_swap::ArcSwap;
use identity::bundle::Bundle;
use identity::x509::{Certificate, X509Svid};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;

/// The agent's own identity.
#[derive(Clone, Debug)]
pub struct AgentSvid {
    pub svid: X509Svid,
    /// Whether the server lets this agent attest again instead of renewing.
    pub reattestable: bool,
}

impl AgentSvid {
    /// When it expires, for logs.
    pub fn not_after(&self) -> String {
        told(self.svid.leaf())
    }
}

/// When a certificate expires, for logs.
pub fn told(certificate: &Certificate) -> String {
    let not_after = OffsetDateTime::from(certificate.validity().not_after());
    // A time that cannot be written is none that a certificate can have.
    not_after.format(&Rfc3339).unwrap_or_default()
}

/// The agent's identity and the bundle of its trust domain, as they are now.
#[derive(Debug)]
pub struct Credentials {
    own: ArcSwap<AgentSvid>,
    renewed: watch::Sender<()>,
    is_replaced: watch::Sender<bool>,
    trust: ArcSwap<Bundle>,
}

/// While this is held, another identity may take the place of the one of now at the server, and is not here yet.
#[derive(Debug)]
#[must_use]
pub struct Replacing(Arc<Credentials>);

impl Drop for Replacing {
    fn drop(&mut self) {
        self.0.is_replaced.send_replace(false);
    }
}

impl Credentials {
    pub fn new(own: Arc<AgentSvid>, trust: Arc<Bundle>) -> Self {
        Self {
            own: ArcSwap::new(own),
            renewed: watch::Sender::new(()),
            is_replaced: watch::Sender::new(false),
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
        self.renewed.send_replace(());
    }

    /// Says that another identity is being asked for, which ends the one of now.
    pub fn replacing(self: &Arc<Self>) -> Replacing {
        self.is_replaced.send_replace(true);
        Replacing(Arc::clone(self))
    }

    /// Waits until nobody is [replacing](Self::replacing) the identity.
    pub async fn settled(&self) {
        // The sender is here.
        let _ = self.is_replaced.subscribe().wait_for(|is| !is).await;
    }

    /// Tells of every identity after the one of now.
    pub fn renewals(&self) -> watch::Receiver<()> {
        self.renewed.subscribe()
    }

    pub fn trust_now(&self, trust: Arc<Bundle>) {
        self.trust.store(trust);
    }
}
