//! Sockets under a closed umask. A process of its own, since all of a process shares its umask.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::stat::{Mode, umask};
use runtime::listen::bind_unix;

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_socket_for_everybody_can_be_reached_whatever_the_umask_says() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
    umask(Mode::from_bits_truncate(0o077));
    let public = folder.path().join("agent/public/api.sock");
    let _public = bind_unix(&public, 0o777).unwrap();
    assert_eq!(mode(&public), 0o777);
    assert_eq!(mode(&folder.path().join("agent/public")), 0o755);
    assert_eq!(mode(&folder.path().join("agent")), 0o755);
    // What was there is not touched, and a socket for few has a folder for few.
    assert_eq!(mode(folder.path()), 0o700);
    let private = folder.path().join("server/api.sock");
    let _private = bind_unix(&private, 0o770).unwrap();
    assert_eq!(mode(&folder.path().join("server")), 0o700);
}
