//! A key that was parsed once and signs many times.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING,
        ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use identity::key::{KeyAlgorithm, KeyError, PrivateKey, PublicKey};

/// The library could not sign; it does so only for want of memory or a broken self-test.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("could not compute a signature")]
pub struct SignatureError;

/// A private key, ready to sign. Clones share it.
#[derive(Clone)]
pub struct Signer(Arc<Inner>);

struct Inner {
    key: Arc<PrivateKey>,
    pair: Pair,
}

enum Pair {
    // X.509 wants signatures in ASN.1, JWS wants two numbers side by side, and the library fixes
    // that when it parses the key.
    Ec {
        asn1: EcdsaKeyPair,
        fixed: EcdsaKeyPair,
    },
    Rsa(RsaKeyPair),
}

impl Signer {
    /// Prepares a key. Ed25519 keys are refused: JWT-SVID 4 has no algorithm for them, and SPIRE's
    /// peers do not expect them of an authority.
    pub fn new(key: Arc<PrivateKey>) -> Result<Self, KeyError> {
        let der = key.pkcs8_der();
        let ec = |algorithm: &'static EcdsaSigningAlgorithm| {
            EcdsaKeyPair::from_pkcs8(algorithm, der).or(Err(KeyError::Malformed))
        };
        let pair = match key.algorithm() {
            KeyAlgorithm::EcP256 => Pair::Ec {
                asn1: ec(&ECDSA_P256_SHA256_ASN1_SIGNING)?,
                fixed: ec(&ECDSA_P256_SHA256_FIXED_SIGNING)?,
            },
            KeyAlgorithm::EcP384 => Pair::Ec {
                asn1: ec(&ECDSA_P384_SHA384_ASN1_SIGNING)?,
                fixed: ec(&ECDSA_P384_SHA384_FIXED_SIGNING)?,
            },
            KeyAlgorithm::Rsa(_) => {
                Pair::Rsa(RsaKeyPair::from_pkcs8(der).or(Err(KeyError::Malformed))?)
            }
            KeyAlgorithm::EcP521 | KeyAlgorithm::Ed25519 => return Err(KeyError::Algorithm),
        };
        Ok(Self(Arc::new(Inner { key, pair })))
    }

    pub fn public_key(&self) -> &PublicKey {
        self.0.key.public_key()
    }

    pub fn algorithm(&self) -> KeyAlgorithm {
        self.0.key.algorithm()
    }

    /// Signs the body of a certificate: ECDSA with SHA-256 or SHA-384 by the curve, or RSA with
    /// SHA-256, as SPIRE does.
    pub fn sign_x509(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        match &self.0.pair {
            Pair::Ec { asn1, .. } => ecdsa(asn1, message),
            Pair::Rsa(pair) => rsa(pair, message),
        }
    }

    /// Signs a token, by [`Self::jws_algorithm`].
    pub fn sign_jws(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        match &self.0.pair {
            Pair::Ec { fixed, .. } => ecdsa(fixed, message),
            Pair::Rsa(pair) => rsa(pair, message),
        }
    }

    /// The name of the algorithm in RFC 7518 3.1.
    pub fn jws_algorithm(&self) -> &'static str {
        match self.algorithm() {
            KeyAlgorithm::EcP384 => "ES384",
            KeyAlgorithm::Rsa(_) => "RS256",
            // INVARIANT: `new` refuses the others.
            KeyAlgorithm::EcP256 | KeyAlgorithm::EcP521 | KeyAlgorithm::Ed25519 => "ES256",
        }
    }
}

fn ecdsa(pair: &EcdsaKeyPair, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
    let signature = pair
        .sign(&SystemRandom::new(), message)
        .or(Err(SignatureError))?;
    Ok(signature.as_ref().to_vec())
}

fn rsa(pair: &RsaKeyPair, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        message,
        &mut signature,
    )
    .or(Err(SignatureError))?;
    Ok(signature)
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({:?}, redacted)", self.algorithm())
    }
}
