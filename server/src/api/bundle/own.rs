//! `AppendBundle` and `PublishJWTAuthority`: authorities of others join the bundle of our own trust
//! domain, by an operator's hand or by a server below this one.

use identity::bundle::Bundle;
use proto::spire::server::bundle::{AppendBundleRequest, PublishJwtAuthorityRequest};
use proto::spire::types;
use tonic::Status;

use super::super::Services;
use super::super::caller::Caller;
use super::super::convert::bundle::{jwt_authorities, to_proto, x509_authorities};
use super::super::status;
use crate::audit::{BundleTurn, Event};
use crate::bundles::{Additions, append_plan};

pub(super) async fn append(
    services: &Services,
    caller: &Caller,
    request: AppendBundleRequest,
) -> Result<types::Bundle, Status> {
    if request.jwt_authorities.is_empty() && request.x509_authorities.is_empty() {
        return Err(Status::invalid_argument("no authorities to append"));
    }
    let jwt = jwt_authorities(&request.jwt_authorities)
        .map_err(|error| status::invalid("failed to convert JWT authority", &error))?;
    let x509 = x509_authorities(&request.x509_authorities)
        .map_err(|error| status::invalid("failed to convert X.509 authority", &error))?;
    let bundle = add(
        services,
        "failed to append bundle",
        &Additions { x509, jwt },
    )
    .await?;
    let event = Event::Bundle(BundleTurn::Appended, &services.trust_domain);
    services.audit.record(caller, event);
    Ok(to_proto(&bundle, request.output_mask.as_ref()))
}

/// Takes the key of a server below this one into our bundle. It leaves the bundle a day after its end,
/// and an operator can taint and revoke it before.
/// It must have an end, since nothing else removes it by itself.
pub(super) async fn publish(
    services: &Services,
    caller: &Caller,
    request: PublishJwtAuthorityRequest,
) -> Result<Vec<types::JwtKey>, Status> {
    const INVALID: &str = "invalid JWT authority";
    status::within_measure(services, caller)?;
    let key = request
        .jwt_authority
        .ok_or_else(|| Status::invalid_argument("missing JWT authority"))?;
    let jwt = jwt_authorities(std::slice::from_ref(&key))
        .map_err(|error| status::invalid(INVALID, &error))?;
    for authority in &jwt {
        authority
            .public_key
            .check_for_issuance()
            .map_err(|error| status::invalid(INVALID, &error))?;
        match authority.expires_at {
            None => {
                let message = format!("{INVALID}: missing expiry");
                return Err(Status::invalid_argument(message));
            }
            Some(end) if end <= services.clock.now() => {
                let message = format!("{INVALID}: it has expired");
                return Err(Status::invalid_argument(message));
            }
            Some(_) => {}
        }
    }
    // What counts here alone would not be known beside and above.
    for authority in &jwt {
        let above = services.authorities.publish_above(authority).await;
        above.map_err(|error| status::upstream("failed to publish JWT key", &error))?;
    }
    let additions = Additions {
        jwt,
        ..Additions::default()
    };
    let bundle = add(services, "failed to publish JWT key", &additions).await?;
    let event = Event::JwtAuthorityPublished(&key.key_id);
    services.audit.record(caller, event);
    Ok(to_proto(&bundle, None).jwt_authorities)
}

/// Adds what the bundle lacks, and answers with all of it once it is visible.
async fn add(services: &Services, what: &str, additions: &Additions) -> Result<Bundle, Status> {
    let plan = |snapshot: &_| append_plan(snapshot, additions);
    let outcome = services.writer.write(plan).await;
    let outcome = outcome.map_err(|error| status::write(what, &error))?;
    outcome.map_err(|refused| status::not_appended(what, &refused))
}
