//! What is there to be sent must move: a peer that does not read is not waited for.
//!
//! Two things can stand still. A socket takes no byte because its peer reads nothing at all; then its
//! connection ends. Or a stream's window is used up because its peer reads no data of this stream, be
//! it that it answers pings meanwhile; then the stream ends.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A deadline that is set while something waits, and costs nothing otherwise.
#[derive(Debug)]
struct Patience {
    patience: Duration,
    ends: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn new(patience: Duration) -> Self {
        Self {
            patience,
            ends: None,
        }
    }

    fn over(&mut self) {
        self.ends = None;
    }

    /// Whether it has been waited for too long; if not, the task is woken when it has.
    fn is_at_end(&mut self, cx: &mut Context<'_>) -> bool {
        let patience = self.patience;
        let ends = self.ends.get_or_insert_with(|| Box::pin(sleep(patience)));
        ends.as_mut().poll(cx).is_ready()
    }
}

/// A connection whose writes fail once its socket has taken nothing for too long.
#[derive(Debug)]
pub(super) struct Written<T> {
    stream: T,
    patience: Patience,
}

impl<T> Written<T> {
    pub(super) fn new(stream: T, patience: Duration) -> Self {
        Self {
            stream,
            patience: Patience::new(patience),
        }
    }

    fn judged<R>(
        &mut self,
        written: Poll<io::Result<R>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.patience.over();
        } else if self.patience.is_at_end(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Written<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Written<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judged(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.judged(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.judged(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

tokio::task_local! {
    // Whether the stream of this task has a part of an answer that its peer has made no room for. hyper
    // holds a part until there is room for some of it, and asks the body for the next one only then.
    static UNSENT: Cell<bool>;
    // Whether its peer has made room since that was last looked at.
    static MOVED: Cell<bool>;
}

/// Notes that the stream of this task has something to send.
pub(super) fn something_to_send() {
    let _ = UNSENT.try_with(|unsent| unsent.set(true));
}

/// Notes that the peer has room for what comes next.
pub(super) fn room_for_more() {
    let _ = UNSENT.try_with(|unsent| unsent.set(false));
    let _ = MOVED.try_with(|moved| moved.set(true));
}

/// Runs the task of one stream. False says that its peer did not take what was there for it in time.
pub(super) async fn taken_in_time(stream: impl Future<Output = ()>, patience: Duration) -> bool {
    let mut stream = std::pin::pin!(stream);
    let mut patience = Patience::new(patience);
    let work = std::future::poll_fn(move |cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        if MOVED.with(Cell::take) || !UNSENT.with(Cell::get) {
            patience.over();
        }
        if UNSENT.with(Cell::get) && patience.is_at_end(cx) {
            return Poll::Ready(false);
        }
        Poll::Pending
    });
    let work = MOVED.scope(Cell::new(false), work);
    UNSENT.scope(Cell::new(false), work).await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_takes_nothing_fails_and_one_that_takes_a_little_goes_on() {
        let (near, mut far) = duplex(8);
        let mut near = Written::new(near, PATIENCE);
        let reads = async {
            for _ in 0..5 {
                sleep(PATIENCE - Duration::from_secs(1)).await;
                far.read_exact(&mut [0; 8]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(near.write_all(&[1; 48]), reads);
        written.unwrap();
        let error = near.write_all(&[1; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_nobody_makes_room_and_waits_for_news_for_ever() {
        let unread = async {
            something_to_send();
            std::future::pending::<()>().await;
        };
        assert!(!taken_in_time(unread, PATIENCE).await);
        let idle = async {
            something_to_send();
            room_for_more();
            sleep(PATIENCE * 100).await;
        };
        assert!(taken_in_time(idle, PATIENCE).await);
        let slow = async {
            for _ in 0..5 {
                something_to_send();
                sleep(PATIENCE - Duration::from_secs(1)).await;
                room_for_more();
            }
        };
        assert!(taken_in_time(slow, PATIENCE).await);
    }
}
