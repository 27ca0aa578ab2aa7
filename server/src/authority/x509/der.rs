//! Writes certificates in DER: leaves, and signing certificates of servers below this one.
//!
//! Two shapes with few variable places, so it is written straight into one buffer; a general encoder
//! costs a fifth of a signature. A test holds it against rcgen.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use identity::{
    entry::DnsName,
    key::KeyAlgorithm,
    x509::{Attribute, DistinguishedName},
};
use time::OffsetDateTime;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Version 3, in its context tag.
const VERSION: &[u8] = &[0xa0, 0x03, 0x02, 0x01, 0x02];

const ECDSA_SHA256: &[u8] = &[
    0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
];
const ECDSA_SHA384: &[u8] = &[
    0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03,
];
const RSA_SHA256: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00,
];

/// X509-SVID 4.3: key usage, critical, with digitalSignature and without keyCertSign and cRLSign.
/// keyEncipherment and keyAgreement stand there as in SPIRE's leaves.
const KEY_USAGE: &[u8] = &[
    0x30, 0x0e, 0x06, 0x03, 0x55, 0x1d, 0x0f, 0x01, 0x01, 0xff, 0x04, 0x04, 0x03, 0x02, 0x03, 0xa8,
];
/// X509-SVID 4.4: serverAuth and clientAuth.
const EXTENDED_KEY_USAGE: &[u8] = &[
    0x30, 0x1d, 0x06, 0x03, 0x55, 0x1d, 0x25, 0x04, 0x16, 0x30, 0x14, 0x06, 0x08, 0x2b, 0x06, 0x01,
    0x05, 0x05, 0x07, 0x03, 0x01, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02,
];
/// X509-SVID 4.1: cA is false; the extension is there because clients look for it.
const BASIC_CONSTRAINTS: &[u8] = &[
    0x30, 0x0c, 0x06, 0x03, 0x55, 0x1d, 0x13, 0x01, 0x01, 0xff, 0x04, 0x02, 0x30, 0x00,
];

/// X509-SVID 4.3: a signing certificate has keyCertSign. cRLSign stands there as in SPIRE's.
const SIGNING_KEY_USAGE: &[u8] = &[
    0x30, 0x0e, 0x06, 0x03, 0x55, 0x1d, 0x0f, 0x01, 0x01, 0xff, 0x04, 0x04, 0x03, 0x02, 0x01, 0x06,
];
/// X509-SVID 4.1: cA is true. No length of paths, as in SPIRE's: servers stand below servers.
const SIGNING_BASIC_CONSTRAINTS: &[u8] = &[
    0x30, 0x0f, 0x06, 0x03, 0x55, 0x1d, 0x13, 0x01, 0x01, 0xff, 0x04, 0x05, 0x30, 0x03, 0x01, 0x01,
    0xff,
];

/// Whom SPIRE's leaves name where nobody says anything else.
pub(super) const LEAF_NAME: [(Attribute, &str); 2] = [
    (Attribute::Country, "US"),
    (Attribute::Organization, "SPIRE"),
];

const OID_SUBJECT_KEY_ID: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x0e];
const OID_AUTHORITY_KEY_ID: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x23];
const OID_SUBJECT_ALT_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];

/// What all leaves of an issuer share.
#[derive(Debug)]
pub(super) struct Template {
    signature_algorithm: &'static [u8],
    issuer: Box<[u8]>,
    authority_key_id: Box<[u8]>,
}

