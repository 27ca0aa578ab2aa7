//! `api fetch jwt` and `api validate jwt`.

use prost::Message;
use proto::workload::{JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest};
use tonic::Code;

use super::{client, first, request, within};
use crate::console::say;
use crate::failure::Failure;
use crate::flags::{Output, Values};
use crate::session::Session;
use crate::{json, rpc};

pub(super) async fn fetch(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let audience = values.commas("audience");
    if audience.is_empty() {
        return Err(Failure::new("audience must be specified"));
    }
    let mut client = client(session, values)
        .await
        .map_err(|failure| failure.context("failed to receive JWT bundles"))?;
    let opened = client.fetch_jwt_bundles(request(JwtBundlesRequest {}));
    let bundles = within(values, first(opened))
        .await
        .map_err(|status| rpc::failed(&status))?;
    let asked = request(JwtsvidRequest {
        audience,
        spiffe_id: values.text("spiffeID").to_owned(),
    });
    let svids = within(values, client.fetch_jwtsvid(asked))
        .await
        .map_err(|status| rpc::failed(&status))?
        .into_inner();
    let console = &mut session.console;
    if values.output() == Output::Json {
        let messages = [
            (".JWTSVIDResponse", svids.encode_to_vec()),
            (".JWTBundlesResponse", bundles.encode_to_vec()),
        ];
        say!(console, "{}", json::workload(&messages)?);
        return Ok(());
    }
    for svid in &svids.svids {
        say!(console, "token({}):\n\t{}", svid.spiffe_id, svid.svid);
        if !svid.hint.is_empty() {
            say!(console, "hint({}):\n\t{}", svid.spiffe_id, svid.hint);
        }
    }
    for (trust_domain, jwks) in &bundles.bundles {
        say!(
            console,
            "bundle({trust_domain}):\n\t{}",
            String::from_utf8_lossy(jwks)
        );
    }
    Ok(())
}

pub(super) async fn validate(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let required = |flag: &str| {
        let text = values.given(flag).map(str::to_owned);
        text.ok_or_else(|| Failure::new(format!("{flag} must be specified")))
    };
    let (audience, svid) = (required("audience")?, required("svid")?);
    let unable = "unable to validate JWT SVID";
    let mut client = client(session, values)
        .await
        .map_err(|failure| failure.context(unable))?;
    let asked = request(ValidateJwtsvidRequest { audience, svid });
    let valid = within(values, client.validate_jwtsvid(asked))
        .await
        .map_err(|status| match status.code() {
            Code::InvalidArgument => {
                Failure::new(format!("SVID is not valid: {}", status.message()))
            }
            _ => rpc::failed(&status).context(unable),
        })?
        .into_inner();
    let console = &mut session.console;
    if values.output() == Output::Json {
        let messages = [(".ValidateJWTSVIDResponse", valid.encode_to_vec())];
        say!(console, "{}", json::workload(&messages)?);
        return Ok(());
    }
    let claims = json::claims(&valid.claims.unwrap_or_default());
    say!(console, "SVID is valid.");
    say!(console, "SPIFFE ID : {}", valid.spiffe_id);
    say!(console, "Claims    : {}", json::compact(&claims));
    Ok(())
}
