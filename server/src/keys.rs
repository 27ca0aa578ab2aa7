//! Custody of the authorities' private keys.
//!
//! A key has a name of a slot (`x509-CA-A`), as in SPIRE; making a key under a name replaces the one
//! before. Custody only makes keys and signs; which key may sign what is the journal's affair.

mod disk;
mod memory;
pub(crate) mod pem;
mod signer;

use std::{fmt, path::Path, str::FromStr, sync::Arc};

use aws_lc_rs::{
    encoding::AsDer as _,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, RsaKeyPair,
    },
};
use identity::key::{KeyError, KeyFileError, PrivateKey};
use runtime::{failpoint, files::FileError};
use zeroize::Zeroizing;

pub use self::pem::KeyPemError;
pub use self::signer::{SignatureError, Signer};
use self::{disk::Disk, memory::Memory};

/// The kinds of keys that an authority may have, by SPIRE's names.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum KeyType {
    #[default]
    EcP256,
    EcP384,
    Rsa2048,
    Rsa4096,
}

impl KeyType {
    pub const fn name(self) -> &'static str {
        match self {
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa4096 => "rsa-4096",
        }
    }

    /// Makes a key. RSA keys take up to seconds of one core.
    fn make(self) -> Result<PrivateKey, KeysError> {
        let rsa = |size| {
            RsaKeyPair::generate(size)
                .ok()?
                .as_der()
                .ok()
                .map(|der| der.as_ref().to_vec())
        };
        let ec = |algorithm| {
            let pair = EcdsaKeyPair::generate(algorithm).ok()?;
            pair.to_pkcs8v1().ok().map(|der| der.as_ref().to_vec())
        };
        let der = match self {
            Self::EcP256 => ec(&ECDSA_P256_SHA256_ASN1_SIGNING),
            Self::EcP384 => ec(&ECDSA_P384_SHA384_ASN1_SIGNING),
            Self::Rsa2048 => rsa(KeySize::Rsa2048),
            Self::Rsa4096 => rsa(KeySize::Rsa4096),
        };
        let der = Zeroizing::new(der.ok_or(KeysError::Generate { kind: self })?);
        PrivateKey::from_pkcs8_der(der).map_err(KeysError::Made)
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name is none of those in [`KeyType`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("key type `{0}` is unknown; must be one of [rsa-2048, rsa-4096, ec-p256, ec-p384]")]
pub struct UnknownKeyType(String);

impl FromStr for KeyType {
    type Err = UnknownKeyType;

    fn from_str(name: &str) -> Result<Self, UnknownKeyType> {
        let lower = name.to_ascii_lowercase();
        [Self::EcP256, Self::EcP384, Self::Rsa2048, Self::Rsa4096]
            .into_iter()
            .find(|kind| kind.name() == lower)
            .ok_or_else(|| UnknownKeyType(name.to_owned()))
    }
}

/// The keys of this server. Clones share them.
#[derive(Clone, Debug)]
pub struct Keys {
    custody: Custody,
}

#[derive(Clone, Debug)]
enum Custody {
    Memory(Arc<Memory>),
    Disk(Arc<Disk>),
}

impl Keys {
    /// Keys that are gone with the process: every start makes new authorities.
    pub fn memory() -> Self {
        Self {
            custody: Custody::Memory(Arc::default()),
        }
    }

    /// Keys in a file of the shape of SPIRE's, mode 0600. A file that is not there is made with the
    /// first key; one that cannot be read is refused and left.
    pub fn disk(path: &Path) -> Result<Self, KeysError> {
        Disk::open(path).map(|disk| Self {
            custody: Custody::Disk(Arc::new(disk)),
        })
    }

    /// Makes a key under `id`, durable when this returns. On an error the one before is still there.
    pub async fn generate(&self, id: &str, kind: KeyType) -> Result<Signer, KeysError> {
        let key = tokio::task::spawn_blocking(move || kind.make()).await;
        let key = Arc::new(key.map_err(KeysError::Ended)??);
        let signer = Signer::new(Arc::clone(&key)).map_err(KeysError::Made)?;
        failpoint::reach("keys", "made");
        match &self.custody {
            Custody::Memory(memory) => memory.insert(id, key),
            Custody::Disk(disk) => {
                let (disk, id) = (Arc::clone(disk), id.to_owned());
                let stored = tokio::task::spawn_blocking(move || disk.insert(&id, key)).await;
                stored.map_err(KeysError::Ended)??;
            }
        }
        Ok(signer)
    }

    /// Forgets the key under `id`, durable when this returns. Tells whether there was one.
    pub async fn forget(&self, id: &str) -> Result<bool, KeysError> {
        match &self.custody {
            Custody::Memory(memory) => Ok(memory.remove(id)),
            Custody::Disk(disk) => {
                let (disk, id) = (Arc::clone(disk), id.to_owned());
                let removed = tokio::task::spawn_blocking(move || disk.remove(&id)).await;
                removed.map_err(KeysError::Ended)?
            }
        }
    }

    /// The key under `id`, ready to sign.
    pub fn signer(&self, id: &str) -> Option<Signer> {
        let key = match &self.custody {
            Custody::Memory(memory) => memory.find(id),
            Custody::Disk(disk) => disk.find(id),
        };
        key.and_then(|key| Signer::new(key).ok())
    }
}

/// Why a key could not be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("could not make a key of type {kind}")]
    Generate { kind: KeyType },
    #[error("could not use the key just made")]
    Made(#[source] KeyError),
    #[error("work on the keys was cut short")]
    Ended(#[source] tokio::task::JoinError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(
        "key file `{path}` is damaged and was left as it is; restore it, or move it aside to make new authorities"
    )]
    Damaged {
        path: String,
        #[source]
        source: KeyFileError,
    },
}

