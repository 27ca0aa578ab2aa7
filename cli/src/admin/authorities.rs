//! `localauthority x509|jwt show|prepare|activate|taint|revoke`.

use proto::spire::server::localauthority::local_authority_client::LocalAuthorityClient;
use proto::spire::server::localauthority::{
    ActivateJwtAuthorityRequest, ActivateX509AuthorityRequest, AuthorityState,
    GetJwtAuthorityStateRequest, GetX509AuthorityStateRequest, PrepareJwtAuthorityRequest,
    PrepareX509AuthorityRequest, RevokeJwtAuthorityRequest, RevokeX509AuthorityRequest,
    TaintJwtAuthorityRequest, TaintX509AuthorityRequest,
};
use tonic::Status;
use tonic::transport::Channel;

use super::{connect, connect_to};
use crate::console::{Console, say};
use crate::failure::Failure;
use crate::flags::{Output, Values};
use crate::session::Session;
use crate::table::{AuthorityKind, AuthorityStep};
use crate::{go, json, rpc};

/// Asks for one message, and takes it apart: its JSON, if that is wanted, and the authorities in it.
macro_rules! ask {
    ($client:ident.$method:ident($request:expr), $name:literal, $values:ident, [$($field:ident),+]) => {{
        const NAME: &str = concat!(".spire.api.server.localauthority.v1.", $name);
        let answer = $client.$method($request).await?.into_inner();
        let json = ($values.output() == Output::Json).then(|| json::spire(NAME, &answer));
        Ok(Answer { json, authorities: vec![$(answer.$field),+] })
    }};
}

/// What SPIRE's command says of a failure to show X.509 authorities.
const X509_SHOWN: &str = "could not get X.509 authorities";

/// What the server said.
struct Answer {
    /// Only if JSON was asked for.
    json: Option<Result<String, json::DecodeError>>,
    authorities: Vec<Option<AuthorityState>>,
}

pub(super) async fn show(
    kind: AuthorityKind,
    session: &mut Session,
    values: &Values,
) -> Result<(), Failure> {
    let channel = match kind {
        AuthorityKind::X509 => connect_to(session, values, X509_SHOWN).await?,
        // As SPIRE's command has it.
        AuthorityKind::Jwt => connect(session, values).await?,
    };
    let answer = states(kind, LocalAuthorityClient::new(channel), values).await;
    let answer = answer.map_err(|status| {
        let failure = rpc::failed(&status);
        match kind {
            AuthorityKind::X509 => failure.context(X509_SHOWN),
            AuthorityKind::Jwt => failure,
        }
    })?;
    let console = &mut session.console;
    if let Some(json) = answer.json {
        say!(console, "{}", json?);
        return Ok(());
    }
    let titles = [
        ("Active", "active"),
        ("Prepared", "prepared"),
        ("Old", "old"),
    ];
    for (at, (state, (title, name))) in answer.authorities.iter().zip(titles).enumerate() {
        if at > 0 {
            say!(console);
        }
        say!(console, "{title} {} authority:", kind.name());
        match state {
            Some(state) => print(console, kind, state),
            None => say!(console, "  No {name} {} authority found", kind.name()),
        }
    }
    Ok(())
}

pub(super) async fn step(
    step: AuthorityStep,
    kind: AuthorityKind,
    session: &mut Session,
    values: &Values,
) -> Result<(), Failure> {
    let (verb, title) = match step {
        AuthorityStep::Prepare => ("prepare", "Prepared"),
        AuthorityStep::Activate => ("activate", "Activated"),
        AuthorityStep::Taint => ("taint", "Tainted"),
        AuthorityStep::Revoke => ("revoke", "Revoked"),
    };
    let id = match step {
        AuthorityStep::Prepare => String::new(),
        AuthorityStep::Activate | AuthorityStep::Taint | AuthorityStep::Revoke => {
            let given = values.given("authorityID");
            let given = given.ok_or_else(|| Failure::new("an authority ID is required"))?;
            given.to_owned()
        }
    };
    let tried = format!("could not {verb} {} authority", kind.name());
    let channel = connect_to(session, values, &tried).await?;
    let client = LocalAuthorityClient::new(channel);
    let answer = match kind {
        AuthorityKind::X509 => x509(step, id, client, values).await,
        AuthorityKind::Jwt => jwt(step, id, client, values).await,
    };
    let answer = answer.map_err(|status| rpc::failed(&status).context(tried))?;
    let console = &mut session.console;
    if let Some(json) = answer.json {
        say!(console, "{}", json?);
        return Ok(());
    }
    say!(console, "{title} {} authority:", kind.name());
    let changed = answer.authorities.into_iter().flatten().next();
    let changed =
        changed.ok_or_else(|| Failure::new("the server did not say which authority it was"))?;
    print(console, kind, &changed);
    Ok(())
}

