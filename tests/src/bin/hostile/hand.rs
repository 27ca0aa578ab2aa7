//! A connection in other hands.

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use hyper_util::rt::TokioIo;
use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, recv, recvmsg, send, sendmsg,
};
use proto::workload::X509svidRequest;
use proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tonic::transport::{Endpoint, Uri};

/// A ping of HTTP/2: it asks for nothing and must be answered.
const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

/// Opens a stream of the Workload API, and returns its connection once the first message has come.
async fn open(socket: &str) -> UnixStream {
    let path = socket.to_owned();
    let (keep, kept) = std::sync::mpsc::sync_channel(1);
    let connector = tower::service_fn(move |_: Uri| {
        let (path, keep) = (path.clone(), keep.clone());
        async move {
            let stream = tokio::net::UnixStream::connect(path).await?;
            let stream = stream.into_std()?;
            keep.try_send(stream.try_clone()?).unwrap();
            tokio::net::UnixStream::from_std(stream).map(TokioIo::new)
        }
    });
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .unwrap();
    let mut request = tonic::Request::new(X509svidRequest {});
    request
        .metadata_mut()
        .insert("workload.spiffe.io", "true".parse().unwrap());
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let stream = client.fetch_x509svid(request).await;
    let mut stream = stream.map(tonic::Response::into_inner);
    let first = match &mut stream {
        Ok(stream) => stream.message().await,
        Err(status) => Err(status.clone()),
    };
    match first {
        Ok(first) => {
            let svids = first.unwrap().svids;
            println!("stream of {}", svids.first().unwrap().spiffe_id);
        }
        Err(status) => println!("refused: {:?}", status.code()),
    }
    // Without a word to the agent: a destructor would end the stream politely.
    std::mem::forget((stream, client));
    let connection = kept.recv().unwrap();
    connection.set_nonblocking(false).unwrap();
    connection
}

/// Opens a stream, and no more.
pub(crate) async fn fetch(socket: &str) {
    open(socket).await;
}

/// Opens a stream, leaves its connection to a child that reads to its end, and dies.
pub(crate) async fn pass_on(socket: &str) {
    let connection = open(socket).await;
    let child = Command::new("/proc/self/exe")
        .arg("read-to-end")
        .stdin(Stdio::from(OwnedFd::from(connection)))
        .spawn()
        .unwrap();
    println!("passed on to {}", child.id());
    std::process::exit(0);
}

pub(crate) fn read_to_end() {
    let mut rest = Vec::new();
    let ended = std::io::stdin().read_to_end(&mut rest).is_ok();
    println!("the stream ended: {ended}");
}

/// Opens a stream, sends its connection to another process, and lives on while that one speaks.
pub(crate) async fn hand_over(socket: &str) {
    let connection = open(socket).await;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut child = Command::new("/proc/self/exe")
        .arg("take-over")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .unwrap();
    let descriptors: [RawFd; 1] = [connection.as_raw_fd()];
    sendmsg::<()>(
        ours.as_raw_fd(),
        &[std::io::IoSlice::new(b"!")],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::empty(),
        None,
    )
    .unwrap();
    println!("handed over to {}", child.id());
    assert!(child.wait().unwrap().success());
    println!("the opener lives");
}

pub(crate) fn take_over() {
    let (mut byte, mut control) = ([0], cmsg_space!(RawFd));
    let mut pieces = [std::io::IoSliceMut::new(&mut byte)];
    let input = std::io::stdin().as_raw_fd();
    let received =
        recvmsg::<()>(input, &mut pieces, Some(&mut control), MsgFlags::empty()).unwrap();
    let taken = received.cmsgs().unwrap().find_map(|message| match message {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    let connection = taken.unwrap();
    send(connection, &PING, MsgFlags::empty()).unwrap();
    let (mut rest, mut piece) = (Vec::new(), [0; 1024]);
    // A connection that is closed with bytes unread is reset, which ends it as well.
    while let Ok(read @ 1..) = recv(connection, &mut piece, MsgFlags::empty()) {
        rest.extend_from_slice(&piece[..read]);
    }
    println!(
        "the connection ended, the ping answered: {}",
        rest.windows(8).any(|bytes| bytes == &PING[9..])
    );
}
