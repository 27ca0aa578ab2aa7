//! What a run did, or would do.

use std::collections::BTreeMap;

use super::tally::Tally;
use crate::console::{Console, say};
use crate::failure::Failure;

/// How many names of a kind are shown: the rest is a number.
const SHOWN: usize = 20;

#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    pub(super) trust_domain: String,
    /// How many agents of the old server have which version.
    pub(super) versions: BTreeMap<String, usize>,
    pub(super) bundle: Tally,
    pub(super) bundles: Tally,
    pub(super) relationships: Tally,
    pub(super) entries: Tally,
    /// Entries that are over, and stay behind.
    pub(super) expired_entries: usize,
    pub(super) agents: Tally,
    /// The names of our authorities that the old server's bundle lacked.
    pub(super) appended: Vec<String>,
}

impl Report {
    pub(super) const READY: &str = "This server has what the old one has, and the old one's bundle has our authorities. \
        Stop the old server, and start this one at its address.";

    /// Whether agents have to hear of authorities of ours that the old server's bundle lacked.
    pub(super) fn appends(&self) -> bool {
        !self.appended.is_empty()
    }

    /// Fails if anything was refused.
    pub(super) fn check_refused(&self) -> Result<(), Failure> {
        let refused: usize = self.kinds().map(|(_, tally)| tally.refused.len()).sum();
        if refused == 0 {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{refused} of what the old server has cannot be taken over; the reasons stand above. Its bundle was left as it is, so do not switch"
        )))
    }

    /// Fails if anything is left to be taken over, or to be told to the old server.
    pub(super) fn check_settled(&self) -> Result<(), Failure> {
        if self.appends() {
            return Err(Failure::new(
                "the old server's bundle lacks authorities of ours, so its agents would end at the switch; run with -apply",
            ));
        }
        let mut unsettled = self.kinds().filter(|(_, tally)| !tally.is_settled());
        match unsettled.next() {
            None => Ok(()),
            Some((kind, _)) => Err(Failure::new(format!(
                "this server has not all that the old one has ({kind}); run with -apply"
            ))),
        }
    }

    pub(super) fn print(&self, console: &mut Console) {
        say!(console, "Trust domain {}", self.trust_domain);
        for (version, count) in &self.versions {
            let version = if version.is_empty() {
                "unknown"
            } else {
                version
            };
            say!(console, "Agents of version {version}: {count}");
        }
        say!(
            console,
            "{:24}{:>8}{:>8}{:>8}{:>8}{:>10}{:>8}{:>8}",
            "",
            "new",
            "changed",
            "same",
            "newer",
            "only here",
            "pruned",
            "refused"
        );
        for (kind, tally) in self.kinds() {
            say!(
                console,
                "{kind:24}{:>8}{:>8}{:>8}{:>8}{:>10}{:>8}{:>8}",
                tally.created,
                tally.updated,
                tally.unchanged,
                tally.kept.len(),
                tally.only_here.len(),
                tally.pruned.len(),
                tally.refused.len()
            );
        }
        for (kind, tally) in self.kinds() {
            names(console, &format!("{kind}, newer here"), &tally.kept);
            names(console, &format!("{kind}, only here"), &tally.only_here);
            names(console, &format!("{kind}, pruned"), &tally.pruned);
            names(console, &format!("{kind}, refused"), &tally.refused);
        }
        if self.agents.renewed > 0 {
            let count = self.agents.renewed;
            say!(console, "Agents that only renewed: {count}");
        }
        if self.expired_entries > 0 {
            let count = self.expired_entries;
            say!(console, "Entries that are over, and stay behind: {count}");
        }
        let title = "Authorities of ours for the old server's bundle";
        names(console, title, &self.appended);
    }

    fn kinds(&self) -> impl Iterator<Item = (&'static str, &Tally)> {
        [
            ("bundle", &self.bundle),
            ("federated bundles", &self.bundles),
            ("entries", &self.entries),
            ("agents", &self.agents),
            ("relationships", &self.relationships),
        ]
        .into_iter()
    }
}

fn names(console: &mut Console, title: &str, names: &[String]) {
    if names.is_empty() {
        return;
    }
    say!(console, "{title}:");
    for name in names.iter().take(SHOWN) {
        say!(console, "  {name}");
    }
    if let Some(more) = names.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        say!(console, "  and {more} more");
    }
}
