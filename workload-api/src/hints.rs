//! Workload API 5.2.1, 6.2.1: within one response a hint that is not empty stands once.

use std::collections::HashMap;
use std::time::SystemTime;

use identity::entry::{EntryId, Hint};

/// What an identity brings into the contest for its hint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim<'a> {
    /// The hint, if the entry has one.
    pub(crate) hint: Option<&'a Hint>,
    /// The older entry keeps the hint.
    pub(crate) created_at: SystemTime,
    /// Of two entries of the same age the lower id keeps it.
    pub(crate) entry_id: &'a EntryId,
}

impl Claim<'_> {
    fn rank(&self) -> (SystemTime, &EntryId) {
        (self.created_at, self.entry_id)
    }
}

/// Leaves out the identities that lose their hint to another one. The order stays.
pub(crate) fn unique<'a, T>(
    items: &'a [T],
    claim: impl Fn(&'a T) -> Claim<'a>,
) -> impl Iterator<Item = &'a T> {
    let mut winners: HashMap<&Hint, Claim<'a>> = HashMap::new();
    for item in items {
        let new = claim(item);
        if let Some(hint) = new.hint {
            winners
                .entry(hint)
                .and_modify(|best| {
                    if new.rank() < best.rank() {
                        *best = new;
                    }
                })
                .or_insert(new);
        }
    }
    items.iter().filter(move |item| {
        let own = claim(item);
        own.hint
            .and_then(|hint| winners.get(hint))
            .is_none_or(|best| best.entry_id == own.entry_id)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn survivors(items: &[(&str, &str, u64)]) -> Vec<String> {
        let parsed: Vec<_> = items
            .iter()
            .map(|&(id, hint, age)| {
                (
                    EntryId::parse(id).unwrap(),
                    (!hint.is_empty()).then(|| Hint::parse(hint).unwrap()),
                    SystemTime::UNIX_EPOCH + Duration::from_secs(age),
                )
            })
            .collect();
        unique(&parsed, |(id, hint, created)| Claim {
            hint: hint.as_ref(),
            created_at: *created,
            entry_id: id,
        })
        .map(|(id, ..)| id.to_string())
        .collect()
    }

    #[test]
    fn the_older_entry_keeps_a_hint() {
        assert_eq!(
            survivors(&[("a", "x", 9), ("b", "x", 3), ("c", "y", 5)]),
            ["b", "c"]
        );
    }

    #[test]
    fn the_lower_entry_id_keeps_a_hint_of_the_same_age() {
        assert_eq!(survivors(&[("b", "x", 3), ("a", "x", 3)]), ["a"]);
    }

    #[test]
    fn identities_without_a_hint_all_stay() {
        assert_eq!(survivors(&[("a", "", 1), ("b", "", 1)]), ["a", "b"]);
    }
}
