//! `token generate`.

use proto::spire::server::agent::CreateJoinTokenRequest;
use proto::spire::server::agent::agent_client::AgentClient;

use super::{connect, int32, spiffe_id};
use crate::console::say;
use crate::failure::Failure;
use crate::flags::{Output, Values};
use crate::session::Session;
use crate::{json, rpc};

pub(super) async fn generate(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let agent_id = values.given("spiffeID").map(spiffe_id).transpose()?;
    let ttl = int32(values.int("ttl"), "TTL")?;
    let named = agent_id.is_some();
    let token = AgentClient::new(connect(session, values).await?)
        .create_join_token(CreateJoinTokenRequest {
            ttl,
            agent_id,
            ..CreateJoinTokenRequest::default()
        })
        .await
        .map_err(|status| rpc::failed(&status))?
        .into_inner();
    if values.output() == Output::Json {
        say!(
            session.console,
            "{}",
            json::spire(".spire.api.types.JoinToken", &token)?
        );
        return Ok(());
    }
    say!(session.console, "Token: {}", token.value);
    if !named {
        say!(session.console, "Warning: Missing SPIFFE ID.");
    }
    Ok(())
}
