//! A small systemd, for tests: it takes the name on a bus, and answers for units that it is told.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::bus::{Bus, receive};
use super::message::{Body, Fields, Kind, Message};
use super::{NO_UNIT, SYSTEMD, SystemdError};

/// A unit.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Its name.
    pub id: String,
    /// Its file.
    pub fragment_path: String,
}

/// What the fake knows, and what it was asked.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    // Where everybody runs.
    unit: Arc<Mutex<Option<Unit>>>,
    calls: Arc<Mutex<Vec<String>>>,
    knows_pidfds: bool,
}

impl Fake {
    /// A systemd in which nobody runs in a unit, and which can look at pidfds or cannot.
    #[must_use]
    pub fn new(knows_pidfds: bool) -> Self {
        Self {
            knows_pidfds,
            ..Self::default()
        }
    }

    /// Has every process run in a unit.
    pub fn put(&self, unit: Unit) {
        *self.unit.lock() = Some(unit);
    }

    /// The methods that were called, and with which pid.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().clone()
    }

    /// Takes the name on the bus; what it returns answers until the bus goes away.
    pub async fn join(
        &self,
        bus: &PathBuf,
    ) -> Result<impl Future<Output = ()> + Send + 'static, SystemdError> {
        let (mut stream, mut serial) = Bus::connect(bus).await?.into_parts();
        serial += 1;
        let fields = Fields {
            path: Some("/org/freedesktop/DBus".to_owned()),
            interface: Some("org.freedesktop.DBus".to_owned()),
            member: Some("RequestName".to_owned()),
            destination: Some("org.freedesktop.DBus".to_owned()),
            ..Fields::default()
        };
        let taken = Message {
            kind: Kind::Call,
            serial,
            fields,
            body: Body::request_name(SYSTEMD),
        };
        send(&mut stream, &taken).await?;
        while receive(&mut stream).await?.fields.reply_serial != Some(serial) {}
        let fake = self.clone();
        Ok(async move { fake.serve(stream, serial).await })
    }

    async fn serve(self, mut stream: UnixStream, mut serial: u32) {
        loop {
            // The descriptor that comes along is closed by the kernel, since nobody takes it.
            let Ok(message) = receive(&mut stream).await else {
                return;
            };
            if message.kind != Kind::Call {
                continue;
            }
            serial += 1;
            let answer = self.answer(&message);
            let kind = if answer.is_ok() {
                Kind::Return
            } else {
                Kind::Error
            };
            let fields = Fields {
                reply_serial: Some(message.serial),
                destination: message.fields.sender,
                error_name: answer.as_ref().err().cloned(),
                ..Fields::default()
            };
            let body = answer.unwrap_or_else(|error| Body::strings(&[&error]));
            let reply = Message {
                kind,
                serial,
                fields,
                body,
            };
            if send(&mut stream, &reply).await.is_err() {
                return;
            }
        }
    }

    fn answer(&self, message: &Message) -> Result<Body, String> {
        let member = message.fields.member.clone().unwrap_or_default();
        let pid = message.body.u32().unwrap_or_default();
        let unit = self.unit.lock().clone();
        let (call, answer) = match member.as_str() {
            "GetUnitByPID" => {
                let unit = unit.map(|unit| Body::unit(&path_of(&unit), None));
                (format!("{member} {pid}"), unit.ok_or(NO_UNIT))
            }
            // The descriptor is the kernel's business: a bus hands it on, or refuses the message.
            "GetUnitByPIDFD" if self.knows_pidfds => {
                let unit = unit.map(|unit| Body::unit(&path_of(&unit), Some(&unit.id)));
                (member, unit.ok_or(NO_UNIT))
            }
            "Get" => {
                let path = message.fields.path.as_deref();
                let unit = unit.filter(|unit| path == Some(&path_of(unit)));
                let name = message.body.second_text().unwrap_or_default();
                let value = unit.and_then(|unit| match name.as_str() {
                    "Id" => Some(unit.id),
                    "FragmentPath" => Some(unit.fragment_path),
                    _ => None,
                });
                let unknown = "org.freedesktop.DBus.Error.UnknownProperty";
                let value = value.map(|value| Body::variant(&value));
                (format!("{member} {name}"), value.ok_or(unknown))
            }
            _ => (member, Err("org.freedesktop.DBus.Error.UnknownMethod")),
        };
        self.calls.lock().push(call);
        answer.map_err(str::to_owned)
    }
}

fn path_of(unit: &Unit) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        other => format!("_{other:02x}"),
    };
    let name: String = unit.id.bytes().map(escape).collect();
    format!("/org/freedesktop/systemd1/unit/{name}")
}

async fn send(stream: &mut UnixStream, message: &Message) -> Result<(), SystemdError> {
    let sent = stream.write_all(&message.encode()).await;
    sent.map_err(SystemdError::BrokenOff)
}

/// Plays the bus's part of the authentication for a test that is the bus itself.
pub async fn let_in(stream: &mut UnixStream) -> std::io::Result<()> {
    use tokio::io::AsyncReadExt;
    for answer in ["OK 00ff\r\n", "AGREE_UNIX_FD\r\n", ""] {
        while stream.read_u8().await? != b'\n' {}
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}
