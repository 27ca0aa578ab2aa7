//! Facts about the names of a socket that is served.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use super::client::Client;
use super::*;

/// A served socket with the alias `other.sock`.
fn served_with_alias() -> Served {
    served(patient(), |path| {
        let mut bound = bind_unix(path, 0o777).unwrap();
        bound.add_alias("other.sock").unwrap();
        (None, move |routes, serve| serve_unix(bound, routes, serve))
    })
}

async fn until_lost(served: &Served, reason: &'static str, count: u64) {
    let lost = async {
        while served.metrics.lost_by(reason) < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(GUARD, lost).await.unwrap();
}

#[tokio::test]
async fn a_socket_that_was_removed_or_replaced_listens_again_and_open_streams_stay() {
    let mut served = served_on_unix(Limits {
        drain: Duration::from_millis(5),
        ..patient()
    });
    let before = Client::to(&served).await;
    let _stream = before.call("Hang").await.unwrap();
    served.until_hanging(1).await;

    std::fs::remove_file(&served.path).unwrap();
    until_lost(&served, "socket_removed", 1).await;
    Client::to(&served).await.header("Who", "pid").await;

    // What an attacker puts there is connected to until it is replaced, and not after that.
    let evil = served.path.with_file_name("evil");
    let attacker = UnixListener::bind(&evil).unwrap();
    std::fs::rename(&evil, &served.path).unwrap();
    until_lost(&served, "socket_replaced", 1).await;
    Client::to(&served).await.header("Who", "pid").await;
    drop(attacker);

    std::fs::remove_file(&served.path).unwrap();
    std::fs::write(&served.path, "no socket at all").unwrap();
    until_lost(&served, "socket_replaced", 2).await;
    Client::to(&served).await.header("Who", "pid").await;

    assert_eq!(*served.hanging.borrow(), 1);
    before.header("Who", "pid").await;
    served.stop();
    tokio::time::timeout(GUARD, &mut served.done)
        .await
        .unwrap()
        .unwrap();
    assert!(!served.path.try_exists().unwrap(), "the last file is ours");
}

#[tokio::test]
async fn an_alias_that_leads_elsewhere_leads_to_the_socket_again() {
    let served = served_with_alias();
    let alias = served.path.with_file_name("other.sock");
    std::fs::remove_file(&alias).unwrap();
    until_lost(&served, "socket_removed", 1).await;
    std::fs::remove_file(&alias).unwrap();
    symlink("/nowhere", &alias).unwrap();
    until_lost(&served, "socket_replaced", 1).await;
    assert_eq!(
        std::fs::read_link(&alias).unwrap(),
        std::path::Path::new("api.sock")
    );
    Client::to(&served).await.header("Who", "pid").await;
}

#[tokio::test]
async fn a_name_that_cannot_be_taken_back_is_tried_again() {
    let served = served_on_unix(patient());
    Client::to(&served).await.header("Who", "pid").await;
    std::fs::remove_file(&served.path).unwrap();
    std::fs::create_dir(&served.path).unwrap();
    std::fs::write(served.path.join("kept"), "").unwrap();
    until_lost(&served, "socket_replaced", 2).await;
    std::fs::remove_dir_all(&served.path).unwrap();
    until_lost(&served, "socket_removed", 1).await;
    Client::to(&served).await.header("Who", "pid").await;
}
