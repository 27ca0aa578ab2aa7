//! `agent purge`: evicts the agents that are long gone and can attest again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::spire::server::agent::{DeleteAgentRequest, ListAgentsRequest, list_agents_request};
use proto::spire::types::{Agent, AgentMask};

use super::agents::{PAGE, client};
use super::{plural, shown};
use crate::console::{Console, say};
use crate::failure::Failure;
use crate::flags::{Output, Values};
use crate::session::Session;
use crate::{json, rpc};

/// An agent that expired, and what became of it.
struct Expired {
    id: String,
    outcome: Outcome,
}

enum Outcome {
    /// Nothing was to be done.
    Kept,
    Purged,
    Failed(String),
}

pub(super) async fn purge(session: &mut Session, values: &Values) -> Result<(), Failure> {
    const LIST: &str = "failed to list agents";
    let mut client = client(session, values)
        .await
        .map_err(|failure| failure.context(LIST))?;
    let mut expired: Vec<Agent> = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListAgentsRequest {
            filter: Some(list_agents_request::Filter {
                by_can_reattest: Some(true),
                ..list_agents_request::Filter::default()
            }),
            output_mask: Some(AgentMask {
                x509svid_expires_at: true,
                ..AgentMask::default()
            }),
            page_size: PAGE,
            page_token,
        };
        let page = client.list_agents(request).await;
        let page = page.map_err(|status| rpc::failed(&status).context(LIST))?;
        let page = page.into_inner();
        let is_gone = |agent: &Agent| is_gone(session, values, agent);
        expired.extend(page.agents.into_iter().filter(is_gone));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let mut all = Vec::new();
    for agent in expired {
        let id = shown(agent.id.as_ref());
        let outcome = if values.switch("dryRun") {
            Outcome::Kept
        } else {
            let request = DeleteAgentRequest { id: agent.id };
            match client.delete_agent(request).await {
                Ok(_) => Outcome::Purged,
                Err(status) => Outcome::Failed(rpc::failed(&status).to_string()),
            }
        };
        all.push(Expired { id, outcome });
    }
    match values.output() {
        Output::Json => say!(session.console, "{}", json_of(&all)),
        Output::Pretty => print(&mut session.console, &all, values.switch("dryRun")),
    }
    Ok(())
}

/// Whether an agent's SVID has been over for longer than the flags say.
fn is_gone(session: &Session, values: &Values, agent: &Agent) -> bool {
    let seconds = u64::try_from(agent.x509svid_expires_at).unwrap_or(0);
    let end = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    end.is_some_and(|end| is_over(end, values.nanos("expiredFor"), session.clock.now()))
}

/// Whether it has been more than so many nanoseconds since `end`; less than none is before it.
fn is_over(end: SystemTime, nanos: i64, now: SystemTime) -> bool {
    let patience = Duration::from_nanos(nanos.unsigned_abs());
    let from = match nanos {
        ..0 => end.checked_sub(patience),
        _ => end.checked_add(patience),
    };
    from.is_some_and(|from| from < now)
}

fn print(console: &mut Console, all: &[Expired], is_dry: bool) {
    if all.is_empty() {
        say!(console, "No agents to purge.");
        return;
    }
    let count = all.len();
    say!(
        console,
        "Found {count} expired {}\n",
        plural(count, "agent", "agents")
    );
    let list = |console: &mut Console, title: &str, wanted: fn(&Outcome) -> bool| {
        let wanted = all.iter().filter(|agent| wanted(&agent.outcome));
        for (at, agent) in wanted.enumerate() {
            if at == 0 {
                say!(console, "{title}");
            }
            say!(console, "SPIFFE ID         : {}", agent.id);
            if let Outcome::Failed(error) = &agent.outcome {
                say!(console, "Error             : {error}");
            }
        }
    };
    if is_dry {
        list(console, "\nAgents that can be purged:", |_| true);
        return;
    }
    let was_purged = |outcome: &Outcome| matches!(outcome, Outcome::Purged);
    let failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_));
    list(console, "Agents purged:", was_purged);
    list(console, "Agents not purged:", failed);
}

fn json_of(all: &[Expired]) -> String {
    let agents = all.iter().map(|agent| {
        let mut fields = serde_json::json!({
            "agent_id": agent.id,
            "deleted": matches!(agent.outcome, Outcome::Purged),
        });
        if let (Outcome::Failed(error), Some(fields)) = (&agent.outcome, fields.as_object_mut()) {
            fields.insert("error".to_owned(), error.as_str().into());
        }
        fields
    });
    let agents: Vec<_> = agents.collect();
    json::escaped(&serde_json::json!({ "expired_agents": agents }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::recorded::console;

    fn agents() -> [Expired; 3] {
        let failure = "rpc error: code = NotFound desc = agent not found";
        [
            ("spiffe://example.org/spire/agent/x/1", Outcome::Purged),
            (
                "spiffe://example.org/spire/agent/x/2",
                Outcome::Failed(failure.to_owned()),
            ),
            ("spiffe://example.org/spire/agent/x/3", Outcome::Purged),
        ]
        .map(|(id, outcome)| Expired {
            id: id.to_owned(),
            outcome,
        })
    }

    fn printed(all: &[Expired], is_dry: bool) -> String {
        let (mut console, out, _) = console();
        print(&mut console, all, is_dry);
        out.text()
    }

    #[test]
    fn says_as_spires_program_does_which_agents_went_and_which_did_not() {
        assert_eq!(printed(&[], false), "No agents to purge.\n");
        assert_eq!(
            printed(&agents(), false),
            "Found 3 expired agents\n\n\
             Agents purged:\n\
             SPIFFE ID         : spiffe://example.org/spire/agent/x/1\n\
             SPIFFE ID         : spiffe://example.org/spire/agent/x/3\n\
             Agents not purged:\n\
             SPIFFE ID         : spiffe://example.org/spire/agent/x/2\n\
             Error             : rpc error: code = NotFound desc = agent not found\n"
        );
        let kept = Expired {
            id: "spiffe://example.org/spire/agent/x/1".to_owned(),
            outcome: Outcome::Kept,
        };
        assert_eq!(
            printed(&[kept], true),
            "Found 1 expired agent\n\n\n\
             Agents that can be purged:\n\
             SPIFFE ID         : spiffe://example.org/spire/agent/x/1\n"
        );
    }

    #[test]
    fn json_has_an_error_only_where_there_was_one() {
        assert_eq!(json_of(&[]), "{\"expired_agents\":[]}");
        assert_eq!(
            json_of(&agents()[..2]),
            "{\"expired_agents\":[{\"agent_id\":\"spiffe://example.org/spire/agent/x/1\",\
             \"deleted\":true},{\"agent_id\":\"spiffe://example.org/spire/agent/x/2\",\
             \"deleted\":false,\"error\":\"rpc error: code = NotFound desc = agent not found\"}]}"
        );
    }

    #[test]
    fn an_agent_is_gone_once_it_has_been_over_for_longer_than_asked() {
        let end = UNIX_EPOCH + Duration::from_secs(1_000);
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        const SECOND: i64 = 1_000_000_000;
        assert!(!is_over(end, 60 * SECOND, at(1_060)));
        assert!(is_over(end, 60 * SECOND, at(1_061)));
        assert!(!is_over(end, 0, at(1_000)));
        assert!(is_over(end, -60 * SECOND, at(941)));
        assert!(!is_over(end, -60 * SECOND, at(940)));
        assert!(!is_over(end, i64::MAX, at(1_061)));
    }
}
