//! Keys: the private half of an SVID, and the public half of everything.

mod file;
mod private;
mod public;
mod weakness;

pub use file::{KeyFileError, MAX_KEY_FILE_BYTES, encode_key_file, parse_key_file};
pub use private::PrivateKey;
pub(crate) use public::Material;
pub use public::{PublicKey, SignatureScheme};

/// The kind and size of a key.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum KeyAlgorithm {
    /// ECDSA on the curve P-256.
    EcP256,
    /// ECDSA on the curve P-384.
    EcP384,
    /// ECDSA on the curve P-521: for checking the signatures of others.
    EcP521,
    /// RSA with a modulus of this many bits, 2048 to 8192.
    Rsa(u16),
    /// Ed25519.
    Ed25519,
}

/// Why a key or a signature is refused. Never says anything about the key's content.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The bytes are above the size limit.
    #[error("key is too large")]
    TooLarge,
    /// The bytes are not one whole key in canonical DER.
    #[error("key is malformed")]
    Malformed,
    /// The algorithm or curve is none of those in [`KeyAlgorithm`].
    #[error("key algorithm is not supported")]
    Algorithm,
    /// The key is too small, too large, or otherwise unfit to be certified.
    #[error("key is weak")]
    Weak,
    /// The signature scheme does not fit the key's algorithm.
    #[error("signature scheme does not fit the key")]
    Scheme,
    /// The signature does not verify.
    #[error("signature is invalid")]
    Signature,
}

impl KeyError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge => "key_too_large",
            Self::Malformed => "key_malformed",
            Self::Algorithm => "key_algorithm",
            Self::Weak => "key_weak",
            Self::Scheme => "key_scheme",
            Self::Signature => "signature_invalid",
        }
    }
}

#[cfg(test)]
mod tests;
