//! What holds the sealed values, and nothing of what they mean.
//!
//! sled 0.34 is quick to open and to write, and hardly maintained: it may panic on a damaged file, so that
//! every call is fenced, and it keeps space that nothing uses, so that its size is watched. Its `flush`
//! hands the bytes to the system, which is what a killed process needs; after a power cut they may be
//! missing, and are fetched again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How much memory the engine may use for its own cache; its default is a gibibyte.
const MEMORY: u64 = 8 << 20;
/// The smallest size on disk that is worth a rebuild.
const WORTH_A_REBUILD: u64 = 8 << 20;
/// How much larger than its content the file may be.
const SLACK: u64 = 4;

/// How often, and after which pause, the lock of a database that was just closed is tried again.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// What may hold the cache.
pub(super) trait Engine: Send + std::fmt::Debug {
    /// All names with their values, in the order of names.
    fn load(&self) -> Result<Vec<Stored>, EngineError>;

    /// Puts and removes, all or nothing. The system has the bytes when this returns.
    fn write(&self, changes: Changes) -> Result<(), EngineError>;

    /// Gives unused space back, if there is much of it. `live` is how many bytes are in use.
    fn tidy(&mut self, live: u64) -> Result<bool, EngineError>;

    /// How large it is on disk.
    fn size(&self) -> u64;
}

/// A name and its value.
pub(super) type Stored = (Vec<u8>, Vec<u8>);

/// What is to be written: `None` removes.
pub(super) type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Why the engine did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("the engine of the sealed cache failed")]
    Failed(#[source] sled::Error),
    #[error("the engine of the sealed cache gave up: {0}")]
    Panicked(String),
    #[error("could not move the file of the sealed cache")]
    Move(#[source] std::io::Error),
}

/// The cache in a folder of sled's.
#[derive(Debug)]
pub(super) struct SledEngine {
    folder: PathBuf,
    // None only if it could not be opened again after a rebuild.
    db: Option<sled::Db>,
}

impl SledEngine {
    /// Opens the folder, which is made if it is not there.
    pub(super) fn open(folder: &Path) -> Result<Self, EngineError> {
        mend(folder).map_err(EngineError::Move)?;
        Ok(Self {
            folder: folder.to_owned(),
            db: Some(open(folder)?),
        })
    }

    fn db(&self) -> Result<&sled::Db, EngineError> {
        self.db
            .as_ref()
            .ok_or_else(|| EngineError::Panicked("it is closed".to_owned()))
    }
}

impl Drop for SledEngine {
    fn drop(&mut self) {
        // It flushes, which fails where writes fail, and what it then does is not to end this process.
        let _ = close(self.db.take());
    }
}

impl Engine for SledEngine {
    fn load(&self) -> Result<Vec<Stored>, EngineError> {
        let db = self.db()?;
        fenced(|| {
            db.iter()
                .map(|item| item.map(|(name, value)| (name.to_vec(), value.to_vec())))
                .collect()
        })
    }

    fn write(&self, changes: Changes) -> Result<(), EngineError> {
        let db = self.db()?;
        let mut batch = sled::Batch::default();
        for (name, value) in changes {
            match value {
                Some(value) => batch.insert(name, value),
                None => batch.remove(name),
            }
        }
        fenced(|| {
            db.apply_batch(batch)?;
            db.flush().map(|_| ())
        })
    }

    fn tidy(&mut self, live: u64) -> Result<bool, EngineError> {
        if self.size() < WORTH_A_REBUILD.max(live.saturating_mul(SLACK)) {
            return Ok(false);
        }
        self.rebuild().map(|()| true)
    }

    fn size(&self) -> u64 {
        self.db
            .as_ref()
            .and_then(|db| db.size_on_disk().ok())
            .unwrap_or(0)
    }
}

impl SledEngine {
    /// Writes everything anew, into a folder that then takes the place of this one.
    fn rebuild(&mut self) -> Result<(), EngineError> {
        let values = self.load()?;
        let (new, old) = (beside(&self.folder, "new"), beside(&self.folder, "old"));
        remove(&new).map_err(EngineError::Move)?;
        let mut fresh = Self {
            folder: new.clone(),
            db: Some(open(&new)?),
        };
        fresh.write(
            values
                .into_iter()
                .map(|(name, value)| (name, Some(value)))
                .collect(),
        )?;
        close(fresh.db.take())?;
        close(self.db.take())?;
        let moved = std::fs::rename(&self.folder, &old)
            .and_then(|()| std::fs::rename(&new, &self.folder))
            .and_then(|()| remove(&old));
        moved.map_err(EngineError::Move)?;
        self.db = Some(open(&self.folder)?);
        Ok(())
    }
}

/// Opens the folder. The threads of a database that was closed a moment ago may still hold its lock; nobody
/// else has one, for an agent is alone on its folder.
fn open(folder: &Path) -> Result<sled::Db, EngineError> {
    let mut tries = 0;
    loop {
        match open_once(folder) {
            Err(EngineError::Failed(sled::Error::Io(error)))
                if tries < LOCK_TRIES && error.to_string().contains("acquire lock") =>
            {
                tries += 1;
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the engine tells nobody when its threads have ended; nothing async waits here"
                )]
                std::thread::sleep(LOCK_PAUSE);
            }
            opened => return opened,
        }
    }
}

