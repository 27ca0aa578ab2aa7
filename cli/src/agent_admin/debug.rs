//! `debug getinfo`.

use std::time::Duration;

use proto::spire::agent::debug::GetInfoRequest;
use proto::spire::agent::debug::debug_client::DebugClient;

use super::connect;
use crate::console::say;
use crate::failure::Failure;
use crate::flags::{Output, Values};
use crate::session::Session;
use crate::{go, json, rpc};

pub(super) async fn info(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let mut client = DebugClient::new(connect(values).await?);
    let answer = client.get_info(GetInfoRequest {}).await;
    let info = answer.map_err(|status| rpc::failed(&status))?.into_inner();
    let console = &mut session.console;
    if values.output() == Output::Json {
        const NAME: &str = ".spire.agent.debug.v1.GetInfoResponse";
        say!(console, "{}", json::agent(NAME, &info)?);
        return Ok(());
    }
    let uptime = Duration::from_secs(u64::try_from(info.uptime).unwrap_or_default());
    let last_sync = match info.last_sync_success {
        0 => "(never)".to_owned(),
        seconds => go::unix_rfc3339(seconds),
    };
    say!(console, "Agent Debug Info:");
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        say!(
            console,
            "  {:<31}  {value}",
            format_args!("{name}:").to_string()
        );
    };
    line("Uptime", &go::duration(uptime));
    line("Last Sync Success", &last_sync);
    line("Cached X.509 SVIDs", &info.cached_x509_svids_count);
    line("Cached JWT SVIDs", &info.cached_jwt_svids_count);
    line(
        "Cached SVID Store X.509 SVIDs",
        &info.cached_svidstore_x509_svids_count,
    );
    if !info.svid_chain.is_empty() {
        say!(console, "  SVID Chain:");
    }
    for (at, cert) in info.svid_chain.iter().enumerate() {
        let id = cert.id.as_ref().map_or_else(
            || "(none)".to_owned(),
            |id| format!("spiffe://{}{}", id.trust_domain, id.path),
        );
        say!(console, "    [{at}] SPIFFE ID:  {id}");
        say!(console, "        Subject:    {}", cert.subject);
        say!(
            console,
            "        Expires At: {}",
            go::unix_rfc3339(cert.expires_at)
        );
    }
    Ok(())
}
