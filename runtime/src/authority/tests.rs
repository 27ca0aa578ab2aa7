//! Facts about the filter, judged by an HPACK decoder that is not h2's.

use std::collections::VecDeque;

use fluke_hpack::Decoder;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// A field as a client may write it.
#[derive(Clone, Debug)]
struct Field {
    name: Name,
    value: Vec<u8>,
    huffman: bool,
    form: Form,
}

#[derive(Clone, Debug)]
enum Name {
    /// `:authority` by its static index.
    AuthorityByIndex,
    /// `:authority` spelled out.
    AuthoritySpelled {
        huffman: bool,
    },
    /// `user-agent` (58), whose index needs a continuation byte in the short forms.
    ByIndex,
    Spelled {
        name: String,
        huffman: bool,
    },
    /// A whole field from the dynamic table, if that has one.
    FromTable(Index),
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Indexed,
    Plain,
    Never,
}

/// How a header block is cut into frames.
#[derive(Clone, Debug)]
struct Cut {
    padding: Option<u8>,
    priority: bool,
    at: Vec<Index>,
    before: Option<(u8, Vec<u8>)>,
}

/// A client with a table of its own, in which its `:authority` keeps its real size.
#[derive(Default)]
struct Client {
    table: VecDeque<(Vec<u8>, Vec<u8>)>,
    size: usize,
}

const TABLE_BYTES: usize = 4096;
const STATIC_FIELDS: usize = 61;

impl Client {
    /// Writes a field, and tells what a server must read after the filter.
    fn write(&mut self, field: &Field, block: &mut Vec<u8>) -> Option<(Vec<u8>, Vec<u8>)> {
        let name = match &field.name {
            Name::FromTable(index) => return self.write_indexed(index, block),
            Name::AuthorityByIndex | Name::AuthoritySpelled { .. } => b":authority".to_vec(),
            Name::ByIndex => b"user-agent".to_vec(),
            Name::Spelled { name, .. } => name.clone().into_bytes(),
        };
        let (first, mask) = match field.form {
            Form::Indexed => (0x40, 0x3f),
            Form::Plain => (0x00, 0x0f),
            Form::Never => (0x10, 0x0f),
        };
        match &field.name {
            Name::AuthorityByIndex => write_integer(block, first, mask, 1),
            Name::ByIndex => write_integer(block, first, mask, 58),
            Name::AuthoritySpelled { huffman } | Name::Spelled { huffman, .. } => {
                block.push(first);
                write_string(block, &name, *huffman);
            }
            Name::FromTable(_) => {}
        }
        let written = write_string(block, &field.value, field.huffman);
        if matches!(field.form, Form::Indexed) {
            self.remember(name.clone(), field.value.clone());
        }
        let read = if name == b":authority" {
            vec![b'a'; written]
        } else {
            field.value.clone()
        };
        Some((name, read))
    }

    fn write_indexed(&self, index: &Index, block: &mut Vec<u8>) -> Option<(Vec<u8>, Vec<u8>)> {
        if self.table.is_empty() {
            return None;
        }
        let index = index.index(self.table.len());
        let (name, value) = &self.table[index];
        write_integer(block, 0x80, 0x7f, STATIC_FIELDS + 1 + index);
        Some((name.clone(), value.clone()))
    }

    fn remember(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.size += name.len() + value.len() + 32;
        self.table.push_front((name, value));
        while self.size > TABLE_BYTES {
            let (name, value) = self.table.pop_back().unwrap();
            self.size -= name.len() + value.len() + 32;
        }
    }
}

