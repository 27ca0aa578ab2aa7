//! A whole store in one file: to be kept elsewhere, and to begin again from.
//!
//! The file holds records as they are, the authorities' journal among them, and no private key: those
//! are in key custody, and are to be copied with the same care that their file has. A store that is
//! restored without them makes new authorities; the old ones stay in the bundle until they end.
//!
//! It is made record by record, so that a server can send one in pieces to whoever asks for it.

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{self, SHA256, SHA256_OUTPUT_LEN};
use bytes::{Buf, Bytes, BytesMut};
use runtime::files::{self, FileError};

use super::{Engine, Key, OpenError, Record, Redb, Revision, Store, StoreError};

const MAGIC: &[u8; 16] = b"signet-backup\x1a\r\n";
const VERSION: u32 = 1;

/// The largest backup that is read.
pub const MAX_BACKUP_BYTES: u64 = 8 << 30;
/// The largest piece in which one is sent.
const CHUNK_BYTES: usize = 1 << 20;
/// The longest key, in bytes: a SPIFFE ID with its family.
const MAX_KEY_BYTES: usize = 4 << 10;
/// The largest value, in bytes.
const MAX_VALUE_BYTES: usize = super::MAX_TXN_BYTES;

/// A store as of one revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Backup {
    pub trust_domain: String,
    pub revision: Revision,
    pub records: Vec<Record>,
}

impl Backup {
    /// Takes one of a store in use; its server goes on meanwhile.
    pub async fn of(store: &Store, trust_domain: &str) -> Result<Self, BackupError> {
        let (revision, records) = store.snapshot().await?;
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            revision,
            records,
        })
    }

    /// Takes one of the store in a `data_dir` whose server does not run.
    pub async fn of_data_dir(data_dir: &Path) -> Result<Self, BackupError> {
        let (redb, trust_domain) = Redb::open_existing(data_dir)?;
        let store = Store::of(Engine::Redb(redb));
        let backup = Self::of(&store, &trust_domain).await;
        store.close().await?;
        backup
    }

    /// Writes it to a new file, mode 0600, durable when this returns. It is whole or not there.
    pub fn write(&self, path: &Path) -> Result<(), BackupError> {
        // Another backup may be the only good one.
        if path.symlink_metadata().is_ok() {
            return Err(BackupError::Exists {
                path: path.to_owned(),
            });
        }
        Ok(files::write_private(path, &self.encode())?)
    }

    /// Reads one, and checks that it is whole.
    pub fn read(path: &Path) -> Result<Self, RestoreError> {
        let bytes = files::read_limited(path, MAX_BACKUP_BYTES)?;
        let bytes = bytes.ok_or_else(|| RestoreError::Missing {
            path: path.to_owned(),
        })?;
        Self::decode(&bytes.into()).map_err(|source| RestoreError::Unreadable {
            path: path.to_owned(),
            source,
        })
    }

    /// Makes the store of `data_dir` from it. The folder may hold a key file; anything else in it is a
    /// reason to refuse, since it would be mixed with another past.
    pub fn restore(&self, data_dir: &Path) -> Result<(), RestoreError> {
        let failed = |source| RestoreError::Folder {
            path: data_dir.to_owned(),
            source,
        };
        match std::fs::read_dir(data_dir) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            Err(cause) => return Err(failed(cause)),
            Ok(entries) => {
                for entry in entries {
                    let name = entry.map_err(failed)?.file_name();
                    if name != "keys.json" {
                        let name = name.to_string_lossy().into_owned();
                        return Err(RestoreError::NotEmpty {
                            path: data_dir.to_owned(),
                            name,
                        });
                    }
                }
            }
        }
        Ok(Redb::restore(
            data_dir,
            &self.trust_domain,
            self.revision,
            &self.records,
        )?)
    }

    /// The bytes of the file: a header, the records, and the SHA-256 of it all.
    pub fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::begin(self);
        for record in &self.records {
            encoder.record(record);
        }
        encoder.end();
        encoder.out.into()
    }

    /// The same bytes in pieces, each made when it is asked for.
    pub fn into_chunks(self) -> Chunks {
        Chunks {
            encoder: Encoder::begin(&self),
            records: Some(self.records.into_iter()),
        }
    }

    /// Reads the bytes of a file.
    pub fn decode(bytes: &Bytes) -> Result<Self, FormatError> {
        let Some(rest) = bytes.strip_prefix(MAGIC.as_slice()) else {
            return Err(FormatError::Foreign);
        };
        // The version says how the rest is to be read, and so comes before the sum.
        let version = rest
            .first_chunk()
            .map(|version| u32::from_be_bytes(*version));
        match version {
            Some(VERSION) => {}
            Some(found) if found > VERSION => return Err(FormatError::Newer { found }),
            _ => return Err(FormatError::Damaged),
        }
        let body = bytes
            .len()
            .checked_sub(SHA256_OUTPUT_LEN)
            .ok_or(FormatError::Damaged)?;
        let (content, sum) = bytes.split_at_checked(body).ok_or(FormatError::Damaged)?;
        if digest::digest(&SHA256, content).as_ref() != sum {
            return Err(FormatError::Damaged);
        }
        let mut content = bytes.slice(MAGIC.len() + size_of_val(&VERSION)..body);
        Self::decode_content(&mut content)
    }

    fn decode_content(content: &mut Bytes) -> Result<Self, FormatError> {
        let trust_domain = text(take(content, MAX_KEY_BYTES)?)?;
        let revision = number(content)?;
        let count = number(content)?;
        let mut records = Vec::new();
        for _ in 0..count {
            let key = Key::stored(&text(take(content, MAX_KEY_BYTES)?)?);
            let revision = Revision::new(number(content)?);
            let value = take(content, MAX_VALUE_BYTES)?;
            records.push(Record {
                key,
                value,
                revision,
            });
        }
        if content.has_remaining() {
            return Err(FormatError::Damaged);
        }
        Ok(Self {
            trust_domain,
            revision: Revision::new(revision),
            records,
        })
    }
}

