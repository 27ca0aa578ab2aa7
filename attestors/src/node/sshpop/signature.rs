//! Keys and signatures of the SSH protocol, as our one cryptography library takes them.

use identity::key::{KeyAlgorithm, KeyError, PublicKey, SignatureScheme};
use ssh_key::public::{EcdsaPublicKey, KeyData};

use crate::node::ecdsa::ecdsa_der;

/// Whether a signature by SHA-1 counts.
///
/// It does over a nonce of our own, which whoever looks for a collision cannot choose: SPIRE's agent
/// signs so with an RSA key. It does not on a certificate, of whose text others may have a say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sha1 {
    Counts,
    Refused,
}

/// The key as our library has it; the kinds that it does not know, and keys on a token, are refused.
pub(super) fn public_key(key: &KeyData) -> Result<PublicKey, KeyError> {
    let on_curve = |curve, point: &[u8]| {
        // SEC 1 2.3.3: 4 stands for both coordinates.
        let coordinates = point.strip_prefix(&[4]).ok_or(KeyError::Malformed)?;
        let (x, y) = coordinates
            .split_at_checked(coordinates.len() / 2)
            .ok_or(KeyError::Malformed)?;
        PublicKey::from_ec(curve, x, y)
    };
    match key {
        KeyData::Ed25519(key) => PublicKey::from_ed25519(&key.0),
        KeyData::Rsa(key) => {
            let number = |number: &ssh_key::Mpint| number.as_positive_bytes().map(<[u8]>::to_vec);
            let (Some(n), Some(e)) = (number(&key.n), number(&key.e)) else {
                return Err(KeyError::Malformed);
            };
            PublicKey::from_rsa(&n, &e)
        }
        KeyData::Ecdsa(EcdsaPublicKey::NistP256(point)) => {
            on_curve(KeyAlgorithm::EcP256, point.as_bytes())
        }
        KeyData::Ecdsa(EcdsaPublicKey::NistP384(point)) => {
            on_curve(KeyAlgorithm::EcP384, point.as_bytes())
        }
        KeyData::Ecdsa(EcdsaPublicKey::NistP521(point)) => {
            on_curve(KeyAlgorithm::EcP521, point.as_bytes())
        }
        _ => Err(KeyError::Algorithm),
    }
}

/// Checks a signature of the SSH protocol.
pub(super) fn verify(
    key: &PublicKey,
    message: &[u8],
    format: &str,
    blob: &[u8],
    sha1: Sha1,
) -> Result<(), KeyError> {
    use SignatureScheme as Scheme;
    // RFC 5656 6.2.1: each curve has its hash. RFC 8332 3: RSA has two, and SHA-1 of old.
    let (scheme, is_ecdsa) = match (key.algorithm(), format) {
        (KeyAlgorithm::Ed25519, "ssh-ed25519") => (Scheme::Ed25519, false),
        (KeyAlgorithm::EcP256, "ecdsa-sha2-nistp256") => (Scheme::EcdsaSha256Der, true),
        (KeyAlgorithm::EcP384, "ecdsa-sha2-nistp384") => (Scheme::EcdsaSha384Der, true),
        (KeyAlgorithm::EcP521, "ecdsa-sha2-nistp521") => (Scheme::EcdsaSha512Der, true),
        (KeyAlgorithm::Rsa(_), "rsa-sha2-256") => (Scheme::RsaPkcs1Sha256, false),
        (KeyAlgorithm::Rsa(_), "rsa-sha2-512") => (Scheme::RsaPkcs1Sha512, false),
        (KeyAlgorithm::Rsa(_), "ssh-rsa") if sha1 == Sha1::Counts => (Scheme::RsaPkcs1Sha1, false),
        _ => return Err(KeyError::Scheme),
    };
    if is_ecdsa {
        // RFC 5656 3.1.2: two numbers, each with its length.
        let (r, rest) = positive(blob).ok_or(KeyError::Signature)?;
        let (s, rest) = positive(rest).ok_or(KeyError::Signature)?;
        if !rest.is_empty() {
            return Err(KeyError::Signature);
        }
        return key.verify(scheme, message, &ecdsa_der(r, s));
    }
    key.verify(scheme, message, blob)
}

/// The bytes whose length stands before them (RFC 4251 5), and what follows.
pub(super) fn prefixed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// A positive number in its one form (RFC 4251 5), and what follows. An agent is called by the digest of
/// its whole certificate: a signature in two forms would be two agents.
fn positive(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (number, rest) = prefixed(bytes)?;
    let is_minimal = match number {
        [0, next, ..] => next & 0x80 != 0,
        [first, ..] => *first < 0x80,
        [] => false,
    };
    // `[0]` is zero, which no signature has.
    (is_minimal && number != [0]).then_some((number, rest))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

    use super::*;

    fn string(bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).unwrap();
        [&length.to_be_bytes(), bytes].concat()
    }

    #[test]
    fn adv_a_signature_has_one_form_and_no_zeros_make_another_certificate_of_it() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref();
        let key = PublicKey::from_ec(KeyAlgorithm::EcP256, &point[1..33], &point[33..]).unwrap();
        let signature = pair.sign(&SystemRandom::new(), b"text").unwrap();
        let (r, s) = signature.as_ref().split_at(32);
        let minimal = |number: &[u8]| {
            let digits: Vec<u8> = number.iter().copied().skip_while(|b| *b == 0).collect();
            let sign: &[u8] = if digits[0] < 0x80 { &[] } else { &[0] };
            [sign, &digits].concat()
        };
        let (r, s) = (minimal(r), minimal(s));
        let verify = |r: &[u8], s: &[u8]| {
            let blob = [string(r), string(s)].concat();
            verify(&key, b"text", "ecdsa-sha2-nistp256", &blob, Sha1::Refused)
        };
        assert_eq!(verify(&r, &s), Ok(()));
        let zero = |number: &[u8]| [&[0], number].concat();
        assert_eq!(verify(&zero(&r), &s), Err(KeyError::Signature));
        assert_eq!(verify(&r, &zero(&s)), Err(KeyError::Signature));
    }

    #[test]
    fn a_number_is_positive_and_minimal() {
        for (number, counts) in [
            (&[1][..], true),
            (&[0x7f, 0xff], true),
            (&[0, 0x80], true),
            (&[], false),
            (&[0], false),
            (&[0x80], false),
            (&[0, 1], false),
            (&[0, 0, 0x80], false),
        ] {
            assert_eq!(positive(&string(number)).is_some(), counts, "{number:?}");
        }
    }
}
