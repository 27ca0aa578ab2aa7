//! Against real mounts.

use std::fs::File;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};

use super::super::sandbox::Sandbox;
use super::*;

fn mounts(sandbox: &Sandbox) -> Mounts {
    Mounts::new(sandbox.pods(), sandbox.sockets())
}

fn bind_by_hand(from: &Path, to: &Path) {
    let none = None::<&str>;
    mount(Some(from), to, none, MsFlags::MS_BIND, none).unwrap();
}

#[test]
fn asked_for_many_times_it_is_mounted_once() {
    Sandbox::enter(|sandbox| {
        let mounts = mounts(sandbox);
        let target = sandbox.target();
        assert_eq!(mounts.publish(&target).unwrap(), Published::Mounted);
        for _ in 0..20 {
            assert_eq!(mounts.publish(&target).unwrap(), Published::Already);
        }
        assert_eq!(sandbox.mounts(), 1);
        let mode = std::fs::metadata(sandbox.volume().parent().unwrap());
        assert!(mode.unwrap().permissions().mode() & 0o700 == 0o700);
    });
}

#[test]
fn a_socket_that_is_made_anew_is_seen_through_the_old_mount() {
    Sandbox::enter(|sandbox| {
        mounts(sandbox).publish(&sandbox.target()).unwrap();
        let socket = sandbox.sockets().join("agent.sock");
        // The kernel takes 108 bytes as the path of a socket; pods see a shorter one.
        let volume = File::open(sandbox.volume()).unwrap();
        let seen = format!("/proc/self/fd/{}/agent.sock", volume.as_raw_fd());
        for _ in 0..2 {
            let listener = UnixListener::bind(&socket).unwrap();
            UnixStream::connect(&seen).unwrap();
            drop(listener);
            std::fs::remove_file(&socket).unwrap();
        }
    });
}

#[test]
fn the_node_may_write_to_the_mount_so_that_it_can_be_labelled() {
    Sandbox::enter(|sandbox| {
        mounts(sandbox).publish(&sandbox.target()).unwrap();
        File::create(sandbox.volume().join("x")).unwrap();
        assert!(sandbox.sockets().join("x").is_file());
    });
}

#[test]
fn what_is_unpublished_is_gone_and_may_be_unpublished_again() {
    Sandbox::enter(|sandbox| {
        let mounts = mounts(sandbox);
        let target = sandbox.target();
        mounts.publish(&target).unwrap();
        let first = mounts.unpublish(&target).unwrap();
        assert_eq!((first.mounts, first.busy), (1, false));
        assert_eq!(mounts.unpublish(&target).unwrap(), Unpublished::default());
        assert!(!sandbox.volume().try_exists().unwrap());
        // The kubelet removes the parent; and it may come once more even then.
        std::fs::remove_dir(sandbox.volume().parent().unwrap()).unwrap();
        assert_eq!(mounts.unpublish(&target).unwrap(), Unpublished::default());
        std::fs::remove_dir_all(sandbox.pods()).unwrap();
        assert_eq!(mounts.unpublish(&target).unwrap(), Unpublished::default());
        assert!(sandbox.sockets().is_dir());
    });
}

#[test]
fn a_folder_without_a_mount_is_removed() {
    Sandbox::enter(|sandbox| {
        std::fs::create_dir(sandbox.volume()).unwrap();
        let mounts = mounts(sandbox);
        let found = mounts.unpublish(&sandbox.target()).unwrap();
        assert_eq!(found.mounts, 0);
        assert!(!sandbox.volume().try_exists().unwrap());
        // But not with what somebody put into it.
        std::fs::create_dir_all(sandbox.volume().join("kept")).unwrap();
        let error = mounts.unpublish(&sandbox.target()).unwrap_err();
        assert_eq!(error.to_string(), "unable to remove the target path");
        assert!(sandbox.volume().join("kept").is_dir());
    });
}

#[test]
fn a_volume_in_use_is_detached_and_keeps_no_pod_from_ending() {
    Sandbox::enter(|sandbox| {
        let mounts = mounts(sandbox);
        mounts.publish(&sandbox.target()).unwrap();
        let user = File::open(sandbox.volume()).unwrap();
        let found = mounts.unpublish(&sandbox.target()).unwrap();
        assert_eq!((found.mounts, found.busy), (1, true));
        assert_eq!(sandbox.mounts(), 0);
        assert!(!sandbox.volume().try_exists().unwrap());
        drop(user);
    });
}

