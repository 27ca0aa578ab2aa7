//! A connection to which nobody but the process that opened it may write.
//!
//! A socket is a thing that can be handed on: by a fork, or by SCM_RIGHTS to any process. The kernel
//! tells of every piece of bytes who wrote it, and joins no two pieces of different writers; so bytes
//! of another process than the one that is held come to nobody. Two writers may still agree: whoever
//! answers for the opener with the opener's help cannot be told from it, nor can one that only reads.
//! A process with CAP_SYS_ADMIN over its pid namespace can name any process of that namespace.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixCredentials, cmsg_space, recvmsg, setsockopt, sockopt,
};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// Room for who wrote, and for nothing else: descriptors that are sent along stay with the kernel.
const CONTROL_BYTES: usize = cmsg_space::<UnixCredentials>();

/// Lets the kernel tell of each connection to this listener who writes. Before the first client can
/// connect: what was written earlier would have no writer.
pub fn tell_writers(listener: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(listener, sockopt::PassCred, &true)?)
}

/// How many bytes are received at first. What is offered to the kernel is made zeros before, so it takes its time
/// and becomes resident for as long as the connection is open, whether or not that much comes.
const LITTLE: usize = 1024;
/// How many are received at once of who sends much.
const MUCH: usize = 64 << 10;

/// A stream that fails as soon as it holds bytes of another process than the one that is named.
#[derive(Debug)]
pub struct SoleWriter {
    stream: UnixStream,
    pid: u32,
    broken: Breach,
    // What is offered next: twice as much whenever all of it was used.
    room: usize,
}

/// Whether another process has written.
#[derive(Clone, Debug, Default)]
pub struct Breach(Arc<AtomicBool>);

impl Breach {
    /// Whether it has.
    pub fn is_seen(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Where the kernel writes messages with headers of whole words.
#[repr(align(8))]
struct Control([u8; CONTROL_BYTES]);

/// What the kernel says of a piece of bytes.
enum Piece {
    /// So many, of the one writer; none is the end.
    Own(usize),
    Foreign,
}

impl SoleWriter {
    /// Takes bytes of the process `pid` alone, which has to live for as long as this is used: a pid
    /// means one process only while that process lives. The listener must [`tell_writers`].
    pub fn new(stream: UnixStream, pid: u32) -> (Self, Breach) {
        let broken = Breach::default();
        let writer = Self {
            stream,
            pid,
            broken: broken.clone(),
            room: LITTLE,
        };
        (writer, broken)
    }

    fn receive(&self, bytes: &mut [u8]) -> io::Result<Piece> {
        let mut control = Control([0; CONTROL_BYTES]);
        let mut pieces = [IoSliceMut::new(bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let descriptor = self.stream.as_raw_fd();
        let received = recvmsg::<()>(descriptor, &mut pieces, Some(&mut control.0), flags)?;
        // The end has no writer.
        if received.bytes == 0 {
            return Ok(Piece::Own(0));
        }
        // An error says that there was more than a writer: descriptors were sent along.
        let Ok(mut messages) = received.cmsgs() else {
            return Ok(Piece::Foreign);
        };
        let is_own = |message| match message {
            ControlMessageOwned::ScmCredentials(writer) => {
                u32::try_from(writer.pid()) == Ok(self.pid)
            }
            _ => false,
        };
        match messages.any(is_own) {
            true => Ok(Piece::Own(received.bytes)),
            false => Ok(Piece::Foreign),
        }
    }
}

impl AsyncRead for SoleWriter {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let offered = self.room.min(buffer.remaining());
            let room = buffer.initialize_unfilled_to(offered);
            let received = (self.stream).try_io(Interest::READABLE, || self.receive(room));
            match received {
                Ok(Piece::Own(read)) => {
                    buffer.advance(read);
                    self.room = match read == self.room {
                        true => MUCH.min(2 * read),
                        false => LITTLE,
                    };
                    return Poll::Ready(Ok(()));
                }
                Ok(Piece::Foreign) => {
                    self.broken.0.store(true, Ordering::Relaxed);
                    let text = "another process than the one that connected has written";
                    let error = io::Error::new(io::ErrorKind::PermissionDenied, text);
                    return Poll::Ready(Err(error));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for SoleWriter {
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
