//! Who may be what in a trust domain: which SPIFFE IDs are members, agents or workloads.

use crate::{spiffe_id::SpiffeId, trust_domain::TrustDomain};

/// What a SPIFFE ID is used as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Anything with a path in the trust domain, such as a parent of entries.
    Member,
    /// An agent: `/spire/agent/…`.
    Agent,
    /// A workload: anything with a path outside of `/spire`.
    Workload,
}

impl Role {
    /// Checks that `id` may be used in this role in `own`, the trust domain of the server.
    pub fn check(self, id: &SpiffeId, own: &TrustDomain) -> Result<(), NamespaceError> {
        let problem = if !id.is_member_of(own) {
            Problem::Foreign
        } else if !id.has_path() {
            // X509-SVID 3.1: a leaf's SPIFFE ID has a path.
            Problem::NoPath
        } else if self == Self::Agent && !id.is_agent() {
            Problem::NotAgentPath
        } else if self == Self::Workload && id.is_reserved() {
            Problem::ReservedPath
        } else {
            return Ok(());
        };
        Err(NamespaceError {
            id: id.clone(),
            own: own.clone(),
            role: self,
            problem,
        })
    }

    fn noun(self) -> &'static str {
        match self {
            Self::Member => "a member of",
            Self::Agent => "an agent in",
            Self::Workload => "a workload in",
        }
    }
}

/// Why a SPIFFE ID cannot be used in a role. The messages are those that operators of SPIRE know.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{:?} is not {} trust domain {:?}{}", id.as_str(), self.noun(), own.name(), problem.suffix())]
pub struct NamespaceError {
    id: SpiffeId,
    own: TrustDomain,
    role: Role,
    problem: Problem,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Problem {
    Foreign,
    NoPath,
    NotAgentPath,
    ReservedPath,
}

impl Problem {
    fn suffix(self) -> &'static str {
        match self {
            Self::Foreign => "",
            Self::NoPath => "; path is empty",
            Self::NotAgentPath => "; path is not in the agent namespace",
            Self::ReservedPath => "; path is in the reserved namespace",
        }
    }
}

impl NamespaceError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self.problem {
            Problem::Foreign => "foreign_trust_domain",
            Problem::NoPath => "path_empty",
            Problem::NotAgentPath => "not_agent_namespace",
            Problem::ReservedPath => "reserved_namespace",
        }
    }

    /// A foreign ID is told to be no member, whatever it was to be used as.
    fn noun(&self) -> &'static str {
        match self.problem {
            Problem::Foreign => Role::Member.noun(),
            _ => self.role.noun(),
        }
    }
}