#[test]
fn all_mounts_that_an_older_driver_piled_up_are_taken_away() {
    Sandbox::enter(|sandbox| {
        let mounts = mounts(sandbox);
        mounts.publish(&sandbox.target()).unwrap();
        for _ in 0..50 {
            bind_by_hand(&sandbox.sockets(), &sandbox.volume());
        }
        let found = mounts.unpublish(&sandbox.target()).unwrap();
        assert_eq!((found.mounts, sandbox.mounts()), (51, 0));
        assert!(!sandbox.volume().try_exists().unwrap());
    });
}

#[test]
fn a_mount_of_another_folder_is_replaced() {
    Sandbox::enter(|sandbox| {
        let other = sandbox.path().join("other");
        for folder in [&other, &sandbox.volume()] {
            std::fs::create_dir(folder).unwrap();
        }
        bind_by_hand(&other, &sandbox.volume());
        let mounts = mounts(sandbox);
        let target = sandbox.target();
        assert!(matches!(
            mounts.condition(&target).unwrap(),
            Condition::Foreign
        ));
        assert_eq!(mounts.publish(&target).unwrap(), Published::Replaced);
        assert!(matches!(
            mounts.condition(&target).unwrap(),
            Condition::Mounted
        ));
        assert_eq!(sandbox.mounts(), 1);
    });
}

#[test]
fn a_symbolic_link_leads_nowhere() {
    Sandbox::enter(|sandbox| {
        let victim = sandbox.path().join("victim");
        std::fs::create_dir_all(victim.join("mount")).unwrap();
        let mounts = mounts(sandbox);
        let (volume, target) = (sandbox.volume(), sandbox.target());
        let refused = || {
            let errors = [
                mounts.publish(&target).unwrap_err(),
                mounts.unpublish(&target).unwrap_err(),
                mounts.condition(&target).unwrap_err(),
            ];
            for error in errors {
                assert_eq!(error.reason(), "path_diverted", "{error}");
            }
        };
        // The target itself, the volume's folder, the pod's folder.
        symlink(&victim, &volume).unwrap();
        refused();
        std::fs::remove_file(&volume).unwrap();
        for folder in [volume.parent().unwrap(), volume.ancestors().nth(4).unwrap()] {
            std::fs::remove_dir_all(folder).unwrap();
            symlink(&victim, folder).unwrap();
            refused();
            std::fs::remove_file(folder).unwrap();
            std::fs::create_dir_all(volume.parent().unwrap()).unwrap();
        }
        std::fs::write(&volume, "a file").unwrap();
        refused();
        assert!(victim.join("mount").is_dir());
        let all = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(!all.contains("victim"), "{all}");
    });
}

#[test]
fn without_the_folder_of_the_sockets_nothing_is_left_behind() {
    Sandbox::enter(|sandbox| {
        std::fs::remove_dir(sandbox.sockets()).unwrap();
        let error = mounts(sandbox).publish(&sandbox.target()).unwrap_err();
        assert_eq!(error.reason(), "sockets_folder");
        assert!(!sandbox.volume().try_exists().unwrap());
    });
}

#[test]
fn a_volume_that_the_kubelet_did_not_prepare_is_not_made() {
    Sandbox::enter(|sandbox| {
        let target = Target::new("another-pod", "v").unwrap();
        let error = mounts(sandbox).publish(&target).unwrap_err();
        assert_eq!(error.reason(), "no_volume_folder");
        assert_eq!(std::fs::read_dir(sandbox.pods()).unwrap().count(), 1);
    });
}

#[test]
fn a_volume_is_not_mounted_before_and_after() {
    Sandbox::enter(|sandbox| {
        let mounts = mounts(sandbox);
        let target = sandbox.target();
        let is_not_mounted = || matches!(mounts.condition(&target).unwrap(), Condition::NotMounted);
        assert!(is_not_mounted());
        mounts.publish(&target).unwrap();
        assert!(!is_not_mounted());
        mounts.unpublish(&target).unwrap();
        assert!(is_not_mounted());
    });
}

#[test]
fn the_number_of_a_mount_is_read_from_the_kernels_text() {
    let text = "pos:\t0\nflags:\t012100000\nmnt_id:\t31\nino:\t2\n";
    assert_eq!(mount_id_in(text), Some(31));
    for text in ["", "mnt_id:\n", "mnt_id:\t-1\n", "xmnt_id:\t3\n"] {
        assert_eq!(mount_id_in(text), None, "{text:?}");
    }
}
