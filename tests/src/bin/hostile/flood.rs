//! What one process can throw at a socket, written byte by byte: no client library would do it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::time::ClockId;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// SETTINGS with an initial window of no bytes.
const NO_WINDOW: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
const PATH: &str = "/SpiffeWorkloadAPI/FetchX509SVID";

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

/// Opens streams until there are so many or no more are taken, over as many connections as it gets, and
/// holds them until its input ends. Prints how many were answered, and how many refused.
pub(crate) fn streams(socket: &str, count: u32) {
    let mut lines = Vec::new();
    for _ in 0..count.div_ceil(256).max(64) {
        lines.extend(Line::open(socket, SETTINGS));
    }
    for number in 0..count {
        let at = usize::try_from(number).unwrap() % lines.len();
        lines[at].request(PATH, true);
    }
    let (mut answered, mut refused) = (0, 0);
    let mut quiet = 0;
    while quiet < 20 {
        let before = answered + refused;
        for line in &mut lines {
            for (kind, flags) in line.frames() {
                answered += u32::from(kind == HEADERS && flags & END_STREAM == 0);
                refused +=
                    u32::from(kind == RST_STREAM || kind == HEADERS && flags & END_STREAM != 0);
            }
        }
        quiet = if answered + refused == before {
            quiet + 1
        } else {
            0
        };
        std::thread::sleep(Duration::from_millis(50));
    }
    println!(
        "connections={} answered={answered} refused={refused}",
        lines.len()
    );
    drop(std::io::stdin().read(&mut [0; 1]));
}

/// Connects as often as it can and says `said`, then a byte of it each second. Prints after how many
/// seconds the first and the last connection were closed, or that they are open after `patience`.
pub(crate) fn silent(socket: &str, said: &[u8], drip: &[u8], patience: Duration) {
    let start = now();
    let mut lines: Vec<_> = (0..128).filter_map(|_| Line::connect(socket)).collect();
    let mut ends = Vec::new();
    let mut drip = drip.iter();
    lines.retain_mut(|line| line.send(said));
    while !lines.is_empty() && now() - start < patience {
        std::thread::sleep(Duration::from_secs(1));
        let byte = drip.next().map(std::slice::from_ref).unwrap_or_default();
        lines.retain_mut(|line| {
            line.frames();
            let open = line.is_open && (byte.is_empty() || line.send(byte));
            if !open {
                ends.push((now() - start).as_secs());
            }
            open
        });
    }
    let at_once = ends.iter().filter(|end| **end <= 1).count();
    println!(
        "open={} at_once={at_once} last={}",
        lines.len(),
        ends.last().copied().unwrap_or_default()
    );
}

/// What is sent without end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flood {
    Resets,
    Continuation,
    Pings,
    Settings,
    EmptyData,
    Bomb,
    /// Calls without the security header, each answered by a refusal.
    BadCalls,
    /// Whole calls.
    Calls,
}

impl Flood {
    pub(crate) fn parse(word: &str) -> Self {
        match word {
            "resets" => Self::Resets,
            "continuation" => Self::Continuation,
            "pings" => Self::Pings,
            "settings" => Self::Settings,
            "empty-data" => Self::EmptyData,
            "bomb" => Self::Bomb,
            "bad-calls" => Self::BadCalls,
            "calls" => Self::Calls,
            _ => panic!("unknown flood {word}"),
        }
    }

    /// Sends as fast as the other side takes it, and connects again whenever it is cut off. Prints how
    /// often it was, and how much it sent.
    pub(crate) fn run(self, socket: &str, time: Duration) {
        let (mut cut, mut sent, mut calls) = (0_u64, 0_u64, 0_u64);
        let start = now();
        while now() - start < time {
            let Some(mut line) = Line::open(socket, SETTINGS) else {
                cut += 1;
                continue;
            };
            if matches!(self, Self::EmptyData) {
                line.request(PATH, false);
            }
            if matches!(self, Self::Continuation) {
                line.send(&frame(HEADERS, 0, 1, &[0x83]));
            }
            while line.is_open && now() - start < time {
                // More streams than a connection may have would break the rules, and be another attack.
                if self.is_calls() && line.open_streams() > 100 {
                    line.frames();
                    continue;
                }
                let chunk = self.chunk(&mut line);
                sent += u64::try_from(chunk.len()).unwrap();
                line.send(&chunk);
                line.frames();
            }
            cut += u64::from(!line.is_open);
            calls += u64::from(line.ended_streams);
        }
        println!("cut={cut} sent={sent} answers={calls}");
    }

    fn is_calls(self) -> bool {
        matches!(self, Self::BadCalls | Self::Calls)
    }

    fn chunk(self, line: &mut Line) -> Vec<u8> {
        let many = 0..64;
        match self {
            Self::Resets => many
                .flat_map(|_| {
                    let stream = line.next_stream();
                    let reset = frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
                    [request_frame(stream, PATH, true), reset].concat()
                })
                .collect(),
            Self::Continuation => many
                .flat_map(|_| frame(9, 0, 1, b"\x00\x01x\x01y"))
                .collect(),
            Self::Pings => many.flat_map(|_| frame(6, 0, 0, &[7; 8])).collect(),
            Self::Settings => many.flat_map(|_| SETTINGS.to_vec()).collect(),
            Self::EmptyData => many.flat_map(|_| frame(0, 0, 1, &[])).collect(),
            Self::Bomb => {
                let entry = [&b"\x40\x01x\x7f\x81\x07"[..], &[b'y'; 1024]].concat();
                let block = [&[0x83, 0x86, 0x84][..], &entry, &[0xbe; 10_000]].concat();
                frame(HEADERS, 5, line.next_stream(), &block)
            }
            Self::BadCalls => {
                let stream = line.next_stream();
                // Distinct each time: nothing of it may become a series of a metric or a line of the log.
                request_frame(stream, &format!("/SpiffeWorkloadAPI/Call{stream}"), true)
            }
            Self::Calls => {
                let stream = line.next_stream();
                let call = request_frame(stream, "/SpiffeWorkloadAPI/ValidateJWTSVID", false);
                // An audience and a token, neither of which is any good.
                let message = b"\0\0\0\0\x06\x0a\x01a\x12\x01x";
                [call, frame(0, END_STREAM, stream, message)].concat()
            }
        }
    }
}

