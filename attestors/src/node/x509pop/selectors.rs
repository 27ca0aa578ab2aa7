//! What a verified certificate is known by: SPIRE's selectors, in SPIRE's form.

use std::collections::BTreeMap;

use identity::selector::{Selector, SelectorError, Selectors};
use identity::trust_domain::TrustDomain;
use identity::x509::Certificate;

use super::NAME;

pub(super) fn selectors(
    leaf: &Certificate,
    above: &[Certificate],
    uris: &BTreeMap<String, String>,
) -> Result<Selectors, SelectorError> {
    let common_name = leaf.common_name().filter(|name| !name.is_empty());
    let name = common_name.map(|name| format!("subject:cn:{name}"));
    let above = above
        .iter()
        .map(|one| format!("ca:fingerprint:{}", one.fingerprint_sha1()));
    let serial = format!("serialnumber:{}", leaf.serial_hex());
    let uris = uris.iter().map(|(key, value)| format!("san:{key}:{value}"));
    let values = name.into_iter().chain(above).chain([serial]).chain(uris);
    values.map(|value| Selector::new(NAME, &value)).collect()
}

/// The pairs of the URIs `x509pop://TRUST-DOMAIN/KEY/VALUE`. Of two with one key the later counts; one
/// with escapes is passed over, so that nobody has to agree on what it means.
pub(super) fn uri_pairs(
    leaf: &Certificate,
    trust_domain: &TrustDomain,
) -> BTreeMap<String, String> {
    let prefix = format!("{NAME}://{}/", trust_domain.name());
    let path = |uri: &str| {
        let rest = uri.strip_prefix(&prefix)?;
        let path = rest.split(['?', '#']).next()?.trim_matches('/');
        let (key, value) = path.split_once('/')?;
        let plain = !path.contains('%') && !key.is_empty();
        plain.then(|| (key.to_owned(), value.to_owned()))
    };
    leaf.uri_names().filter_map(path).collect()
}
