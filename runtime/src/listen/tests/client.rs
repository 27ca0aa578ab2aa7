//! Clients: one by h2, and one that writes its own bytes.

use http::Request;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// A connection of h2's client.
pub(super) struct Client(h2::client::SendRequest<bytes::Bytes>);

impl Client {
    pub(super) async fn over<T>(stream: T, tasks: &TaskGroup) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tasks.spawn_contained("client", async move {
            let _ = connection.await;
        });
        Self(client)
    }

    pub(super) async fn to(served: &Served) -> Self {
        Self::over(
            UnixStream::connect(&served.path).await.unwrap(),
            &served.tasks,
        )
        .await
    }

    pub(super) async fn call(&self, method: &str) -> Result<Response<h2::RecvStream>, h2::Error> {
        let uri = format!("http://localhost/test.Probe/{method}");
        let request = Request::post(uri).body(()).unwrap();
        let mut client = self.0.clone().ready().await?;
        let (response, _) = client.send_request(request, true)?;
        tokio::time::timeout(GUARD, response).await.unwrap()
    }

    pub(super) async fn header(&self, method: &str, name: &str) -> String {
        let response = self.call(method).await.unwrap();
        response.headers()[name].to_str().unwrap().to_owned()
    }
}

/// A client that writes what it likes.
pub(super) struct Raw(pub(super) UnixStream);

impl Raw {
    pub(super) async fn to(served: &Served) -> Self {
        Self(UnixStream::connect(&served.path).await.unwrap())
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    pub(super) async fn begin(&mut self) {
        self.send(PREFACE).await;
        self.send(SETTINGS).await;
    }

    /// Sends a request for `Who` whose `:authority` is these HPACK bytes.
    pub(super) async fn request(&mut self, stream: u8, authority: &[u8]) {
        self.send(&request_frame(stream, "Who", authority)).await;
    }

    /// Sends a request for a method.
    pub(super) async fn request_for(&mut self, stream: u8, method: &str) {
        self.send(&request_frame(stream, method, b"\x41\x01/"))
            .await;
    }

    /// Reads frames up to the answer on a stream, and returns its kind and first byte.
    pub(super) async fn answer(&mut self, stream: u8) -> (u8, u8) {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.unwrap();
            let [high, middle, low, kind, _, .., at] = head;
            let length = u32::from_be_bytes([0, high, middle, low]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.0.read_exact(&mut payload).await.unwrap();
            if at == stream {
                return (kind, payload[0]);
            }
        }
    }

    /// Reads until the server closes.
    pub(super) async fn until_closed(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(GUARD, self.0.read_to_end(&mut bytes))
            .await
            .unwrap();
        // A server that closes with bytes unread resets, which says the same.
        drop(read);
        bytes
    }
}

/// A whole request without a body, in one HEADERS frame.
pub(super) fn request_frame(stream: u8, method: &str, authority: &[u8]) -> Vec<u8> {
    let path = format!("/test.Probe/{method}");
    let length = u8::try_from(path.len()).unwrap();
    // `:method POST`, `:scheme http`, and a literal `:path`.
    let block = [&[0x83, 0x86, 0x04, length][..], path.as_bytes(), authority].concat();
    let length = u8::try_from(block.len()).unwrap();
    [&[0, 0, length, 1, 0x05, 0, 0, 0, stream][..], &block].concat()
}
