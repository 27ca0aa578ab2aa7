//! Makes the certificate of an X.509 authority below one that is not ours.
//!
//! The issuer's name is repeated byte by byte, whatever it is made of: peers compare it so.

use std::time::SystemTime;

use identity::{
    bundle::X509Authority,
    x509::{Attribute, Certificate, DistinguishedName},
};

use super::{
    NOT_BEFORE_CUSHION,
    der::{Body, Name, Shape, Template},
    new_serial, profile, whole_seconds,
};
use crate::{
    authority::{UpstreamError, upstream::CaRequest},
    keys::Signer,
};

/// Signs for the key of the request, valid for its `ttl` and no longer than `ends`.
pub(in crate::authority) fn sign_below(
    issuer: &Certificate,
    signer: &Signer,
    request: &CaRequest<'_>,
    ends: SystemTime,
    now: SystemTime,
) -> Result<Certificate, UpstreamError> {
    let serial = new_serial();
    let subject = request.subject;
    let parts = [
        (Attribute::Country, subject.country.clone()),
        (Attribute::Organization, subject.organization.clone()),
        (Attribute::CommonName, subject.common_name.clone()),
        // It keeps the names of our authorities apart.
        (
            Attribute::SerialNumber,
            Some(u128::from_be_bytes(serial).to_string()),
        ),
    ];
    let mut name = DistinguishedName::default();
    for (attribute, value) in parts {
        if let Some(value) = value {
            name = name.with(attribute, value);
        }
    }
    let id = request.trust_domain.id();
    let not_after = now
        .checked_add(request.ttl)
        .map_or(ends, |end| end.min(ends));
    if not_after <= now {
        return Err(UpstreamError::Ended);
    }
    let body = Body {
        serial,
        not_before: now - NOT_BEFORE_CUSHION,
        not_after: whole_seconds(not_after),
        spki: request.signer.public_key().spki_der(),
        subject_key_id: request.signer.public_key().subject_key_id(),
        uri: id.as_str(),
        subject: Name::Given(&name),
        shape: Shape::Authority,
    };
    // INVARIANT: the name of an authority is hex.
    let key_id = hex::decode(X509Authority::new(issuer.clone()).authority_id()).unwrap_or_default();
    let template = Template::new(signer.algorithm(), issuer.subject_der(), &key_id);
    let to_be_signed = template.to_be_signed(&body);
    if !profile::is_authority_of(&to_be_signed, &id) {
        return Err(UpstreamError::Profile);
    }
    let signature = signer.sign_x509(&to_be_signed)?;
    Ok(Certificate::parse(
        &template.certificate(&to_be_signed, &signature),
    )?)
}
