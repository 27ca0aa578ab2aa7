//! The entry that a command line describes.

use proto::spire::types::entry::AdditionalAttributes;
use proto::spire::types::{Entry, Spiffeid};

use crate::admin::{self, int32, spiffe_id};
use crate::failure::Failure;
use crate::flags::Values;

/// The entry that the flags of `entry create` describe.
pub(super) fn created(values: &Values) -> Result<Entry, Failure> {
    let node = values.switch("node");
    some_selector(values)?;
    if node && !values.list("federatesWith").is_empty() {
        return Err(Failure::new("node entries can not federate"));
    }
    if values.given("parentID").is_none() && !node {
        return Err(Failure::new(
            "a parent ID is required if the node flag is not set",
        ));
    }
    lifetimes_and_id(values)?;
    let spiffe_id = spiffe_id(values.text("spiffeID"))?;
    let parent_id = match node {
        // An entry for nodes hangs below the server itself.
        true => Spiffeid {
            trust_domain: spiffe_id.trust_domain.clone(),
            path: "/spire/server".to_owned(),
        },
        false => admin::spiffe_id(values.text("parentID"))?,
    };
    let entry = described(values, spiffe_id, parent_id)?;
    let wanted = attributes(values, AdditionalAttributes::default());
    Ok(Entry {
        additional_attributes: Some(wanted).filter(|it| *it != AdditionalAttributes::default()),
        ..entry
    })
}

/// The entry that the flags of `entry update` describe.
pub(super) fn updated(values: &Values) -> Result<Entry, Failure> {
    if values.given("entryID").is_none() {
        return Err(Failure::new("entry ID is required"));
    }
    some_selector(values)?;
    if values.given("parentID").is_none() {
        return Err(Failure::new("a parent ID is required"));
    }
    lifetimes_and_id(values)?;
    let parent_id = spiffe_id(values.text("parentID"))?;
    let spiffe_id = spiffe_id(values.text("spiffeID"))?;
    let entry = described(values, spiffe_id, parent_id)?;
    let named = values.is_set("disableX509SVIDPrefetch") || values.is_set("jwtSVIDIncludeJTI");
    Ok(Entry {
        additional_attributes: named.then(|| attributes(values, AdditionalAttributes::default())),
        ..entry
    })
}

fn some_selector(values: &Values) -> Result<(), Failure> {
    match values.list("selector") {
        [] => Err(Failure::new("at least one selector is required")),
        _ => Ok(()),
    }
}

fn lifetimes_and_id(values: &Values) -> Result<(), Failure> {
    if values.given("spiffeID").is_none() {
        return Err(Failure::new("a SPIFFE ID is required"));
    }
    if values.int("x509SVIDTTL") < 0 {
        return Err(Failure::new("a positive x509-SVID TTL is required"));
    }
    if values.int("jwtSVIDTTL") < 0 {
        return Err(Failure::new("a positive JWT-SVID TTL is required"));
    }
    Ok(())
}

fn described(values: &Values, id: Spiffeid, parent: Spiffeid) -> Result<Entry, Failure> {
    let selectors = values.list("selector").iter();
    Ok(Entry {
        id: values.text("entryID").to_owned(),
        spiffe_id: Some(id),
        parent_id: Some(parent),
        x509_svid_ttl: int32(values.int("x509SVIDTTL"), "X509 SVID TTL")?,
        jwt_svid_ttl: int32(values.int("jwtSVIDTTL"), "JWT SVID TTL")?,
        selectors: selectors
            .map(|text| admin::filter::selector(text))
            .collect::<Result<_, _>>()?,
        federates_with: values.list("federatesWith").to_vec(),
        admin: values.switch("admin"),
        downstream: values.switch("downstream"),
        expires_at: values.int("entryExpiry"),
        dns_names: values.list("dns").to_vec(),
        store_svid: values.switch("storeSVID"),
        hint: values.text("hint").to_owned(),
        ..Entry::default()
    })
}

/// The attributes with those replaced that stand on the command line.
pub(super) fn attributes(values: &Values, stored: AdditionalAttributes) -> AdditionalAttributes {
    let chosen = |flag: &str, stored| match values.is_set(flag) {
        true => values.switch(flag),
        false => stored,
    };
    AdditionalAttributes {
        disable_x509_svid_prefetch: chosen(
            "disableX509SVIDPrefetch",
            stored.disable_x509_svid_prefetch,
        ),
        jwt_svid_include_jti: chosen("jwtSVIDIncludeJTI", stored.jwt_svid_include_jti),
    }
}