impl KeysError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Generate { .. } | Self::Made(_) => "key_generation",
            Self::Ended(_) => "key_generation_ended",
            Self::File(cause) => cause.reason(),
            Self::Damaged { .. } => "key_file_damaged",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &[u8] = b"to be signed";

    #[tokio::test]
    async fn signs_with_every_kind_of_key_in_both_encodings() {
        use identity::jwt::Algorithm;
        for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
            let signer = Keys::memory().generate("a", kind).await.unwrap();
            let jwt = signer.sign_jws(MESSAGE).unwrap();
            let algorithm = Algorithm::parse(signer.jws_algorithm()).unwrap();
            signer
                .public_key()
                .verify(algorithm.scheme(), MESSAGE, &jwt)
                .unwrap();
            assert!(!signer.sign_x509(MESSAGE).unwrap().is_empty());
        }
    }

    #[test]
    fn knows_spires_names_of_key_types_in_any_case() {
        assert_eq!("EC-P384".parse(), Ok(KeyType::EcP384));
        assert!("ed25519".parse::<KeyType>().is_err());
    }

    #[tokio::test]
    async fn keeps_keys_on_disk_over_restarts_and_from_other_users() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let keys = Keys::disk(&path).unwrap();
        let first = keys.generate("x509-CA-A", KeyType::EcP256).await.unwrap();
        let replaced = keys.generate("x509-CA-B", KeyType::EcP256).await.unwrap();
        let second = keys.generate("x509-CA-B", KeyType::EcP256).await.unwrap();
        assert_ne!(replaced.public_key(), second.public_key());

        let again = Keys::disk(&path).unwrap();
        assert_eq!(
            again.signer("x509-CA-A").unwrap().public_key(),
            first.public_key()
        );
        assert_eq!(
            again.signer("x509-CA-B").unwrap().public_key(),
            second.public_key()
        );
        assert!(again.signer("JWT-Signer-A").is_none());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn refuses_a_damaged_key_file_and_leaves_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        Keys::disk(&path)
            .unwrap()
            .generate("a", KeyType::EcP256)
            .await
            .unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 1, whole.len() / 2, whole.len() - 4] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(
                matches!(Keys::disk(&path), Err(KeysError::Damaged { .. })),
                "{length}"
            );
            assert_eq!(std::fs::read(&path).unwrap(), &whole[..length]);
        }
    }

    #[tokio::test]
    async fn keeps_the_key_before_when_the_new_one_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data").join("keys.json");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let keys = Keys::disk(&path).unwrap();
        let first = keys.generate("a", KeyType::EcP256).await.unwrap();
        std::fs::rename(path.parent().unwrap(), folder.path().join("gone")).unwrap();
        assert!(matches!(
            keys.generate("a", KeyType::EcP256).await,
            Err(KeysError::File(_))
        ));
        assert_eq!(keys.signer("a").unwrap().public_key(), first.public_key());
    }
}