fn write_integer(block: &mut Vec<u8>, first: u8, mask: u8, value: usize) {
    if value < usize::from(mask) {
        block.push(first | u8::try_from(value).unwrap());
        return;
    }
    block.push(first | mask);
    let mut rest = value - usize::from(mask);
    while rest >= 0x80 {
        block.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// Writes a string, in Huffman code if wanted and not longer, and returns its written length.
fn write_string(block: &mut Vec<u8>, text: &[u8], huffman: bool) -> usize {
    let mut coded = Vec::new();
    httlib_huffman::encode(text, &mut coded).unwrap();
    if huffman && coded.len() <= text.len() {
        write_integer(block, 0x80, 0x7f, coded.len());
        block.extend(&coded);
        coded.len()
    } else {
        write_integer(block, 0x00, 0x7f, text.len());
        block.extend(text);
        text.len()
    }
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
    frame.extend(payload);
    frame
}

/// Frames of one request; beside each byte whether it belongs to the header block.
fn frames(block: &[u8], cut: &Cut) -> Vec<(u8, bool)> {
    let mut bytes = Vec::new();
    if let Some((kind, payload)) = &cut.before {
        bytes.extend(
            frame(*kind, 0xff, payload)
                .into_iter()
                .map(|byte| (byte, false)),
        );
    }
    let mut cuts: Vec<usize> = cut.at.iter().map(|at| at.index(block.len() + 1)).collect();
    cuts.sort_unstable();
    let mut rest = block;
    let mut begun = 0;
    for (number, end) in cuts.iter().copied().chain([block.len()]).enumerate() {
        let (fragment, next) = rest.split_at(end - begun);
        (rest, begun) = (next, end);
        let last = if end == block.len() && number == cuts.len() {
            END_HEADERS
        } else {
            0
        };
        let (mut flags, mut front, mut back) = (last, Vec::new(), Vec::new());
        if number == 0 {
            if let Some(padding) = cut.padding {
                flags |= PADDED;
                front.push(padding);
                back.resize(usize::from(padding), 0x42);
            }
            if cut.priority {
                flags |= PRIORITY;
                front.extend([0x42; 5]);
            }
        }
        let kind = if number == 0 { HEADERS } else { CONTINUATION };
        let whole = frame(kind, flags, &[&front, fragment, &back].concat());
        let fragment_at = 9 + front.len()..9 + front.len() + fragment.len();
        bytes.extend(
            whole
                .into_iter()
                .enumerate()
                .map(|(at, byte)| (byte, fragment_at.contains(&at))),
        );
    }
    bytes
}

fn filtered(bytes: &[u8]) -> Vec<u8> {
    let mut filtered = bytes.to_vec();
    AuthorityFilter::new().apply(&mut filtered);
    filtered
}

fn filtered_in_chunks(bytes: &[u8], cuts: &[Index]) -> Vec<u8> {
    let mut filtered = bytes.to_vec();
    let mut filter = AuthorityFilter::new();
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let mut begun = 0;
    for end in cuts.into_iter().chain([bytes.len()]) {
        filter.apply(&mut filtered[begun..end]);
        begun = end;
    }
    filtered
}

fn any_field() -> impl Strategy<Value = Field> {
    let name = prop_oneof![
        Just(Name::AuthorityByIndex),
        any::<bool>().prop_map(|huffman| Name::AuthoritySpelled { huffman }),
        Just(Name::ByIndex),
        ("[a-z:-]{1,12}", any::<bool>())
            .prop_map(|(name, huffman)| Name::Spelled { name, huffman }),
        any::<Index>().prop_map(Name::FromTable),
    ];
    let value = prop_oneof![
        "[ -~]{0,40}".prop_map(String::into_bytes),
        "tmp%2F[a-z%/]{0,20}".prop_map(String::into_bytes),
        vec(b'a'..=b'z', 100..1500),
    ];
    let form = prop_oneof![Just(Form::Indexed), Just(Form::Plain), Just(Form::Never)];
    (name, value, any::<bool>(), form).prop_map(|(name, value, huffman, form)| Field {
        name,
        value,
        huffman,
        form,
    })
}

fn any_cut() -> impl Strategy<Value = Cut> {
    // Every kind of frame but those of header blocks.
    let other = prop_oneof![Just(0_u8), 2..=8_u8, 10..=255_u8];
    (
        proptest::option::of(any::<u8>()),
        any::<bool>(),
        vec(any::<Index>(), 0..4),
        proptest::option::of((other, vec(any::<u8>(), 0..50))),
    )
        .prop_map(|(padding, priority, at, before)| Cut {
            padding,
            priority,
            at,
            before,
        })
}

proptest! {
    /// The whole contract at once: what a server decodes is what the client sent, save for
    /// `:authority`, over a connection whose table overflows.
    #[test]
    fn only_the_authority_changes(
        requests in vec((vec(any_field(), 0..8), any_cut()), 1..12),
        chunks in vec(any::<Index>(), 0..12),
    ) {
        let mut client = Client::default();
        let mut sent = Vec::new();
        let mut expected = Vec::new();
        let mut blocks = Vec::new();
        for (fields, cut) in &requests {
            let mut block = Vec::new();
            let read: Vec<_> = fields.iter().filter_map(|field| client.write(field, &mut block)).collect();
            expected.push(read);
            let request = frames(&block, cut);
            blocks.push(request.len());
            sent.extend(request);
        }
        let bytes: Vec<u8> = sent.iter().map(|(byte, _)| *byte).collect();
        let passed = filtered_in_chunks(&bytes, &chunks);
        prop_assert_eq!(passed.len(), bytes.len());

        let mut decoder = Decoder::new();
        let mut rest = &passed[..];
        let mut marks = &sent[..];
        for (expected, length) in expected.into_iter().zip(blocks) {
            let (request, next) = rest.split_at(length);
            let (mark, next_marks) = marks.split_at(length);
            (rest, marks) = (next, next_marks);
            let mut block = Vec::new();
            for (byte, (original, in_block)) in request.iter().zip(mark) {
                if *in_block { block.push(*byte); } else { prop_assert_eq!(byte, original); }
            }
            let read = decoder.decode(&block).unwrap();
            // A field from the table is read as it was stored: an authority as letters.
            prop_assert_eq!(read.len(), expected.len());
            for ((name, value), (wanted_name, wanted_value)) in read.into_iter().zip(expected) {
                prop_assert_eq!(&name, &wanted_name);
                if name == b":authority" {
                    prop_assert!(value.iter().all(|byte| *byte == b'a'), "{:?}", value);
                } else {
                    prop_assert_eq!(value, wanted_value);
                }
            }
        }
    }

    #[test]
    fn the_cuts_do_not_matter_whatever_the_bytes(
        bytes in vec(any::<u8>(), 0..400),
        cuts in vec(any::<Index>(), 0..10),
    ) {
        prop_assert_eq!(filtered_in_chunks(&bytes, &cuts), filtered(&bytes));
    }

    #[test]
    fn the_cuts_do_not_matter_for_broken_header_blocks(
        block in vec(prop_oneof![Just(0x40_u8), Just(0x41), Just(0x00), Just(0x7f), Just(0xff), any::<u8>()], 0..100),
        cut in any_cut(),
        cuts in vec(any::<Index>(), 0..10),
    ) {
        let bytes: Vec<u8> = frames(&block, &cut).into_iter().map(|(byte, _)| byte).collect();
        let twice = [&bytes[..], &bytes[..]].concat();
        prop_assert_eq!(filtered_in_chunks(&twice, &cuts), filtered(&twice));
    }
}

fn request(block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, block)
}

#[test]
fn overwrites_the_authority_in_every_literal_form() {
    for first in [0x41, 0x01, 0x11] {
        let sent = request(&[&[first, 4][..], b"/a b"].concat());
        assert_eq!(
            filtered(&sent),
            request(&[&[first, 4][..], b"aaaa"].concat())
        );
    }
}

#[test]
fn clears_the_huffman_bit_with_the_value() {
    let sent = request(&[0x41, 0x83, 0x63, 0xff, 0xfe]);
    assert_eq!(filtered(&sent), request(&[0x41, 0x03, b'a', b'a', b'a']));
}

#[test]
fn knows_the_name_spelled_out_raw_and_in_huffman_code() {
    let raw = [&[0x00, 10][..], b":authority", &[1, b'/']].concat();
    let raw_after = [&[0x00, 10][..], b":authority", &[1, b'a']].concat();
    assert_eq!(filtered(&request(&raw)), request(&raw_after));
    let coded = [&[0x00, 0x88][..], AUTHORITY_HUFFMAN_BYTES, &[1, b'/']].concat();
    let coded_after = [&[0x00, 0x88][..], AUTHORITY_HUFFMAN_BYTES, &[1, b'a']].concat();
    assert_eq!(filtered(&request(&coded)), request(&coded_after));
}

const AUTHORITY_HUFFMAN_BYTES: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];

