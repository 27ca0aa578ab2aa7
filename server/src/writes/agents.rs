//! Removing agents, and taking them over from another server.

use identity::selector::{Selector, SelectorError, Selectors};
use identity::spiffe_id::SpiffeId;

use super::Takeover;
use super::entries::EntryWrites;
use crate::index::Snapshot;
use crate::index::agents::StoredAgent;
use crate::records::agents::{Agent, Standing, encode};
use crate::store::{Expect, Key, Txn};

/// The kind of the selector that an agent has by being itself.
const OWN_ID: &str = "spiffe_id";

/// The selector that an agent has by being itself.
pub(crate) fn own_selectors(agent: &SpiffeId) -> Result<Selectors, SelectorError> {
    Ok([Selector::new(OWN_ID, agent.as_str())?]
        .into_iter()
        .collect())
}

/// Removes an agent, and with it the entry that its join token made: the further identity belongs
/// to this agent alone. Other entries with this parent stay; the operator made them.
pub(crate) fn evict_into(
    txn: Txn,
    writes: &mut EntryWrites<'_>,
    snapshot: &Snapshot,
    agent: &StoredAgent,
) -> Txn {
    let id = &agent.value.id;
    if let Ok(own) = own_selectors(id) {
        for entry in snapshot.entries.children_of(id) {
            if entry.value.selectors == own {
                // It is there: the snapshot just gave it.
                let _entry = writes.delete(&entry.value.id);
            }
        }
    }
    let key = Key::agent(id);
    txn.expect(key.clone(), Expect::At(agent.revision))
        .delete(key)
}

/// Takes an agent over as it is at another server, and tells what became of it.
///
/// Nothing makes a ban undone. An agent that is with us stays as it is here: it attested here, we signed
/// for it, or it came with an SVID that is newer than the one that is known there.
pub(crate) fn import_into(txn: Txn, snapshot: &Snapshot, theirs: &Agent) -> (Txn, Takeover) {
    let stored = snapshot.agents.get(&theirs.id);
    let ours = stored.map(|stored| &stored.value);
    let (takeover, agent) = match ours {
        None => (Takeover::Created, theirs.clone()),
        Some(ours) if ours.is_banned() && theirs.is_banned() => return (txn, Takeover::Unchanged),
        Some(ours) if ours.is_banned() => return (txn, Takeover::Kept),
        Some(ours) if theirs.is_banned() => {
            let banned = Agent {
                standing: Standing::Banned,
                ..ours.clone()
            };
            (Takeover::Updated, banned)
        }
        Some(ours) if ours == theirs => return (txn, Takeover::Unchanged),
        Some(ours) if ours.moved_from.is_empty() || ours.expires_at > theirs.expires_at => {
            return (txn, Takeover::Kept);
        }
        Some(_) => (Takeover::Updated, theirs.clone()),
    };
    let key = Key::agent(&theirs.id);
    let seen = Expect::seen(stored.map(|stored| stored.revision));
    let txn = txn.expect(key.clone(), seen).put(key, encode(&agent));
    (txn, takeover)
}
