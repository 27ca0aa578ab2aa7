//! Agents that were taken over from another server, and renewed there after they were listed.
//!
//! Between the last look at the other server and its end an agent may get an SVID that nobody told us of.
//! Without this it would be an SVID that was replaced, and an agent that joined by a token would end.

use identity::bundle::X509Authority;
use identity::x509::{Certificate, Signed};

use super::super::caller::Svid;
use crate::index::Snapshot;
use crate::records::agents::Agent;

/// Whether the agent shows an SVID that its former server signed after the one that is known.
///
/// An SVID from before is one that was replaced there. That the chain is good was seen in the handshake; who
/// signed is asked here by key, since a server below the former one can make a good chain for any agent.
pub(super) fn follows(agent: &Agent, svid: &Svid, snapshot: &Snapshot) -> bool {
    if agent.moved_from.is_empty() || svid.leaf.validity().not_after() <= agent.expires_at {
        return false;
    }
    let Some(own) = snapshot.bundles.own() else {
        return false;
    };
    let roots = &own.value.x509_authorities;
    let is_root_of_it = |root: &X509Authority| {
        agent.moved_from.contains(&root.authority_id()) && signed(&svid.leaf, &root.certificate)
    };
    roots.iter().any(is_root_of_it)
        || svid
            .above()
            .any(|issuer| is_below_a_root(&issuer, roots, agent) && signed(&svid.leaf, &issuer))
}

/// Whether this is an authority of the former server that one of the roots has signed.
fn is_below_a_root(issuer: &Certificate, roots: &[X509Authority], agent: &Agent) -> bool {
    let id = X509Authority::new(issuer.clone()).authority_id();
    agent.moved_from.contains(&id) && roots.iter().any(|root| signed(issuer, &root.certificate))
}

fn signed(certificate: &Certificate, issuer: &Certificate) -> bool {
    certificate.signed_by(issuer.public_key()) == Signed::Yes
}