/// Opens streams that it gives no window, and answers every ping. Prints how many were reset, when all
/// were or after `patience`.
pub(crate) fn unread(socket: &str, patience: Duration) {
    let mut line = Line::open(socket, NO_WINDOW).expect("a connection");
    let streams = 200;
    for _ in 0..streams {
        line.request(PATH, true);
    }
    let (start, mut reset) = (now(), 0);
    while reset < streams && line.is_open && now() - start < patience {
        let frames = line.frames();
        reset += frames
            .iter()
            .filter(|(kind, _)| *kind == RST_STREAM)
            .count();
        std::thread::sleep(Duration::from_millis(20));
    }
    println!(
        "streams={streams} reset={reset} open={} seconds={}",
        line.is_open,
        (now() - start).as_secs()
    );
    drop(std::io::stdin().read(&mut [0; 1]));
}

/// One connection.
struct Line {
    stream: UnixStream,
    is_open: bool,
    unread: Vec<u8>,
    last_stream: u32,
    ended_streams: u32,
}

impl Line {
    fn connect(socket: &str) -> Option<Self> {
        let stream = UnixStream::connect(socket).ok()?;
        let timeout = Some(Duration::from_millis(200));
        stream.set_write_timeout(timeout).ok()?;
        Some(Self {
            stream,
            is_open: true,
            unread: Vec::new(),
            last_stream: 0,
            ended_streams: 0,
        })
    }

    fn open(socket: &str, settings: &[u8]) -> Option<Self> {
        let mut line = Self::connect(socket)?;
        (line.send(PREFACE) && line.send(settings)).then_some(line)
    }

    /// False if the connection is closed. What the other side does not take in time is lost.
    fn send(&mut self, bytes: &[u8]) -> bool {
        match self.stream.write_all(bytes) {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => self.is_open = false,
            Ok(()) | Err(_) => {}
        }
        self.is_open
    }

    fn next_stream(&mut self) -> u32 {
        self.last_stream = if self.last_stream == 0 {
            1
        } else {
            self.last_stream + 2
        };
        self.last_stream
    }

    fn open_streams(&self) -> u32 {
        self.last_stream.div_ceil(2) - self.ended_streams
    }

    fn request(&mut self, path: &str, whole: bool) {
        let stream = self.next_stream();
        let headers = request_frame(stream, path, false);
        let message = frame(0, END_STREAM, stream, &[0; 5]);
        let message = if whole { message } else { Vec::new() };
        self.send(&[headers, message].concat());
    }

    /// What has come: the kind and the flags of each frame. Pings are answered.
    fn frames(&mut self) -> Vec<(u8, u8)> {
        self.stream.set_nonblocking(true).unwrap();
        let mut bytes = [0; 64 << 10];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => self.is_open = false,
                Ok(read) => {
                    self.unread.extend(&bytes[..read]);
                    continue;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => self.is_open = false,
            }
            break;
        }
        self.stream.set_nonblocking(false).unwrap();
        let mut frames = Vec::new();
        let mut pongs = Vec::new();
        let mut at = 0;
        while let Some([high, middle, low, kind, flags, ..]) = self.unread.get(at..at + 9) {
            let length = u32::from_be_bytes([0, *high, *middle, *low]);
            let end = at + 9 + usize::try_from(length).unwrap();
            let Some(payload) = self.unread.get(at + 9..end) else {
                break;
            };
            frames.push((*kind, *flags));
            let ends = *kind == RST_STREAM || *kind == HEADERS && flags & END_STREAM != 0;
            self.ended_streams += u32::from(ends);
            if *kind == 6 && flags & 1 == 0 {
                pongs.extend(frame(6, 1, 0, payload));
            }
            at = end;
        }
        self.unread.drain(..at);
        if !pongs.is_empty() {
            self.send(&pongs);
        }
        frames
    }
}

fn request_frame(stream: u32, path: &str, ends: bool) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    // `:method POST`, `:scheme http`, and literals.
    let mut block = [
        &[0x83, 0x86, 0x04, length][..],
        path.as_bytes(),
        b"\x41\x01/",
    ]
    .concat();
    for (name, value) in [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("workload.spiffe.io", "true"),
    ] {
        let [name_length, value_length] =
            [name, value].map(|text| u8::try_from(text.len()).unwrap());
        block.extend([0, name_length]);
        block.extend(name.as_bytes());
        block.push(value_length);
        block.extend(value.as_bytes());
    }
    frame(HEADERS, 4 | u8::from(ends), stream, &block)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [
        &[high, middle, low, kind, flags][..],
        &stream.to_be_bytes(),
        payload,
    ]
    .concat()
}

fn now() -> Duration {
    Duration::from(ClockId::CLOCK_MONOTONIC.now().unwrap())
}
