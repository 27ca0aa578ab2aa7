//! A secret as Envoy takes it, without its name: encoded once, and sent under many.
//!
//! What differs between streams is little: the name that was asked for, a nonce. The rest, with the
//! certificates and keys, is made here, kept beside what it is made of, and shared.

use std::fmt;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TypedExtensionConfig};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret as Message, SpiffeCertValidatorConfig, TlsCertificate,
    secret::Type, spiffe_cert_validator_config::TrustDomain as ValidatorTrustDomain,
};
use envoy_types::pb::google::protobuf::Any;
use identity::bundle::Bundle;
use identity::x509::X509Svid;
use prost::Message as _;
use zeroize::{Zeroize, Zeroizing};

use super::node::Validator;

const VALIDATOR_TYPE: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
const VALIDATOR_NAME: &str = "envoy.tls.cert_validator.spiffe";

/// What a secret is now: the same content has the same version, on every stream and in every life of
/// the agent, so that a proxy which comes back is not sent what it has.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Version(u128);

impl Version {
    /// How long its text is.
    pub(crate) const TEXT: usize = 32;

    fn of(content: &[u8]) -> Self {
        let hash = digest(&SHA256, content);
        let (head, _) = hash.as_ref().split_first_chunk().unwrap_or((&[0; 16], &[]));
        Self(u128::from_be_bytes(*head))
    }

    /// Reads a version that we wrote; `None` for any other text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == Self::TEXT
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = digits.then(|| u128::from_str_radix(text, 16));
        Some(Self(number?.ok()?))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A secret without its name. The bytes may hold a private key, and are wiped when the last user
/// drops them.
#[derive(Clone)]
pub(crate) struct Secret {
    body: Bytes,
    version: Version,
}

impl Secret {
    fn new(content: Type) -> Self {
        let mut message = Message {
            name: String::new(),
            r#type: Some(content),
        };
        let body = Zeroizing::new(message.encode_to_vec());
        if let Some(Type::TlsCertificate(TlsCertificate {
            private_key:
                Some(DataSource {
                    specifier: Some(Specifier::InlineBytes(key)),
                    ..
                }),
            ..
        })) = &mut message.r#type
        {
            key.zeroize();
        }
        Self {
            version: Version::of(&body),
            body: Bytes::from_owner(body),
        }
    }

    /// The fields of Envoy's message that follow the name.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({}, <{} bytes>)", self.version, self.body.len())
    }
}

/// The certificate of one identity, encoded when the first proxy asks for it.
#[derive(Debug, Default)]
pub(crate) struct CertificateCell(OnceLock<Secret>);

impl CertificateCell {
    pub(crate) fn of(&self, svid: &X509Svid) -> &Secret {
        self.0.get_or_init(|| Secret::new(tls_certificate(svid)))
    }
}

/// The validation contexts of a list of bundles, each encoded when the first proxy asks for it.
#[derive(Debug)]
pub(crate) struct ContextCells {
    spiffe: Vec<OnceLock<Option<Secret>>>,
    trusted_ca: Vec<OnceLock<Option<Secret>>>,
    all: OnceLock<Secret>,
}

impl ContextCells {
    /// For so many bundles.
    pub(crate) fn new(bundles: usize) -> Self {
        let cells = || (0..bundles).map(|_| OnceLock::new()).collect();
        Self {
            spiffe: cells(),
            trusted_ca: cells(),
            all: OnceLock::new(),
        }
    }

    /// The context of the bundle at this place of the list.
    ///
    /// `None` for a trust domain without any authority: Envoy refuses an empty validation context,
    /// and to trust nobody there needs none.
    pub(crate) fn one(
        &self,
        place: usize,
        bundle: &Arc<Bundle>,
        validator: Validator,
    ) -> Option<&Secret> {
        let cells = match validator {
            Validator::Spiffe => &self.spiffe,
            Validator::TrustedCa => &self.trusted_ca,
        };
        let context = || {
            let context = match validator {
                _ if bundle.x509_authorities.is_empty() => return None,
                Validator::TrustedCa => CertificateValidationContext {
                    trusted_ca: Some(inline(bundle.x509_pem().into_bytes())),
                    ..CertificateValidationContext::default()
                },
                Validator::Spiffe => spiffe_validator(std::iter::once(bundle)),
            };
            Some(Secret::new(Type::ValidationContext(context)))
        };
        cells.get(place)?.get_or_init(context).as_ref()
    }

    /// One validator for the whole list.
    pub(crate) fn all(&self, bundles: impl Iterator<Item = impl AsRef<Bundle>>) -> &Secret {
        self.all
            .get_or_init(|| Secret::new(Type::ValidationContext(spiffe_validator(bundles))))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_version_is_read_back_and_nothing_else_is(number: u128, other in "[0-9a-gA-F+]{30,33}") {
            let version = Version(number);
            prop_assert_eq!(Version::parse(&version.to_string()), Some(version));
            if let Some(read) = Version::parse(&other) {
                prop_assert_eq!(read.to_string(), other);
            }
        }
    }
}
