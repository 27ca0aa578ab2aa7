//! An engine that answers whatever a test likes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// What a request gets.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// These bytes, and the end of the connection.
    Partial(Vec<u8>),
    /// Nothing.
    Hang,
    /// A body that does not end.
    Endless,
}

pub(super) fn body(status: u16, body: &[u8]) -> Answer {
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    Answer::Partial([head.as_bytes(), body].concat())
}

pub(super) fn ok(text: &serde_json::Value) -> Answer {
    body(200, text.to_string().as_bytes())
}

/// It listens until it is dropped.
#[derive(Debug)]
pub(super) struct Engine {
    folder: TempDir,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Engine {
    pub(super) fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("engine.sock")).unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let (counted, answer) = (Arc::clone(&requests), Arc::new(answer));
        #[expect(clippy::disallowed_methods, reason = "the task ends with the fake")]
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (counted, answer) = (Arc::clone(&counted), Arc::clone(&answer));
                open.spawn(async move { serve(stream, &counted, &*answer).await });
            }
        });
        Self {
            folder,
            requests,
            task,
        }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.path().join("engine.sock")
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: UnixStream,
    requests: &AtomicUsize,
    answer: &(dyn Fn(&str) -> Answer + Send + Sync),
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else {
            return;
        };
        head.push(byte);
    }
    requests.fetch_add(1, Ordering::SeqCst);
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap();
    match answer(target) {
        Answer::Partial(bytes) => {
            let _ = stream.write_all(&bytes).await;
        }
        Answer::Hang => std::future::pending().await,
        Answer::Endless => {
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            let _ = stream.write_all(head).await;
            let chunk = [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat();
            while stream.write_all(&chunk).await.is_ok() {}
        }
    }
}
