//! `upstreamauthority taint|revoke`.

use proto::spire::server::localauthority::local_authority_client::LocalAuthorityClient;
use proto::spire::server::localauthority::{
    RevokeX509UpstreamAuthorityRequest, TaintX509UpstreamAuthorityRequest,
};

use super::connect_to;
use crate::console::say;
use crate::failure::Failure;
use crate::flags::{Output, Values};
use crate::session::Session;
use crate::{json, rpc};

pub(super) async fn taint(session: &mut Session, values: &Values) -> Result<(), Failure> {
    const TRIED: &str = "could not taint X.509 upstream authority";
    let subject_key_id = subject_key_id(values)?;
    let channel = connect_to(session, values, TRIED).await?;
    let mut client = LocalAuthorityClient::new(channel);
    let request = TaintX509UpstreamAuthorityRequest { subject_key_id };
    let answer = client.taint_x509_upstream_authority(request).await;
    let answer = answer.map_err(|status| rpc::failed(&status).context(TRIED))?;
    let answer = answer.into_inner();
    if values.output() == Output::Json {
        const NAME: &str = ".spire.api.server.localauthority.v1.TaintX509UpstreamAuthorityResponse";
        say!(session.console, "{}", json::spire(NAME, &answer)?);
        return Ok(());
    }
    say!(session.console, "Tainted X.509 upstream authority:");
    let id = answer.upstream_authority_subject_key_id;
    say!(session.console, "  Subject Key ID: {id}");
    Ok(())
}

pub(super) async fn revoke(session: &mut Session, values: &Values) -> Result<(), Failure> {
    const TRIED: &str = "could not revoke X.509 upstream authority";
    let subject_key_id = subject_key_id(values)?;
    let channel = connect_to(session, values, TRIED).await?;
    let mut client = LocalAuthorityClient::new(channel);
    let request = RevokeX509UpstreamAuthorityRequest { subject_key_id };
    let answer = client.revoke_x509_upstream_authority(request).await;
    let answer = answer.map_err(|status| rpc::failed(&status).context(TRIED))?;
    let answer = answer.into_inner();
    if values.output() == Output::Json {
        const NAME: &str =
            ".spire.api.server.localauthority.v1.RevokeX509UpstreamAuthorityResponse";
        say!(session.console, "{}", json::spire(NAME, &answer)?);
        return Ok(());
    }
    say!(session.console, "Revoked X.509 upstream authority:");
    let id = answer.upstream_authority_subject_key_id;
    say!(session.console, "  Subject Key ID: {id}");
    Ok(())
}

fn subject_key_id(values: &Values) -> Result<String, Failure> {
    let given = values.given("subjectKeyID");
    let what = "the Subject Key ID of the X.509 upstream authority is required";
    Ok(given.ok_or_else(|| Failure::new(what))?.to_owned())
}
