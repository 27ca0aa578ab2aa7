//! The first bytes of a connection.
//!
//! They are read before anything is set up for the connection: whoever says nothing costs a timer,
//! and whoever speaks HTTP/1 is closed.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::limits::Rate;
use super::pace::Pace;
use crate::authority::AuthorityFilter;
use crate::rate::Bucket;

/// RFC 9113, 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads the preface; false if the peer speaks something else. Stops at the first wrong byte.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
    let mut buffer = [0; PREFACE.len()];
    let mut seen = 0;
    while let Some(free @ [_, ..]) = buffer.get_mut(seen..) {
        let read = stream.read(free).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        seen += read;
        if buffer.get(..seen) != PREFACE.get(..seen) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives the preface, which has been read, once more, then the stream at its pace; through a filter, if there is
/// one. What is written passes as it is.
#[derive(Debug)]
pub(super) struct AfterPreface<T> {
    again: &'static [u8],
    filter: Option<Filter>,
    pace: Pace,
    stream: T,
}

/// What looks at each byte that a peer of a Unix socket sends.
#[derive(Debug)]
pub(super) struct Filter {
    authority: AuthorityFilter,
    rate: Rate,
    idle_frames: Bucket,
}

impl Filter {
    /// A filter that ends the connection at more frames that ask for nothing than this.
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            authority: AuthorityFilter::new(),
            rate,
            idle_frames: Bucket::default(),
        }
    }

    fn apply(&mut self, fresh: &mut [u8]) -> io::Result<()> {
        self.authority.apply(fresh);
        let idle = self.authority.take_idle_frames();
        if idle > 0 {
            let now = Instant::now();
            self.idle_frames.take(idle, self.rate, now);
            if self.idle_frames.is_in_debt(self.rate, now) {
                return Err(io::Error::new(
                    io::ErrorKind::QuotaExceeded,
                    "too many frames",
                ));
            }
        }
        Ok(())
    }
}

impl<T> AfterPreface<T> {
    pub(super) fn new(stream: T, filter: Option<Filter>, pace: Pace) -> Self {
        Self {
            again: PREFACE,
            filter,
            pace,
            stream,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for AfterPreface<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let length = this.again.len().min(buffer.remaining());
        match this.again.split_at_checked(length) {
            Some((now, later)) if !now.is_empty() => {
                buffer.put_slice(now);
                this.again = later;
                Poll::Ready(Ok(()))
            }
            _ => {
                let before = buffer.filled().len();
                let stream = Pin::new(&mut this.stream);
                let read = this.pace.poll_read(stream, cx, buffer);
                if let (Some(filter), Poll::Ready(Ok(()))) = (&mut this.filter, &read)
                    && let Some(fresh) = buffer.filled_mut().get_mut(before..)
                {
                    filter.apply(fresh)?;
                }
                read
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for AfterPreface<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
