//! Removing agents.

use identity::selector::{Selector, SelectorError, Selectors};
use identity::spiffe_id::SpiffeId;

use super::entries::EntryWrites;
use crate::index::Snapshot;
use crate::index::agents::StoredAgent;
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
