//! Between the messages of SPIRE's API and our own types.

pub(crate) mod bundle;
pub(super) mod entry;
pub(super) mod relationship;

use std::error::Error;

use identity::namespace::{NamespaceError, Role};
use identity::selector::{Selector, SelectorError, Selectors};
use identity::spiffe_id::{SpiffeId, SpiffeIdError};
use identity::trust_domain::TrustDomain;
use proto::spire::types;
use proto::spire::types::selector_match::MatchBehavior;
use tonic::Status;

use super::status::invalid;
use crate::index::listing::{Match, Page};
use crate::records::agents::Agent;
use crate::records::to_seconds;

/// Why a SPIFFE ID of a request is not what the request needs.
#[derive(Debug, thiserror::Error)]
pub(super) enum IdError {
    #[error("request must specify SPIFFE ID")]
    Missing,
    #[error(transparent)]
    Malformed(#[from] SpiffeIdError),
    #[error(transparent)]
    Refused(#[from] NamespaceError),
}

/// Reads a SPIFFE ID.
pub(super) fn spiffe_id(id: Option<&types::Spiffeid>) -> Result<SpiffeId, IdError> {
    let id = id.ok_or(IdError::Missing)?;
    Ok(SpiffeId::from_parts(&id.trust_domain, &id.path)?)
}

/// Reads a SPIFFE ID that is used in a role of our trust domain.
pub(super) fn id_in_role(
    id: Option<&types::Spiffeid>,
    role: Role,
    own: &TrustDomain,
) -> Result<SpiffeId, IdError> {
    let id = spiffe_id(id)?;
    role.check(&id, own)?;
    Ok(id)
}

pub(super) fn id_to_proto(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: id.trust_domain().name().to_owned(),
        path: id.path().to_owned(),
    }
}

pub(super) fn selectors(selectors: &[types::Selector]) -> Result<Selectors, SelectorError> {
    selectors
        .iter()
        .map(|selector| Selector::new(&selector.r#type, &selector.value))
        .collect()
}

pub(super) fn selectors_to_proto(selectors: &Selectors) -> Vec<types::Selector> {
    selectors
        .iter()
        .map(|selector| types::Selector {
            r#type: selector.kind().to_owned(),
            value: selector.value().to_owned(),
        })
        .collect()
}

/// Reads how sets are compared. What a newer client may mean by another number is not known.
pub(super) fn how(number: i32) -> Result<Match, UnknownMatch> {
    match MatchBehavior::try_from(number) {
        Ok(MatchBehavior::MatchExact) => Ok(Match::Exact),
        Ok(MatchBehavior::MatchSubset) => Ok(Match::Subset),
        Ok(MatchBehavior::MatchSuperset) => Ok(Match::Superset),
        Ok(MatchBehavior::MatchAny) => Ok(Match::Any),
        Err(_) => Err(UnknownMatch(number)),
    }
}

/// A match behavior that this server does not know.
#[derive(Debug, thiserror::Error)]
#[error("unhandled match behavior {0}")]
pub(super) struct UnknownMatch(i32);

/// Reads which part of a list is asked for. A size of zero or less is the whole list, as in SPIRE.
pub(super) fn page<K, E: Error + 'static>(
    what: &str,
    size: i32,
    token: &str,
    parse: impl FnOnce(&str) -> Result<K, E>,
) -> Result<Page<K>, Status> {
    let Some(size) = usize::try_from(size).ok().filter(|size| *size > 0) else {
        return Ok(Page::Whole);
    };
    let after = if token.is_empty() {
        None
    } else {
        let failed = |error: E| invalid(&format!("{what}: could not parse token"), &error);
        Some(parse(token).map_err(failed)?)
    };
    Ok(Page::Part { size, after })
}

/// A number of things, as SPIRE's counts carry it.
pub(super) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// An agent, as far as the mask asks for it.
pub(super) fn agent_to_proto(agent: &Agent, mask: Option<&types::AgentMask>) -> types::Agent {
    let wants = |field: fn(&types::AgentMask) -> bool| mask.is_none_or(field);
    let mut message = types::Agent {
        id: Some(id_to_proto(&agent.id)),
        ..Default::default()
    };
    if wants(|mask| mask.attestation_type) {
        message.attestation_type = agent.attestation_type.as_ref().to_owned();
    }
    if wants(|mask| mask.x509svid_serial_number) {
        message.x509svid_serial_number = agent.serial().to_owned();
    }
    if wants(|mask| mask.x509svid_expires_at) {
        message.x509svid_expires_at = to_seconds(agent.expires_at);
    }
    if wants(|mask| mask.selectors) {
        message.selectors = selectors_to_proto(&agent.selectors);
    }
    if wants(|mask| mask.banned) {
        message.banned = agent.is_banned();
    }
    if wants(|mask| mask.can_reattest) {
        message.can_reattest = agent.can_reattest;
    }
    if wants(|mask| mask.agent_version) {
        message.agent_version = agent.version.clone();
    }
    message
}
