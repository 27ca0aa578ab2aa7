//! Opens a database on a device, and refuses the ones that are not ours to write.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use redb::{Database, ReadableDatabase, ReadableTable as _, StorageError};

use super::{
    CACHE_BYTES, FORMAT, FORMAT_VERSION, NUMBERS, RECORDS, REVISION, Record, Revision, TEXTS,
    TRUST_DOMAIN,
    device::{Device, Gate},
};

/// A database that was checked, and its newest revision.
pub(super) struct Admitted {
    pub(super) trust_domain: String,
    pub(super) database: Database,
    pub(super) gate: Gate,
    pub(super) revision: Revision,
}

/// What a new store begins with.
#[derive(Debug)]
pub(super) struct Content<'a> {
    pub(super) trust_domain: &'a str,
    pub(super) revision: Revision,
    pub(super) records: &'a [Record],
}

impl<'a> Content<'a> {
    pub(super) fn empty(trust_domain: &'a str) -> Self {
        Self {
            trust_domain,
            revision: Revision::ZERO,
            records: &[],
        }
    }
}

/// Why a device holds no database for us. It was left as it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("could not use the file")]
    Io(#[source] io::Error),
    #[error("file is damaged")]
    Damaged(#[source] Option<redb::Error>),
    #[error("file is no datastore")]
    Foreign,
    #[error("file has the newer format {found}")]
    NewerFormat { found: u64 },
    #[error("file belongs to trust domain `{found}`")]
    OtherTrustDomain { found: String },
}

/// Opens what a device holds, every page checked. `wanted` is whose it must be.
pub(super) fn open(device: Arc<dyn Device>, wanted: Option<&str>) -> Result<Admitted, Refusal> {
    if device.len().map_err(Refusal::Io)? == 0 {
        // We never leave an empty file behind: a new one gets its name when it is whole.
        return Err(Refusal::Damaged(None));
    }
    let gate = Gate::new(device).map_err(Refusal::Io)?;
    // redb promises errors for damaged files, not the absence of panics; neither may end a start
    // without a word of what to do.
    let opened = catch_unwind(AssertUnwindSafe(|| -> Result<_, Refusal> {
        let database = open_redb(&gate)?;
        let found = inspect(&database)?;
        Ok((database, found))
    }));
    let (database, found) = opened.unwrap_or(Err(Refusal::Damaged(None)))?;
    let (revision, trust_domain) = found.check(wanted)?;
    gate.admit().map_err(Refusal::Io)?;
    Ok(Admitted {
        trust_domain,
        database,
        gate,
        revision,
    })
}

/// Makes a store with these records on an empty device.
pub(super) fn create(device: Arc<dyn Device>, content: &Content<'_>) -> Result<(), Refusal> {
    let gate = Gate::new(device).map_err(Refusal::Io)?;
    gate.admit().map_err(Refusal::Io)?;
    let database = open_redb(&gate)?;
    initialize(&database, content)?;
    database.close().map_err(|cause| Refusal::of(cause.into()))
}

fn open_redb(gate: &Gate) -> Result<Database, Refusal> {
    let mut builder = Database::builder();
    builder
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true);
    builder
        .create_with_backend(gate.clone())
        .map_err(|cause| Refusal::of(cause.into()))
}

fn initialize(database: &Database, content: &Content<'_>) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut numbers = write.open_table(NUMBERS)?;
        numbers.insert(FORMAT, FORMAT_VERSION)?;
        numbers.insert(REVISION, content.revision.number())?;
        write
            .open_table(TEXTS)?
            .insert(TRUST_DOMAIN, content.trust_domain)?;
        let mut records = write.open_table(RECORDS)?;
        for record in content.records {
            records.insert(
                record.key.as_str(),
                (record.revision.number(), record.value.as_ref()),
            )?;
        }
    }
    Ok(write.commit()?)
}

struct Found {
    format: Option<u64>,
    revision: Option<u64>,
    trust_domain: Option<String>,
}

fn inspect(database: &Database) -> Result<Found, redb::Error> {
    let read = database.begin_read()?;
    let numbers = match read.open_table(NUMBERS) {
        Ok(numbers) => numbers,
        Err(redb::TableError::Storage(cause)) => return Err(cause.into()),
        Err(_) => {
            return Ok(Found {
                format: None,
                revision: None,
                trust_domain: None,
            });
        }
    };
    let format = numbers.get(FORMAT)?.map(|number| number.value());
    let revision = numbers.get(REVISION)?.map(|number| number.value());
    if format.is_some_and(|format| format > FORMAT_VERSION) {
        return Ok(Found {
            format,
            revision,
            trust_domain: None,
        });
    }
    let trust_domain = read
        .open_table(TEXTS)?
        .get(TRUST_DOMAIN)?
        .map(|text| text.value().to_owned());
    for row in read.open_table(RECORDS)?.iter()? {
        row?;
    }
    Ok(Found {
        format,
        revision,
        trust_domain,
    })
}

impl Found {
    fn check(self, wanted: Option<&str>) -> Result<(Revision, String), Refusal> {
        let format = self.format.ok_or(Refusal::Foreign)?;
        if format > FORMAT_VERSION {
            return Err(Refusal::NewerFormat { found: format });
        }
        let (Some(revision), Some(found)) = (self.revision, self.trust_domain) else {
            return Err(Refusal::Foreign);
        };
        if wanted.is_some_and(|wanted| wanted != found) {
            return Err(Refusal::OtherTrustDomain { found });
        }
        Ok((Revision::new(revision), found))
    }
}

impl Refusal {
    fn of(cause: redb::Error) -> Self {
        match cause {
            // redb says so of a file that does not begin as its files do.
            redb::Error::Io(cause) if cause.kind() == io::ErrorKind::InvalidData => {
                Self::Damaged(Some(redb::Error::Io(cause)))
            }
            redb::Error::Io(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Damaged(Some(redb::Error::Io(cause)))
            }
            redb::Error::Io(cause) => Self::Io(cause),
            cause => Self::Damaged(Some(cause)),
        }
    }
}

impl From<redb::Error> for Refusal {
    fn from(cause: redb::Error) -> Self {
        Self::of(cause)
    }
}

impl From<StorageError> for Refusal {
    fn from(cause: StorageError) -> Self {
        Self::of(cause.into())
    }
}
