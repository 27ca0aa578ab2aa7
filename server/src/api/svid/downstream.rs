//! `NewDownstreamX509CA`: a server below this one gets a signing certificate.
//!
//! Nothing of its CSR but the public key reaches the certificate. What it signs is verified by the
//! authorities of our bundle, so it can sign whatever we can: the entry with the flag `downstream` is as
//! much trust as there is.

use std::time::Duration;

use bytes::Bytes;
use identity::x509::{Csr, CsrError};
use proto::spire::server::svid::{NewDownstreamX509caRequest, NewDownstreamX509caResponse};
use tonic::Status;

use super::super::Services;
use super::super::caller::Caller;
use super::super::status;
use crate::audit::Event;

pub(super) fn issue(
    services: &Services,
    caller: &Caller,
    request: &NewDownstreamX509caRequest,
) -> Result<NewDownstreamX509caResponse, Status> {
    status::within_measure(services, caller)?;
    let csr = Csr::parse_and_verify(&request.csr).map_err(|error| {
        let what = match error {
            CsrError::Signature(_) => "invalid CSR signature",
            _ => "malformed CSR",
        };
        status::invalid(what, &error)
    })?;
    let ttl = u64::try_from(request.preferred_ttl)
        .ok()
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs);
    let issued = services
        .authorities
        .sign_downstream_ca(csr.public_key(), ttl, services.clock.now())
        .map_err(|error| status::sign("failed to sign downstream X.509 CA", &error))?;
    let snapshot = services.index.snapshot();
    let bundle = snapshot.bundles.own();
    let bundle = bundle.ok_or_else(|| Status::not_found("bundle not found"))?;
    let event = Event::DownstreamCaIssued {
        serial: &issued.serial,
        not_after: issued.not_after,
    };
    services.audit.record(caller, event);
    let authorities = bundle.value.certificates();
    Ok(NewDownstreamX509caResponse {
        ca_cert_chain: issued.chain,
        x509_authorities: authorities
            .map(|certificate| Bytes::copy_from_slice(certificate.der()))
            .collect(),
    })
}
