//! Values as D-Bus writes them: each aligned to its own size, counted from the start of the message.

use super::message::MessageError;

/// The order of the bytes in a number.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Order {
    #[default]
    Little,
    Big,
}

impl Order {
    pub(super) fn of(mark: u8) -> Result<Self, MessageError> {
        match mark {
            b'l' => Ok(Self::Little),
            b'B' => Ok(Self::Big),
            _ => Err(MessageError::Malformed),
        }
    }

    pub(super) fn mark(self) -> u8 {
        match self {
            Self::Little => b'l',
            Self::Big => b'B',
        }
    }
}

/// Reads values from the start of a message or a body.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    order: Order,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], order: Order) -> Self {
        let at = 0;
        Self { bytes, at, order }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], MessageError> {
        let end = self.at.checked_add(count).ok_or(MessageError::Malformed)?;
        let taken = self
            .bytes
            .get(self.at..end)
            .ok_or(MessageError::Malformed)?;
        self.at = end;
        Ok(taken)
    }

    pub(super) fn skip(&mut self, count: usize) -> Result<(), MessageError> {
        self.take(count).map(|_| ())
    }

    /// What fills the way to the next value is zero.
    pub(super) fn align(&mut self, to: usize) -> Result<(), MessageError> {
        let padding = self.at.next_multiple_of(to) - self.at;
        let is_zero = self.take(padding)?.iter().all(|byte| *byte == 0);
        is_zero.then_some(()).ok_or(MessageError::Malformed)
    }

    pub(super) fn byte(&mut self) -> Result<u8, MessageError> {
        let taken = self.take(1)?;
        taken.first().copied().ok_or(MessageError::Malformed)
    }

    pub(super) fn u32(&mut self) -> Result<u32, MessageError> {
        self.align(4)?;
        let taken = self.take(4)?.first_chunk().ok_or(MessageError::Malformed)?;
        Ok(match self.order {
            Order::Little => u32::from_le_bytes(*taken),
            Order::Big => u32::from_be_bytes(*taken),
        })
    }

    pub(super) fn string(&mut self) -> Result<String, MessageError> {
        let length = usize::try_from(self.u32()?).map_err(|_never| MessageError::TooLong)?;
        self.text(length).map(str::to_owned)
    }

    pub(super) fn signature(&mut self) -> Result<&'a str, MessageError> {
        let length = usize::from(self.byte()?);
        self.text(length)
    }

    /// A text ends with a zero, and holds none.
    fn text(&mut self, length: usize) -> Result<&'a str, MessageError> {
        let text = self.take(length)?;
        let is_ended = self.byte()? == 0 && !text.contains(&0);
        let text = std::str::from_utf8(text).ok().filter(|_| is_ended);
        text.ok_or(MessageError::Malformed)
    }

    /// Passes over a value of a basic type. What is nested is refused: nobody writes it in a header.
    pub(super) fn skip_basic(&mut self, kind: &str) -> Result<(), MessageError> {
        let size = match kind {
            "y" => 1,
            "n" | "q" => 2,
            "b" | "i" | "u" | "h" => 4,
            "x" | "t" | "d" => 8,
            "s" | "o" => return self.string().map(|_| ()),
            "g" => return self.signature().map(|_| ()),
            _ => return Err(MessageError::Malformed),
        };
        self.align(size)?;
        self.skip(size)
    }
}

/// Writes values, little end first.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub(super) fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.align(4);
        self.append(&value.to_le_bytes());
    }

    pub(super) fn string(&mut self, value: &str) {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.append(value.as_bytes());
        self.byte(0);
    }

    pub(super) fn signature(&mut self, value: &str) {
        self.byte(u8::try_from(value.len()).unwrap_or(u8::MAX));
        self.append(value.as_bytes());
        self.byte(0);
    }

    /// Begins a field of a header, whose value follows.
    pub(super) fn field(&mut self, code: u8, kind: &str) {
        self.align(8);
        self.byte(code);
        self.signature(kind);
    }

    /// Leaves room for the length of what follows.
    pub(super) fn mark_length(&mut self) -> usize {
        self.u32(0);
        self.0.len()
    }

    /// Fills that room.
    pub(super) fn set_length(&mut self, at: usize) {
        let length = u32::try_from(self.0.len() - at).unwrap_or(u32::MAX);
        if let Some(room) = self.0.get_mut(at - 4..at) {
            room.copy_from_slice(&length.to_le_bytes());
        }
    }
}
