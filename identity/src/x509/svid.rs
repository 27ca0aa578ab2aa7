//! An X509-SVID together with its private key.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{Certificate, LeafError, MAX_CHAIN, check_leaf, to_pem};
use crate::{key::PrivateKey, spiffe_id::SpiffeId, validity::Validity};

/// An X509-SVID: a chain from the leaf up, without the root, and the leaf's private key.
///
/// The leaf keeps X509-SVID 2 to 5, what follows it are signing certificates, and the key is the
/// leaf's. Cheap to clone; the key is shared.
#[derive(Clone, Debug)]
pub struct X509Svid {
    chain: Arc<[Certificate]>, // INVARIANT: 1 to MAX_CHAIN; `leaf` is the first.
    leaf: Certificate,
    key: Arc<PrivateKey>,
    id: SpiffeId,
}

impl X509Svid {
    /// Joins a chain, leaf first, and the key of the leaf.
    pub fn new(chain: Vec<Certificate>, key: Arc<PrivateKey>) -> Result<Self, SvidError> {
        let Some((leaf, issuers)) = chain.split_first() else {
            return Err(SvidError::Empty);
        };
        if chain.len() > MAX_CHAIN {
            return Err(SvidError::TooLong {
                length: chain.len(),
            });
        }
        let id = check_leaf(leaf)?;
        if !issuers.iter().all(Certificate::is_ca) {
            return Err(SvidError::NotCa);
        }
        if leaf.public_key() != key.public_key() {
            return Err(SvidError::KeyMismatch);
        }
        Ok(Self {
            leaf: leaf.clone(),
            chain: chain.into(),
            key,
            id,
        })
    }

    /// The SPIFFE ID.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[Certificate] {
        &self.chain
    }

    /// The leaf.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// The private key of the leaf.
    pub fn key(&self) -> &Arc<PrivateKey> {
        &self.key
    }

    /// What TLS shows: the chain, leaf first, and a copy of the key.
    pub fn to_tls(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = self.chain.iter();
        let key = PrivatePkcs8KeyDer::from(self.key.pkcs8_der().to_vec());
        let chain = chain.map(|certificate| certificate.der().clone());
        (chain.collect(), PrivateKeyDer::from(key))
    }

    /// The lifetime of the leaf.
    pub fn validity(&self) -> Validity {
        self.leaf.validity()
    }

    /// The key identifier, in lower-case hex, of the authority that the chain leads to, where its last
    /// certificate names it.
    pub fn authority_key_id(&self) -> Option<String> {
        self.chain.last()?.authority_key_id()
    }

    /// The chain in DER, leaf first, one after another, as the Workload API carries it.
    pub fn chain_der(&self) -> Vec<u8> {
        self.chain
            .iter()
            .flat_map(|certificate| certificate.der().iter().copied())
            .collect()
    }

    /// The chain in PEM, leaf first.
    pub fn chain_pem(&self) -> String {
        to_pem(self.chain.iter())
    }
}

/// Why a chain and a key are not an X509-SVID.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SvidError {
    /// There is no certificate.
    #[error("X509-SVID has no certificate")]
    Empty,
    /// More than [`MAX_CHAIN`] certificates.
    #[error("X509-SVID has {length} certificates, the maximum is {MAX_CHAIN}")]
    TooLong {
        /// How many.
        length: usize,
    },
    /// The leaf breaks a rule.
    #[error("X509-SVID has an invalid leaf")]
    Leaf(#[from] LeafError),
    /// What follows the leaf is not a signing certificate.
    #[error("X509-SVID has an intermediate that is not a signing certificate")]
    NotCa,
    /// The private key is not the leaf's.
    #[error("private key does not belong to the X509-SVID")]
    KeyMismatch,
}

impl SvidError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "svid_empty",
            Self::TooLong { .. } => "svid_too_long",
            Self::Leaf(error) => error.reason(),
            Self::NotCa => "svid_not_ca",
            Self::KeyMismatch => "svid_key_mismatch",
        }
    }
}
