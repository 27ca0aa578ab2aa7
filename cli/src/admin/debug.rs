//! `debug getinfo`.

use std::time::Duration;

use proto::spire::server::debug::GetInfoRequest;
use proto::spire::server::debug::debug_client::DebugClient;

use super::connect;
use crate::console::say;
use crate::failure::Failure;
use crate::flags::{Output, Values};
use crate::session::Session;
use crate::{go, json, rpc};

pub(super) async fn info(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let mut client = DebugClient::new(connect(session, values).await?);
    let answer = client.get_info(GetInfoRequest {}).await;
    let info = answer.map_err(|status| rpc::failed(&status))?.into_inner();
    let console = &mut session.console;
    if values.output() == Output::Json {
        const NAME: &str = ".spire.api.server.debug.v1.GetInfoResponse";
        say!(console, "{}", json::spire(NAME, &info)?);
        return Ok(());
    }
    let uptime = Duration::from_secs(u64::try_from(info.uptime).unwrap_or_default());
    say!(console, "Server Debug Info:");
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        let name = format!("{name}:");
        say!(console, "  {name:<23}  {value}");
    };
    line("Uptime", &go::duration(uptime));
    line("Registered Agents", &info.agents_count);
    line("Registration Entries", &info.entries_count);
    line("Federated Bundles", &info.federated_bundles_count);
    if !info.svid_chain.is_empty() {
        say!(console, "  SVID Chain:");
    }
    for (at, cert) in info.svid_chain.iter().enumerate() {
        let id = super::shown(cert.id.as_ref());
        let id = if id.is_empty() { "(none)" } else { &id };
        say!(console, "    [{at}] SPIFFE ID:  {id}");
        say!(console, "        Subject:    {}", cert.subject);
        let end = go::unix_rfc3339(cert.expires_at);
        say!(console, "        Expires At: {end}");
    }
    Ok(())
}
