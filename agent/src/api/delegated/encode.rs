//! What delegates are sent.

use std::sync::Arc;

use bytes::Bytes;
use identity::bundle::Bundle;
use identity::entry::Entry;
use identity::jwt::JwtSvid;
use proto::spire::agent::delegatedidentity::{
    SubscribeToJwtBundlesResponse, SubscribeToX509BundlesResponse, SubscribeToX509sviDsResponse,
    X509svidWithKey,
};
use proto::spire::types;
use workload_api::source::{Identity, Update};
use zeroize::Zeroizing;

use crate::api::wire::{id, seconds};

/// Of an update, what belongs to these entries.
pub(super) fn x509_svids(update: &Update, entries: &[Arc<Entry>]) -> SubscribeToX509sviDsResponse {
    let is_allowed = |identity: &&Arc<Identity>| {
        let mut entries = entries.iter();
        entries.any(|entry| entry.id == identity.entry_id)
    };
    let federated = update.bundles().federated().keys();
    SubscribeToX509sviDsResponse {
        x509_svids: (update.identities().iter().filter(is_allowed))
            .map(|identity| x509_svid(identity))
            .collect(),
        federates_with: federated.map(|td| td.id().to_string()).collect(),
    }
}

fn x509_svid(identity: &Identity) -> X509svidWithKey {
    let svid = &identity.svid;
    let chain = svid.chain().iter();
    X509svidWithKey {
        x509_svid: Some(types::X509svid {
            cert_chain: chain
                .map(|certificate| Bytes::copy_from_slice(certificate.der()))
                .collect(),
            id: Some(id(svid.id())),
            expires_at: seconds(svid.validity().not_after()),
            hint: identity
                .hint
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        }),
        x509_svid_key: Bytes::from_owner(Zeroizing::new(svid.key().pkcs8_der().to_vec())),
    }
}

pub(super) fn jwt(entry: &Entry, svid: &JwtSvid) -> types::Jwtsvid {
    types::Jwtsvid {
        token: svid.token().to_owned(),
        id: Some(id(svid.id())),
        expires_at: seconds(svid.expires_at()),
        issued_at: svid.issued_at().map_or(0, seconds),
        hint: entry
            .hint
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    }
}

pub(super) fn x509_bundles(bundles: &[Arc<Bundle>]) -> SubscribeToX509BundlesResponse {
    let bundle = |bundle: &Arc<Bundle>| (key(bundle), Bytes::from(bundle.x509_der()));
    SubscribeToX509BundlesResponse {
        ca_certificates: bundles.iter().map(bundle).collect(),
    }
}

pub(super) fn jwt_bundles(bundles: &[Arc<Bundle>]) -> SubscribeToJwtBundlesResponse {
    let bundle = |bundle: &Arc<Bundle>| (key(bundle), Bytes::from(bundle.jwks_json()));
    SubscribeToJwtBundlesResponse {
        bundles: bundles.iter().map(bundle).collect(),
    }
}

fn key(bundle: &Bundle) -> String {
    bundle.trust_domain.id().to_string()
}
