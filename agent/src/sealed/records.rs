//! What is kept, and its form: our own protobuf, versioned by its field numbers. The names tell the kind.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use bytes::Bytes;
use identity::bundle::{Bundle, JwtAuthority, X509Authority};
use identity::entry::{DnsName, Entry, EntryId, Hint};
use identity::jwt::JwtSvid;
use identity::key::{PrivateKey, PublicKey};
use identity::selector::Selector;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::x509::{Certificate, X509Svid};
use prost::Message;
use proto::records::{
    SealedFormat, SealedJwtSvid, SealedX509Svid, StoredBundle, StoredEntry, StoredSelector,
    stored_bundle,
};
use zeroize::Zeroizing;

/// The version of the records together. Another one is set aside, and what it held is fetched again.
pub(super) const FORMAT: u32 = 2;
/// The largest record that is read.
const MAX_BYTES: usize = 4 << 20;

/// A revision of an entry, as the cache compares it.
pub type Revision = (i64, SystemTime);

/// One thing that is kept.
#[derive(Clone, Debug)]
pub enum Item {
    Format,
    Entry(Arc<Entry>),
    /// Of the agent's own trust domain.
    Own(Arc<Bundle>),
    Federated(Arc<Bundle>),
    /// An X509-SVID, and the revision of its entry that it was signed for.
    X509 {
        entry_id: EntryId,
        revision: Revision,
        svid: X509Svid,
    },
    Jwt {
        entry_id: EntryId,
        revision: Revision,
        svid: JwtSvid,
    },
}

/// Why a record is none.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("the bytes are not a record of this kind")]
    Protobuf(#[from] prost::DecodeError),
    #[error("the record has {0} bytes, more than any has")]
    TooLarge(usize),
    #[error("the name is of no kind of record")]
    Name,
    #[error("the record is of another thing than its name says")]
    OtherName,
    #[error("the records are of the format {0}, and this program reads {FORMAT}")]
    Format(u32),
    #[error("the field `{field}` does not hold what it should")]
    Field {
        field: &'static str,
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
}

impl CodecError {
    fn field<E: Error + Send + Sync + 'static>(field: &'static str) -> impl FnOnce(E) -> Self {
        move |cause| Self::Field {
            field,
            cause: Box::new(cause),
        }
    }
}

impl Item {
    /// The name that it is kept by: one for each thing, whatever its content.
    pub fn name(&self) -> Vec<u8> {
        match self {
            Self::Format => b"f".to_vec(),
            Self::Entry(entry) => named(b'e', entry.id.as_str()),
            Self::Own(bundle) => named(b'o', bundle.trust_domain.name()),
            Self::Federated(bundle) => named(b'b', bundle.trust_domain.name()),
            Self::X509 { entry_id, .. } => named(b'x', entry_id.as_str()),
            Self::Jwt { entry_id, svid, .. } => jwt_name(entry_id, svid.audience()),
        }
    }

    /// Whether both say the same.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Format, Self::Format) => true,
            (Self::Entry(one), Self::Entry(other)) => Arc::ptr_eq(one, other) || one == other,
            (Self::Own(one), Self::Own(other)) | (Self::Federated(one), Self::Federated(other)) => {
                Arc::ptr_eq(one, other) || one == other
            }
            (
                Self::X509 { revision, svid, .. },
                Self::X509 {
                    revision: other_revision,
                    svid: other,
                    ..
                },
            ) => revision == other_revision && svid.leaf() == other.leaf(),
            (
                Self::Jwt { revision, svid, .. },
                Self::Jwt {
                    revision: other_revision,
                    svid: other,
                    ..
                },
            ) => revision == other_revision && svid.token() == other.token(),
            _ => false,
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(match self {
            Self::Format => SealedFormat { version: FORMAT }.encode_to_vec(),
            Self::Entry(entry) => encode_entry(entry).encode_to_vec(),
            Self::Own(bundle) | Self::Federated(bundle) => encode_bundle(bundle).encode_to_vec(),
            Self::X509 {
                entry_id,
                revision: (revision, created_at),
                svid,
            } => {
                let mut stored = SealedX509Svid {
                    entry_id: entry_id.as_str().to_owned(),
                    revision: *revision,
                    created_at: to_seconds(*created_at),
                    certificate_chain: svid
                        .chain()
                        .iter()
                        .map(|certificate| Bytes::copy_from_slice(certificate.der()))
                        .collect(),
                    private_key: Bytes::copy_from_slice(svid.key().pkcs8_der()),
                };
                let encoded = stored.encode_to_vec();
                wipe(&mut stored);
                encoded
            }
            Self::Jwt {
                entry_id,
                revision: (revision, created_at),
                svid,
            } => SealedJwtSvid {
                entry_id: entry_id.as_str().to_owned(),
                revision: *revision,
                created_at: to_seconds(*created_at),
                token: svid.token().to_owned(),
            }
            .encode_to_vec(),
        })
    }

    /// Reads what was kept by this name.
    pub fn decode(name: &[u8], value: &[u8]) -> Result<Self, CodecError> {
        if value.len() > MAX_BYTES {
            return Err(CodecError::TooLarge(value.len()));
        }
        let item = match name.first() {
            Some(b'f') => match SealedFormat::decode(value)?.version {
                FORMAT => Self::Format,
                other => return Err(CodecError::Format(other)),
            },
            Some(b'e') => Self::Entry(Arc::new(decode_entry(value)?)),
            Some(b'o') => Self::Own(Arc::new(decode_bundle(value)?)),
            Some(b'b') => Self::Federated(Arc::new(decode_bundle(value)?)),
            Some(b'x') => decode_x509(value)?,
            Some(b'j') => decode_jwt(value)?,
            _ => return Err(CodecError::Name),
        };
        if item.name() == name {
            Ok(item)
        } else {
            Err(CodecError::OtherName)
        }
    }
}

