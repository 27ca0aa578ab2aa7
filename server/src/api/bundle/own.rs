//! `AppendBundle`: authorities of others join the bundle of our own trust domain.

use identity::bundle::Bundle;
use proto::spire::server::bundle::AppendBundleRequest;
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

/// Adds what the bundle lacks, and answers with all of it once it is visible.
async fn add(services: &Services, what: &str, additions: &Additions) -> Result<Bundle, Status> {
    let plan = |snapshot: &_| append_plan(snapshot, additions);
    let outcome = services.writer.write(plan).await;
    let outcome = outcome.map_err(|error| status::write(what, &error))?;
    outcome.map_err(|refused| status::not_appended(what, &refused))
}
