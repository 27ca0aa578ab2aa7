//! The filters of agent lists and counts.

use std::time::SystemTime;

use proto::spire::server::agent::{count_agents_request, list_agents_request};
use time::OffsetDateTime;
use tonic::Status;

use super::super::convert::{how, selectors};
use super::super::status::invalid;
use crate::index::listing::AgentFilter;

pub(super) fn of_list(filter: Option<list_agents_request::Filter>) -> Result<AgentFilter, Status> {
    let Some(filter) = filter else {
        return Ok(AgentFilter::default());
    };
    let what = "failed to parse selectors";
    let by_selectors = match &filter.by_selector_match {
        None => None,
        Some(by) => {
            let asked = selectors(&by.selectors).map_err(|error| invalid(what, &error))?;
            Some((
                how(by.r#match).map_err(|error| invalid(what, &error))?,
                asked,
            ))
        }
    };
    let expires_before = match filter.by_expires_before.as_str() {
        "" => None,
        text => {
            let failed = |error| invalid(&format!("failed to parse the time {text:?}"), &error);
            Some(parse_time(text).map_err(failed)?)
        }
    };
    Ok(AgentFilter {
        attestation_type: Some(filter.by_attestation_type).filter(|kind| !kind.is_empty()),
        selectors: by_selectors,
        banned: filter.by_banned,
        can_reattest: filter.by_can_reattest,
        expires_before,
    })
}

/// The two messages have the same fields.
pub(super) fn of_count(
    filter: Option<count_agents_request::Filter>,
) -> Result<AgentFilter, Status> {
    of_list(filter.map(|filter| list_agents_request::Filter {
        by_attestation_type: filter.by_attestation_type,
        by_selector_match: filter.by_selector_match,
        by_banned: filter.by_banned,
        by_can_reattest: filter.by_can_reattest,
        by_expires_before: filter.by_expires_before,
    }))
}

/// Reads SPIRE's form of a time, which names the offset twice: `2026-11-22 16:00:00 +0000 +00`.
fn parse_time(text: &str) -> Result<SystemTime, time::error::Parse> {
    let format = time::macros::format_description!(
        "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
    );
    let once = text.rsplit_once(' ').map_or(text, |(once, _again)| once);
    OffsetDateTime::parse(once, &format).map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn reads_the_time_as_the_command_line_sends_it() {
        let expected = UNIX_EPOCH + Duration::from_secs(4_070_908_800);
        assert_eq!(
            parse_time("2099-01-01 00:00:00 +0000 +00").unwrap(),
            expected
        );
        assert_eq!(
            parse_time("2099-01-01 02:00:00 +0200 +02").unwrap(),
            expected
        );
        assert!(parse_time("bogus").is_err());
        assert!(parse_time("").is_err());
    }
}