fn named(kind: u8, name: &str) -> Vec<u8> {
    let mut whole = vec![kind, b'/'];
    whole.extend_from_slice(name.as_bytes());
    whole
}

/// Audiences may be long, and whoever sees the names need not know them.
fn jwt_name(entry_id: &EntryId, audience: &[String]) -> Vec<u8> {
    let mut audience: Vec<_> = audience.iter().collect();
    audience.sort_unstable();
    let mut sum = digest::Context::new(&digest::SHA256);
    for text in std::iter::once(entry_id.as_str()).chain(audience.into_iter().map(String::as_str)) {
        sum.update(&(text.len() as u64).to_be_bytes());
        sum.update(text.as_bytes());
    }
    named(b'j', &hex::encode(sum.finish().as_ref()))
}

/// Takes the private key out of a message and wipes it.
fn wipe(stored: &mut SealedX509Svid) -> Zeroizing<Vec<u8>> {
    // The bytes were copied for this message alone, so the buffer itself is handed over.
    Zeroizing::new(std::mem::take(&mut stored.private_key).into())
}

fn decode_x509(value: &[u8]) -> Result<Item, CodecError> {
    let mut stored = SealedX509Svid::decode(value)?;
    let key = wipe(&mut stored);
    let key = PrivateKey::from_pkcs8_der(key).map_err(CodecError::field("private_key"))?;
    let chain = stored
        .certificate_chain
        .iter()
        .map(|der| Certificate::parse(der))
        .collect::<Result<_, _>>()
        .map_err(CodecError::field("certificate_chain"))?;
    // X509-SVID 5.2, and that the key is the certificate's: as when the server sent it.
    let svid =
        X509Svid::new(chain, Arc::new(key)).map_err(CodecError::field("certificate_chain"))?;
    Ok(Item::X509 {
        entry_id: EntryId::parse(&stored.entry_id).map_err(CodecError::field("entry_id"))?,
        revision: (stored.revision, from_seconds(stored.created_at)),
        svid,
    })
}

fn decode_jwt(value: &[u8]) -> Result<Item, CodecError> {
    let stored = SealedJwtSvid::decode(value)?;
    Ok(Item::Jwt {
        entry_id: EntryId::parse(&stored.entry_id).map_err(CodecError::field("entry_id"))?,
        revision: (stored.revision, from_seconds(stored.created_at)),
        svid: JwtSvid::parse_unverified(&stored.token).map_err(CodecError::field("token"))?,
    })
}

fn encode_entry(entry: &Entry) -> StoredEntry {
    let seconds = |ttl: Duration| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
    let selector = |selector: &Selector| StoredSelector {
        kind: selector.kind().to_owned(),
        value: selector.value().to_owned(),
    };
    let trust_domains = entry.federates_with.iter();
    let dns_names = entry.dns_names.iter();
    StoredEntry {
        id: entry.id.as_str().to_owned(),
        spiffe_id: entry.spiffe_id.as_str().to_owned(),
        parent_id: entry.parent_id.as_str().to_owned(),
        selectors: entry.selectors.iter().map(selector).collect(),
        x509_svid_ttl: entry.x509_svid_ttl.map(seconds),
        jwt_svid_ttl: entry.jwt_svid_ttl.map(seconds),
        federates_with: trust_domains.map(|td| td.name().to_owned()).collect(),
        admin: entry.admin,
        downstream: entry.downstream,
        expires_at: entry.expires_at.map(to_seconds),
        dns_names: dns_names.map(|name| name.as_str().to_owned()).collect(),
        store_svid: entry.store_svid,
        hint: entry.hint.as_ref().map(|hint| hint.as_str().to_owned()),
        revision: entry.revision,
        created_at: to_seconds(entry.created_at),
        disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
        jwt_svid_include_jti: entry.jwt_svid_include_jti,
    }
}

