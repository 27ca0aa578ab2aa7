//! Registration entries, under `entries/ID`.

use std::time::Duration;

use bytes::Bytes;
use identity::entry::{DnsName, Entry, EntryId, Hint};
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use prost::Message;
use proto::records::StoredEntry;
use sha2::{Digest, Sha256};

use super::{CodecError, decode_selectors, encode_selectors, from_seconds, to_seconds};

pub(crate) fn encode(entry: &Entry) -> Bytes {
    let seconds = |ttl: Duration| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
    let stored = StoredEntry {
        id: entry.id.as_str().to_owned(),
        spiffe_id: entry.spiffe_id.as_str().to_owned(),
        parent_id: entry.parent_id.as_str().to_owned(),
        selectors: encode_selectors(&entry.selectors),
        x509_svid_ttl: entry.x509_svid_ttl.map(seconds),
        jwt_svid_ttl: entry.jwt_svid_ttl.map(seconds),
        federates_with: entry
            .federates_with
            .iter()
            .map(|td| td.name().to_owned())
            .collect(),
        admin: entry.admin,
        downstream: entry.downstream,
        expires_at: entry.expires_at.map(to_seconds),
        dns_names: entry
            .dns_names
            .iter()
            .map(|name| name.as_str().to_owned())
            .collect(),
        store_svid: entry.store_svid,
        hint: entry.hint.as_ref().map(|hint| hint.as_str().to_owned()),
        revision: entry.revision,
        created_at: to_seconds(entry.created_at),
        disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
        jwt_svid_include_jti: entry.jwt_svid_include_jti,
    };
    stored.encode_to_vec().into()
}

pub(crate) fn decode(value: &[u8]) -> Result<Entry, CodecError> {
    let stored = StoredEntry::decode(value)?;
    let seconds = |ttl: u32| Duration::from_secs(ttl.into());
    Ok(Entry {
        id: EntryId::parse(&stored.id).map_err(CodecError::field("id"))?,
        spiffe_id: SpiffeId::parse(&stored.spiffe_id).map_err(CodecError::field("spiffe_id"))?,
        parent_id: SpiffeId::parse(&stored.parent_id).map_err(CodecError::field("parent_id"))?,
        selectors: decode_selectors(&stored.selectors)?,
        x509_svid_ttl: stored.x509_svid_ttl.map(seconds),
        jwt_svid_ttl: stored.jwt_svid_ttl.map(seconds),
        federates_with: stored
            .federates_with
            .iter()
            .map(|name| TrustDomain::parse(name))
            .collect::<Result<_, _>>()
            .map_err(CodecError::field("federates_with"))?,
        admin: stored.admin,
        downstream: stored.downstream,
        expires_at: stored.expires_at.map(from_seconds),
        dns_names: stored
            .dns_names
            .iter()
            .map(|name| DnsName::parse(name))
            .collect::<Result<_, _>>()
            .map_err(CodecError::field("dns_names"))?,
        store_svid: stored.store_svid,
        hint: stored
            .hint
            .as_deref()
            .map(Hint::parse)
            .transpose()
            .map_err(CodecError::field("hint"))?,
        revision: stored.revision,
        created_at: from_seconds(stored.created_at),
        disable_x509_svid_prefetch: stored.disable_x509_svid_prefetch,
        jwt_svid_include_jti: stored.jwt_svid_include_jti,
    })
}

/// The name of the guard that keeps one entry for each parent, SPIFFE ID and set of selectors.
///
/// Each piece is hashed with its length before it, so that no two triples run together.
pub(crate) fn unique_hash(entry: &Entry) -> String {
    let mut hash = Sha256::new();
    let mut piece = |text: &str| {
        hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(text);
    };
    piece(entry.parent_id.as_str());
    piece(entry.spiffe_id.as_str());
    for selector in &entry.selectors {
        piece(selector.kind());
        piece(selector.value());
    }
    hex::encode(hash.finalize())
}
