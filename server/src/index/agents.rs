//! The attested agents.

use std::sync::Arc;

use identity::spiffe_id::SpiffeId;
use imbl::OrdMap;

use super::{Changed, Stored, changes};
use crate::records::CodecError;
use crate::records::agents::{Agent, decode};
use crate::store::Revision;

pub(crate) type StoredAgent = Arc<Stored<Agent>>;

/// All agents that attested and were not evicted, banned ones included.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agents {
    by_id: OrdMap<SpiffeId, StoredAgent>,
}

impl Agents {
    /// The agent of this SPIFFE ID.
    pub(crate) fn get(&self, id: &SpiffeId) -> Option<&StoredAgent> {
        self.by_id.get(id)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// All agents, ordered by SPIFFE ID.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &StoredAgent> {
        self.by_id.values()
    }

    /// The agents after this SPIFFE ID, ordered.
    pub(crate) fn after(&self, id: &SpiffeId) -> impl Iterator<Item = &StoredAgent> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.by_id
            .range((Excluded(id.clone()), Unbounded))
            .map(|(_, agent)| agent)
    }

    /// What is different in `newer`.
    pub(crate) fn changes_to<'a>(
        &'a self,
        newer: &'a Self,
    ) -> impl Iterator<Item = Changed<'a, StoredAgent>> {
        changes(&self.by_id, &newer.by_id)
    }

    pub(super) fn put(&mut self, revision: Revision, value: &[u8]) -> Result<(), CodecError> {
        let agent = decode(value)?;
        self.by_id.insert(
            agent.id.clone(),
            Arc::new(Stored {
                revision,
                value: agent,
            }),
        );
        Ok(())
    }

    pub(super) fn delete(&mut self, id: &str) {
        if let Ok(id) = SpiffeId::parse(id) {
            self.by_id.remove(&id);
        }
    }
}
