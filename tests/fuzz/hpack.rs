//! A client that encodes what the bytes of a fuzzer tell it, judged by an HPACK decoder that is not h2's.

use std::collections::VecDeque;

use fluke_hpack::Decoder;
use runtime::authority::AuthorityFilter;

const HEADERS: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const TABLE_BYTES: usize = 4096;
const STATIC_FIELDS: usize = 61;
const AUTHORITY: &[u8] = b":authority";

type Field = (Vec<u8>, Vec<u8>);

/// What a server decodes after the filter is what the client encoded, save for `:authority`, over a
/// connection whose dynamic table overflows.
pub(crate) fn requests_are_decoded_as_sent(cut: usize, data: &[u8]) {
    let (mut filter, mut decoder) = (AuthorityFilter::new(), Decoder::new());
    let (mut client, mut input) = (Client::default(), Input(data));
    while !input.0.is_empty() {
        let mut block = Vec::new();
        let sent = client.request(&mut input, &mut block);
        let length = u32::try_from(block.len()).expect("a short block");
        let [_, a, b, c] = length.to_be_bytes();
        let head = [a, b, c, HEADERS, END_HEADERS, 0, 0, 0, 1];
        let mut frame = [&head[..], &block].concat();
        for piece in frame.chunks_mut(cut) {
            filter.apply(piece);
        }
        let (passed, block) = frame.split_at(head.len());
        assert_eq!(passed, head);
        let read = decoder.decode(block).expect("the block is well-formed");
        assert_eq!(read.len(), sent.len());
        for ((name, value), (sent_name, sent_value)) in read.into_iter().zip(sent) {
            assert_eq!(name, sent_name);
            if name == AUTHORITY {
                assert!(value.iter().all(|byte| *byte == b'a'), "{value:?}");
            } else {
                assert_eq!(value, sent_value);
            }
        }
    }
}

/// The bytes that say what to encode.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// A client with a table of its own, in which its `:authority` keeps its real size.
#[derive(Default)]
struct Client {
    table: VecDeque<Field>,
    size: usize,
}

impl Client {
    /// Encodes fields until the input says that the request ends.
    fn request(&mut self, input: &mut Input<'_>, block: &mut Vec<u8>) -> Vec<Field> {
        let mut sent = Vec::new();
        while !input.0.is_empty() {
            let what = input.byte();
            sent.extend(self.field(what, input, block));
            if what & 0x80 != 0 {
                break;
            }
        }
        sent
    }

    fn field(&mut self, what: u8, input: &mut Input<'_>, block: &mut Vec<u8>) -> Option<Field> {
        let (name_huffman, value_huffman) = (what & 0x10 != 0, what & 0x20 != 0);
        let (first, mask) = match what >> 2 & 3 {
            0 | 3 => (0x40, 0x3f),
            1 => (0x00, 0x0f),
            _ => (0x10, 0x0f),
        };
        let name = match what & 3 {
            0 => {
                integer(block, first, mask, 1);
                AUTHORITY.to_vec()
            }
            1 => {
                block.push(first);
                string(block, AUTHORITY, name_huffman);
                AUTHORITY.to_vec()
            }
            2 => {
                let count = usize::from(input.byte() & 0x1f);
                let name = input.take(count).to_vec();
                // A literal of this name is the filter's to change: it is one of the others.
                if name == AUTHORITY {
                    return None;
                }
                block.push(first);
                string(block, &name, name_huffman);
                name
            }
            _ => {
                let index = usize::from(input.byte()).checked_rem(self.table.len())?;
                integer(block, 0x80, 0x7f, STATIC_FIELDS + 1 + index);
                return self.table.get(index).cloned();
            }
        };
        let count = usize::from(input.byte()) * if what & 0x40 == 0 { 1 } else { 8 };
        let value = input.take(count).to_vec();
        string(block, &value, value_huffman);
        if first == 0x40 {
            self.remember((name.clone(), value.clone()));
        }
        Some((name, value))
    }

    fn remember(&mut self, field: Field) {
        let size = |field: &Field| field.0.len() + field.1.len() + 32;
        self.size += size(&field);
        self.table.push_front(field);
        while self.size > TABLE_BYTES {
            let Some(oldest) = self.table.pop_back() else {
                break;
            };
            self.size -= size(&oldest);
        }
    }
}

fn integer(block: &mut Vec<u8>, first: u8, mask: u8, value: usize) {
    let Some(mut rest) = value.checked_sub(usize::from(mask)) else {
        block.push(first | u8::try_from(value).expect("less than the mask"));
        return;
    };
    block.push(first | mask);
    while rest >= 0x80 {
        block.push(u8::try_from(rest & 0x7f).expect("seven bits") | 0x80);
        rest >>= 7;
    }
    block.push(u8::try_from(rest).expect("seven bits"));
}

/// A string, in Huffman code if wanted and not longer: as RFC 7541 5.2 has encoders do.
fn string(block: &mut Vec<u8>, text: &[u8], huffman: bool) {
    let mut coded = Vec::new();
    httlib_huffman::encode(text, &mut coded).expect("every byte has a code");
    let (bit, bytes) = match huffman && coded.len() <= text.len() {
        true => (0x80, &coded[..]),
        false => (0x00, text),
    };
    integer(block, bit, 0x7f, bytes.len());
    block.extend_from_slice(bytes);
}
