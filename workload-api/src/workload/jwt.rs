//! JWT-SVIDs: fetched, and validated for callers that do not want to do it themselves.

use std::sync::Arc;

use bytes::Bytes;
use http::Extensions;
use identity::jwt;
use identity::spiffe_id::SpiffeId;
use prost::Message;
use proto::workload::{
    Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
};

use super::claims;
use crate::encode;
use crate::hints;
use crate::metrics::Method;
use crate::session::{Context, Session};
use crate::source::{IdentitySource, JwtGrant};
use crate::status::Refusal;

pub(super) async fn fetch<S: IdentitySource>(
    context: Arc<Context<S>>,
    request: JwtsvidRequest,
    extensions: Extensions,
) -> Result<Bytes, Refusal> {
    let method = Method::FetchJwtSvid;
    let id =
        requested_id(&request).inspect_err(|refusal| context.refused(method, None, refusal))?;
    let session = Session::open(&context, method, &extensions).await?;
    let grants = tokio::select! {
        () = context.shutdown.requested() => Err(Refusal::ShuttingDown),
        grants = context.source.jwt_svids(session.caller(), request.audience, id) => {
            grants.map_err(Refusal::JwtFetch)
        }
    };
    grants
        .and_then(response)
        .map_err(|refusal| session.refused(refusal))
}

/// Workload API 4.5: an audience is mandatory. An identity that is asked for must be one.
fn requested_id(request: &JwtsvidRequest) -> Result<Option<SpiffeId>, Refusal> {
    if request.audience.is_empty() || request.audience.iter().any(String::is_empty) {
        return Err(Refusal::NoAudience);
    }
    if request.spiffe_id.is_empty() {
        return Ok(None);
    }
    SpiffeId::parse(&request.spiffe_id)
        .map(Some)
        .map_err(Refusal::SpiffeId)
}

fn response(mut grants: Vec<JwtGrant>) -> Result<Bytes, Refusal> {
    grants.sort_by(|a, b| a.entry_id.cmp(&b.entry_id));
    let svids: Vec<_> = hints::unique(&grants, |grant| hints::Claim {
        hint: grant.hint.as_ref(),
        created_at: grant.created_at,
        entry_id: &grant.entry_id,
    })
    .map(|grant| Jwtsvid {
        spiffe_id: grant.svid.id().to_string(),
        svid: grant.svid.token().to_owned(),
        hint: grant
            .hint
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    })
    .collect();
    // Workload API 6.2.1: never an empty list.
    if svids.is_empty() {
        return Err(Refusal::NoIdentity);
    }
    Ok(encode::secret(&JwtsvidResponse { svids }))
}

pub(super) async fn validate<S: IdentitySource>(
    context: Arc<Context<S>>,
    request: ValidateJwtsvidRequest,
    extensions: Extensions,
) -> Result<Bytes, Refusal> {
    let method = Method::ValidateJwtSvid;
    let missing = match (request.audience.is_empty(), request.svid.is_empty()) {
        (true, _) => Some(Refusal::NoAudience),
        (false, true) => Some(Refusal::NoSvid),
        (false, false) => None,
    };
    if let Some(refusal) = missing {
        context.refused(method, None, &refusal);
        return Err(refusal);
    }
    let session = Session::open(&context, method, &extensions).await?;
    validated(&session, &request).map_err(|refusal| session.refused(refusal))
}

fn validated<S: IdentitySource>(
    session: &Session<S>,
    request: &ValidateJwtsvidRequest,
) -> Result<Bytes, Refusal> {
    let context = session.context();
    let bundles = context.source.bundles(session.caller());
    // Workload API 6.3: the subject's trust domain picks the bundle; without one it is untrusted.
    let bundle = |trust_domain: &_| bundles.of(trust_domain).map(Arc::as_ref);
    let now = context.clock.now();
    let jwt = jwt::validate(&request.svid, &request.audience, bundle, now).map_err(Refusal::Jwt)?;
    let foreign = !jwt.id.is_member_of(&bundles.own().trust_domain);
    let allowed = foreign.then_some(&context.options.allowed_foreign_jwt_claims);
    let claims = claims::told(jwt.claims, allowed).ok_or(Refusal::Claim)?;
    let response = ValidateJwtsvidResponse {
        spiffe_id: jwt.id.to_string(),
        claims: Some(claims),
    };
    Ok(response.encode_to_vec().into())
}
