//! The messages of D-Bus, as much of them as three calls need.
//!
//! A message is a header of twelve fixed bytes, an array of fields, padding to eight bytes, and a body
//! whose types the field `signature` names. A library for all of D-Bus would weigh more than this
//! attestor; what is here reads basic types alone, and refuses what is longer than [`MAX_BYTES`].

use super::wire::{Order, Reader, Writer};

/// The longest message that is read. An answer holds a path or a name.
pub const MAX_BYTES: usize = 64 << 10;
/// How much must be read to know how long a message is.
pub const PREFIX: usize = 16;

/// A message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// What it is for.
    pub kind: Kind,
    /// The sender's number of it; never 0.
    pub serial: u32,
    /// Whom it concerns.
    pub fields: Fields,
    /// What it says.
    pub body: Body,
}

/// What a message is for. Others than these are passed over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A call.
    Call,
    /// The answer to a call.
    Return,
    /// The refusal of a call.
    Error,
    /// News.
    Signal,
}

/// The fields of the header.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(missing_docs, reason = "they are called as D-Bus calls them")]
pub struct Fields {
    pub path: Option<String>,
    pub interface: Option<String>,
    pub member: Option<String>,
    pub error_name: Option<String>,
    pub reply_serial: Option<u32>,
    pub destination: Option<String>,
    /// Whoever the bus says that it is.
    pub sender: Option<String>,
    pub unix_fds: Option<u32>,
}

/// Values and their types.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Body {
    signature: String,
    bytes: Vec<u8>,
    order: Order,
}

impl Message {
    /// How long the message is that begins so.
    pub fn length(prefix: &[u8; PREFIX]) -> Result<usize, MessageError> {
        let order = Order::of(prefix[0])?;
        let mut reader = Reader::new(prefix, order);
        reader.skip(4)?;
        let body = reader.u32()?;
        reader.skip(4)?;
        let fields = reader.u32()?;
        let header = usize::try_from(fields)
            .ok()
            .and_then(|fields| fields.checked_add(PREFIX)?.checked_next_multiple_of(8));
        let body = usize::try_from(body).ok();
        let length = header.zip(body).and_then(|(a, b)| a.checked_add(b));
        length
            .filter(|length| *length <= MAX_BYTES)
            .ok_or(MessageError::TooLong)
    }

    /// Reads one whole message.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let prefix = bytes.first_chunk().ok_or(MessageError::Malformed)?;
        if bytes.len() != Self::length(prefix)? {
            return Err(MessageError::Malformed);
        }
        let order = Order::of(prefix[0])?;
        let mut reader = Reader::new(bytes, order);
        reader.skip(1)?;
        let kind = Kind::of(reader.byte()?)?;
        let (_flags, version) = (reader.byte()?, reader.byte()?);
        let (_length, serial) = (reader.u32()?, reader.u32()?);
        if version != 1 || serial == 0 {
            return Err(MessageError::Malformed);
        }
        let length = reader.u32()?;
        let end = reader
            .at()
            .saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        let (mut fields, mut signature) = (Fields::default(), None);
        while reader.at() < end {
            reader.align(8)?;
            fields.read(&mut reader, &mut signature)?;
        }
        if reader.at() != end {
            return Err(MessageError::Malformed);
        }
        reader.align(8)?;
        let body = Body {
            signature: signature.unwrap_or_default(),
            bytes: reader.rest().to_vec(),
            order,
        };
        Ok(Self {
            kind,
            serial,
            fields,
            body,
        })
    }

    /// The message as it is sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.byte(self.body.order.mark());
        writer.byte(self.kind.number());
        // Flags: none. The version of the protocol.
        writer.byte(0);
        writer.byte(1);
        writer.u32(u32::try_from(self.body.bytes.len()).unwrap_or(u32::MAX));
        writer.u32(self.serial);
        let at = writer.mark_length();
        self.fields.write(&mut writer, &self.body.signature);
        writer.set_length(at);
        writer.align(8);
        writer.append(&self.body.bytes);
        writer.into_bytes()
    }
}

impl Kind {
    fn of(number: u8) -> Result<Self, MessageError> {
        match number {
            1 => Ok(Self::Call),
            2 => Ok(Self::Return),
            3 => Ok(Self::Error),
            4 => Ok(Self::Signal),
            _ => Err(MessageError::Malformed),
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Call => 1,
            Self::Return => 2,
            Self::Error => 3,
            Self::Signal => 4,
        }
    }
}

