//! Where the key of the agent's own SVID lives.
//!
//! There are two slots, as in SPIRE: a new key is made in the one that does not hold the key in use,
//! so that the identity at hand stays usable until its successor is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use identity::key::{
    KeyError, KeyFileError, MAX_KEY_FILE_BYTES, PrivateKey, PublicKey, encode_key_file,
    parse_key_file,
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use runtime::files::{self, FileError};
use rustls_pki_types::PrivatePkcs8KeyDer;
use zeroize::Zeroizing;

/// The name of the file in the key manager's `directory`.
pub const FILE_NAME: &str = "keys.json";

/// SPIRE's names of the two slots.
const SLOTS: [&str; 2] = ["agent-svid-A", "agent-svid-B"];

/// Where keys are kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CustodyConfig {
    /// In `keys.json` in this folder.
    Disk { directory: PathBuf },
    /// In this process alone: after a restart the agent has to attest again.
    Memory,
}

/// Why a key could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CustodyError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(
        "`{path}` is damaged; restore it from a backup, or remove it and give the agent a new join token",
        path = .path.display()
    )]
    Damaged { path: PathBuf, source: KeyFileError },
    #[error("could not generate a key")]
    Generate(#[source] rcgen::Error),
    #[error("could not use the generated key")]
    Key(#[source] KeyError),
    #[error("could not write a certificate signing request")]
    Request(#[source] rcgen::Error),
}

impl CustodyError {
    /// The stable label of metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::File(error) => error.reason(),
            Self::Damaged { .. } => "key_file_damaged",
            Self::Generate(_) => "key_generation",
            Self::Key(error) => error.reason(),
            Self::Request(_) => "csr",
        }
    }
}

/// The keys of the agent's own SVIDs.
#[derive(Debug)]
pub struct Custody {
    // None keeps them in memory.
    file: Option<PathBuf>,
    // Keys under other names, as another program may have left them, are kept as they are.
    keys: BTreeMap<String, Arc<PrivateKey>>,
}

impl Custody {
    /// Reads the keys. No file is no keys; a damaged one is an error, and stays as it is.
    pub fn open(config: &CustodyConfig) -> Result<Self, CustodyError> {
        let CustodyConfig::Disk { directory } = config else {
            return Ok(Self {
                file: None,
                keys: BTreeMap::new(),
            });
        };
        let path = directory.join(FILE_NAME);
        let keys = match files::read_limited(&path, MAX_KEY_FILE_BYTES)?.map(Zeroizing::new) {
            Some(text) => parse_key_file(&text).map_err(|source| CustodyError::Damaged {
                path: path.clone(),
                source,
            })?,
            None => BTreeMap::new(),
        };
        let keys = keys
            .into_iter()
            .map(|(id, key)| (id, Arc::new(key)))
            .collect();
        Ok(Self {
            file: Some(path),
            keys,
        })
    }

    /// The private half of a public key.
    pub fn find(&self, public: &PublicKey) -> Option<Arc<PrivateKey>> {
        self.keys
            .values()
            .find(|key| key.public_key() == public)
            .cloned()
    }

    /// The agent's key that fits a description.
    pub fn find_own(&self, fits: impl Fn(&PublicKey) -> bool) -> Option<Arc<PrivateKey>> {
        let mut own = SLOTS.iter().filter_map(|slot| self.keys.get(*slot));
        own.find(|key| fits(key.public_key())).cloned()
    }

    /// Makes a key, in the slot that does not hold `in_use`. Durable when this returns.
    pub fn generate(
        &mut self,
        in_use: Option<&PublicKey>,
    ) -> Result<Arc<PrivateKey>, CustodyError> {
        // SPIRE's agents have P-256 keys whatever their workloads have.
        let pair =
            KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CustodyError::Generate)?;
        let der = Zeroizing::new(pair.serialize_der());
        let key = Arc::new(PrivateKey::from_pkcs8_der(der).map_err(CustodyError::Key)?);
        let holds_the_key_in_use = |slot: &str| {
            in_use.is_some() && self.keys.get(slot).map(|key| key.public_key()) == in_use
        };
        let [first, second] = SLOTS;
        let slot = if holds_the_key_in_use(first) {
            second
        } else {
            first
        };
        let mut keys = self.keys.clone();
        keys.insert(slot.to_owned(), Arc::clone(&key));
        self.replace(keys)?;
        Ok(key)
    }

    /// Forgets the agent's keys, for a banned agent keeps nothing that it could go on with.
    pub fn wipe(&mut self) -> Result<(), CustodyError> {
        let mut keys = self.keys.clone();
        keys.retain(|id, _| !SLOTS.contains(&id.as_str()));
        self.replace(keys)
    }

    /// Whether the keys outlive this process.
    pub fn is_durable(&self) -> bool {
        self.file.is_some()
    }

    /// Where the keys are kept, for messages.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    fn replace(&mut self, keys: BTreeMap<String, Arc<PrivateKey>>) -> Result<(), CustodyError> {
        if let Some(path) = &self.file {
            let text = encode_key_file(keys.iter().map(|(id, key)| (id.as_str(), key.as_ref())));
            files::write_private(path, text.as_bytes())?;
        }
        self.keys = keys;
        Ok(())
    }
}

