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
        let (r, rest) = prefixed(blob).ok_or(KeyError::Signature)?;
        let (s, rest) = prefixed(rest).ok_or(KeyError::Signature)?;
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
