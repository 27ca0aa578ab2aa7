//! What another server told of itself, read by our own rules: it is an operator's word, and no more.

use std::collections::BTreeSet;
use std::time::SystemTime;

use identity::bundle::Bundle;
use identity::entry::{Entry, EntryId};
use identity::namespace::Role;
use identity::trust_domain::TrustDomain;
use proto::spire::types;
use tonic::Status;

use super::super::Services;
use super::super::convert::bundle::{from_proto, tainted_as};
use super::super::convert::entry::{Mask, Patch};
use super::super::convert::{id_in_role, selectors};
use super::super::status;
use super::Item;
use crate::records::agents::{Agent, Standing};
use crate::records::from_seconds;

/// The longest attestation type, which is the name of a plugin.
const MAX_TYPE_BYTES: usize = 255;
/// The longest version of an agent.
const MAX_VERSION_BYTES: usize = 255;
/// The digits of the largest serial number of 20 octets (RFC 5280 4.1.2.2).
const MAX_SERIAL_DIGITS: usize = 49;
/// The most authorities that one server signs with.
const MAX_AUTHORITIES: usize = 16;
/// The longest name of an authority: SHA-512 in hex.
const MAX_AUTHORITY_ID_BYTES: usize = 128;

/// Reads the bundle of the other server, which must be of our own trust domain.
pub(super) fn bundle(own: &TrustDomain, bundle: Option<types::Bundle>) -> Result<Bundle, Status> {
    let bundle = bundle.ok_or_else(|| Status::invalid_argument("missing bundle"))?;
    if bundle.trust_domain != own.name() {
        return Err(Status::invalid_argument(format!(
            "the other server is of trust domain {:?}, and this one of {:?}",
            bundle.trust_domain,
            own.name()
        )));
    }
    let read = from_proto(own.clone(), &bundle)
        .map_err(|error| status::invalid("invalid bundle", &error))?;
    if read.x509_authorities.is_empty() {
        return Err(Status::invalid_argument(
            "the bundle has no X.509 authority",
        ));
    }
    Ok(tainted_as(read, &bundle))
}

/// Reads the ids of entries.
pub(super) fn ids(ids: &[String]) -> Result<Vec<EntryId>, Status> {
    let read =
        |id: &String| EntryId::parse(id).map_err(|error| status::invalid("invalid ID", &error));
    ids.iter().map(read).collect()
}

/// Reads an entry, with its id, its revision and its time of creation.
pub(super) fn entry(own: &TrustDomain, entry: &types::Entry) -> Item<Entry> {
    let id = EntryId::parse(&entry.id).map_err(|error| status::invalid("invalid ID", &error))?;
    if entry.revision_number < 0 {
        return Err(Status::invalid_argument("invalid revision number"));
    }
    let patch = Patch::parse(own, entry, Mask(None));
    let patch = patch.map_err(|error| status::invalid("invalid entry", &error))?;
    let checked = patch
        .into_draft(&entry.id)
        .and_then(|draft| draft.check(own));
    let checked = checked.map_err(|error| status::invalid("invalid entry", &error))?;
    let created_at = from_seconds(entry.created_at);
    Ok(checked.into_entry(id, entry.revision_number, created_at))
}

/// Reads agents. None may be there twice.
pub(super) fn agents(
    services: &Services,
    agents: &[types::Agent],
    authority_ids: &[String],
) -> Result<Vec<Item<Agent>>, Status> {
    let authorities = authorities(authority_ids)?;
    let mut seen = BTreeSet::new();
    let read = |message| {
        let agent = agent(services, message, &authorities)?;
        if !seen.insert(agent.id.clone()) {
            return Err(Status::invalid_argument("the agent is there twice"));
        }
        Ok(agent)
    };
    Ok(agents.iter().map(read).collect())
}

fn authorities(ids: &[String]) -> Result<Vec<String>, Status> {
    let is_name = |id: &&String| {
        (1..=MAX_AUTHORITY_ID_BYTES).contains(&id.len())
            && id
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    if ids.is_empty() || ids.len() > MAX_AUTHORITIES || !ids.iter().all(|id| is_name(&id)) {
        return Err(Status::invalid_argument(format!(
            "1 to {MAX_AUTHORITIES} authority IDs are needed, each in lower-case hex"
        )));
    }
    let names: BTreeSet<&String> = ids.iter().collect();
    Ok(names.into_iter().cloned().collect())
}

fn agent(services: &Services, message: &types::Agent, authorities: &[String]) -> Item<Agent> {
    let id = id_in_role(message.id.as_ref(), Role::Agent, &services.trust_domain);
    let id = id.map_err(|error| status::invalid("invalid agent ID", &error))?;
    let selectors = selectors(&message.selectors);
    let selectors = selectors.map_err(|error| status::invalid("invalid selector", &error))?;
    for (text, limit, what) in [
        (
            &message.attestation_type,
            MAX_TYPE_BYTES,
            "attestation type",
        ),
        (&message.agent_version, MAX_VERSION_BYTES, "agent version"),
    ] {
        if text.len() > limit {
            let message = format!("invalid {what}: longer than {limit} bytes");
            return Err(Status::invalid_argument(message));
        }
    }
    let expires_at = from_seconds(message.x509svid_expires_at);
    let agent = Agent {
        id,
        attestation_type: message.attestation_type.as_str().into(),
        standing: standing(message)?,
        expires_at,
        can_reattest: message.can_reattest,
        selectors,
        version: message.agent_version.clone(),
        used: None,
        joined_with: None,
        moved_from: authorities.to_vec(),
    };
    check_return(services, &agent, services.clock.now())?;
    Ok(agent)
}

fn standing(message: &types::Agent) -> Item<Standing> {
    if message.banned {
        return Ok(Standing::Banned);
    }
    let serial = &message.x509svid_serial_number;
    let digits = (1..=MAX_SERIAL_DIGITS).contains(&serial.len())
        && serial.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        let message = "invalid serial number: 1 to 49 decimal digits are needed";
        return Err(Status::invalid_argument(message));
    }
    Ok(Standing::Active {
        serial: serial.clone(),
        next: None,
    })
}

/// An agent that attests again instead of renewing would end at half of its SVID's life, if the server has
/// not its node attestor.
fn check_return(services: &Services, agent: &Agent, now: SystemTime) -> Result<(), Status> {
    let lives = !agent.is_banned() && agent.expires_at > now;
    let attestor = &agent.attestation_type;
    if lives && agent.can_reattest && !services.verifiers.knows(attestor) {
        return Err(Status::failed_precondition(format!(
            "the agent attests again by {attestor:?}, which this server has not; configure NodeAttestor {attestor:?}"
        )));
    }
    Ok(())
}
