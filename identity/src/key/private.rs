//! Private keys, held so that they do not leak.

use std::fmt;

use aws_lc_rs::{
    encoding::AsDer,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair, RsaKeyPair,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use x509_parser::{der_parser::asn1_rs::Any, prelude::FromDer};
use zeroize::Zeroizing;

use super::{KeyAlgorithm, KeyError, PublicKey};

/// The largest PKCS#8 document taken, in bytes: RSA 8192 needs less than 5 KiB.
const MAX_PKCS8_BYTES: usize = 16 * 1024;

/// A private key: P-256, P-384, RSA of 2048 to 8192 bits, or Ed25519.
///
/// It has one owner and is shared by `Arc`: it cannot be cloned or serialized, its `Debug` shows no
/// content, and its bytes are overwritten when it is dropped.
///
/// ```compile_fail
/// fn copies(key: identity::key::PrivateKey) -> (identity::key::PrivateKey, identity::key::PrivateKey) {
///     (key.clone(), key)
/// }
/// ```
pub struct PrivateKey {
    pkcs8: Zeroizing<Vec<u8>>,
    public: PublicKey,
}

impl PrivateKey {
    /// Takes an unencrypted PKCS#8 document (RFC 5958), checks it and derives the public key.
    pub fn from_pkcs8_der(der: Zeroizing<Vec<u8>>) -> Result<Self, KeyError> {
        if der.len() > MAX_PKCS8_BYTES {
            return Err(KeyError::TooLarge);
        }
        // The parsers below pass over whatever follows the document.
        if !Any::from_der(&der).is_ok_and(|(rest, _)| rest.is_empty()) {
            return Err(KeyError::Malformed);
        }
        let public = PublicKey::from_spki_der_to_keep(&spki_of(&der)?)?;
        Ok(Self { pkcs8: der, public })
    }

    /// The PKCS#8 document. It leaves this type only to sign, and into the encoding of a response,
    /// the sealed cache and key files.
    pub fn pkcs8_der(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public key that belongs to it.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// The kind and size of the key.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.public.algorithm()
    }

    /// The PKCS#8 document in PEM (RFC 7468 10), with a newline at its end.
    pub fn to_pkcs8_pem(&self) -> Zeroizing<String> {
        const BEGIN: &str = "-----BEGIN PRIVATE KEY-----\n";
        const END: &str = "-----END PRIVATE KEY-----\n";
        // One allocation, so that no copy of the key is left behind by growth.
        let body = self.pkcs8.len().div_ceil(3) * 4;
        let mut pem = Zeroizing::new(String::with_capacity(
            BEGIN.len() + body + body.div_ceil(64) + END.len() + 4,
        ));
        pem.push_str(BEGIN);
        // 48 bytes make one line of 64 characters.
        for line in self.pkcs8.chunks(48) {
            STANDARD.encode_string(line, &mut pem);
            pem.push('\n');
        }
        pem.push_str(END);
        pem
    }
}

/// The public key in SPKI form. Each parser looks at the algorithm before anything else.
fn spki_of(pkcs8: &[u8]) -> Result<Vec<u8>, KeyError> {
    let spki = if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8) {
        pair.public_key().as_der()
    } else if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, pkcs8) {
        pair.public_key().as_der()
    } else if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8) {
        pair.public_key().as_der()
    } else if let Ok(pair) = RsaKeyPair::from_pkcs8(pkcs8) {
        pair.public_key().as_der()
    } else {
        return Err(KeyError::Malformed);
    };
    // Writing a key that was just read fails only for want of memory.
    spki.map(|spki| spki.as_ref().to_vec())
        .or(Err(KeyError::Malformed))
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({:?}, redacted)", self.algorithm())
    }
}
