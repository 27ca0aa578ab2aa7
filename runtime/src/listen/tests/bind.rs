//! Facts about sockets before they are served.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};

use super::*;
use crate::config::HostPort;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_socket_has_its_mode_and_its_folder() {
    let folder = folder();
    let path = folder.path().join("new/er/api.sock");
    let bound = bind_unix(&path, 0o770).unwrap();
    let file = std::fs::symlink_metadata(&path).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o7777, 0o770);
    let names: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    UnixStream::connect(bound.path()).unwrap();
    drop(bound);
    assert!(!path.try_exists().unwrap());
}

#[test]
fn a_socket_that_somebody_serves_is_refused() {
    let folder = folder();
    let path = folder.path().join("api.sock");
    let _first = bind_unix(&path, 0o777).unwrap();
    let error = bind_unix(&path, 0o777).unwrap_err();
    assert_eq!(error.reason(), "in_use");
    assert!(error.to_string().ends_with("is in use by another process"));
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_socket_that_nobody_serves_is_replaced() {
    let folder = folder();
    let path = folder.path().join("api.sock");
    drop(UnixListener::bind(&path).unwrap());
    let _bound = bind_unix(&path, 0o777).unwrap();
    UnixStream::connect(&path).unwrap();
}

#[test]
fn whatever_is_no_socket_is_refused_and_left() {
    let folder = folder();
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for path in [&file, &link] {
        assert_eq!(bind_unix(path, 0o777).unwrap_err().reason(), "not_a_socket");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    assert_eq!(
        bind_unix(folder.path(), 0o777).unwrap_err().reason(),
        "not_a_socket"
    );
}

#[test]
fn a_path_that_the_kernel_would_cut_is_refused() {
    let folder = folder();
    let error = bind_unix(&folder.path().join("x".repeat(108)), 0o777).unwrap_err();
    assert_eq!(error.reason(), "path_too_long");
    assert_eq!(
        bind_unix(std::path::Path::new("/"), 0o777)
            .unwrap_err()
            .reason(),
        "no_file_name"
    );
}

#[test]
fn the_longest_path_that_the_kernel_takes_is_taken() {
    let folder = folder();
    let room = 107 - folder.path().as_os_str().len() - 1;
    for name_bytes in [room, 8] {
        let padding = room - name_bytes;
        let mut path = folder.path().to_path_buf();
        if padding > 1 {
            path.push("d".repeat(padding - 1));
        }
        path.push("s".repeat(name_bytes));
        let _bound = bind_unix(&path, 0o777).unwrap();
        UnixStream::connect(&path).unwrap();
    }
}

#[test]
fn the_socket_of_a_successor_is_left() {
    let folder = folder();
    let path = folder.path().join("api.sock");
    let first = bind_unix(&path, 0o777).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(!first.is_in_place());
    let second = bind_unix(&path, 0o777).unwrap();
    drop(first);
    assert!(second.is_in_place());
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_port_in_use_is_refused_with_its_address() {
    let bound = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let error = bind_tcp(bound.addr()).unwrap_err();
    assert_eq!(error.reason(), "tcp_bind");
    assert!(error.to_string().contains(&bound.addr().to_string()));
}

#[tokio::test]
async fn a_host_is_refused_as_soon_as_one_of_its_ports_is_in_use() {
    let mut address = HostPort {
        host: "localhost".to_owned(),
        port: 0,
    };
    let bound = bind_host(&address).await.unwrap();
    address.port = bound.addr().port();
    assert_ne!(address.port, 0);
    assert_eq!(bind_host(&address).await.unwrap_err().reason(), "tcp_bind");
}
