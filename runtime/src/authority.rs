//! Makes `:authority` valid on its way to h2.
//!
//! h2 refuses a request whose `:authority` is not a valid one before any of our code runs
//! (hyperium/h2#487), and invalid is what many gRPC clients send for a Unix socket: grpcio a
//! percent-encoded path, grpc-java and the kubelet the raw one. Nobody reads an authority on a Unix
//! socket, so this filter overwrites each literal one with as many letters `a`.
//!
//! It is a machine over single bytes. It follows HTTP/2 frames (RFC 9113, 4.1, 6.2, 6.10) and the
//! representations of HPACK (RFC 7541, 6) within them, holds no bytes, and keeps every count:
//!
//! - The value loses its Huffman bit, for the letters are plain. An encoder uses Huffman coding
//!   only where it is shorter, so h2's entry in the dynamic table is at most as large as the
//!   client's. Entries are evicted by size and the oldest first; so what the client believes to be
//!   in the table always is, at the index where it believes it. A client that codes longer than
//!   plain may find its own table out of step: it harms itself alone, and h2 ends its connection.
//! - Only a name that stands there is seen: by static index 1, or spelled out. A client that names
//!   `:authority` by an index into the dynamic table, though the static one has it, is refused by
//!   h2 as it would be without the filter if what it sends is invalid. So is one whose authority is
//!   empty: there is no byte to overwrite.
//! - Whatever breaks the rules of frames or of HPACK passes untouched from that byte on, because h2
//!   ends such a connection.

mod hpack;

use self::hpack::{Fields, Malformed};

const HEAD_BYTES: u8 = 9;
const PRIORITY_BYTES: u8 = 5;
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const PRIORITY_FRAME: u8 = 0x2;
const SETTINGS: u8 = 0x4;
const PING: u8 = 0x6;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;
/// The flag ACK of SETTINGS and PING, and END_STREAM of DATA.
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// The filter of one connection, from the first byte after the connection preface.
#[derive(Debug, Default)]
pub struct AuthorityFilter {
    place: Place,
    // The header block that waits for its end, across frames.
    block: Option<Fields>,
    // Frames that ask for nothing, since they were last counted.
    idle_frames: u32,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Head {
        seen: u8,
        frame: Frame,
    },
    Payload(Frame),
    /// The connection is malformed; h2 will end it.
    Broken,
}

#[derive(Clone, Copy, Debug, Default)]
struct Frame {
    kind: u8,
    flags: u8,
    // Bytes of the payload that are still to come, padding included.
    left: u32,
    pad_length_due: bool,
    priority_due: u8,
    padding: u32,
}

impl Default for Place {
    fn default() -> Self {
        Self::Head {
            seen: 0,
            frame: Frame::default(),
        }
    }
}

impl AuthorityFilter {
    /// A filter for a connection whose preface has been read.
    pub fn new() -> Self {
        Self::default()
    }

    /// Filters the next bytes of the connection, in place. How they are cut does not matter.
    pub fn apply(&mut self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let step = match self.place {
                Place::Head { seen, frame } => self.head(seen, frame, rest),
                Place::Payload(frame) => self.payload(frame, rest),
                Place::Broken => return,
            };
            let Some((_, next)) = step.ok().and_then(|used| rest.split_at_mut_checked(used)) else {
                self.place = Place::Broken;
                return;
            };
            rest = next;
        }
    }

    /// How many frames came since the last call that ask for nothing and cost work: pings, settings,
    /// priorities, windows, and data without data. A peer that sends many does nothing else.
    pub fn take_idle_frames(&mut self) -> u32 {
        std::mem::take(&mut self.idle_frames)
    }

    /// Takes one byte of a frame's head.
    fn head(&mut self, seen: u8, mut frame: Frame, rest: &[u8]) -> Result<usize, Malformed> {
        let byte = rest.first().copied().ok_or(Malformed)?;
        match seen {
            0..=2 => frame.left = frame.left << 8 | u32::from(byte),
            3 => frame.kind = byte,
            4 => frame.flags = byte,
            // The stream: h2 holds it to the rules, and all streams share one HPACK state.
            _ => {}
        }
        if seen + 1 < HEAD_BYTES {
            self.place = Place::Head {
                seen: seen + 1,
                frame,
            };
        } else {
            self.begin_payload(frame)?;
        }
        Ok(1)
    }

    fn begin_payload(&mut self, mut frame: Frame) -> Result<(), Malformed> {
        self.idle_frames += u32::from(asks_for_nothing(frame));
        match (frame.kind, &self.block) {
            (HEADERS, None) => {
                frame.pad_length_due = frame.flags & PADDED != 0;
                frame.priority_due = if frame.flags & PRIORITY != 0 {
                    PRIORITY_BYTES
                } else {
                    0
                };
                if frame.left < u32::from(frame.pad_length_due) + u32::from(frame.priority_due) {
                    return Err(Malformed);
                }
                self.block = Some(Fields::default());
            }
            (CONTINUATION, Some(_)) => {}
            // RFC 9113, 6.10: nothing may stand between the frames of a header block.
            (CONTINUATION, None) | (_, Some(_)) => return Err(Malformed),
            (_, None) => {}
        }
        self.go_on(frame)
    }

    /// Takes some bytes of a frame's payload.
    fn payload(&mut self, mut frame: Frame, rest: &mut [u8]) -> Result<usize, Malformed> {
        let fragment = frame.left.saturating_sub(frame.padding);
        let used = match &mut self.block {
            Some(_) if frame.pad_length_due => {
                frame.pad_length_due = false;
                frame.padding = u32::from(rest.first().copied().ok_or(Malformed)?);
                // RFC 9113, 6.2: padding is at most what remains for the fragment.
                if frame.padding > frame.left - 1 - u32::from(frame.priority_due) {
                    return Err(Malformed);
                }
                1
            }
            Some(_) if frame.priority_due > 0 => {
                frame.priority_due -= 1;
                1
            }
            Some(fields) if fragment > 0 => {
                let length = at_most(fragment, rest.len());
                rest.iter_mut()
                    .take(length)
                    .try_for_each(|byte| fields.step(byte))?;
                length
            }
            _ => at_most(frame.left, rest.len()),
        };
        frame.left -= u32::try_from(used).ok().ok_or(Malformed)?;
        self.go_on(frame)?;
        Ok(used)
    }

    fn go_on(&mut self, frame: Frame) -> Result<(), Malformed> {
        self.place = if frame.left > 0 {
            Place::Payload(frame)
        } else {
            Place::default()
        };
        if frame.left == 0 && frame.flags & END_HEADERS != 0 && is_header(frame.kind) {
            let ended = self.block.take();
            // RFC 7541, 6: a representation that the end of the block cuts is an error.
            return if ended.is_some_and(|fields| fields.is_between()) {
                Ok(())
            } else {
                Err(Malformed)
            };
        }
        Ok(())
    }
}

fn asks_for_nothing(frame: Frame) -> bool {
    match frame.kind {
        PING | SETTINGS => frame.flags & ACK == 0,
        DATA => frame.left == 0 && frame.flags & ACK == 0,
        PRIORITY_FRAME | WINDOW_UPDATE => true,
        _ => false,
    }
}

fn is_header(kind: u8) -> bool {
    kind == HEADERS || kind == CONTINUATION
}

fn at_most(left: u32, available: usize) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}

#[cfg(test)]
mod tests;
