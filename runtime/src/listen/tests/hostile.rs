//! Facts about peers that mean harm.

use super::client::{Client, PREFACE, Raw, request_frame};
use super::*;

const GOAWAY: u8 = 7;

/// RST_STREAM with CANCEL.
fn reset(stream: u8) -> Vec<u8> {
    vec![0, 0, 4, 3, 0, 0, 0, 0, stream, 0, 0, 0, 8]
}

/// A HEADERS frame whose block is these bytes.
fn headers(flags: u8, stream: u8, block: &[u8]) -> Vec<u8> {
    frame(1, flags, stream, block)
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [
        &[high, middle, low, kind, flags, 0, 0, 0, stream][..],
        payload,
    ]
    .concat()
}

/// The kinds of the frames in what a server has said.
fn kinds(mut said: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let Some((head, rest)) = said.split_at_checked(9) {
        kinds.push(head[3]);
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        said = rest.get(length..).unwrap_or_default();
    }
    kinds
}

/// Sends bytes that must end the connection, while another client is served.
async fn ends_alone(limits: Limits, bytes: Vec<u8>) -> Vec<u8> {
    let served = served_on_unix(limits);
    let neighbor = Client::to(&served).await;
    neighbor.header("Who", "pid").await;
    let mut client = Raw::to(&served).await;
    client.begin().await;
    // The server may close in the middle of it.
    let _ = tokio::io::AsyncWriteExt::write_all(&mut client.0, &bytes).await;
    let said = client.until_closed().await;
    neighbor.header("Who", "pid").await;
    assert_eq!(served.tasks.contained_panics(), 0);
    said
}

#[tokio::test]
async fn rapid_resets_end_their_connection() {
    let storm: Vec<u8> = (1..=255_u8)
        .step_by(2)
        .flat_map(|stream| [request_frame(stream, "Think", b"\x41\x01/"), reset(stream)].concat())
        .collect();
    let said = ends_alone(patient(), storm).await;
    assert!(kinds(&said).contains(&GOAWAY));
}

#[tokio::test]
async fn a_header_block_without_end_ends_its_connection() {
    let mut flood = headers(0x01, 1, &[0x83]);
    for _ in 0..10_000 {
        flood.extend(frame(9, 0, 1, b"\x00\x01x\x01y"));
    }
    ends_alone(patient(), flood).await;
}

#[tokio::test]
async fn a_header_bomb_ends_its_connection() {
    // One large entry of the table, named again and again.
    let entry = [&b"\x40\x01x\x7f\x81\x07"[..], &[b'y'; 1024]].concat();
    let block = [&[0x83, 0x86, 0x84][..], &entry, &[0xbe; 10_000]].concat();
    let said = ends_alone(patient(), headers(0x05, 1, &block)).await;
    assert!(kinds(&said).contains(&GOAWAY));
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_let_go() {
    let short = Duration::from_millis(5);
    let mut served = served_on_unix(Limits {
        keepalive: short,
        keepalive_timeout: short,
        ..patient()
    });
    let mut client = Raw::to(&served).await;
    client.begin().await;
    client.request_for(1, "Hang").await;
    served.until_hanging(1).await;
    client.until_closed().await;
    served.until_hanging(0).await;
    served.until_closed().await;
    assert_eq!(served.metrics.ended_by("failed"), 1);
}

#[tokio::test]
async fn bytes_that_are_no_frames_end_their_connection() {
    for bytes in [
        vec![0xff; 64],
        PREFACE.to_vec(),
        frame(9, 4, 1, &[]),
        frame(1, 5, 0, &[0x83]),
    ] {
        ends_alone(patient(), bytes).await;
    }
}