/// Writes the request to have a key of the agent certified. It names nobody: the server takes the
/// public key from it, and gives the name itself.
pub fn request(key: &PrivateKey) -> Result<Vec<u8>, CustodyError> {
    let der = PrivatePkcs8KeyDer::from(key.pkcs8_der());
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
        .map_err(CustodyError::Request)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "US");
    params
        .distinguished_name
        .push(DnType::OrganizationName, "SPIRE");
    let request = params
        .serialize_request(&pair)
        .map_err(CustodyError::Request)?;
    Ok(request.der().to_vec())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use identity::x509::Csr;

    use super::*;

    fn disk(folder: &Path) -> Custody {
        Custody::open(&CustodyConfig::Disk {
            directory: folder.to_owned(),
        })
        .unwrap()
    }

    #[test]
    fn a_new_key_leaves_the_one_in_use_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut custody = disk(folder.path());
        let mut in_use = custody.generate(None).unwrap();
        for _ in 0..3 {
            // A try whose answer was lost, and then one that succeeds.
            custody.generate(Some(in_use.public_key())).unwrap();
            let next = custody.generate(Some(in_use.public_key())).unwrap();
            let reread = disk(folder.path());
            assert!(reread.find(in_use.public_key()).is_some());
            assert!(reread.find(next.public_key()).is_some());
            in_use = next;
        }
        assert_eq!(disk(folder.path()).keys.len(), 2);
    }

    #[test]
    fn the_key_file_is_private() {
        let folder = tempfile::tempdir().unwrap();
        disk(folder.path()).generate(None).unwrap();
        let mode = std::fs::metadata(folder.path().join(FILE_NAME))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_refused_or_harmless() {
        let folder = tempfile::tempdir().unwrap();
        let key = disk(folder.path()).generate(None).unwrap();
        disk(folder.path())
            .generate(Some(key.public_key()))
            .unwrap();
        let path = folder.path().join(FILE_NAME);
        let whole = std::fs::read(&path).unwrap();
        let config = CustodyConfig::Disk {
            directory: folder.path().to_owned(),
        };
        let judge = |damaged: &[u8]| {
            std::fs::write(&path, damaged).unwrap();
            match Custody::open(&config) {
                Err(error) => assert!(error.to_string().contains("keys.json"), "{error}"),
                // Only the name of a key was hit, or space, or the tag of the point in it (the hybrid form
                // of half of all points is accepted): the keys are the same, and so is what they sign.
                Ok(custody) => {
                    assert_eq!(custody.keys.len(), 2);
                    let found = custody.find(key.public_key()).unwrap();
                    let signed = Csr::parse_and_verify(&request(&found).unwrap()).unwrap();
                    assert_eq!(signed.public_key(), key.public_key());
                }
            }
            assert_eq!(std::fs::read(&path).unwrap(), damaged);
        };
        for length in 0..whole.trim_ascii_end().len() {
            judge(&whole[..length]);
        }
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            judge(&damaged);
        }
    }

    #[test]
    fn memory_forgets_with_the_process() {
        let mut custody = Custody::open(&CustodyConfig::Memory).unwrap();
        let key = custody.generate(None).unwrap();
        assert!(custody.find(key.public_key()).is_some());
        assert!(!custody.is_durable());
    }

    #[test]
    fn a_wipe_leaves_the_keys_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let mut custody = disk(folder.path());
        let key = custody.generate(None).unwrap();
        let mut keys = custody.keys.clone();
        keys.insert("another".to_owned(), key);
        custody.replace(keys).unwrap();
        custody.wipe().unwrap();
        assert_eq!(
            disk(folder.path()).keys.keys().collect::<Vec<_>>(),
            ["another"]
        );
    }

    #[test]
    fn the_request_names_nobody() {
        let key = Custody::open(&CustodyConfig::Memory)
            .unwrap()
            .generate(None)
            .unwrap();
        let csr = Csr::parse_and_verify(&request(&key).unwrap()).unwrap();
        assert_eq!(csr.public_key(), key.public_key());
    }
}
