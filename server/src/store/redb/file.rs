//! The datastore file: its name, its lock, and how it comes to be.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::Database;

use super::{
    OpenError, Revision,
    device::{Device, Gate},
    open::{self, Admitted, Content, Refusal},
};

/// The name of the datastore within `data_dir`.
pub(in crate::store) const FILE_NAME: &str = "datastore.redb";
/// Where a datastore is made before it gets its name.
const NEW_NAME: &str = "datastore.redb.new";

/// An open datastore.
pub(super) struct Opened {
    pub(super) path: PathBuf,
    pub(super) trust_domain: String,
    pub(super) database: Database,
    pub(super) gate: Gate,
    pub(super) device: Arc<dyn Device>,
    pub(super) revision: Revision,
}

/// Opens the datastore of `data_dir` for this process alone, or makes it.
pub(super) fn open(data_dir: &Path, trust_domain: &str) -> Result<Opened, OpenError> {
    let path = data_dir.join(FILE_NAME);
    let file = match open_locked(&path) {
        Ok(file) => file,
        Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            create(data_dir, &Content::empty(trust_domain))?
        }
        Err(cause) => return Err(cause),
    };
    admit(file, path, Some(trust_domain))
}

/// Opens the datastore of `data_dir`, whosever it is; there must be one.
pub(super) fn open_existing(data_dir: &Path) -> Result<Opened, OpenError> {
    let path = data_dir.join(FILE_NAME);
    admit(open_locked(&path)?, path, None)
}

fn admit(file: File, path: PathBuf, wanted: Option<&str>) -> Result<Opened, OpenError> {
    let device: Arc<dyn Device> = Arc::new(file);
    let admitted = open::open(Arc::clone(&device), wanted);
    let Admitted {
        trust_domain,
        database,
        gate,
        revision,
    } = admitted.map_err(|refusal| refused(refusal, &path, wanted.unwrap_or_default()))?;
    Ok(Opened {
        path,
        trust_domain,
        database,
        gate,
        device,
        revision,
    })
}

fn open_locked(path: &Path) -> Result<File, OpenError> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    let file = file.map_err(|source| failed("open", path, source))?;
    lock(&file, path)?;
    Ok(file)
}

/// Makes a whole datastore, and only then gives it its name.
///
/// The lock is taken before the rename, so a second server either finds the new file locked, or the
/// old name taken.
pub(super) fn create(data_dir: &Path, content: &Content<'_>) -> Result<File, OpenError> {
    let path = &data_dir.join(FILE_NAME);
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir);
    made.map_err(|source| failed("create the folder of", path, source))?;
    let new = data_dir.join(NEW_NAME);
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let file = options
        .open(&new)
        .map_err(|source| failed("create", &new, source))?;
    lock(&file, &new)?;
    if path
        .try_exists()
        .map_err(|source| failed("look for", path, source))?
    {
        return open_locked(path);
    }
    let made = || -> Result<(), OpenError> {
        file.set_len(0)
            .map_err(|source| failed("write to", &new, source))?;
        let device = file
            .try_clone()
            .map_err(|source| failed("open", &new, source))?;
        open::create(Arc::new(device), content)
            .map_err(|refusal| refused(refusal, &new, content.trust_domain))?;
        file.sync_all()
            .map_err(|source| failed("sync", &new, source))?;
        std::fs::rename(&new, path).map_err(|source| failed("name", path, source))?;
        let folder = File::open(data_dir).and_then(|folder| folder.sync_all());
        folder.map_err(|source| failed("sync the folder of", path, source))
    };
    made()?;
    Ok(file)
}

fn lock(file: &File, path: &Path) -> Result<(), OpenError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(failed("lock", path, source)),
    }
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> OpenError {
    OpenError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}

fn refused(refusal: Refusal, path: &Path, trust_domain: &str) -> OpenError {
    let path = path.to_owned();
    match refusal {
        Refusal::Io(source) => OpenError::Io {
            operation: "open",
            path,
            source,
        },
        Refusal::Damaged(source) => OpenError::Damaged { path, source },
        Refusal::Foreign => OpenError::Foreign { path },
        Refusal::NewerFormat { found } => OpenError::NewerFormat {
            path,
            found,
            known: super::FORMAT_VERSION,
        },
        Refusal::OtherTrustDomain { found } => OpenError::OtherTrustDomain {
            path,
            found,
            wanted: trust_domain.to_owned(),
        },
    }
}