async fn states(
    kind: AuthorityKind,
    mut client: LocalAuthorityClient<Channel>,
    values: &Values,
) -> Result<Answer, Status> {
    match kind {
        AuthorityKind::X509 => ask!(
            client.get_x509_authority_state(GetX509AuthorityStateRequest {}),
            "GetX509AuthorityStateResponse",
            values,
            [active, prepared, old]
        ),
        AuthorityKind::Jwt => ask!(
            client.get_jwt_authority_state(GetJwtAuthorityStateRequest {}),
            "GetJWTAuthorityStateResponse",
            values,
            [active, prepared, old]
        ),
    }
}

async fn x509(
    step: AuthorityStep,
    authority_id: String,
    mut client: LocalAuthorityClient<Channel>,
    values: &Values,
) -> Result<Answer, Status> {
    match step {
        AuthorityStep::Prepare => ask!(
            client.prepare_x509_authority(PrepareX509AuthorityRequest {}),
            "PrepareX509AuthorityResponse",
            values,
            [prepared_authority]
        ),
        AuthorityStep::Activate => ask!(
            client.activate_x509_authority(ActivateX509AuthorityRequest { authority_id }),
            "ActivateX509AuthorityResponse",
            values,
            [activated_authority]
        ),
        AuthorityStep::Taint => ask!(
            client.taint_x509_authority(TaintX509AuthorityRequest { authority_id }),
            "TaintX509AuthorityResponse",
            values,
            [tainted_authority]
        ),
        AuthorityStep::Revoke => ask!(
            client.revoke_x509_authority(RevokeX509AuthorityRequest { authority_id }),
            "RevokeX509AuthorityResponse",
            values,
            [revoked_authority]
        ),
    }
}

async fn jwt(
    step: AuthorityStep,
    authority_id: String,
    mut client: LocalAuthorityClient<Channel>,
    values: &Values,
) -> Result<Answer, Status> {
    match step {
        AuthorityStep::Prepare => ask!(
            client.prepare_jwt_authority(PrepareJwtAuthorityRequest {}),
            "PrepareJWTAuthorityResponse",
            values,
            [prepared_authority]
        ),
        AuthorityStep::Activate => ask!(
            client.activate_jwt_authority(ActivateJwtAuthorityRequest { authority_id }),
            "ActivateJWTAuthorityResponse",
            values,
            [activated_authority]
        ),
        AuthorityStep::Taint => ask!(
            client.taint_jwt_authority(TaintJwtAuthorityRequest { authority_id }),
            "TaintJWTAuthorityResponse",
            values,
            [tainted_authority]
        ),
        AuthorityStep::Revoke => ask!(
            client.revoke_jwt_authority(RevokeJwtAuthorityRequest { authority_id }),
            "RevokeJWTAuthorityResponse",
            values,
            [revoked_authority]
        ),
    }
}

fn print(console: &mut Console, kind: AuthorityKind, state: &AuthorityState) {
    say!(console, "  Authority ID: {}", state.authority_id);
    say!(console, "  Expires at: {}", go::unix_time(state.expires_at));
    match (kind, state.upstream_authority_subject_key_id.as_str()) {
        (AuthorityKind::Jwt, _) => {}
        (AuthorityKind::X509, "") => {
            say!(console, "  Upstream authority ID: No upstream authority");
        }
        (AuthorityKind::X509, id) => {
            say!(console, "  Upstream authority Subject Key ID: {id}");
        }
    }
}
