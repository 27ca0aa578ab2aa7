//! The representations of one header block (RFC 7541, 6), followed byte by byte.

/// RFC 7541, 5.1 asks for a limit; lengths that fit no frame need no fifth continuation byte.
const MAX_CONTINUATION_BYTES: u8 = 4;

const AUTHORITY: &[u8] = b":authority";
// The same in the Huffman code of RFC 7541, appendix B.
const AUTHORITY_HUFFMAN: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
const STATIC_AUTHORITY: u8 = 1;

const HUFFMAN: u8 = 0x80;
const CONTINUES: u8 = 0x80;

/// The bytes break the rules.
#[derive(Clone, Copy, Debug)]
pub(super) struct Malformed;

/// Where in its representations a header block stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Fields {
    /// A representation begins.
    #[default]
    Between,
    /// In an integer whose value does not matter. It has had so many continuation bytes.
    Index { taken: u8, next: After },
    /// A string begins.
    StringStart(Text),
    /// In the continuation of a string's length.
    Length { text: Text, length: u32, taken: u8 },
    /// In a string that has so many bytes left.
    String { text: Text, left: u32 },
}

/// What follows an index.
#[derive(Clone, Copy, Debug)]
pub(super) enum After {
    Nothing,
    Value,
}

/// What a string is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Text {
    /// A name of which so many bytes have been seen; all of them like those of `expected`, or it is
    /// none.
    Name {
        seen: usize,
        expected: Option<&'static [u8]>,
    },
    /// A value to overwrite.
    Authority,
    /// Any other value.
    Other,
}

impl Fields {
    /// Whether no representation is cut off here.
    pub(super) fn is_between(self) -> bool {
        matches!(self, Self::Between)
    }

    /// Takes one byte, and overwrites it if it belongs to the value of `:authority`.
    pub(super) fn step(&mut self, byte: &mut u8) -> Result<(), Malformed> {
        *self = match *self {
            Self::Between => Self::representation(*byte),
            Self::Index { taken, next } => Self::index(*byte, taken, next)?,
            Self::StringStart(text) => Self::string_start(byte, text),
            Self::Length {
                text,
                length,
                taken,
            } => Self::length(*byte, text, length, taken)?,
            Self::String { text, left } => Self::string(byte, text, left),
        };
        Ok(())
    }

    fn representation(byte: u8) -> Self {
        match byte {
            // 6.1: an indexed field.
            0x80.. => Self::indexed(byte, 0x7f, After::Nothing),
            // 6.2.1: a literal, to be indexed.
            0x40..0x80 => Self::literal(byte, 0x3f),
            // 6.3: a new size of the table.
            0x20..0x40 => Self::indexed(byte, 0x1f, After::Nothing),
            // 6.2.2 and 6.2.3: a literal, not to be indexed now or ever.
            0x00..0x20 => Self::literal(byte, 0x0f),
        }
    }

    fn indexed(byte: u8, mask: u8, next: After) -> Self {
        if byte & mask == mask {
            Self::Index { taken: 0, next }
        } else {
            next.begin()
        }
    }

    fn literal(byte: u8, mask: u8) -> Self {
        match byte & mask {
            0 => Self::StringStart(Text::Name {
                seen: 0,
                expected: None,
            }),
            STATIC_AUTHORITY => Self::StringStart(Text::Authority),
            _ => Self::indexed(byte, mask, After::Value),
        }
    }

    fn index(byte: u8, taken: u8, next: After) -> Result<Self, Malformed> {
        if byte & CONTINUES == 0 {
            return Ok(next.begin());
        }
        let taken = taken + 1;
        if taken < MAX_CONTINUATION_BYTES {
            Ok(Self::Index { taken, next })
        } else {
            Err(Malformed)
        }
    }

    fn string_start(byte: &mut u8, text: Text) -> Self {
        let text = match text {
            Text::Name { .. } if *byte & HUFFMAN != 0 => Text::Name {
                seen: 0,
                expected: Some(AUTHORITY_HUFFMAN),
            },
            Text::Name { .. } => Text::Name {
                seen: 0,
                expected: Some(AUTHORITY),
            },
            Text::Authority => {
                *byte &= !HUFFMAN;
                text
            }
            Text::Other => text,
        };
        match *byte & !HUFFMAN {
            0x7f => Self::Length {
                text,
                length: 0x7f,
                taken: 0,
            },
            length => Self::string_of(text, u32::from(length)),
        }
    }

    fn length(byte: u8, text: Text, length: u32, taken: u8) -> Result<Self, Malformed> {
        if taken == MAX_CONTINUATION_BYTES {
            return Err(Malformed);
        }
        // Four times seven bits and the prefix: the sum cannot overflow.
        let length = length + (u32::from(byte & !CONTINUES) << (7 * u32::from(taken)));
        let taken = taken + 1;
        if byte & CONTINUES != 0 {
            return Ok(Self::Length {
                text,
                length,
                taken,
            });
        }
        Ok(Self::string_of(text, length))
    }

    fn string(byte: &mut u8, text: Text, left: u32) -> Self {
        let text = match text {
            Text::Authority => {
                *byte = b'a';
                text
            }
            Text::Name { seen, expected } => Text::Name {
                seen: seen + 1,
                expected: expected.filter(|expected| expected.get(seen) == Some(byte)),
            },
            Text::Other => text,
        };
        Self::string_of(text, left - 1)
    }

    fn string_of(text: Text, left: u32) -> Self {
        match text {
            _ if left > 0 => Self::String { text, left },
            Text::Name { seen, expected } => {
                let is_authority = expected.is_some_and(|expected| expected.len() == seen);
                Self::StringStart(if is_authority {
                    Text::Authority
                } else {
                    Text::Other
                })
            }
            Text::Authority | Text::Other => Self::Between,
        }
    }
}

impl After {
    fn begin(self) -> Fields {
        match self {
            Self::Nothing => Fields::Between,
            Self::Value => Fields::StringStart(Text::Other),
        }
    }
}
