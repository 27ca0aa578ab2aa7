//! The file that a process executes: its path, and a digest that is computed once for each file.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

use aws_lc_rs::digest::{Context, SHA256};
use parking_lot::Mutex;
use runtime::unix::{Peer, Program};

/// So many digests are remembered. A node runs fewer programs.
const MAX_REMEMBERED: usize = 1024;

const CHUNK_BYTES: usize = 64 * 1024;

/// An executable, held open: the very file, wherever its path points by now.
#[derive(Debug)]
pub struct Executable {
    /// The path as the peer's mount namespace has it.
    pub path: String,
    file: File,
    program: Program,
    version: Version,
}

/// One content of one file, as far as its file system can tell.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Executable {
    /// Looks at what a process executes now.
    pub fn of(peer: &Peer) -> Result<Self, ExecutableError> {
        let file = peer.exe_file().map_err(ExecutableError::Open)?;
        let path = peer.proc_link("exe").map_err(ExecutableError::Open)?;
        let Ok(path) = path.into_string() else {
            return Err(ExecutableError::PathNotText);
        };
        let metadata = file.metadata().map_err(ExecutableError::Open)?;
        Ok(Self {
            path,
            file,
            program: Program::of(&metadata),
            version: Version::of(&metadata),
        })
    }

    /// Whether both are the same content of the same file at the same path.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.version == other.version && self.path == other.path
    }

    /// Whether a process ran it already when it was first held: at accept, if it connected. What could
    /// not be seen then is not it.
    #[must_use]
    pub fn has_connected(&self, peer: &Peer) -> bool {
        peer.program() == Some(self.program)
    }

    /// How many bytes may be hashed under SPIRE's `workload_size_limit`; `None` forbids hashing.
    #[must_use]
    pub fn limit(&self, workload_size_limit: i64) -> Option<u64> {
        match u64::try_from(workload_size_limit) {
            Ok(0) => Some(u64::MAX),
            Ok(limit) => Some(limit),
            Err(_) => None,
        }
    }
}

/// The digests of executables that were hashed before.
#[derive(Debug, Default)]
pub struct Digests(Mutex<HashMap<Version, [u8; 32]>>);

impl Digests {
    /// The SHA-256 of an executable; `None` if it was written to meanwhile.
    pub fn of(
        &self,
        executable: &Executable,
        limit: u64,
    ) -> Result<Option<[u8; 32]>, ExecutableError> {
        let version = executable.version;
        if version.size > limit {
            return Err(ExecutableError::TooLarge {
                size: version.size,
                limit,
            });
        }
        if let Some(digest) = self.0.lock().get(&version) {
            return Ok(Some(*digest));
        }
        // Not under the lock: a large file must not keep the others waiting.
        let digest = sha256(&executable.file, version.size).map_err(ExecutableError::Hash)?;
        let metadata = executable.file.metadata().map_err(ExecutableError::Hash)?;
        if Version::of(&metadata) != version {
            return Ok(None);
        }
        let mut remembered = self.0.lock();
        if remembered.len() >= MAX_REMEMBERED {
            // Files come and go with deployments; starting over is cheaper than an order of age.
            remembered.clear();
        }
        remembered.insert(version, digest);
        Ok(Some(digest))
    }
}

fn sha256(mut file: &File, size: u64) -> io::Result<[u8; 32]> {
    let mut context = Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut left = size;
    while left > 0 {
        let read = file.read(&mut chunk)?;
        let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        context.update(bytes);
        left = left.saturating_sub(bytes.len() as u64);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Ok(digest)
}

/// Why an executable gives no selector.
#[derive(Debug, thiserror::Error)]
pub enum ExecutableError {
    /// The file could not be opened: the agent may lack the right to look at this process.
    #[error("could not open the caller's executable")]
    Open(#[source] io::Error),
    /// It has a path that is not UTF-8, which no selector can hold.
    #[error("the path of the caller's executable is not UTF-8")]
    PathNotText,
    /// It is larger than the operator lets us hash.
    #[error("the caller's executable exceeds the size limit ({size} > {limit})")]
    TooLarge {
        /// How large it is.
        size: u64,
        /// `workload_size_limit`.
        limit: u64,
    },
    /// The file could not be read.
    #[error("could not hash the caller's executable")]
    Hash(#[source] io::Error),
}

impl ExecutableError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Open(_) => "executable_unreadable",
            Self::PathNotText => "executable_path_not_text",
            Self::TooLarge { .. } => "executable_too_large",
            Self::Hash(_) => "executable_hash",
        }
    }
}
