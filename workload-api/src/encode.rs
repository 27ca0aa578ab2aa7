//! From identities and bundles to the bytes of a response.

use std::collections::BTreeMap;

use bytes::Bytes;
use identity::bundle::Bundle;
use prost::Message;
use proto::workload::{JwtBundlesResponse, X509BundlesResponse, X509svid, X509svidResponse};
use zeroize::Zeroizing;

use crate::hints;
use crate::source::{Identity, Update};

/// The message of `FetchX509SVID`, in memory that is wiped when its last user drops it.
pub(crate) fn x509_svids(update: &Update) -> Bytes {
    let own = Bytes::from(update.bundles().own().x509_der());
    // Workload API 5.2.1: one element for each identity, and no hint twice.
    let svids = hints::unique(update.identities(), |identity| hints::Claim {
        hint: identity.hint.as_ref(),
        created_at: identity.created_at,
        entry_id: &identity.entry_id,
    })
    .map(|identity| x509_svid(identity, own.clone()))
    .collect();
    let response = X509svidResponse {
        svids,
        crl: Vec::new(),
        federated_bundles: x509_map(update.bundles().federated().values()),
    };
    secret(&response)
}

fn x509_svid(identity: &Identity, bundle: Bytes) -> X509svid {
    let svid = &identity.svid;
    X509svid {
        spiffe_id: svid.id().to_string(),
        // Workload API 5.1: the leaf first, then the intermediates; the key is unencrypted PKCS#8.
        x509_svid: Bytes::from(svid.chain_der()),
        x509_svid_key: Bytes::from_owner(Zeroizing::new(svid.key().pkcs8_der().to_vec())),
        bundle,
        hint: identity
            .hint
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    }
}

/// The message of `FetchX509Bundles`.
pub(crate) fn x509_bundles(bundles: impl Iterator<Item = impl AsRef<Bundle>>) -> Bytes {
    let response = X509BundlesResponse {
        crl: Vec::new(),
        bundles: x509_map(bundles),
    };
    response.encode_to_vec().into()
}

/// The message of `FetchJWTBundles`.
pub(crate) fn jwt_bundles(bundles: impl Iterator<Item = impl AsRef<Bundle>>) -> Bytes {
    // Workload API 6.2.2: each value is a JWK Set of JWT authorities and nothing else.
    let response = JwtBundlesResponse {
        bundles: bundles
            .map(|bundle| {
                (
                    key(bundle.as_ref()),
                    Bytes::from(bundle.as_ref().jwks_json()),
                )
            })
            .collect(),
    };
    response.encode_to_vec().into()
}

/// Any response that carries a secret: its bytes are wiped after use.
pub(crate) fn secret(response: &impl Message) -> Bytes {
    Bytes::from_owner(Zeroizing::new(response.encode_to_vec()))
}

/// DER by trust domain.
///
/// A trust domain without any X.509 authority is left out: absence already means that nobody there
/// is trusted, and some clients take an empty value for a damaged message.
fn x509_map(bundles: impl Iterator<Item = impl AsRef<Bundle>>) -> BTreeMap<String, Bytes> {
    bundles
        .map(|bundle| {
            (
                key(bundle.as_ref()),
                Bytes::from(bundle.as_ref().x509_der()),
            )
        })
        .filter(|(_, der)| !der.is_empty())
        .collect()
}

/// Workload API 5.1: maps are keyed by the trust domain's SPIFFE ID.
fn key(bundle: &Bundle) -> String {
    bundle.trust_domain.id().to_string()
}