/// The bytes of a backup, in pieces of 1 MiB at the most.
#[derive(Debug)]
pub struct Chunks {
    encoder: Encoder,
    /// `None` when all of them, and the sum, are encoded.
    records: Option<std::vec::IntoIter<Record>>,
}

impl Iterator for Chunks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        while self.encoder.out.len() < CHUNK_BYTES
            && let Some(records) = &mut self.records
        {
            match records.next() {
                Some(record) => self.encoder.record(&record),
                None => {
                    self.encoder.end();
                    self.records = None;
                }
            }
        }
        let length = self.encoder.out.len().min(CHUNK_BYTES);
        let chunk = self.encoder.out.split_to(length).freeze();
        (!chunk.is_empty()).then_some(chunk)
    }
}

/// What is encoded and not taken yet, and the sum of all that was.
struct Encoder {
    out: BytesMut,
    sum: digest::Context,
}

impl Encoder {
    fn begin(backup: &Backup) -> Self {
        let mut encoder = Self {
            out: BytesMut::new(),
            sum: digest::Context::new(&SHA256),
        };
        encoder.put(MAGIC);
        encoder.put(&VERSION.to_be_bytes());
        encoder.put_long(backup.trust_domain.as_bytes());
        encoder.put(&backup.revision.number().to_be_bytes());
        encoder.put(&(backup.records.len() as u64).to_be_bytes());
        encoder
    }

    fn record(&mut self, record: &Record) {
        self.put_long(record.key.as_str().as_bytes());
        self.put(&record.revision.number().to_be_bytes());
        self.put_long(&record.value);
    }

    fn end(&mut self) {
        let sum = self.sum.clone().finish();
        self.out.extend_from_slice(sum.as_ref());
    }

    fn put_long(&mut self, bytes: &[u8]) {
        // INVARIANT: nothing stored is larger than a transaction, so its length has 32 bits.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.put(&length.to_be_bytes());
        self.put(bytes);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
        self.out.extend_from_slice(bytes);
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

fn take(content: &mut Bytes, limit: usize) -> Result<Bytes, FormatError> {
    let length = content.try_get_u32().or(Err(FormatError::Damaged))?;
    let length = usize::try_from(length).or(Err(FormatError::Damaged))?;
    if length > limit || length > content.remaining() {
        return Err(FormatError::Damaged);
    }
    Ok(content.split_to(length))
}

fn number(content: &mut Bytes) -> Result<u64, FormatError> {
    content.try_get_u64().or(Err(FormatError::Damaged))
}

fn text(bytes: Bytes) -> Result<String, FormatError> {
    String::from_utf8(bytes.into()).or(Err(FormatError::Damaged))
}

/// Why the bytes of a file are not a backup.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FormatError {
    #[error("it is not a backup of Signet")]
    Foreign,
    #[error(
        "it has version {found}, and this program reads versions up to {VERSION}; run the version that wrote it"
    )]
    Newer { found: u32 },
    #[error("it is damaged or cut short")]
    Damaged,
}

/// Why a backup was not taken.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("there is a file at `{}`; choose another name for the backup", path.display())]
    Exists { path: PathBuf },
    #[error(transparent)]
    File(#[from] FileError),
}

impl BackupError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Open(cause) => cause.reason(),
            Self::Store(cause) => cause.reason(),
            Self::Exists { .. } => "backup_exists",
            Self::File(cause) => cause.reason(),
        }
    }
}

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("there is no backup at `{}`", path.display())]
    Missing { path: PathBuf },
    #[error("could not read backup `{}`", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: FormatError,
    },
    #[error("data_dir `{}` is not empty (it holds `{name}`); move it aside, and restore into an empty one", path.display())]
    NotEmpty { path: PathBuf, name: String },
    #[error("could not look into data_dir `{}`", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Store(#[from] OpenError),
}

impl RestoreError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "backup_missing",
            Self::Unreadable {
                source: FormatError::Foreign,
                ..
            } => "backup_foreign",
            Self::Unreadable {
                source: FormatError::Newer { .. },
                ..
            } => "backup_newer",
            Self::Unreadable {
                source: FormatError::Damaged,
                ..
            } => "backup_damaged",
            Self::NotEmpty { .. } => "data_dir_not_empty",
            Self::Folder { .. } => "data_dir_unreadable",
            Self::File(cause) => cause.reason(),
            Self::Store(cause) => cause.reason(),
        }
    }
}
