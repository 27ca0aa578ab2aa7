//! How a node proves to a server which node it is.

pub mod join_token;
pub mod k8s_psat;

use std::time::SystemTime;

use identity::selector::Selectors;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;

/// What a node proved. Only a verifier can make one, from the very evidence that it checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attested {
    agent_id: SpiffeId,
    selectors: Selectors,
    credential: Option<Credential>,
}

/// A credential that attests again and again until it expires, and so is worth stealing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Credential {
    /// SHA-256 of the name that its issuer gave it.
    pub fingerprint: [u8; 32],
    /// When it was issued. Of two credentials of one holder, the older one was replaced.
    pub issued_at: Option<SystemTime>,
    /// What it is bound to: the UID of a pod, say. It has one network address at a time.
    pub holder: String,
}

impl Attested {
    /// Makes the outcome of an attestation that can be repeated.
    ///
    /// An attestor speaks for its own part of the namespace alone: an agent id elsewhere would let a
    /// defect of one attestor take over the agents of another.
    fn new(
        attestor: &'static str,
        trust_domain: &TrustDomain,
        agent_id: SpiffeId,
        selectors: Selectors,
        credential: Option<Credential>,
    ) -> Result<Self, OutsideNamespace> {
        let own = agent_id
            .path()
            .strip_prefix("/spire/agent/")
            .and_then(|rest| rest.strip_prefix(attestor))
            .is_some_and(|rest| rest.starts_with('/'));
        if !own || !agent_id.is_member_of(trust_domain) {
            return Err(OutsideNamespace { attestor, agent_id });
        }
        Ok(Self {
            agent_id,
            selectors,
            credential,
        })
    }

    /// The SPIFFE ID of the agent on the node.
    #[must_use]
    pub fn agent_id(&self) -> &SpiffeId {
        &self.agent_id
    }

    /// What is known of the node.
    #[must_use]
    pub fn selectors(&self) -> &Selectors {
        &self.selectors
    }

    /// What the node attested with, where it can do so again.
    #[must_use]
    pub fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }
}

/// An attestor came to an agent id that is not its to give. A defect, and a hard error.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the agent ID `{agent_id}` is not in the namespace of the node attestor `{attestor}`")]
pub struct OutsideNamespace {
    attestor: &'static str,
    agent_id: SpiffeId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attestor_names_agents_in_its_own_namespace_alone() {
        let own = TrustDomain::parse("example.org").unwrap();
        let attested = |id: &str| {
            let id = SpiffeId::parse(id).unwrap();
            Attested::new("k8s_psat", &own, id, Selectors::default(), None)
        };
        assert!(attested("spiffe://example.org/spire/agent/k8s_psat/c/u").is_ok());
        for other in [
            "spiffe://example.org/spire/agent/join_token/x",
            "spiffe://example.org/spire/agent/k8s_psat2/x",
            "spiffe://example.org/spire/agent/k8s_psat",
            "spiffe://example.org/spire/server",
            "spiffe://example.org/k8s_psat/x",
            "spiffe://other.org/spire/agent/k8s_psat/c/u",
        ] {
            assert!(attested(other).is_err(), "{other}");
        }
    }
}
