//! What the names of a request stand for.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TypedExtensionConfig};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret::Type,
    spiffe_cert_validator_config::TrustDomain as ValidatorTrustDomain,
};
use envoy_types::pb::google::protobuf::Any;
use identity::bundle::Bundle;
use identity::x509::X509Svid;
use prost::Message;
use zeroize::{Zeroize, Zeroizing};

use super::node::Validator;
use crate::options::SdsOptions;
use crate::source::Update;

/// The type of every resource here.
pub(crate) const SECRET_TYPE: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const VALIDATOR_TYPE: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
const VALIDATOR_NAME: &str = "envoy.tls.cert_validator.spiffe";

/// A secret under the name it was asked for, encoded. The bytes may hold a private key, and are
/// wiped when the last user drops them.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Resource {
    pub(crate) name: String,
    pub(crate) secret: Bytes,
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Resource({}, <{} bytes>)", self.name, self.secret.len())
    }
}

/// The names of a request. None at all stands for everything.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Names(BTreeSet<String>);

impl FromIterator<String> for Names {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        Self(names.into_iter().filter(|name| !name.is_empty()).collect())
    }
}

/// What there is of the names that were asked for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Found {
    /// In the order of the names.
    pub(crate) resources: Vec<Resource>,
    /// The names that stand for nothing now. They may later.
    pub(crate) pending: Vec<String>,
}

/// Looks every name up on its own, so that one identity may be asked for by several names at once.
pub(crate) fn find(
    names: &Names,
    update: &Update,
    options: &SdsOptions,
    validator: Validator,
) -> Found {
    let lookup = Lookup {
        update,
        options,
        validator,
    };
    let mut found = Found::default();
    let everything;
    let wanted = if names.0.is_empty() {
        everything = lookup.everything();
        &everything
    } else {
        &names.0
    };
    for name in wanted {
        match lookup.secret(name) {
            Some(kind) => found.resources.push(resource(name, kind)),
            None => found.pending.push(name.clone()),
        }
    }
    found
}

struct Lookup<'a> {
    update: &'a Update,
    options: &'a SdsOptions,
    validator: Validator,
}

impl Lookup<'_> {
    /// Every identity and every bundle, each by its SPIFFE ID.
    fn everything(&self) -> BTreeSet<String> {
        let identities = self.update.identities().iter();
        let bundles = self.update.bundles().iter();
        identities
            .map(|identity| identity.svid.id().to_string())
            .chain(bundles.map(|bundle| bundle.trust_domain.id().to_string()))
            .collect()
    }

    fn secret(&self, name: &str) -> Option<Type> {
        let bundles = self.update.bundles();
        let identities = self.update.identities();
        if name == self.options.default_svid_name
            && let Some(first) = identities.first()
        {
            return Some(tls_certificate(&first.svid));
        }
        if name == self.options.default_bundle_name {
            return self.one(bundles.own());
        }
        if name == self.options.default_all_bundles_name {
            return self.all();
        }
        let of_domain = |bundle: &&Arc<Bundle>| bundle.trust_domain.id().as_str() == name;
        if let Some(bundle) = bundles.iter().find(of_domain) {
            return self.one(bundle);
        }
        identities
            .iter()
            .find(|identity| identity.svid.id().as_str() == name)
            .map(|identity| tls_certificate(&identity.svid))
    }

    /// `None` for a trust domain without any authority: Envoy refuses an empty validation context,
    /// and to trust nobody there needs none.
    fn one(&self, bundle: &Arc<Bundle>) -> Option<Type> {
        let context = match self.validator {
            _ if bundle.x509_authorities.is_empty() => return None,
            Validator::TrustedCa => CertificateValidationContext {
                trusted_ca: Some(inline(bundle.x509_pem().into_bytes())),
                ..CertificateValidationContext::default()
            },
            Validator::Spiffe => spiffe_validator(std::iter::once(bundle)),
        };
        Some(Type::ValidationContext(context))
    }

    /// Plain authorities cannot be told apart by trust domain, so without the SPIFFE validator there
    /// is nothing that stands for all bundles: any of them would vouch for anybody.
    fn all(&self) -> Option<Type> {
        (self.validator == Validator::Spiffe)
            .then(|| Type::ValidationContext(spiffe_validator(self.update.bundles().iter())))
    }
}

/// A validator with one bundle for each trust domain. One without any authority is left out: nobody
/// there is trusted, and Envoy refuses a configuration with an empty bundle as a whole.
fn spiffe_validator(
    bundles: impl Iterator<Item = impl AsRef<Bundle>>,
) -> CertificateValidationContext {
    let mut trust_domains: Vec<_> = bundles
        .map(|bundle| {
            let bundle = bundle.as_ref();
            (bundle.trust_domain.name().to_owned(), bundle.x509_pem())
        })
        .filter(|(_, pem)| !pem.is_empty())
        .map(|(name, pem)| ValidatorTrustDomain {
            name,
            trust_bundle: Some(inline(pem.into_bytes())),
            ..ValidatorTrustDomain::default()
        })
        .collect();
    trust_domains.sort_by(|a, b| a.name.cmp(&b.name));
    let config = SpiffeCertValidatorConfig {
        trust_domains,
        ..SpiffeCertValidatorConfig::default()
    };
    CertificateValidationContext {
        custom_validator_config: Some(TypedExtensionConfig {
            name: VALIDATOR_NAME.to_owned(),
            typed_config: Some(Any {
                type_url: VALIDATOR_TYPE.to_owned(),
                value: config.encode_to_vec(),
            }),
        }),
        ..CertificateValidationContext::default()
    }
}

fn tls_certificate(svid: &X509Svid) -> Type {
    Type::TlsCertificate(TlsCertificate {
        certificate_chain: Some(inline(svid.chain_pem().into_bytes())),
        private_key: Some(inline(svid.key().to_pkcs8_pem().as_bytes().to_vec())),
        ..TlsCertificate::default()
    })
}

fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(bytes)),
        ..DataSource::default()
    }
}

fn resource(name: &str, kind: Type) -> Resource {
    let mut secret = Secret {
        name: name.to_owned(),
        r#type: Some(kind),
    };
    let encoded = Bytes::from_owner(Zeroizing::new(secret.encode_to_vec()));
    if let Some(Type::TlsCertificate(TlsCertificate {
        private_key:
            Some(DataSource {
                specifier: Some(Specifier::InlineBytes(key)),
                ..
            }),
        ..
    })) = &mut secret.r#type
    {
        key.zeroize();
    }
    Resource {
        name: name.to_owned(),
        secret: encoded,
    }
}
