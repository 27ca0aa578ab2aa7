//! `MintX509SVID` and `MintJWTSVID`: an operator has an SVID signed without an entry.
//!
//! The one place where more of a CSR than its public key reaches a certificate: its SPIFFE ID, its DNS
//! names and its subject, each parsed and checked. Codes and sentences are SPIRE's.

use std::collections::BTreeSet;
use std::time::Duration;

use identity::entry::DnsName;
use identity::namespace::Role;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::x509::{Csr, CsrError};
use proto::spire::server::svid::{MintJwtsvidRequest, MintX509svidRequest};
use proto::spire::types;
use tonic::Status;

use super::super::caller::Caller;
use super::super::convert::{id_in_role, id_to_proto};
use super::super::{JwtSvids, Services, status};
use crate::audit::Event;
use crate::authority::{JwtSvidRequest, Subject, X509SvidRequest};
use crate::records::to_seconds;

/// More DNS names than this are no honest request.
const MAX_DNS_NAMES: usize = 128;

pub(super) fn x509(
    services: &Services,
    caller: &Caller,
    request: &MintX509svidRequest,
) -> Result<types::X509svid, Status> {
    if request.csr.is_empty() {
        return Err(Status::invalid_argument("missing CSR"));
    }
    let csr = Csr::parse_and_verify(&request.csr).map_err(|error| {
        let what = match error {
            CsrError::Signature(_) => "failed to verify CSR signature",
            _ => "malformed CSR",
        };
        status::invalid(what, &error)
    })?;
    let id = spiffe_id(&csr, &services.trust_domain)?;
    let dns_names = dns_names(&csr)?;
    let name = csr
        .subject()
        .map_err(|error| status::invalid("CSR subject is invalid", &error))?;
    let name = Some(&name).filter(|name| !name.is_empty());
    let wanted = X509SvidRequest {
        id: &id,
        public_key: csr.public_key(),
        dns_names: &dns_names,
        ttl: ttl(request.ttl, services.ttls.x509_svid),
        subject: Subject::Workload,
        name,
    };
    let issued = services
        .authorities
        .sign_x509_svid(&wanted, services.clock.now())
        .map_err(|error| status::sign("failed to sign X509-SVID", &error))?;
    let event = Event::X509SvidMinted {
        id: &id,
        serial: &issued.serial,
        not_after: issued.not_after,
        dns_names: &dns_names,
        subject: name,
    };
    services.audit.record(caller, event);
    Ok(types::X509svid {
        cert_chain: issued.chain.clone(),
        id: Some(id_to_proto(&id)),
        expires_at: to_seconds(issued.not_after),
        hint: String::new(),
    })
}

pub(super) fn jwt(
    services: &Services,
    caller: &Caller,
    request: &MintJwtsvidRequest,
) -> Result<types::Jwtsvid, Status> {
    if services.jwt_svids == JwtSvids::Disabled {
        return Err(Status::unimplemented("JWT functionality is disabled"));
    }
    let id = id_in_role(request.id.as_ref(), Role::Workload, &services.trust_domain)
        .map_err(|error| status::invalid("invalid SPIFFE ID", &error))?;
    // SPIRE finds names that are all empty only when it signs.
    if !request.audience.is_empty() && request.audience.iter().all(String::is_empty) {
        return Err(Status::internal(
            "failed to sign JWT-SVID: invalid JWT-SVID audience: cannot be empty",
        ));
    }
    super::check_audience(&request.audience)?;
    let wanted = JwtSvidRequest {
        id: &id,
        audience: &request.audience,
        ttl: ttl(request.ttl, services.ttls.jwt_svid),
        include_jti: false,
    };
    let issued = services
        .authorities
        .sign_jwt_svid(&wanted, services.clock.now())
        .map_err(|error| status::sign("failed to sign JWT-SVID", &error))?;
    let event = Event::JwtSvidMinted {
        id: &id,
        expires_at: issued.expires_at,
    };
    services.audit.record(caller, event);
    Ok(types::Jwtsvid {
        token: issued.token,
        id: Some(id_to_proto(&id)),
        expires_at: to_seconds(issued.expires_at),
        issued_at: to_seconds(issued.issued_at),
        hint: String::new(),
    })
}

/// The lifetime asked for; zero or less means the server's, as in SPIRE. The authority caps it.
fn ttl(seconds: i32, default: Duration) -> Duration {
    u64::try_from(seconds)
        .ok()
        .filter(|seconds| *seconds > 0)
        .map_or(default, Duration::from_secs)
}

fn spiffe_id(csr: &Csr, own: &TrustDomain) -> Result<SpiffeId, Status> {
    const INVALID: &str = "CSR URI SAN is invalid";
    let mut uris = csr.uris();
    // X509-SVID 2: a leaf has exactly one URI.
    let uri = match (uris.next(), uris.len()) {
        (None, _) => return Err(Status::invalid_argument("CSR URI SAN is required")),
        (Some(uri), 0) => uri.unwrap_or_default(),
        (Some(_), _) => {
            return Err(Status::invalid_argument("only one URI SAN is expected"));
        }
    };
    let id = SpiffeId::parse(uri).map_err(|error| status::invalid(INVALID, &error))?;
    Role::Workload
        .check(&id, own)
        .map_err(|error| status::invalid(INVALID, &error))?;
    Ok(id)
}

fn dns_names(csr: &Csr) -> Result<Vec<DnsName>, Status> {
    if let Some(name) = csr.foreign_dns_names().first() {
        return Err(Status::invalid_argument(format!(
            "CSR DNS name is invalid: {name:?} is not ASCII; ask for it in its ASCII form (\"xn--...\")"
        )));
    }
    if csr.dns_names().len() > MAX_DNS_NAMES {
        return Err(Status::invalid_argument(format!(
            "CSR has too many DNS names, the maximum is {MAX_DNS_NAMES}"
        )));
    }
    let names = csr.dns_names().iter().map(|name| DnsName::parse(name));
    let names: Vec<DnsName> = names
        .collect::<Result<_, _>>()
        .map_err(|error| status::invalid("CSR DNS name is invalid", &error))?;
    let wildcards: BTreeSet<&str> = (names.iter())
        .filter_map(|name| name.as_str().strip_prefix("*."))
        .collect();
    let covered = names.iter().map(DnsName::as_str).find(|name| {
        let parent = name.split_once('.').map(|(_, parent)| parent);
        !name.starts_with('*') && parent.is_some_and(|parent| wildcards.contains(parent))
    });
    match covered {
        None => Ok(names),
        Some(name) => Err(Status::invalid_argument(format!(
            "CSR DNS name contains a wildcard that covers another non-wildcard name: name {name:?} \
             overlaps with an existing wildcard name in the list: wildcard overlap"
        ))),
    }
}
