//! Why a process has the identities that it has, or none.
//!
//! The answer is put together from what the attestors see of the process now, what the cache holds for
//! it, and how the agent stands with its server. Nothing is issued for it.

mod verdict;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::SystemTime;

use identity::entry::EntryId;
use identity::selector::Selectors;
use runtime::unix::Peer;

use crate::attest::{Caller, Seen, Sight};
use crate::cache::account::Account;
use crate::source::Source;
use crate::sync::Status;
use crate::upstream::{Denial, Upstream};

/// What is known of one process.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
    /// Whether an X509-SVID is served to it.
    pub has_identity: bool,
    /// The answer in a sentence.
    pub verdict: String,
    pub sights: Vec<Sight>,
    /// All that the attestors found.
    pub selectors: Selectors,
    pub account: Account,
    pub refusals: Vec<Refusal>,
}

/// What the server said when it did not sign an X509-SVID.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub entry_id: EntryId,
    pub at: SystemTime,
    /// The server's words, for an operator alone.
    pub text: Arc<str>,
}

/// How the agent stands with its server.
#[derive(Clone, Debug)]
pub struct Standing {
    pub status: Status,
    /// What the server said against the agent, unless it was followed by a success.
    pub denial: Option<(Denial, SystemTime)>,
}

impl<U: Upstream> Source<U> {
    /// Looks at a process as if it had called now.
    pub async fn explain(&self, peer: &Arc<Peer>) -> Explanation {
        let sights = self.attestors().look(peer, &**self.driver()).await;
        let selectors = selectors(&sights);
        let (account, refusals) = self.driver().account(&selectors);
        let standing = self.standing();
        let has_identity = !verdict::is_unattested(&sights)
            && account.matching.iter().any(|found| found.issued.is_some());
        Explanation {
            pid: peer.pid(),
            uid: peer.uid(),
            gid: peer.gid(),
            has_identity,
            verdict: verdict::of(&sights, &account, &refusals, &standing, &|_| true),
            sights,
            selectors,
            account,
            refusals,
        }
    }

    /// Why an attested caller has no identity, in short and for the log: it shows no selector that
    /// the operator has not allowed there.
    pub(crate) fn shortfall_of(&self, caller: &Caller) -> String {
        let (account, refusals) = self.driver().account(caller.selectors());
        let sights = self.attestors().sights_of(caller);
        let is_shown = |selector: &_| self.attestors().may_log(selector);
        verdict::of(&sights, &account, &refusals, &self.standing(), &is_shown)
    }

    /// How the agent stands with its server.
    pub fn standing(&self) -> Standing {
        let status = self.status().borrow().clone();
        let denial = self.driver().last_denial();
        let is_past = |at| status.last_success.is_some_and(|success| success > at);
        Standing {
            denial: denial.filter(|(_, at)| !is_past(*at)),
            status,
        }
    }
}

/// What all attestors found together. One that saw a contradiction is not outvoted.
fn selectors(sights: &[Sight]) -> Selectors {
    if verdict::is_unattested(sights) {
        return Selectors::default();
    }
    let found = sights.iter().filter_map(|sight| match &sight.seen {
        Seen::Attested(selectors) => Some(selectors),
        Seen::Denied { .. } | Seen::Failed { .. } => None,
    });
    found.flat_map(Selectors::iter).cloned().collect()
}