#[test]
fn leaves_names_alone_that_only_begin_alike() {
    for name in [
        &b":authorit"[..],
        b":authoritz",
        b":authoritya",
        b"authority:",
        b"",
    ] {
        let length = u8::try_from(name.len()).unwrap();
        let sent = request(&[&[0x00, length][..], name, &[1, b'/']].concat());
        assert_eq!(filtered(&sent), sent, "{name:?}");
    }
}

#[test]
fn passes_everything_after_a_broken_rule_untouched() {
    let good = request(&[0x41, 1, b'/']);
    let broken = [
        // An integer that does not end.
        request(&[0x00, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        request(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        // A block that ends within a value.
        request(&[0x41, 5, b'/']),
        // More padding than payload.
        frame(HEADERS, END_HEADERS | PADDED, &[9, 0x41]),
        frame(HEADERS, END_HEADERS | PADDED, &[]),
        frame(HEADERS, END_HEADERS | PRIORITY, &[0; 4]),
        // A continuation of nothing, and a block that is never continued.
        frame(CONTINUATION, END_HEADERS, &[]),
        [frame(HEADERS, 0, &[]), frame(0, 0, &[])].concat(),
        [frame(HEADERS, 0, &[]), frame(HEADERS, END_HEADERS, &[])].concat(),
    ];
    for broken in broken {
        let sent = [&broken[..], &good].concat();
        let passed = filtered(&sent);
        assert_eq!(&passed[passed.len() - good.len()..], &good, "{broken:?}");
    }
}

#[test]
fn a_frame_without_bytes_changes_nothing() {
    let good = request(&[0x41, 1, b'/']);
    let fixed = request(&[0x41, 1, b'a']);
    for empty in [
        frame(HEADERS, END_HEADERS, &[]),
        frame(0, 1, &[]),
        frame(4, 1, &[]),
    ] {
        assert_eq!(
            filtered(&[&empty[..], &good].concat()),
            [&empty[..], &fixed].concat()
        );
    }
    let begun = frame(HEADERS, 0, &[]);
    let ended = frame(CONTINUATION, END_HEADERS, &[0x41, 1, b'/']);
    let fixed = frame(CONTINUATION, END_HEADERS, &[0x41, 1, b'a']);
    assert_eq!(
        filtered(&[&begun[..], &ended].concat()),
        [begun, fixed].concat()
    );
}