fn open_once(folder: &Path) -> Result<sled::Db, EngineError> {
    fenced(|| {
        sled::Config::new()
            .path(folder)
            .cache_capacity(MEMORY)
            // Writes are flushed when it matters; a thread of its own would write while nothing happens.
            .flush_every_ms(None)
            .open()
    })
}

fn close(db: Option<sled::Db>) -> Result<(), EngineError> {
    fenced(|| {
        drop(db);
        Ok(())
    })
}

/// Finishes or undoes a rebuild that was cut short. The old folder is moved away only when the new one is
/// complete.
fn mend(folder: &Path) -> std::io::Result<()> {
    let (new, old) = (beside(folder, "new"), beside(folder, "old"));
    if !folder.try_exists()? && old.try_exists()? && new.try_exists()? {
        std::fs::rename(&new, folder)?;
    }
    remove(&new)?;
    remove(&old)
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn beside(folder: &Path, ending: &str) -> PathBuf {
    folder.with_extension(ending)
}

/// Calls sled. A panic of it is an error of ours.
fn fenced<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, EngineError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(EngineError::Failed),
        Err(panic) => {
            let said = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Err(EngineError::Panicked(said.unwrap_or_default()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(name: &str, value: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
        (name.as_bytes().to_vec(), Some(value.to_vec()))
    }

    #[test]
    fn what_was_written_is_there_after_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let engine = SledEngine::open(&path).unwrap();
        engine
            .write(vec![put("a", b"1"), put("b", b"2"), put("c", b"3")])
            .unwrap();
        engine
            .write(vec![put("a", b"4"), (b"b".to_vec(), None)])
            .unwrap();
        drop(engine);
        let found = SledEngine::open(&path).unwrap().load().unwrap();
        assert_eq!(
            found,
            [
                (b"a".to_vec(), b"4".to_vec()),
                (b"c".to_vec(), b"3".to_vec())
            ]
        );
    }

    #[test]
    fn a_file_that_has_outgrown_its_content_is_rebuilt_with_all_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let mut engine = SledEngine::open(&path).unwrap();
        let mut value = vec![0_u8; 15_000];
        for round in 0..2_000_u32 {
            runtime::random::fill(&mut value);
            let name = format!("{}", round % 10);
            engine.write(vec![put(&name, &value)]).unwrap();
            engine.tidy(150_000).unwrap();
        }
        // The engine has used its space again so far; now it is made to give it back.
        engine.rebuild().unwrap();
        let found = engine.load().unwrap();
        assert_eq!(found.len(), 10);
        assert_eq!(found[9].1, value);
        assert!(engine.size() < 2 * WORTH_A_REBUILD);
        drop(engine);
        assert_eq!(SledEngine::open(&path).unwrap().load().unwrap().len(), 10);
    }

    #[test]
    fn a_rebuild_that_was_cut_short_is_finished_or_undone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let names = || {
            let found = SledEngine::open(&path).unwrap().load().unwrap();
            found
                .into_iter()
                .map(|(name, _)| String::from_utf8(name).unwrap())
                .collect::<Vec<_>>()
        };
        let write = |ending: &str, name: &str| {
            let engine = SledEngine {
                folder: beside(&path, ending),
                db: Some(open(&beside(&path, ending)).unwrap()),
            };
            engine.write(vec![put(name, b"1")]).unwrap();
        };
        // While the new one is written.
        SledEngine::open(&path)
            .unwrap()
            .write(vec![put("whole", b"1")])
            .unwrap();
        write("new", "half");
        assert_eq!(names(), ["whole"]);
        // Between the two renames.
        write("new", "complete");
        std::fs::rename(&path, beside(&path, "old")).unwrap();
        assert_eq!(names(), ["complete"]);
        assert!(!beside(&path, "old").try_exists().unwrap());
    }
}
