//! `agent list|show|count|ban|evict`.

use proto::spire::server::agent::agent_client::AgentClient;
use proto::spire::server::agent::{
    BanAgentRequest, CountAgentsRequest, DeleteAgentRequest, GetAgentRequest, ListAgentsRequest,
    ListAgentsResponse, count_agents_request, list_agents_request,
};
use proto::spire::types::{Agent, Spiffeid};
use tonic::transport::Channel;

use super::{connect, filter, plural, shown, spiffe_id};
use crate::console::{Console, say};
use crate::failure::Failure;
use crate::flags::{Output, Values};
use crate::session::Session;
use crate::{go, json, rpc};

/// Agents asked for at once, as SPIRE's program does.
pub(super) const PAGE: i32 = 1000;

pub(super) async fn list(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let filter = filter(values)?;
    let mut client = client(session, values).await?;
    let mut all = ListAgentsResponse::default();
    let mut page_token = String::new();
    loop {
        let page = client
            .list_agents(ListAgentsRequest {
                filter: Some(filter.clone()),
                page_size: PAGE,
                page_token,
                ..ListAgentsRequest::default()
            })
            .await
            .map_err(|status| rpc::failed(&status))?
            .into_inner();
        all.agents.extend(page.agents);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let console = &mut session.console;
    if values.output() == Output::Json {
        const NAME: &str = ".spire.api.server.agent.v1.ListAgentsResponse";
        say!(console, "{}", json::spire(NAME, &all)?);
        return Ok(());
    }
    if all.agents.is_empty() {
        say!(console, "No attested agents found");
        return Ok(());
    }
    let count = all.agents.len();
    say!(
        console,
        "Found {count} attested {}:\n",
        plural(count, "agent", "agents")
    );
    for agent in &all.agents {
        print(console, agent);
    }
    Ok(())
}

pub(super) async fn show(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let id = required_id(values)?;
    let agent = client(session, values)
        .await?
        .get_agent(GetAgentRequest {
            id: Some(id),
            output_mask: None,
        })
        .await
        .map_err(|status| rpc::failed(&status))?
        .into_inner();
    let console = &mut session.console;
    if values.output() == Output::Json {
        say!(
            console,
            "{}",
            json::spire(".spire.api.types.Agent", &agent)?
        );
        return Ok(());
    }
    say!(console, "Found an attested agent given its SPIFFE ID\n");
    print(console, &agent);
    for selector in &agent.selectors {
        say!(
            console,
            "Selectors         : {}:{}",
            selector.r#type,
            selector.value
        );
    }
    Ok(())
}

pub(super) async fn count(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let filter = filter(values)?;
    let answer = client(session, values)
        .await?
        .count_agents(CountAgentsRequest {
            filter: Some(count_agents_request::Filter {
                by_attestation_type: filter.by_attestation_type,
                by_selector_match: filter.by_selector_match,
                by_banned: filter.by_banned,
                by_can_reattest: filter.by_can_reattest,
                by_expires_before: filter.by_expires_before,
            }),
        })
        .await
        .map_err(|status| rpc::failed(&status))?
        .into_inner();
    let console = &mut session.console;
    if values.output() == Output::Json {
        const NAME: &str = ".spire.api.server.agent.v1.CountAgentsResponse";
        say!(console, "{}", json::spire(NAME, &answer)?);
        return Ok(());
    }
    let count = usize::try_from(answer.count).unwrap_or_default();
    say!(
        console,
        "{count} attested {}",
        plural(count, "agent", "agents")
    );
    Ok(())
}

pub(super) async fn ban(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let id = Some(required_id(values)?);
    client(session, values)
        .await?
        .ban_agent(BanAgentRequest { id })
        .await
        .map_err(|status| rpc::failed(&status))?;
    done(session, values, "Agent banned successfully")
}

pub(super) async fn evict(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let id = Some(required_id(values)?);
    client(session, values)
        .await?
        .delete_agent(DeleteAgentRequest { id })
        .await
        .map_err(|status| rpc::failed(&status))?;
    done(session, values, "Agent evicted successfully")
}

fn done(session: &mut Session, values: &Values, text: &str) -> Result<(), Failure> {
    match values.output() {
        Output::Json => say!(
            session.console,
            "{}",
            json::spire(".google.protobuf.Empty", &())?
        ),
        Output::Pretty => say!(session.console, "{text}"),
    }
    Ok(())
}

fn required_id(values: &Values) -> Result<Spiffeid, Failure> {
    let text = values
        .given("spiffeID")
        .ok_or_else(|| Failure::new("a SPIFFE ID is required"))?;
    spiffe_id(text)
}

pub(super) async fn client(
    session: &Session,
    values: &Values,
) -> Result<AgentClient<Channel>, Failure> {
    let channel = connect(session, values).await?;
    Ok(AgentClient::new(channel).max_decoding_message_size(rpc::MAX_ANSWER))
}

fn filter(values: &Values) -> Result<list_agents_request::Filter, Failure> {
    let by_selector_match = filter::selectors(
        values,
        |_| Failure::new("unsupported match behavior"),
        |text, failure| failure.context(format_args!("error parsing selector {text:?}")),
    )?;
    if let Some(text) = values.given("expiresBefore") {
        filter::date(text)?;
    }
    Ok(list_agents_request::Filter {
        by_attestation_type: values.text("attestationType").to_owned(),
        by_selector_match,
        by_banned: values.either("banned"),
        by_can_reattest: values.either("canReattest"),
        by_expires_before: values.text("expiresBefore").to_owned(),
    })
}

fn print(console: &mut Console, agent: &Agent) {
    say!(console, "SPIFFE ID         : {}", shown(agent.id.as_ref()));
    say!(console, "Attestation type  : {}", agent.attestation_type);
    // SPIRE prints this time in the reader's time zone, and all others in UTC. We keep to UTC.
    say!(
        console,
        "Expiration time   : {}",
        go::unix_time(agent.x509svid_expires_at)
    );
    if agent.banned {
        say!(console, "Banned            : true");
    } else {
        say!(
            console,
            "Serial number     : {}",
            agent.x509svid_serial_number
        );
    }
    say!(console, "Can re-attest     : {}", agent.can_reattest);
    if !agent.agent_version.is_empty() {
        say!(console, "Agent version     : {}", agent.agent_version);
    }
    say!(console);
}
