//! The way back: what the old server must learn of the agents that we renewed in the meantime.
//!
//! An agent that renewed here shows an SVID that the old server never heard of. One that can attest again
//! does so; one that joined by a token would end. SPIRE has no call to tell it, so this writes SQL for its
//! database: the SVID joins as a renewal that was not used yet, and the one from before still counts.

use std::fmt::Write as _;
use std::path::Path;
use std::time::UNIX_EPOCH;

use identity::spiffe_id::SpiffeId;
use proto::spire::types::Agent;
use time::OffsetDateTime;
use time::macros::format_description;

use super::state;
use crate::admin;
use crate::console::say;
use crate::failure::Failure;
use crate::files::{self, Readers};
use crate::flags::Values;
use crate::session::Session;

const HEAD: &str = "\
-- What the agents of a Signet server have, for the database of a SPIRE server of the same trust domain.
-- Run it while no SPIRE server runs on that database. It may be run again.
BEGIN;
";

/// Writes the file for the old server's database.
pub(super) async fn write(
    session: &mut Session,
    values: &Values,
    file: &Path,
) -> Result<(), Failure> {
    if values.is_set("from") || values.switch("apply") || values.switch("verify") {
        return Err(Failure::new(
            "-wayBack asks this server alone; leave out -from, -apply and -verify",
        ));
    }
    let channel = admin::connect(session, values).await?;
    let agents = state::agents(&channel).await?;
    let now = session.clock.now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    let mut sql = HEAD.to_owned();
    let mut count = 0_usize;
    for agent in &agents {
        if let Some(statement) = statement(agent, now)? {
            // Writing to a string cannot fail.
            let _ = writeln!(sql, "{statement}");
            count += 1;
        }
    }
    sql.push_str("COMMIT;\n");
    files::write(file, sql.as_bytes(), Readers::Owner)?;
    say!(
        session.console,
        "Wrote {count} agents to {}. Stop this server, run the file on the old server's database, and start that server.",
        file.display()
    );
    Ok(())
}

/// What is to be told of an agent. Of one whose SVID is over there is nothing to tell.
///
/// The text of a SPIFFE ID and of a number holds no quote (SPIFFE-ID 2.1 and 2.2); both are parsed here, so
/// that nothing else reaches the statement.
fn statement(agent: &Agent, now: u64) -> Result<Option<String>, Failure> {
    let id = agent.id.clone().unwrap_or_default();
    let id = SpiffeId::from_parts(&id.trust_domain, &id.path)
        .map_err(|error| Failure::chain(&error).context("an agent of this server"))?;
    if agent.banned {
        return Ok(Some(format!(
            "UPDATE attested_node_entries SET serial_number = '', new_serial_number = '' WHERE spiffe_id = '{id}';"
        )));
    }
    let end = u64::try_from(agent.x509svid_expires_at).unwrap_or(0);
    if end <= now {
        return Ok(None);
    }
    let serial = &agent.x509svid_serial_number;
    if serial.is_empty() || !serial.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Failure::new(format!("agent {id} has no serial number")));
    }
    let end = sql_time(agent.x509svid_expires_at)?;
    // A banned agent has no serial number there, and stays banned.
    Ok(Some(format!(
        "UPDATE attested_node_entries SET new_serial_number = '{serial}', new_expires_at = '{end}' WHERE spiffe_id = '{id}' AND serial_number NOT IN ('', '{serial}');"
    )))
}

/// A time as SQLite, PostgreSQL and MySQL take it.
fn sql_time(seconds: i64) -> Result<String, Failure> {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]+00:00");
    let at = OffsetDateTime::from_unix_timestamp(seconds).ok();
    at.and_then(|at| at.format(format).ok())
        .ok_or_else(|| Failure::new(format!("no calendar holds the time {seconds}")))
}

#[cfg(test)]
mod tests {
    use proto::spire::types::Spiffeid;

    use super::*;

    fn agent() -> Agent {
        Agent {
            id: Some(Spiffeid {
                trust_domain: "example.org".to_owned(),
                path: "/spire/agent/join_token/a".to_owned(),
            }),
            x509svid_serial_number: "123".to_owned(),
            x509svid_expires_at: 1_800_000_000,
            ..Agent::default()
        }
    }

    #[test]
    fn an_agent_gets_its_svid_beside_the_one_that_is_known() {
        assert_eq!(
            statement(&agent(), 1_700_000_000).unwrap().unwrap(),
            "UPDATE attested_node_entries SET new_serial_number = '123', \
             new_expires_at = '2027-01-15 08:00:00+00:00' \
             WHERE spiffe_id = 'spiffe://example.org/spire/agent/join_token/a' \
             AND serial_number NOT IN ('', '123');"
        );
    }

    #[test]
    fn a_ban_goes_back_too_and_an_svid_that_is_over_does_not() {
        let banned = Agent {
            banned: true,
            x509svid_serial_number: String::new(),
            ..agent()
        };
        let told = statement(&banned, 1_900_000_000).unwrap().unwrap();
        assert!(told.contains("SET serial_number = ''"), "{told}");
        assert_eq!(statement(&agent(), 1_800_000_000).unwrap(), None);
    }

    #[test]
    fn adv_nothing_but_an_id_and_a_number_reaches_a_statement() {
        let mut hostile = agent();
        hostile.x509svid_serial_number = "1'; DROP TABLE bundles; --".to_owned();
        assert!(statement(&hostile, 0).is_err());
        let mut hostile = agent();
        hostile.id.as_mut().unwrap().path = "/spire/agent/x'; --".to_owned();
        assert!(statement(&hostile, 0).is_err());
    }
}
