//! Real mounts for tests, in a mount namespace of their own: nothing of them reaches the machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use super::request::tests::UID;
use super::target::Target;

/// A kubelet's folder and a folder of sockets.
#[derive(Clone)]
pub(super) struct Sandbox {
    folder: Arc<TempDir>,
}

impl Sandbox {
    /// Runs a test on a thread that sees its own mounts. Mounting needs root: without, it is told by name
    /// that nothing was shown.
    pub(super) fn enter(test: impl FnOnce(&Self) + Send + 'static) {
        let inside = thread::spawn(move || {
            if let Err(errno) = unshare(CloneFlags::CLONE_NEWNS) {
                let name = thread::current().name().unwrap_or_default().to_owned();
                println!("skipped: {name} needs a mount namespace of its own ({errno})");
                return;
            }
            let none = None::<&str>;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(none, "/", none, private, none).unwrap();
            let sandbox = Self {
                folder: Arc::new(tempfile::tempdir().unwrap()),
            };
            std::fs::create_dir_all(sandbox.volume().parent().unwrap()).unwrap();
            std::fs::create_dir(sandbox.sockets()).unwrap();
            test(&sandbox);
            // Else the folder could not be removed.
            while sandbox.mounts() > 0 {
                umount2(&sandbox.volume(), MntFlags::MNT_DETACH).unwrap();
            }
        });
        if let Err(panic) = inside.join() {
            std::panic::resume_unwind(panic);
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn kubelet(&self) -> PathBuf {
        self.path().join("kubelet")
    }

    pub(super) fn pods(&self) -> PathBuf {
        self.kubelet().join("pods")
    }

    pub(super) fn sockets(&self) -> PathBuf {
        self.path().join("sockets")
    }

    /// The one volume that the tests are about. Its parent is there, as the kubelet makes it.
    pub(super) fn target(&self) -> Target {
        Target::new(UID, "v").unwrap()
    }

    pub(super) fn volume(&self) -> PathBuf {
        self.target().path(&self.pods())
    }

    /// How many mounts lie on the volume.
    pub(super) fn mounts(&self) -> usize {
        let all = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let path = self.volume();
        let on_it = |line: &&str| line.split(' ').nth(4) == path.to_str();
        all.lines().filter(on_it).count()
    }
}
