//! `CreateJoinToken`.

use std::time::{Duration, SystemTime};

use attestors::node::join_token::{self, Token};
use identity::entry::{CheckedEntry, EntryDraft, EntryId};
use identity::namespace::Role;
use identity::spiffe_id::SpiffeId;
use proto::spire::server::agent::CreateJoinTokenRequest;
use proto::spire::types;
use tonic::Status;

use super::super::Services;
use super::super::caller::Caller;
use super::super::convert::id_in_role;
use super::super::entry::new_id;
use super::super::status;
use crate::audit::Event;
use crate::index::Snapshot;
use crate::records::to_seconds;
use crate::records::tokens::{JoinToken, encode};
use crate::store::{Expect, Key, Txn};
use crate::writes::Plan;
use crate::writes::agents::own_selectors;
use crate::writes::entries::{EntryWrites, Refusal};

pub(super) async fn create(
    services: &Services,
    caller: &Caller,
    request: CreateJoinTokenRequest,
) -> Result<types::JoinToken, Status> {
    let ttl = u64::try_from(request.ttl)
        .ok()
        .filter(|ttl| *ttl > 0)
        .map(Duration::from_secs);
    let ttl =
        ttl.ok_or_else(|| Status::invalid_argument("ttl is required, you must provide one"))?;
    let agent_id = match request.agent_id {
        None => None,
        Some(id) => {
            let id = id_in_role(Some(&id), Role::Workload, &services.trust_domain);
            Some(id.map_err(|error| status::invalid("invalid agent ID", &error))?)
        }
    };
    let text = match request.token {
        text if text.is_empty() => uuid::Uuid::new_v4().to_string(),
        text => text,
    };
    let token = Token::parse(text.as_bytes())
        .map_err(|error| status::invalid("failed to create token", &error))?;
    let now = services.clock.now();
    let expires_at = now.checked_add(ttl);
    let expires_at = expires_at.ok_or_else(|| Status::invalid_argument("ttl is too long"))?;
    let record = JoinToken {
        expires_at,
        agent_id: agent_id.clone(),
    };
    let alias = match &agent_id {
        None => None,
        Some(id) => Some((alias(services, &token, id)?, new_id()?)),
    };
    let hash = token.hash().to_string();
    let outcome = services
        .writer
        .write(|snapshot| plan(snapshot, now, &hash, &record, alias.as_ref()))
        .await;
    match outcome.map_err(|error| status::write("failed to create token", &error))? {
        Outcome::Created => {}
        Outcome::Taken => {
            return Err(Status::already_exists(
                "failed to create token: token already exists",
            ));
        }
    }
    let event = Event::JoinTokenCreated {
        expires_at,
        agent_id: agent_id.as_ref(),
    };
    services.audit.record(caller, event);
    Ok(types::JoinToken {
        value: token.reveal().to_owned(),
        expires_at: to_seconds(expires_at),
    })
}

/// The entry of the further identity: its parent and its only selector are the agent.
fn alias(services: &Services, token: &Token, id: &SpiffeId) -> Result<CheckedEntry, Status> {
    let what = "failed to create join token registration entry";
    let agent = join_token::agent_id(&services.trust_domain, token)
        .map_err(|error| status::invalid("failed to create join token ID", &error))?;
    let selectors = own_selectors(&agent).map_err(|error| status::invalid(what, &error))?;
    let draft = EntryDraft::new(id.clone(), agent, selectors).check(&services.trust_domain);
    draft.map_err(|error| status::invalid(what, &error))
}

enum Outcome {
    Created,
    Taken,
}

/// The token and its entry are one transaction. A token that is there already is refused: its owner
/// may be about to use it.
fn plan(
    snapshot: &Snapshot,
    now: SystemTime,
    hash: &str,
    record: &JoinToken,
    alias: Option<&(CheckedEntry, EntryId)>,
) -> Plan<Outcome> {
    if snapshot.tokens.get(hash).is_some() {
        return Plan::Nothing(Outcome::Taken);
    }
    let key = Key::token(hash);
    let txn = Txn::new()
        .expect(key.clone(), Expect::Absent)
        .put(key, encode(record));
    let mut writes = EntryWrites::new(snapshot);
    if let Some((draft, id)) = alias {
        match writes.create(draft.clone(), id.clone(), now) {
            // The entry that a former token of the same name left says the same.
            Ok(_) | Err(Refusal::Similar(_)) => {}
            Err(_) => return Plan::Nothing(Outcome::Taken),
        }
    }
    Plan::Commit(writes.add_to(txn), Outcome::Created)
}
