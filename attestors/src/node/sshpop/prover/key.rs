//! A host key that signs as the SSH protocol has it.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPairComponents, PublicKeyComponents};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    RSA_PKCS1_SHA512, RsaKeyPair,
};
use identity::key::{KeyAlgorithm, PublicKey};
use num_bigint::BigUint;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use ssh_key::PrivateKey;
use ssh_key::private::{EcdsaKeypair, KeypairData, RsaKeypair};
use zeroize::Zeroizing;

use super::ProverError;

pub(super) enum HostKey {
    Ed25519(Ed25519KeyPair),
    /// With the name of its algorithm.
    Ecdsa(EcdsaKeyPair, &'static str),
    Rsa(RsaKeyPair),
}

impl HostKey {
    /// Reads a key in OpenSSH's form, or in PEM as older programs write it: of the kind of `public`.
    pub(super) fn read(text: &[u8], public: &PublicKey) -> Result<Self, ProverError> {
        if let Ok(key) = PrivateKey::from_openssh(text) {
            return Self::of_openssh(key.key_data()).ok_or(ProverError::NoKey);
        }
        let key = PrivateKeyDer::from_pem_slice(text).map_err(|_e| ProverError::NoKey)?;
        Self::of_der(key.secret_der(), public).ok_or(ProverError::NoKey)
    }

    fn of_openssh(key: &KeypairData) -> Option<Self> {
        match key {
            KeypairData::Ed25519(pair) => {
                let seed = Zeroizing::new(pair.private.to_bytes());
                let pair = Ed25519KeyPair::from_seed_and_public_key(&*seed, &pair.public.0);
                pair.ok().map(Self::Ed25519)
            }
            KeypairData::Ecdsa(pair) => {
                let (algorithm, name) = match pair {
                    EcdsaKeypair::NistP256 { .. } => curve(KeyAlgorithm::EcP256)?,
                    EcdsaKeypair::NistP384 { .. } => curve(KeyAlgorithm::EcP384)?,
                    EcdsaKeypair::NistP521 { .. } => curve(KeyAlgorithm::EcP521)?,
                };
                let (private, public) = (pair.private_key_bytes(), pair.public_key_bytes());
                let pair =
                    EcdsaKeyPair::from_private_key_and_public_key(algorithm, private, public);
                pair.ok().map(|pair| Self::Ecdsa(pair, name))
            }
            KeypairData::Rsa(pair) => rsa(pair).map(Self::Rsa),
            _ => None,
        }
    }

    fn of_der(der: &[u8], public: &PublicKey) -> Option<Self> {
        match public.algorithm() {
            KeyAlgorithm::Rsa(_) => {
                let pair = RsaKeyPair::from_pkcs8(der).or_else(|_pkcs1| RsaKeyPair::from_der(der));
                pair.ok().map(Self::Rsa)
            }
            KeyAlgorithm::Ed25519 => {
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der);
                pair.ok().map(Self::Ed25519)
            }
            on_curve => {
                let (algorithm, name) = curve(on_curve)?;
                let pair = EcdsaKeyPair::from_private_key_der(algorithm, der);
                pair.ok().map(|pair| Self::Ecdsa(pair, name))
            }
        }
    }

    /// Signs, and says by which algorithm.
    pub(super) fn sign(&self, message: &[u8]) -> Result<(&'static str, Vec<u8>), ProverError> {
        let random = SystemRandom::new();
        match self {
            Self::Ed25519(key) => Ok(("ssh-ed25519", key.sign(message).as_ref().to_vec())),
            Self::Ecdsa(key, name) => {
                let signature = key.sign(&random, message).map_err(|_e| ProverError::Sign)?;
                let numbers = signature.as_ref();
                let halves = numbers.split_at_checked(numbers.len() / 2);
                let (r, s) = halves.unwrap_or_default();
                Ok((name, [number(r), number(s)].concat()))
            }
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA512, &random, message, &mut signature)
                    .map_err(|_e| ProverError::Sign)?;
                Ok(("rsa-sha2-512", signature))
            }
        }
    }
}

/// RFC 5656 6.2.1: each curve has its hash.
fn curve(on: KeyAlgorithm) -> Option<(&'static EcdsaSigningAlgorithm, &'static str)> {
    match on {
        KeyAlgorithm::EcP256 => Some((&ECDSA_P256_SHA256_FIXED_SIGNING, "ecdsa-sha2-nistp256")),
        KeyAlgorithm::EcP384 => Some((&ECDSA_P384_SHA384_FIXED_SIGNING, "ecdsa-sha2-nistp384")),
        KeyAlgorithm::EcP521 => Some((&ECDSA_P521_SHA512_FIXED_SIGNING, "ecdsa-sha2-nistp521")),
        KeyAlgorithm::Rsa(_) | KeyAlgorithm::Ed25519 => None,
    }
}

/// OpenSSH leaves out two of the numbers that make signing fast, and our library wants them all. It
/// sees whether they fit.
fn rsa(pair: &RsaKeypair) -> Option<RsaKeyPair> {
    let number = |number: &ssh_key::Mpint| {
        let bytes = number.as_positive_bytes()?;
        Some(Zeroizing::new(bytes.to_vec()))
    };
    let (n, e) = (number(&pair.public.n)?, number(&pair.public.e)?);
    let private = &pair.private;
    let (d, p, q) = (
        number(&private.d)?,
        number(&private.p)?,
        number(&private.q)?,
    );
    let reduced = |prime: &[u8]| {
        let prime = BigUint::from_bytes_be(prime);
        let below = (prime > BigUint::from(1_u8)).then(|| prime - 1_u8)?;
        let reduced = BigUint::from_bytes_be(&d) % below;
        Some(Zeroizing::new(reduced.to_bytes_be()))
    };
    let components = KeyPairComponents {
        public_key: PublicKeyComponents {
            n: n.as_slice(),
            e: e.as_slice(),
        },
        dP: reduced(&p)?,
        dQ: reduced(&q)?,
        qInv: number(&private.iqmp)?,
        d: d.clone(),
        p: p.clone(),
        q: q.clone(),
    };
    RsaKeyPair::from_components(&components).ok()
}

/// A number with its length before it (RFC 4251 5): no leading zeros, and none that looks negative.
fn number(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let digits = bytes.get(zeros..).unwrap_or_default();
    let sign = digits.first().is_some_and(|byte| byte & 0x80 != 0);
    let length = digits.len() + usize::from(sign);
    let length = u32::try_from(length).unwrap_or_default().to_be_bytes();
    let zero: &[u8] = if sign { &[0] } else { &[] };
    [&length[..], zero, digits].concat()
}
