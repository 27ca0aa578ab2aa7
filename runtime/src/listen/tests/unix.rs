//! Facts about served Unix sockets.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use tokio::io::AsyncReadExt;

use super::client::{Client, PREFACE, Raw};
use super::*;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const STATUS_200: u8 = 0x88;

#[tokio::test]
async fn a_handler_learns_who_asks() {
    let served = served_on_unix(patient());
    let client = Client::to(&served).await;
    assert_eq!(
        client.header("Who", "pid").await,
        std::process::id().to_string()
    );
    let uid = nix::unistd::geteuid().to_string();
    assert_eq!(client.header("Who", "uid").await, uid);
}

#[tokio::test]
async fn any_authority_of_a_grpc_client_is_accepted() {
    let served = served_on_unix(patient());
    let mut client = Raw::to(&served).await;
    client.begin().await;
    let path = b"/tmp/x/agent.sock";
    let mut coded = Vec::new();
    httlib_huffman::encode(path, &mut coded).unwrap();
    let literal = |name: &[u8], bit: u8, value: &[u8]| {
        let length = u8::try_from(value.len()).unwrap();
        [name, &[bit | length], value].concat()
    };
    let authorities = [
        literal(b"\x41", 0, path),
        literal(b"\x01", 0, b"tmp%2Fx%2Fagent.sock"),
        literal(b"\x00\x0a:authority", 0, b"a b"),
        literal(b"\x41", 0x80, &coded),
    ];
    for (stream, authority) in (1..).step_by(2).zip(authorities) {
        client.request(stream, &authority).await;
        assert_eq!(
            client.answer(stream).await,
            (HEADERS, STATUS_200),
            "{authority:?}"
        );
    }
}

#[tokio::test]
async fn an_authority_by_dynamic_name_is_refused_as_without_the_filter() {
    let served = served_on_unix(patient());
    let mut client = Raw::to(&served).await;
    client.begin().await;
    client.request(1, b"\x41\x02/x").await;
    assert_eq!(client.answer(1).await.0, HEADERS);
    // Index 62 is the entry that the first request made.
    client.request(3, b"\x7e\x02/x").await;
    assert_eq!(client.answer(3).await.0, RST_STREAM);
    client.request(5, b"\x41\x02/x").await;
    assert_eq!(client.answer(5).await.0, HEADERS);
}

#[tokio::test]
async fn http_1_is_closed_at_its_first_byte() {
    let served = served_on_unix(patient());
    let mut client = Raw::to(&served).await;
    client.send(b"G").await;
    assert_eq!(client.until_closed().await, b"");
    served.until_closed().await;
    assert_eq!(served.metrics.ended_by("not_http2"), 1);
}

#[tokio::test]
async fn silence_ends_a_connection_before_its_preface_and_before_its_first_request() {
    let short = Duration::from_millis(5);
    let served = served_on_unix(Limits {
        preface: short,
        ..patient()
    });
    let mut client = Raw::to(&served).await;
    client.send(&PREFACE[..10]).await;
    client.until_closed().await;
    served.until_closed().await;
    assert_eq!(served.metrics.ended_by("preface_timeout"), 1);

    let served = served_on_unix(Limits {
        first_request: short,
        leave: short,
        ..patient()
    });
    let mut client = Raw::to(&served).await;
    client.begin().await;
    client.until_closed().await;
    served.until_closed().await;
    assert_eq!(served.metrics.ended_by("no_request"), 1);
}

