//! The answer in a sentence.

use std::fmt::Write as _;
use std::time::SystemTime;

use identity::selector::Selector;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Refusal, Standing};
use crate::attest::{Seen, Sight};
use crate::cache::Phase;
use crate::cache::account::{Account, Gone, Match, Missing, Near, Progress};
use crate::upstream::Denial;

/// Whether the process is not let in, whatever was found of it.
pub(super) fn is_unattested(sights: &[Sight]) -> bool {
    let denied = |sight: &Sight| matches!(sight.seen, Seen::Denied { .. });
    let failed = |sight: &Sight| matches!(sight.seen, Seen::Failed { .. });
    sights.iter().any(denied) || (!sights.is_empty() && sights.iter().all(failed))
}

/// What comes of it, the most weighty reason first. Selectors that are not to be shown are counted.
pub(super) fn of(
    sights: &[Sight],
    account: &Account,
    refusals: &[Refusal],
    standing: &Standing,
    is_shown: &dyn Fn(&Selector) -> bool,
) -> String {
    let served = (account.matching.iter()).filter(|found| found.issued.is_some());
    let served = served.count();
    if account.phase == Phase::Banned {
        return match standing.denial {
            Some((_, at)) => format!("the server banned this agent at {}", shown(at)),
            None => "the server banned this agent".to_owned(),
        };
    }
    if is_unattested(sights) {
        return format!("the process is not attested: {}", troubles(sights));
    }
    if served > 0 && served == account.matching.len() {
        return format!("it has {}", count(served, "identity", "identities"));
    }
    let mut text = if account.phase == Phase::Starting {
        "the agent has not been told its entries yet".to_owned()
    } else if account.matching.is_empty() {
        no_entry(account, is_shown)
    } else {
        let waiting = (account.matching.iter()).filter(|found| found.issued.is_none());
        waiting
            .map(|found| unsigned(found, refusals))
            .collect::<Vec<_>>()
            .join("; ")
    };
    let failed = |sight: &&Sight| matches!(sight.seen, Seen::Failed { .. });
    if sights.iter().any(|sight| failed(&sight)) {
        add(
            &mut text,
            "its selectors are not complete",
            &troubles(sights),
        );
    }
    if let Some((denial, at)) = standing.denial
        && denial != Denial::Banned
    {
        let words = format!("`{}` since {}", denial.reason(), shown(at));
        add(
            &mut text,
            "the server does not take the agent for whom it was",
            &words,
        );
    }
    if let Some(failing) = &standing.status.failing {
        let since = format!(
            "the server does not answer as it should since {}",
            shown(failing.since)
        );
        add(&mut text, &since, &failing.error);
    }
    text
}

fn add(text: &mut String, what: &str, why: &str) {
    // Writing to a string cannot fail.
    let _ = write!(text, "; {what}: {why}");
}

fn troubles(sights: &[Sight]) -> String {
    let trouble = |sight: &Sight| match &sight.seen {
        Seen::Attested(_) => None,
        Seen::Denied { error, .. } => {
            Some(format!("attestor `{}` denied it ({error})", sight.attestor))
        }
        Seen::Failed { error, .. } => {
            Some(format!("attestor `{}` failed ({error})", sight.attestor))
        }
    };
    let troubles: Vec<_> = sights.iter().filter_map(trouble).collect();
    troubles.join(", ")
}

fn no_entry(account: &Account, is_shown: &dyn Fn(&Selector) -> bool) -> String {
    let matched = |gone: &&Gone| gone.missing.is_empty();
    if let Some(gone) = account.withdrawn.iter().find(matched) {
        let how = if gone.is_expired() {
            "expired"
        } else {
            "was taken away by the server"
        };
        return format!("entry {} {how} at {}", named(&gone.entry), shown(gone.at));
    }
    match account.nearest.first() {
        Some(near) => format!(
            "no entry matches; the closest is {}, which {}",
            named(&near.entry),
            lacks(near, is_shown)
        ),
        None => format!(
            "no entry matches, and none of the agent's {} comes close",
            count(account.entries, "entry", "entries")
        ),
    }
}

fn lacks(near: &Near, is_shown: &dyn Fn(&Selector) -> bool) -> String {
    let told: Vec<_> = (near.missing.iter())
        .filter(|missing| is_shown(&missing.selector))
        .map(|missing| wanted(missing, is_shown))
        .collect();
    let untold = near.missing.len() - told.len();
    let mut parts = told;
    if untold > 0 {
        let more = if parts.is_empty() { "" } else { "more " };
        parts.push(format!(
            "{untold} {more}selector{}",
            if untold == 1 { "" } else { "s" }
        ));
    }
    format!("also asks for {}", parts.join(" and "))
}

fn wanted(missing: &Missing, is_shown: &dyn Fn(&Selector) -> bool) -> String {
    let instead = missing.instead.iter().filter(|selector| is_shown(selector));
    let instead: Vec<_> = instead.map(ToString::to_string).collect();
    if instead.is_empty() {
        missing.selector.to_string()
    } else {
        format!(
            "{} (the process has {})",
            missing.selector,
            instead.join(", ")
        )
    }
}

fn unsigned(found: &Match, refusals: &[Refusal]) -> String {
    let entry = named(&found.entry);
    match found.progress {
        Progress::Idle => format!("entry {entry} matches, and nobody has asked for its SVID"),
        Progress::Waiting | Progress::Requested => {
            format!("entry {entry} matches, and its SVID is being signed")
        }
        Progress::Unverifiable => {
            format!("entry {entry} matches, and its SVID waits for a bundle that has its authority")
        }
        Progress::Unreachable { retries_at } => format!(
            "entry {entry} matches, and the server could not be asked to sign; it is tried again at {}",
            shown(retries_at)
        ),
        Progress::Refused { retries_at } => {
            let refusal = refusals
                .iter()
                .find(|refusal| refusal.entry_id == found.entry.id);
            let words = refusal.map_or("it did not say why", |refusal| &refusal.text);
            format!(
                "entry {entry} matches, and the server did not sign ({words}); it is asked again at {}",
                shown(retries_at)
            )
        }
    }
}

fn named(entry: &identity::entry::Entry) -> String {
    format!("`{}` ({})", entry.id, entry.spiffe_id)
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn shown(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let time = time.replace_nanosecond(0).unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_default()
}
