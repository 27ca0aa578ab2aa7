//! A connection to a message bus: authentication, calls, answers.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use super::SystemdError;
use super::message::{Body, Fields, Kind, Message, PREFIX};

/// The bus itself.
const BUS: &str = "org.freedesktop.DBus";
/// The longest line of the authentication that is read.
const MAX_LINE: usize = 1024;
/// How many messages that answer nothing are passed over: news that the bus sends unasked.
const MAX_NEWS: usize = 32;

/// A connection that has a name on the bus.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    passes_fds: bool,
}

/// What is called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
}

/// What was answered: values, or the name of an error.
pub(super) type Answer = Result<Body, String>;

impl Bus {
    /// Connects, says who we are, and takes a name.
    pub(super) async fn connect(path: &PathBuf) -> Result<Self, SystemdError> {
        let unreachable = |source| SystemdError::Unreachable {
            path: path.clone(),
            source,
        };
        let mut stream = UnixStream::connect(path).await.map_err(unreachable)?;
        let passes_fds = authenticate(&mut stream).await?;
        let mut bus = Self {
            stream,
            serial: 0,
            passes_fds,
        };
        let hello = bus.ask_bus("Hello", Body::default()).await?;
        hello.map_err(SystemdError::Refused)?;
        Ok(bus)
    }

    /// The stream, and the number of the last message, for who is no caller.
    #[cfg(any(test, feature = "test-util"))]
    pub(super) fn into_parts(self) -> (UnixStream, u32) {
        (self.stream, self.serial)
    }

    /// Whether descriptors can be sent along.
    pub(super) fn passes_fds(&self) -> bool {
        self.passes_fds
    }

    /// The connection that has a name now.
    pub(super) async fn owner(&mut self, name: &str) -> Result<String, SystemdError> {
        let answer = self.ask_bus("GetNameOwner", Body::strings(&[name])).await?;
        Ok(answer.map_err(SystemdError::Refused)?.text()?)
    }

    async fn ask_bus(&mut self, member: &str, body: Body) -> Result<Answer, SystemdError> {
        let call = Call {
            destination: BUS,
            path: "/org/freedesktop/DBus",
            interface: BUS,
            member,
        };
        self.call(call, body, None).await
    }

    /// Calls, and waits for the answer of whom was called.
    pub(super) async fn call(
        &mut self,
        call: Call<'_>,
        body: Body,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Answer, SystemdError> {
        self.serial = self.serial.saturating_add(1);
        let message = Message {
            kind: Kind::Call,
            serial: self.serial,
            fields: Fields {
                path: Some(call.path.to_owned()),
                interface: Some(call.interface.to_owned()),
                member: Some(call.member.to_owned()),
                destination: Some(call.destination.to_owned()),
                unix_fds: fd.map(|_| 1),
                ..Fields::default()
            },
            body,
        };
        self.send(&message.encode(), fd)
            .await
            .map_err(SystemdError::BrokenOff)?;
        for _ in 0..MAX_NEWS {
            let Message {
                kind, fields, body, ..
            } = receive(&mut self.stream).await?;
            // The bus writes the sender, so nobody else can answer in its place.
            let is_answer = fields.reply_serial == Some(self.serial)
                && fields.sender.as_deref() == Some(call.destination);
            match kind {
                Kind::Return if is_answer => return Ok(Ok(body)),
                Kind::Error if is_answer || is_of_bus(&fields, self.serial) => {
                    return Ok(Err(fields.error_name.unwrap_or_default()));
                }
                _ => {}
            }
        }
        Err(SystemdError::NoAnswer)
    }

    /// A descriptor goes with the first bytes.
    async fn send(&mut self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let Some(fd) = fd else {
            return self.stream.write_all(bytes).await;
        };
        let fds = [fd.as_raw_fd()];
        let sent = self
            .stream
            .async_io(Interest::WRITABLE, || {
                let along = [ControlMessage::ScmRights(&fds)];
                let socket = self.stream.as_raw_fd();
                let bytes = [io::IoSlice::new(bytes)];
                Ok(sendmsg::<()>(
                    socket,
                    &bytes,
                    &along,
                    MsgFlags::MSG_NOSIGNAL,
                    None,
                )?)
            })
            .await?;
        let rest = bytes.get(sent..).unwrap_or_default();
        self.stream.write_all(rest).await
    }
}

/// Whether the bus tells that a call did not arrive.
fn is_of_bus(fields: &Fields, serial: u32) -> bool {
    fields.reply_serial == Some(serial) && fields.sender.as_deref() == Some(BUS)
}

/// Reads one message.
pub(super) async fn receive(stream: &mut UnixStream) -> Result<Message, SystemdError> {
    let mut prefix = [0; PREFIX];
    let read = stream.read_exact(&mut prefix).await;
    read.map_err(SystemdError::BrokenOff)?;
    let mut bytes = vec![0; Message::length(&prefix)?];
    let (start, rest) = bytes.split_at_mut_checked(PREFIX).unwrap_or_default();
    start.copy_from_slice(&prefix);
    let read = stream.read_exact(rest).await;
    read.map_err(SystemdError::BrokenOff)?;
    Ok(Message::parse(&bytes)?)
}

/// Says who we are; the kernel tells the bus the same. Returns whether descriptors can be sent.
async fn authenticate(stream: &mut UnixStream) -> Result<bool, SystemdError> {
    let uid = hex::encode(nix::unistd::geteuid().to_string());
    let greeting = format!("\0AUTH EXTERNAL {uid}\r\n");
    let answer = exchange(stream, greeting.as_bytes()).await?;
    if !answer.starts_with(b"OK ") {
        return Err(SystemdError::NotAuthenticated);
    }
    let agreed = exchange(stream, b"NEGOTIATE_UNIX_FD\r\n").await? == b"AGREE_UNIX_FD";
    let begun = stream.write_all(b"BEGIN\r\n").await;
    begun.map_err(SystemdError::BrokenOff)?;
    Ok(agreed)
}

/// Sends a line and reads one. The bus sends nothing after it, unless it is asked again.
async fn exchange(stream: &mut UnixStream, sent: &[u8]) -> Result<Vec<u8>, SystemdError> {
    let written = stream.write_all(sent).await;
    written.map_err(SystemdError::BrokenOff)?;
    let mut line = Vec::new();
    while line.len() < MAX_LINE {
        line.push(stream.read_u8().await.map_err(SystemdError::BrokenOff)?);
        if let Some(whole) = line.strip_suffix(b"\r\n") {
            return Ok(whole.to_vec());
        }
    }
    Err(SystemdError::NotAuthenticated)
}
