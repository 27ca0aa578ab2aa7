//! The extensions that SPIFFE speaks of, read once.

use x509_parser::{
    certificate::TbsCertificate,
    extensions::{GeneralName, ParsedExtension, SubjectAlternativeName},
};

use super::CertificateError;

/// The most extensions in a certificate. Each is compared with all others, and a stranger sends
/// them before anything is verified.
const MAX_EXTENSIONS: usize = 64;

/// The tag of a URI among general names (RFC 5280 4.2.1.6).
const URI_TAG: u32 = 6;
/// The tag of a DNS name.
const DNS_TAG: u32 = 2;

/// What a certificate's extensions say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Extensions {
    pub(super) subject_key_id: Option<Vec<u8>>,
    pub(super) authority_key_id: Option<Vec<u8>>,
    pub(super) basic_constraints: Option<BasicConstraints>,
    pub(super) key_usage: Option<KeyUsage>,
    pub(super) extended_key_usage: Option<ExtendedKeyUsage>,
    pub(super) names: Names,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct BasicConstraints {
    pub(super) is_ca: bool,
    pub(super) path_length: Option<u32>,
}

/// The extension KeyUsage (RFC 5280 4.2.1.3), as far as X509-SVID 4.3 speaks of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeyUsage {
    pub(super) is_critical: bool,
    /// Bit n of RFC 5280 is bit n here.
    pub(super) bits: u16,
}

impl KeyUsage {
    /// Whether it is marked critical.
    pub fn is_critical(&self) -> bool {
        self.is_critical
    }

    /// Bit 0.
    pub fn digital_signature(&self) -> bool {
        self.bits & 1 != 0
    }

    /// Bit 5.
    pub fn key_cert_sign(&self) -> bool {
        self.bits & (1 << 5) != 0
    }

    /// Bit 6.
    pub fn crl_sign(&self) -> bool {
        self.bits & (1 << 6) != 0
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ExtendedKeyUsage {
    pub(super) server_auth: bool,
    pub(super) client_auth: bool,
}

/// The subject alternative names that matter here.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Names {
    /// The URIs in order; `None` for one that is not ASCII.
    pub(super) uris: Vec<Option<String>>,
    /// The DNS names in order, without those that are not ASCII.
    pub(super) dns: Vec<String>,
    /// Those, with what is no text replaced.
    pub(super) foreign_dns: Vec<String>,
    /// The network addresses in order, 4 or 16 bytes each.
    pub(super) ips: Vec<Vec<u8>>,
}

impl Names {
    pub(super) fn extend(&mut self, more: Self) {
        self.uris.extend(more.uris);
        self.dns.extend(more.dns);
        self.foreign_dns.extend(more.foreign_dns);
    }

    pub(super) fn read(names: &SubjectAlternativeName<'_>) -> Self {
        let mut read = Self::default();
        for name in &names.general_names {
            match name {
                GeneralName::URI(uri) => {
                    read.uris.push(uri.is_ascii().then(|| (*uri).to_owned()));
                }
                GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => read.uris.push(None),
                GeneralName::DNSName(name) if name.is_ascii() => read.dns.push((*name).to_owned()),
                GeneralName::DNSName(name) => read.foreign_dns.push((*name).to_owned()),
                GeneralName::Invalid(tag, name) if tag.0 == DNS_TAG => {
                    read.foreign_dns
                        .push(String::from_utf8_lossy(name).into_owned());
                }
                GeneralName::IPAddress(address) => read.ips.push(address.to_vec()),
                _ => {}
            }
        }
        read
    }
}

impl Extensions {
    /// Reads them. RFC 5280 4.2: no extension appears twice; and none of ours may be malformed.
    pub(super) fn read(tbs: &TbsCertificate<'_>) -> Result<Self, CertificateError> {
        let mut read = Self::default();
        let mut seen = Vec::new();
        for extension in tbs.iter_extensions() {
            if seen.len() == MAX_EXTENSIONS {
                return Err(CertificateError::TooManyExtensions);
            }
            if seen.contains(&&extension.oid) {
                return Err(CertificateError::DuplicateExtension);
            }
            seen.push(&extension.oid);
            match extension.parsed_extension() {
                ParsedExtension::ParseError { .. } => return Err(CertificateError::Malformed),
                ParsedExtension::SubjectKeyIdentifier(id) => {
                    read.subject_key_id = Some(id.0.to_vec());
                }
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    read.authority_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                ParsedExtension::BasicConstraints(constraints) => {
                    read.basic_constraints = Some(BasicConstraints {
                        is_ca: constraints.ca,
                        path_length: constraints.path_len_constraint,
                    });
                }
                ParsedExtension::KeyUsage(usage) => {
                    read.key_usage = Some(KeyUsage {
                        is_critical: extension.critical,
                        bits: usage.flags,
                    });
                }
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    read.extended_key_usage = Some(ExtendedKeyUsage {
                        server_auth: usage.server_auth,
                        client_auth: usage.client_auth,
                    });
                }
                ParsedExtension::SubjectAlternativeName(names) => read.names = Names::read(names),
                _ => {}
            }
        }
        Ok(read)
    }
}
