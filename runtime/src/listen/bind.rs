//! Sockets, bound before they are served, so that a clash fails the start.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::config::HostPort;
use crate::random;
use crate::unix;

/// `sun_path` has 108 bytes, the last a zero.
const MAX_PATH_BYTES: usize = 107;
/// The folder of a socket is for its owner to write; for all to enter, if the umask lets them.
const FOLDER_MODE: u32 = 0o755;
/// How often a name is drawn anew when the drawn one is taken.
const NAMES_TRIED: u32 = 16;

/// A Unix socket that listens. Its file goes when this is dropped.
#[derive(Debug)]
pub struct BoundUnix {
    pub(super) listener: UnixListener,
    pub(super) path: PathBuf,
    // Device and inode: the path may belong to a successor by the time this is dropped.
    pub(super) file: (u64, u64),
    pub(super) mode: u32,
    // Links in the same folder that lead to the socket.
    pub(super) aliases: Vec<PathBuf>,
}

/// A TCP port that listens.
#[derive(Debug)]
pub struct BoundTcp {
    listener: TcpListener,
    addr: SocketAddr,
}

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A path longer than the kernel takes.
    #[error("socket path `{}` is longer than {MAX_PATH_BYTES} bytes", .0.display())]
    PathTooLong(PathBuf),
    /// A path that names no file.
    #[error("socket path `{}` has no file name", .0.display())]
    NoFileName(PathBuf),
    /// Something answers at the path.
    #[error("socket `{}` is in use by another process", .0.display())]
    InUse(PathBuf),
    /// Something else stands at the path.
    #[error("`{}` exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The file system or the kernel refused.
    #[error("could not {tried} for socket `{}`", .path.display())]
    Unix {
        /// What was tried.
        tried: &'static str,
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The port cannot be had.
    #[error("could not listen on `{addr}`")]
    Tcp {
        /// The address asked for.
        addr: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The host has no address.
    #[error("could not find an address of host `{host}`")]
    Unresolved {
        /// The name.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// The event loop did not take the socket.
    #[error("could not register a listener")]
    Register(#[source] io::Error),
}

impl ListenError {
    /// A stable label for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::PathTooLong(_) => "path_too_long",
            Self::NoFileName(_) => "no_file_name",
            Self::InUse(_) => "in_use",
            Self::NotASocket(_) => "not_a_socket",
            Self::Unix { .. } => "unix_bind",
            Self::Tcp { .. } => "tcp_bind",
            Self::Unresolved { .. } => "unresolved_host",
            Self::Register(_) => "register",
        }
    }

    fn is_in_use(&self) -> bool {
        matches!(self, Self::Tcp { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }
}

/// Listens on a Unix socket at `path`, which gets `mode`.
///
/// The socket is bound under a drawn name and renamed into place, so that whoever sees the path
/// sees a socket that listens and has its mode. A socket that nobody serves is replaced; one that
/// answers, and anything that is no socket, a symbolic link too, is refused.
pub fn bind_unix(path: &Path, mode: u32) -> Result<BoundUnix, ListenError> {
    if path.file_name().is_none() {
        return Err(ListenError::NoFileName(path.into()));
    }
    if path.as_os_str().len() > MAX_PATH_BYTES {
        return Err(ListenError::PathTooLong(path.into()));
    }
    make_folder(folder_of(path), mode).map_err(unix_error(path, "create the folder"))?;
    refuse_what_is_not_ours_to_replace(path)?;
    let (listener, file) = put(path, mode)?;
    Ok(BoundUnix {
        listener,
        path: path.into(),
        file,
        mode,
        aliases: Vec::new(),
    })
}

/// Makes a socket that listens, and puts it in place of whatever file has the name; with the file's
/// device and inode.
pub(super) fn put(path: &Path, mode: u32) -> Result<(UnixListener, (u64, u64)), ListenError> {
    let name = path
        .file_name()
        .ok_or_else(|| ListenError::NoFileName(path.into()))?;
    let failed = |tried| unix_error(path, tried);
    let (listener, drawn) = bind_drawn(folder_of(path), name.len()).map_err(failed("bind"))?;
    let finish = || {
        listener.set_nonblocking(true).map_err(failed("prepare"))?;
        std::fs::set_permissions(&drawn, std::fs::Permissions::from_mode(mode))
            .map_err(failed("set the mode"))?;
        let file = std::fs::symlink_metadata(&drawn).map_err(failed("look at the file"))?;
        std::fs::rename(&drawn, path).map_err(failed("move the file into place"))?;
        Ok((file.dev(), file.ino()))
    };
    match finish() {
        Ok(file) => Ok((listener, file)),
        Err(error) => {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(&drawn);
            Err(error)
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

pub(super) fn unix_error(
    path: &Path,
    tried: &'static str,
) -> impl FnOnce(io::Error) -> ListenError {
    let path = path.to_owned();
    move |source| ListenError::Unix {
        tried,
        path,
        source,
    }
}

/// Makes the folders that are missing.
///
/// A socket that everybody may open is of no use in a folder that the umask has closed. So the folders
/// made for it are opened again; only those, since any other may be somebody else's.
fn make_folder(folder: &Path, socket_mode: u32) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.mode(FOLDER_MODE);
    let mut folders: Vec<&Path> = folder.ancestors().collect();
    folders.reverse();
    for folder in folders.into_iter().filter(|path| *path != Path::new("")) {
        match builder.create(folder) {
            Ok(()) if socket_mode & 0o007 != 0 => {
                std::fs::set_permissions(folder, std::fs::Permissions::from_mode(FOLDER_MODE))?;
            }
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Listens on a TCP port. Port 0 lets the kernel choose.
pub fn bind_tcp(addr: SocketAddr) -> Result<BoundTcp, ListenError> {
    let bind = || {
        let listener = TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        Ok(BoundTcp { listener, addr })
    };
    bind().map_err(|source| ListenError::Tcp { addr, source })
}

/// Listens on the first address of a host that can be had. A port that somebody has on one of them is
/// refused: whoever asks for `localhost` must not end up beside another process.
pub async fn bind_host(address: &HostPort) -> Result<BoundTcp, ListenError> {
    let HostPort { host, port } = address;
    let unresolved = |source| ListenError::Unresolved {
        host: host.clone(),
        source,
    };
    let addrs = tokio::net::lookup_host((host.as_str(), *port)).await;
    let mut last = unresolved(io::ErrorKind::NotFound.into());
    for addr in addrs.map_err(unresolved)? {
        match bind_tcp(addr) {
            Err(error) if !error.is_in_use() => last = error,
            bound => return bound,
        }
    }
    Err(last)
}

impl BoundUnix {
    /// Where clients find it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file at the path is still this socket's.
    pub fn is_in_place(&self) -> bool {
        let file = std::fs::symlink_metadata(&self.path);
        file.is_ok_and(|file| (file.dev(), file.ino()) == self.file)
    }

    pub(super) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for BoundUnix {
    fn drop(&mut self) {
        if self.is_in_place() {
            // Nothing is lost by a file that stays: the next start finds it stale.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl BoundTcp {
    /// The address, with the port that the kernel chose.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The socket, for a listener of the caller's own.
    pub fn into_std(self) -> TcpListener {
        self.listener
    }
}

/// Binds under a name that is not longer than the real one, unless that is very short.
fn bind_drawn(folder: &Path, name_bytes: usize) -> io::Result<(UnixListener, PathBuf)> {
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for _ in 0..NAMES_TRIED {
        let mut name = format!(".{}", random::token_hex(8));
        name.truncate(name_bytes.clamp(5, 17));
        let drawn = folder.join(name);
        match UnixListener::bind(&drawn) {
            Ok(listener) => {
                // Nobody else knows the name yet.
                unix::tell_writers(&listener)?;
                return Ok((listener, drawn));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn refuse_what_is_not_ours_to_replace(path: &Path) -> Result<(), ListenError> {
    let failed = |tried| unix_error(path, tried);
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at the file")(error)),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.into()));
        }
        Ok(_) => {}
    }
    match knock(path) {
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(()),
        // EAGAIN says that its queue is full, EPROTOTYPE that it is a socket of another kind.
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => Err(ListenError::InUse(path.into())),
        Err(errno) => Err(failed("learn whether somebody serves it,")(errno.into())),
    }
}

/// Connects without waiting, which tells a served socket from a stale one.
fn knock(path: &Path) -> Result<(), Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(
        std::os::fd::AsRawFd::as_raw_fd(&socket),
        &UnixAddr::new(path)?,
    )
}
