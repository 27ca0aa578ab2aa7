//! A stream whose incoming bytes pass the filter.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::AuthorityFilter;

/// Filters what is read from `T`; what is written passes as it is.
#[derive(Debug)]
pub struct FilteredStream<T> {
    stream: T,
    filter: AuthorityFilter,
}

impl<T> FilteredStream<T> {
    /// Wraps a connection whose preface has been read.
    pub fn new(stream: T) -> Self {
        Self {
            stream,
            filter: AuthorityFilter::new(),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for FilteredStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = read
            && let Some(fresh) = buffer.filled_mut().get_mut(before..)
        {
            self.filter.apply(fresh);
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for FilteredStream<T> {
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
