//! What becomes of the things of one kind.

use proto::signet::server::{ImportResult, Outcome};
use proto::spire::types::Status;

use crate::go;

/// How many became what, and the names of those that a person must look at.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) created: usize,
    pub(super) updated: usize,
    /// Of the updated ones the agents that only renewed: there are some at any time, and this server knows
    /// their new SVIDs by who signed them.
    pub(super) renewed: usize,
    pub(super) unchanged: usize,
    /// Newer here than there.
    pub(super) kept: Vec<String>,
    /// Not there any more.
    pub(super) only_here: Vec<String>,
    /// Taken away here, since they are not there.
    pub(super) pruned: Vec<String>,
    /// With the reason.
    pub(super) refused: Vec<String>,
}

impl Tally {
    pub(super) fn count(&mut self, name: impl FnOnce() -> String, result: &ImportResult) {
        if let Some(refused) = result.status.as_ref().and_then(refusal) {
            self.refused.push(format!("{}: {refused}", name()));
            return;
        }
        self.note(result.outcome(), name);
    }

    pub(super) fn note(&mut self, outcome: Outcome, name: impl FnOnce() -> String) {
        match outcome {
            Outcome::Created => self.created += 1,
            Outcome::Updated => self.updated += 1,
            Outcome::Unchanged => self.unchanged += 1,
            Outcome::Kept => self.kept.push(name()),
            Outcome::Unspecified => {
                let name = name();
                self.refused
                    .push(format!("{name}: this server did not say what became of it"));
            }
        }
    }

    /// The same for a call of SPIRE's API, which is made only where something differs.
    pub(super) fn done(&mut self, outcome: Outcome, name: &str, status: Option<&Status>) {
        match status.and_then(refusal) {
            Some(refused) => self.refused.push(format!("{name}: {refused}")),
            None => self.note(outcome, || name.to_owned()),
        }
    }

    /// Whether nothing is left that has to be done.
    pub(super) fn is_settled(&self) -> bool {
        let updated = self.updated.saturating_sub(self.renewed);
        self.created + updated + self.pruned.len() + self.refused.len() == 0
    }
}

/// Why an item was refused, if it was.
fn refusal(status: &Status) -> Option<String> {
    (status.code != 0).then(|| format!("{} ({})", status.message, go::code(status.code)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_only_renewed_leaves_nothing_to_be_done_and_any_other_change_does() {
        let of = |updated, renewed| Tally {
            updated,
            renewed,
            ..Tally::default()
        };
        assert!(of(2, 2).is_settled());
        assert!(!of(2, 1).is_settled());
        let created = Tally {
            created: 1,
            ..Tally::default()
        };
        assert!(!created.is_settled());
    }
}
