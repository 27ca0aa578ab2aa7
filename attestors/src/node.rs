//! How a node proves to a server which node it is.

mod ecdsa;
pub mod http_challenge;
pub mod join_token;
mod json;
pub mod k8s_psat;
mod nonce;
pub mod path_template;
pub mod sshpop;
pub mod x509pop;

use std::error::Error;
use std::net::IpAddr;
use std::time::SystemTime;

use identity::selector::Selectors;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::x509::Certificate;

/// What a node proved. Only a verifier can make one, from the very evidence that it checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attested {
    agent_id: SpiffeId,
    selectors: Selectors,
    credential: Option<Credential>,
    lasting: Lasting,
}

/// What a server knows at the moment of an attestation.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The time.
    pub now: SystemTime,
    /// Where the agent calls from, if it does so over a network.
    pub from: Option<IpAddr>,
    /// The X.509 authorities of the server's own trust domain.
    pub authorities: &'a [Certificate],
}

/// How often a proof counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lasting {
    /// As often as it is given: the node may attest again.
    Repeatable,
    /// Only as long as the agent is not on record: whoever comes first is trusted.
    FirstUse,
}

/// The node attestors that SPIRE or this project has: the first segment after `/spire/agent/` in the
/// ids of their agents.
const ATTESTORS: [&str; 11] = [
    "aws_iid",
    "azure_imds",
    "azure_msi",
    "gcp_iit",
    "http_challenge",
    "join_token",
    "k8s_psat",
    "k8s_sat",
    "sshpop",
    "tpm_devid",
    "x509pop",
];

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
            lasting: Lasting::Repeatable,
        })
    }

    /// The same where the proof counts only so often.
    fn lasting_for(self, lasting: Lasting) -> Self {
        Self { lasting, ..self }
    }

    /// The same where an operator has said how agents are called, which may be outside of what the
    /// attestor has for itself; never in the part of another one.
    fn named(
        attestor: &'static str,
        trust_domain: &TrustDomain,
        agent_id: SpiffeId,
        selectors: Selectors,
    ) -> Result<Self, OutsideNamespace> {
        let rest = agent_id.path().strip_prefix("/spire/agent/");
        let first = rest.and_then(|rest| rest.split('/').next());
        let free = first.is_some_and(|first| first == attestor || !ATTESTORS.contains(&first));
        if !free || !agent_id.is_member_of(trust_domain) {
            return Err(OutsideNamespace { attestor, agent_id });
        }
        Ok(Self {
            agent_id,
            selectors,
            credential: None,
            lasting: Lasting::Repeatable,
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

    /// How often the proof counts.
    #[must_use]
    pub fn lasting(&self) -> Lasting {
        self.lasting
    }

    /// What the node attested with, where it can do so again.
    #[must_use]
    pub fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }
}

/// What kind of answer a refusal is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// The request makes no sense.
    Malformed,
    /// The node is refused.
    Denied,
    /// It could not be decided, which fails closed and may be tried again.
    Undecided,
}

/// Why a node was not attested, as each verifier tells it.
pub trait Refusal: Error + Sized + 'static {
    /// What kind of answer this is.
    fn decision(&self) -> Decision;

    /// A stable label for logs and metrics.
    fn reason(&self) -> &'static str;

    /// What the agent is told: this sentence and the cause right below it. What is deeper names
    /// addresses and files, and is for the log alone.
    fn sentence(&self) -> String {
        with_cause(self)
    }
}

/// An error and the cause right below it.
fn with_cause(error: &impl Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
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
    fn an_operator_names_agents_as_he_likes_and_never_as_those_of_another_attestor() {
        let own = TrustDomain::parse("example.org").unwrap();
        let named = |id: &str| {
            let id = SpiffeId::parse(id).unwrap();
            Attested::named("x509pop", &own, id, Selectors::default())
        };
        for id in [
            "spiffe://example.org/spire/agent/x509pop/x",
            "spiffe://example.org/spire/agent/cn/x",
        ] {
            assert!(named(id).is_ok(), "{id}");
        }
        for other in [
            "spiffe://example.org/spire/agent/join_token/x",
            "spiffe://example.org/spire/agent/k8s_psat/c/u",
            "spiffe://example.org/spire/server",
            "spiffe://example.org/x509pop/x",
            "spiffe://other.org/spire/agent/x509pop/x",
        ] {
            assert!(named(other).is_err(), "{other}");
        }
    }

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
