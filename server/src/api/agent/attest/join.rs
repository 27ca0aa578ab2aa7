//! Attestation by join token: the token is spent and the agent recorded, both or neither.

use std::time::SystemTime;

use attestors::node::join_token::{self, Token};
use aws_lc_rs::digest;
use bytes::Bytes;
use identity::selector::Selectors;
use identity::spiffe_id::SpiffeId;
use identity::x509::Csr;
use tonic::Status;

use super::super::super::{Services, status};
use super::super::replace;
use super::proven::banned;
use super::{Admitted, sign};
use crate::authority::IssuedX509Svid;
use crate::index::Snapshot;
use crate::records::agents::{Agent, Next, Standing, encode};
use crate::store::{Expect, Key, Txn};
use crate::writes::Plan;
use crate::writes::agents::own_selectors;

const UNKNOWN_TOKEN: &str = "failed to attest: join token does not exist or has already been used";

/// What a token turned out to be.
enum Spent {
    Joined,
    Unknown,
    Expired,
    Banned,
}

/// Spends the token. The token's deletion and the agent's record are one transaction that expects
/// the token as it was seen: of any number of racers exactly one commits, and a server that dies
/// here has done either both or neither. The SVID is signed before and handed out after; see
/// [`repeat`] for an agent that never saw it.
pub(super) async fn join(
    services: &Services,
    payload: &[u8],
    csr: &Csr,
) -> Result<Admitted, Status> {
    let token =
        Token::parse(payload).map_err(|_not_a_token| Status::invalid_argument(UNKNOWN_TOKEN))?;
    // The id is made of the very bytes whose hash is looked up.
    let id = join_token::agent_id(&services.trust_domain, &token)
        .map_err(|error| status::invalid("failed to create join token ID", &error))?;
    let hash = token.hash().to_string();
    // A look before the signature: a guess must not cost one.
    let key = key_hash(csr);
    let now = services.clock.now();
    if !is_known(&services.index.snapshot(), now, &hash, &id, &key) {
        return Err(Status::invalid_argument(UNKNOWN_TOKEN));
    }
    let issued = sign(services, &id, csr)?;
    let what = "failed to create attested agent";
    let selectors = match services.agent_id_as_selector {
        true => own_selectors(&id).map_err(|error| status::invalid(what, &error))?,
        false => Selectors::default(),
    };
    let new = New {
        id: &id,
        selectors,
        issued: &issued,
        key,
    };
    let spent = services
        .writer
        .write(|snapshot| plan(snapshot, now, &hash, &new))
        .await;
    match spent.map_err(|error| status::write(what, &error))? {
        Spent::Joined => Ok(Admitted {
            id,
            issued,
            reattestable: false,
        }),
        Spent::Unknown => Err(Status::invalid_argument(UNKNOWN_TOKEN)),
        Spent::Expired => Err(Status::invalid_argument("join token expired")),
        Spent::Banned => Err(banned()),
    }
}

/// An agent about to be recorded.
struct New<'a> {
    id: &'a SpiffeId,
    selectors: Selectors,
    issued: &'a IssuedX509Svid,
    /// SHA-256 of its public key.
    key: Bytes,
}

fn plan(snapshot: &Snapshot, now: SystemTime, hash: &str, new: &New<'_>) -> Plan<Spent> {
    let Some(token) = snapshot.tokens.get(hash) else {
        return repeat(snapshot, now, new);
    };
    let key = Key::token(hash);
    let txn = Txn::new()
        .expect(key.clone(), Expect::At(token.revision))
        .delete(key);
    // A token that came too late is spent all the same.
    if token.value.expires_at <= now {
        return Plan::Commit(txn, Spent::Expired);
    }
    let New {
        id,
        selectors,
        issued,
        key: joined_with,
    } = new;
    let before = snapshot.agents.get(id);
    if before.is_some_and(|agent| agent.value.is_banned()) {
        return Plan::Commit(txn, Spent::Banned);
    }
    let agent = Agent {
        id: SpiffeId::clone(id),
        attestation_type: join_token::NAME.into(),
        standing: Standing::Active {
            serial: issued.serial.clone(),
            next: None,
        },
        expires_at: issued.not_after,
        can_reattest: false,
        selectors: selectors.clone(),
        version: before.map_or_else(String::new, |agent| agent.value.version.clone()),
        used: None,
        joined_with: Some(joined_with.clone()),
        moved_from: Vec::new(),
    };
    let key = Key::agent(id);
    let txn = txn
        .expect(
            key.clone(),
            Expect::seen(before.map(|agent| agent.revision)),
        )
        .put(key, encode(&agent));
    Plan::Commit(txn, Spent::Joined)
}

/// An agent whose answer was lost, or that died before it had kept it, asks once more with the same
/// key: whoever has signed the request has that key, and nobody else gets anything by the token. The
/// new SVID stands beside the first one, as after a renewal, until one of the two is used.
fn repeat(snapshot: &Snapshot, now: SystemTime, new: &New<'_>) -> Plan<Spent> {
    let next = Next {
        serial: new.issued.serial.clone(),
        expires_at: new.issued.not_after,
    };
    let agent = snapshot.agents.get(new.id);
    let joined = agent.filter(|agent| may_repeat(&agent.value, now, &new.key));
    let Some((agent, with_next)) =
        joined.and_then(|agent| Some((agent, agent.value.with_next(next)?)))
    else {
        return Plan::Nothing(Spent::Unknown);
    };
    Plan::Commit(replace(agent, &with_next), Spent::Joined)
}

/// Whether this key has joined as the agent, and was not heard since.
fn may_repeat(agent: &Agent, now: SystemTime, key: &Bytes) -> bool {
    !agent.is_banned() && agent.expires_at > now && agent.joined_with.as_ref() == Some(key)
}

/// Whether the token, or who has spent it, is known: a look without a commit.
fn is_known(snapshot: &Snapshot, now: SystemTime, hash: &str, id: &SpiffeId, key: &Bytes) -> bool {
    let joined = || snapshot.agents.get(id);
    snapshot.tokens.get(hash).is_some()
        || joined().is_some_and(|agent| may_repeat(&agent.value, now, key))
}

/// What a key is known by after it has joined.
fn key_hash(csr: &Csr) -> Bytes {
    let hash = digest::digest(&digest::SHA256, csr.public_key().spki_der());
    Bytes::copy_from_slice(hash.as_ref())
}
