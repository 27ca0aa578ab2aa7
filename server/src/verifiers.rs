//! The server's halves of the node attestors that are configured.

use attestors::node::{http_challenge, join_token, k8s_psat, sshpop, x509pop};
use identity::spiffe_id::SpiffeIdError;

use crate::config::Config;

/// What nodes can prove themselves by, besides join tokens.
#[derive(Debug)]
pub(crate) struct Verifiers {
    pub(crate) k8s_psat: Option<k8s_psat::Verifier>,
    pub(crate) x509pop: Option<x509pop::Verifier>,
    pub(crate) sshpop: Option<sshpop::Verifier>,
    pub(crate) http_challenge: Option<http_challenge::Verifier>,
}

impl Verifiers {
    /// Makes them ready; no API server is asked before an agent comes.
    pub(crate) fn of(config: &Config) -> Result<Self, SpiffeIdError> {
        let own = || config.trust_domain.clone();
        let clusters = config.k8s_clusters.as_ref();
        let k8s_psat = clusters.map(|clusters| k8s_psat::Verifier::new(own(), clusters.clone()));
        let x509pop = config.x509pop.as_ref();
        let sshpop = config.sshpop.as_ref();
        let http_challenge = config.http_challenge.as_ref();
        Ok(Self {
            k8s_psat: k8s_psat.transpose()?,
            http_challenge: http_challenge
                .map(|options| http_challenge::Verifier::new(own(), options.clone())),
            sshpop: sshpop.map(|options| sshpop::Verifier::new(own(), options.clone())),
            x509pop: x509pop.map(|options| x509pop::Verifier::new(own(), options.clone())),
        })
    }

    /// Whether an agent that attested by this attestor could do so here.
    pub(crate) fn knows(&self, attestor: &str) -> bool {
        match attestor {
            join_token::NAME => true,
            k8s_psat::NAME => self.k8s_psat.is_some(),
            x509pop::NAME => self.x509pop.is_some(),
            sshpop::NAME => self.sshpop.is_some(),
            http_challenge::NAME => self.http_challenge.is_some(),
            _ => false,
        }
    }
}
