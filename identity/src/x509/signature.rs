//! Who signed a certificate, asked apart from every other question about it.

use rustls_pki_types::SignatureVerificationAlgorithm;
use webpki::ALL_VERIFICATION_ALGS;
use x509_parser::{der_parser::asn1_rs::Any, prelude::FromDer};

use super::Certificate;
use crate::key::PublicKey;

/// Whether a certificate bears the signature of a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signed {
    /// It does.
    Yes,
    /// It does not: another key signed it, or it was changed since.
    No,
    /// The algorithm of the signature is none that is checked here, as SHA-1 of old roots.
    Unknown,
}

impl Certificate {
    /// Whether `key` signed this certificate, as it stands here, bit by bit.
    ///
    /// This tells an undamaged certificate from a damaged one, at any time. It is no verdict on a
    /// peer: [`super::verify_peer`] also asks what the signer may sign, and when.
    pub fn signed_by(&self, key: &PublicKey) -> Signed {
        judge(self.der(), key.spki_der()).unwrap_or(Signed::No)
    }
}

fn judge(der: &[u8], spki: &[u8]) -> Option<Signed> {
    let frame = Frame::of(der)?;
    let known: Vec<&dyn SignatureVerificationAlgorithm> = ALL_VERIFICATION_ALGS
        .iter()
        .copied()
        .filter(|known| known.signature_alg_id().as_ref() == frame.algorithm)
        .collect();
    if known.is_empty() {
        return Some(Signed::Unknown);
    }
    let (info, _) = element(spki, SEQUENCE)?;
    // RFC 5280 4.1.2.7: the algorithm's identifier, and the key.
    let (key_algorithm, key) = element(info, SEQUENCE)?;
    let (key, _) = element(key, BIT_STRING)?;
    let key = key.strip_prefix(&[0])?;
    let fits = known.iter().any(|known| {
        known.public_key_alg_id().as_ref() == key_algorithm
            && known
                .verify_signature(key, frame.signed, frame.signature)
                .is_ok()
    });
    Some(if fits { Signed::Yes } else { Signed::No })
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// The outermost parts of a certificate (RFC 5280 4.1).
pub(super) struct Frame<'a> {
    /// What is signed, with its tag and length.
    signed: &'a [u8],
    /// The content of the algorithm's identifier.
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes a certificate apart. No signature covers these tags, and the parser of certificates takes
    /// a sequence for one whatever its class and form.
    pub(super) fn of(der: &'a [u8]) -> Option<Self> {
        let (whole, after) = element(der, SEQUENCE)?;
        let (info, rest) = element(whole, SEQUENCE)?;
        let signed = whole.get(..whole.len().checked_sub(rest.len())?)?;
        let (algorithm, rest) = element(rest, SEQUENCE)?;
        // RFC 5280 4.1.1.2: what stands beside the signature is what was signed of the algorithm.
        let info = element(info, VERSION).map_or(info, |(_, rest)| rest);
        let (_serial, info) = element(info, INTEGER)?;
        if element(info, SEQUENCE)?.0 != algorithm {
            return None;
        }
        let (bits, rest) = element(rest, BIT_STRING)?;
        // The first byte counts the bits that are too many in the last: a signature is whole bytes.
        let signature = bits.strip_prefix(&[0])?;
        (after.is_empty() && rest.is_empty()).then_some(Self {
            signed,
            algorithm,
            signature,
        })
    }
}

/// The content of the element at the start, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (rest, element) = Any::from_der(der).ok()?;
    (der.first() == Some(&tag)).then_some((element.data, rest))
}