fn decode_entry(value: &[u8]) -> Result<Entry, CodecError> {
    let stored = StoredEntry::decode(value)?;
    let seconds = |ttl: u32| Duration::from_secs(ttl.into());
    let selectors = stored.selectors.iter();
    let trust_domains = stored.federates_with.iter();
    let dns_names = stored.dns_names.iter();
    let hint = stored.hint.as_deref().map(Hint::parse).transpose();
    Ok(Entry {
        id: EntryId::parse(&stored.id).map_err(CodecError::field("id"))?,
        spiffe_id: SpiffeId::parse(&stored.spiffe_id).map_err(CodecError::field("spiffe_id"))?,
        parent_id: SpiffeId::parse(&stored.parent_id).map_err(CodecError::field("parent_id"))?,
        selectors: selectors
            .map(|selector| Selector::new(&selector.kind, &selector.value))
            .collect::<Result<_, _>>()
            .map_err(CodecError::field("selectors"))?,
        x509_svid_ttl: stored.x509_svid_ttl.map(seconds),
        jwt_svid_ttl: stored.jwt_svid_ttl.map(seconds),
        federates_with: trust_domains
            .map(|name| TrustDomain::parse(name))
            .collect::<Result<_, _>>()
            .map_err(CodecError::field("federates_with"))?,
        admin: stored.admin,
        downstream: stored.downstream,
        expires_at: stored.expires_at.map(from_seconds),
        dns_names: dns_names
            .map(|name| DnsName::parse(name))
            .collect::<Result<_, _>>()
            .map_err(CodecError::field("dns_names"))?,
        store_svid: stored.store_svid,
        hint: hint.map_err(CodecError::field("hint"))?,
        revision: stored.revision,
        created_at: from_seconds(stored.created_at),
        disable_x509_svid_prefetch: stored.disable_x509_svid_prefetch,
        jwt_svid_include_jti: stored.jwt_svid_include_jti,
    })
}

fn encode_bundle(bundle: &Bundle) -> StoredBundle {
    let x509 = |authority: &X509Authority| stored_bundle::X509Authority {
        der: Bytes::copy_from_slice(authority.certificate.der()),
        tainted: authority.tainted,
    };
    let jwt = |authority: &JwtAuthority| stored_bundle::JwtAuthority {
        key_id: authority.key_id.clone(),
        spki_der: Bytes::copy_from_slice(authority.public_key.spki_der()),
        expires_at: authority.expires_at.map(to_seconds),
        tainted: authority.tainted,
    };
    StoredBundle {
        trust_domain: bundle.trust_domain.name().to_owned(),
        x509_authorities: bundle.x509_authorities.iter().map(x509).collect(),
        jwt_authorities: bundle.jwt_authorities.iter().map(jwt).collect(),
        refresh_hint: bundle.refresh_hint.map(|hint| hint.as_secs()),
        sequence: bundle.sequence,
    }
}

fn decode_bundle(value: &[u8]) -> Result<Bundle, CodecError> {
    let stored = StoredBundle::decode(value)?;
    let x509 = stored.x509_authorities.iter().map(|authority| {
        let certificate = Certificate::parse(&authority.der);
        Ok(X509Authority {
            certificate: certificate.map_err(CodecError::field("x509_authorities"))?,
            tainted: authority.tainted,
        })
    });
    let jwt = stored.jwt_authorities.iter().map(|authority| {
        let key = PublicKey::from_spki_der(&authority.spki_der);
        Ok(JwtAuthority {
            key_id: authority.key_id.clone(),
            public_key: key.map_err(CodecError::field("jwt_authorities"))?,
            expires_at: authority.expires_at.map(from_seconds),
            tainted: authority.tainted,
        })
    });
    let trust_domain = TrustDomain::parse(&stored.trust_domain);
    Ok(Bundle {
        trust_domain: trust_domain.map_err(CodecError::field("trust_domain"))?,
        x509_authorities: x509.collect::<Result<_, CodecError>>()?,
        jwt_authorities: jwt.collect::<Result<_, CodecError>>()?,
        refresh_hint: stored.refresh_hint.map(Duration::from_secs),
        sequence: stored.sequence,
    })
}

fn to_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn from_seconds(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