#[tokio::test]
async fn a_connection_without_streams_ends_and_one_with_streams_stays() {
    let mut served = served_on_unix(Limits {
        idle: Duration::from_millis(5),
        ..patient()
    });
    let busy = Client::to(&served).await;
    let answer = busy.call("Hang").await.unwrap();
    served.until_hanging(1).await;
    let idle = Client::to(&served).await;
    idle.header("Who", "pid").await;
    let ended = async {
        while served.metrics.ended_by("idle") == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(GUARD, ended).await.unwrap();
    // The other connection has outlived a whole idle time by now, and still answers.
    busy.header("Who", "pid").await;
    assert_eq!(served.metrics.open(), 1);
    drop(answer);
    served.until_hanging(0).await;
}

#[tokio::test]
async fn a_process_has_so_many_connections_and_no_more() {
    let served = served_on_unix(Limits {
        process: Share::new(2, 256, Rate::UNLIMITED),
        ..patient()
    });
    let first = Client::to(&served).await;
    first.header("Who", "pid").await;
    let second = Client::to(&served).await;
    second.header("Who", "pid").await;
    let mut third = Raw::to(&served).await;
    assert_eq!(third.until_closed().await, b"");
    assert_eq!(served.metrics.ended_by("process_full"), 1);
    drop(first);
    let replaced = async {
        while served.metrics.open() > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(GUARD, replaced).await.unwrap();
    Client::to(&served).await.header("Who", "pid").await;
}

#[tokio::test]
async fn a_process_has_so_many_streams_over_all_its_connections() {
    let mut served = served_on_unix(Limits {
        process: Share::new(64, 1, Rate::UNLIMITED),
        ..patient()
    });
    let first = Client::to(&served).await;
    let hanging = first.call("Hang").await.unwrap();
    let second = Client::to(&served).await;
    // RESOURCE_EXHAUSTED
    assert_eq!(second.header("Who", "grpc-status").await, "8");
    drop(hanging);
    served.until_hanging(0).await;
    let free = async {
        while second
            .call("Who")
            .await
            .unwrap()
            .headers()
            .contains_key("grpc-status")
        {}
    };
    tokio::time::timeout(GUARD, free).await.unwrap();
}

#[tokio::test]
async fn a_panic_ends_its_stream_and_nothing_else() {
    let served = served_on_unix(patient());
    let client = Client::to(&served).await;
    client.call("Panic").await.unwrap_err();
    assert_eq!(
        client.header("Who", "pid").await,
        std::process::id().to_string()
    );
    assert_eq!(served.tasks.contained_panics(), 1);
    assert_eq!(served.tasks.failed(), None);
}

#[tokio::test]
async fn shutdown_lets_streams_go_on_until_the_drain_deadline() {
    let mut served = served_on_unix(Limits {
        drain: Duration::from_millis(5),
        ..patient()
    });
    let client = Client::to(&served).await;
    let _hanging = client.call("Hang").await.unwrap();
    served.until_hanging(1).await;
    served.stop();
    tokio::time::timeout(GUARD, &mut served.done)
        .await
        .unwrap()
        .unwrap();
    served.until_hanging(0).await;
    assert_eq!(served.metrics.ended_by("drain_deadline"), 1);
    assert!(!served.path.try_exists().unwrap());
}

#[tokio::test]
async fn shutdown_ends_idle_silent_and_unfinished_connections_at_once() {
    let mut served = served_on_unix(patient());
    let silent = Raw::to(&served).await;
    let idle = Client::to(&served).await;
    idle.header("Who", "pid").await;
    served.stop();
    tokio::time::timeout(GUARD, &mut served.done)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(served.metrics.open(), 0);
    drop(silent);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_streams_with_it() {
    let mut served = served_on_unix(patient());
    let mut client = Raw::to(&served).await;
    client.begin().await;
    for (stream, method) in [(1, "Hang"), (3, "Think")] {
        client.request_for(stream, method).await;
    }
    served.until_hanging(2).await;
    drop(client);
    served.until_hanging(0).await;
    served.until_closed().await;
}

/// Our own test program as a workload: it connects, gives the socket on, and waits to be killed.
struct Workload(Child);

const CONNECT: &str = "SIGNET_TEST_CONNECT";

impl Workload {
    fn start(path: &std::path::Path) -> Self {
        let program = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "listen::tests::unix::a_workload_of_the_test_above",
                "--nocapture",
            ])
            .env(CONNECT, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Self(program.unwrap())
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_process_though_another_holds_the_socket() {
    let mut served = served_on_unix(patient());
    let mut workload = Workload::start(&served.path);
    served.until_hanging(1).await;
    // The heir of the socket lives as long as this pipe, which outlives the kill.
    let heir = workload.0.stdin.take();
    workload.0.kill().unwrap();
    served.until_hanging(0).await;
    served.until_closed().await;
    assert_eq!(served.metrics.ended_by("peer_exited"), 1);
    drop(heir);
}

/// A ping of HTTP/2, which everybody may send and must be answered.
const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

#[tokio::test]
async fn bytes_of_another_process_end_the_connection_of_one_that_lives() {
    let mut served = served_on_unix(patient());
    let mut workload = Workload::start(&served.path);
    served.until_hanging(1).await;
    // The heir writes to the socket what it reads here.
    let mut heir = workload.0.stdin.take().unwrap();
    heir.write_all(&PING).unwrap();
    heir.flush().unwrap();
    served.until_hanging(0).await;
    served.until_closed().await;
    assert_eq!(served.metrics.ended_by("foreign_writer"), 1);
}

#[tokio::test]
async fn a_process_writes_from_any_of_its_threads() {
    let served = served_on_unix(patient());
    let mut client = Raw::to(&served).await;
    client.begin().await;
    let mut stream = client.0.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    let written = std::thread::spawn(move || {
        stream.write_all(&PING).unwrap();
        // SETTINGS, their acknowledgement, and what answers the ping.
        let mut all = [0; 256];
        let mut read = 0;
        while !all[..read].windows(8).any(|bytes| bytes == &PING[9..]) {
            read += stream.read(&mut all[read..]).unwrap();
        }
        stream
    });
    tokio::task::spawn_blocking(move || written.join().unwrap())
        .await
        .unwrap();
    served.until_closed().await;
    assert_eq!(served.metrics.ended_by("foreign_writer"), 0);
}

#[tokio::test]
async fn descriptors_that_are_sent_along_end_the_connection_and_are_not_taken() {
    use std::os::fd::{AsRawFd, RawFd};

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let served = served_on_unix(patient());
    let mut client = Raw::to(&served).await;
    client.begin().await;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let descriptors: [RawFd; 1] = [theirs.as_raw_fd()];
    let sent = sendmsg::<()>(
        client.0.as_raw_fd(),
        &[std::io::IoSlice::new(&PING)],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::empty(),
        None,
    );
    assert_eq!(sent.unwrap(), PING.len());
    drop(theirs);
    client.until_closed().await;
    served.until_closed().await;
    assert_eq!(served.metrics.ended_by("foreign_writer"), 1);
    // Nobody holds the other end any more.
    assert_eq!((&ours).read(&mut [0]).unwrap(), 0);
}

#[test]
#[expect(
    clippy::zombie_processes,
    reason = "the heir outlives this process, which is killed"
)]
fn a_workload_of_the_test_above() {
    let Some(path) = std::env::var_os(CONNECT) else {
        return;
    };
    let mut socket = std::os::unix::net::UnixStream::connect(path).unwrap();
    socket.write_all(PREFACE).unwrap();
    socket.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
    let heir = OwnedFd::from(socket.try_clone().unwrap());
    let _heir = Command::new("cat")
        .stdin(Stdio::inherit())
        .stdout(heir)
        .spawn()
        .unwrap();
    // Only now: the test goes on when it sees the request.
    socket
        .write_all(&client::request_frame(1, "Hang", b"\x41\x01/"))
        .unwrap();
    let mut byte = [0];
    while socket.read(&mut byte).is_ok_and(|read| read > 0) {}
}

#[tokio::test]
async fn the_raw_client_sees_what_a_server_says() {
    // The tests above lean on this reading: a server's first frame is SETTINGS.
    let served = served_on_unix(patient());
    let mut client = Raw::to(&served).await;
    client.begin().await;
    let mut head = [0; 9];
    client.0.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4);
}