impl Fields {
    fn read(
        &mut self,
        reader: &mut Reader<'_>,
        signature: &mut Option<String>,
    ) -> Result<(), MessageError> {
        let code = reader.byte()?;
        let kind = reader.signature()?;
        match (code, kind) {
            (1, "o") => once(&mut self.path, reader.string()?),
            (2, "s") => once(&mut self.interface, reader.string()?),
            (3, "s") => once(&mut self.member, reader.string()?),
            (4, "s") => once(&mut self.error_name, reader.string()?),
            (5, "u") => once(&mut self.reply_serial, reader.u32()?),
            (6, "s") => once(&mut self.destination, reader.string()?),
            (7, "s") => once(&mut self.sender, reader.string()?),
            (8, "g") => once(signature, reader.signature()?.to_owned()),
            (9, "u") => once(&mut self.unix_fds, reader.u32()?),
            (0..=9, _) => Err(MessageError::Malformed),
            // A field that is not known must be passed over.
            (_, kind) => reader.skip_basic(kind),
        }
    }

    fn write(&self, writer: &mut Writer, signature: &str) {
        let mut string = |code, kind, value: &Option<String>| {
            if let Some(value) = value {
                writer.field(code, kind);
                writer.string(value);
            }
        };
        string(1, "o", &self.path);
        string(2, "s", &self.interface);
        string(3, "s", &self.member);
        string(4, "s", &self.error_name);
        string(6, "s", &self.destination);
        string(7, "s", &self.sender);
        for (code, value) in [(5, self.reply_serial), (9, self.unix_fds)] {
            if let Some(value) = value {
                writer.field(code, "u");
                writer.u32(value);
            }
        }
        if !signature.is_empty() {
            writer.field(8, "g");
            writer.signature(signature);
        }
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), MessageError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(MessageError::Malformed),
    }
}

impl Body {
    /// Strings, one after another.
    #[must_use]
    pub fn strings(values: &[&str]) -> Self {
        Self::write(&"s".repeat(values.len()), |writer| {
            for value in values {
                writer.string(value);
            }
        })
    }

    /// One number: plain (`u`), or the place of a descriptor that comes along (`h`).
    #[must_use]
    pub fn number(signature: &str, value: u32) -> Self {
        Self::write(signature, |writer| writer.u32(value))
    }

    /// The path of an object, and what else `GetUnitByPIDFD` tells.
    #[must_use]
    pub fn unit(path: &str, id: Option<&str>) -> Self {
        let Some(id) = id else {
            return Self::write("o", |writer| writer.string(path));
        };
        Self::write("osay", |writer| {
            writer.string(path);
            writer.string(id);
            writer.u32(0);
        })
    }

    /// A string whose type the value itself names.
    #[must_use]
    pub fn variant(value: &str) -> Self {
        Self::write("v", |writer| {
            writer.signature("s");
            writer.string(value);
        })
    }

    /// What a service says to take a name, and to wait for nobody.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn request_name(name: &str) -> Self {
        Self::write("su", |writer| {
            writer.string(name);
            writer.u32(4);
        })
    }

    fn write(signature: &str, write: impl FnOnce(&mut Writer)) -> Self {
        let mut writer = Writer::default();
        write(&mut writer);
        Self {
            signature: signature.to_owned(),
            bytes: writer.into_bytes(),
            order: Order::Little,
        }
    }

    /// The types of the values.
    #[must_use]
    pub fn signature(&self) -> &str {
        &self.signature
    }

    /// The first value, if it is a string or the path of an object, or a variant of either.
    pub fn text(&self) -> Result<String, MessageError> {
        let mut reader = Reader::new(&self.bytes, self.order);
        let kind = match self.signature.chars().next() {
            Some('v') => reader.signature()?,
            Some('s' | 'o') => "s",
            _ => return Err(MessageError::AnotherType),
        };
        match kind {
            "s" | "o" => reader.string(),
            _ => Err(MessageError::AnotherType),
        }
    }

    /// The first value, if it is a number or the place of a descriptor.
    pub fn u32(&self) -> Result<u32, MessageError> {
        if !self.signature.starts_with(['u', 'h']) {
            return Err(MessageError::AnotherType);
        }
        Reader::new(&self.bytes, self.order).u32()
    }

    /// The second value, where both are strings.
    pub fn second_text(&self) -> Result<String, MessageError> {
        if !self.signature.starts_with("ss") {
            return Err(MessageError::AnotherType);
        }
        let mut reader = Reader::new(&self.bytes, self.order);
        reader.string()?;
        reader.string()
    }
}

/// Why bytes are no message that can be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MessageError {
    /// It is longer than [`MAX_BYTES`].
    #[error("a message is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// It is not as the protocol has it.
    #[error("a message is malformed")]
    Malformed,
    /// It says something else than what was asked.
    #[error("an answer has other types than were asked for")]
    AnotherType,
}

#[cfg(test)]
mod tests;