/// What is its own in a certificate.
#[derive(Debug)]
pub(super) struct Body<'a> {
    pub(super) serial: [u8; 16],
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) spki: &'a [u8],
    pub(super) subject_key_id: [u8; 20],
    pub(super) uri: &'a str,
    pub(super) subject: Name<'a>,
    pub(super) shape: Shape<'a>,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape<'a> {
    /// An X509-SVID of a workload, an agent or a server.
    Leaf { dns_names: &'a [DnsName] },
    /// A signing certificate.
    Authority,
}

/// Whom a certificate names beside the SPIFFE ID.
#[derive(Clone, Copy, Debug)]
pub(super) enum Name<'a> {
    /// [`LEAF_NAME`], then the common name, if any.
    Default { common_name: Option<&'a str> },
    /// This.
    Given(&'a DistinguishedName),
}

impl Template {
    pub(super) fn new(algorithm: KeyAlgorithm, issuer: &[u8], key_id: &[u8]) -> Self {
        let signature_algorithm = match algorithm {
            KeyAlgorithm::EcP384 => ECDSA_SHA384,
            KeyAlgorithm::Rsa(_) => RSA_SHA256,
            // INVARIANT: a signer has no key of the others.
            KeyAlgorithm::EcP256 | KeyAlgorithm::EcP521 | KeyAlgorithm::Ed25519 => ECDSA_SHA256,
        };
        let mut authority_key_id = Vec::new();
        nest(&mut authority_key_id, SEQUENCE, |out| {
            out.extend_from_slice(OID_AUTHORITY_KEY_ID);
            nest(out, OCTET_STRING, |out| {
                nest(out, SEQUENCE, |out| primitive(out, 0x80, key_id));
            });
        });
        Self {
            signature_algorithm,
            issuer: issuer.into(),
            authority_key_id: authority_key_id.into(),
        }
    }

    /// The part that is signed.
    pub(super) fn to_be_signed(&self, body: &Body<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(768);
        nest(&mut out, SEQUENCE, |out| {
            out.extend_from_slice(VERSION);
            primitive(out, INTEGER, &body.serial);
            out.extend_from_slice(self.signature_algorithm);
            out.extend_from_slice(&self.issuer);
            nest(out, SEQUENCE, |out| {
                write_time(out, body.not_before);
                write_time(out, body.not_after);
            });
            write_subject(out, body.subject);
            out.extend_from_slice(body.spki);
            nest(out, 0xa3, |out| {
                nest(out, SEQUENCE, |out| self.write_extensions(out, body));
            });
        });
        out
    }

    /// The certificate, once its body is signed.
    pub(super) fn certificate(&self, to_be_signed: &[u8], signature: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(to_be_signed.len() + signature.len() + 32);
        nest(&mut out, SEQUENCE, |out| {
            out.extend_from_slice(to_be_signed);
            out.extend_from_slice(self.signature_algorithm);
            nest(out, BIT_STRING, |out| {
                out.push(0);
                out.extend_from_slice(signature);
            });
        });
        out
    }

    fn write_extensions(&self, out: &mut Vec<u8>, body: &Body<'_>) {
        let dns_names = match body.shape {
            Shape::Leaf { dns_names } => {
                out.extend_from_slice(KEY_USAGE);
                out.extend_from_slice(EXTENDED_KEY_USAGE);
                out.extend_from_slice(BASIC_CONSTRAINTS);
                dns_names
            }
            Shape::Authority => {
                out.extend_from_slice(SIGNING_KEY_USAGE);
                out.extend_from_slice(SIGNING_BASIC_CONSTRAINTS);
                &[]
            }
        };
        nest(out, SEQUENCE, |out| {
            out.extend_from_slice(OID_SUBJECT_KEY_ID);
            nest(out, OCTET_STRING, |out| {
                primitive(out, OCTET_STRING, &body.subject_key_id);
            });
        });
        out.extend_from_slice(&self.authority_key_id);
        nest(out, SEQUENCE, |out| {
            out.extend_from_slice(OID_SUBJECT_ALT_NAME);
            nest(out, OCTET_STRING, |out| {
                nest(out, SEQUENCE, |out| {
                    for name in dns_names {
                        primitive(out, 0x82, name.as_str().as_bytes());
                    }
                    // X509-SVID 2: exactly one URI.
                    primitive(out, 0x86, body.uri.as_bytes());
                });
            });
        });
    }
}

fn write_subject(out: &mut Vec<u8>, subject: Name<'_>) {
    match subject {
        Name::Given(name) => write_name(out, &name.iter().collect::<Vec<_>>()),
        Name::Default { common_name } => {
            let [country, organization] = LEAF_NAME;
            match common_name {
                None => write_name(out, &[country, organization]),
                Some(name) => {
                    write_name(out, &[country, organization, (Attribute::CommonName, name)]);
                }
            }
        }
    }
}

fn write_name(out: &mut Vec<u8>, attributes: &[(Attribute, &str)]) {
    nest(out, SEQUENCE, |out| {
        for (attribute, value) in attributes {
            write_attribute(out, *attribute, value);
        }
    });
}

fn write_attribute(out: &mut Vec<u8>, attribute: Attribute, value: &str) {
    let is_printable = value
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&b));
    let tag = if is_printable {
        PRINTABLE_STRING
    } else {
        UTF8_STRING
    };
    nest(out, SET, |out| {
        nest(out, SEQUENCE, |out| {
            out.extend_from_slice(&[0x06, 0x03, 0x55, 0x04, attribute.arc()]);
            primitive(out, tag, value.as_bytes());
        });
    });
}

/// RFC 5280 4.1.2.5: UTCTime through 2049, GeneralizedTime from then on, both to the second.
fn write_time(out: &mut Vec<u8>, at: SystemTime) {
    let seconds = at
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    let at = i64::try_from(seconds)
        .ok()
        .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let year = u16::try_from(at.year()).unwrap_or(9999);
    let is_utc = year < 2050;
    nest(
        out,
        if is_utc { UTC_TIME } else { GENERALIZED_TIME },
        |out| {
            if !is_utc {
                two_digits(out, u8::try_from(year / 100).unwrap_or(99));
            }
            two_digits(out, u8::try_from(year % 100).unwrap_or(0));
            for part in [
                u8::from(at.month()),
                at.day(),
                at.hour(),
                at.minute(),
                at.second(),
            ] {
                two_digits(out, part);
            }
            out.push(b'Z');
        },
    );
}

fn two_digits(out: &mut Vec<u8>, number: u8) {
    out.push(b'0' + number / 10 % 10);
    out.push(b'0' + number % 10);
}

fn primitive(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    nest(out, tag, |out| out.extend_from_slice(content));
}

/// Writes a value whose length is known only afterwards.
fn nest(out: &mut Vec<u8>, tag: u8, content: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.push(0);
    content(out);
    let length = out.len() - at - 1;
    let bytes = length.to_be_bytes();
    if let Ok(short @ ..=0x7f) = u8::try_from(length) {
        if let Some(place) = out.get_mut(at) {
            *place = short;
        }
        return;
    }
    let used = bytes
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or(bytes.len());
    let digits = bytes.get(used..).unwrap_or_default();
    // INVARIANT: a length has at most eight digits, so the sum stays below 0x89.
    let first = 0x80 | u8::try_from(digits.len()).unwrap_or(8);
    out.splice(
        at..=at,
        std::iter::once(first).chain(digits.iter().copied()),
    );
}
