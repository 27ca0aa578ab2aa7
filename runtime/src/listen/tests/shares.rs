//! Facts about what a peer may have, and what becomes of one that does not read.

use tokio::time::Instant;

use super::super::pace::PAUSE;
use super::client::{Client, Raw};
use super::*;

const RST_STREAM: u8 = 3;
const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

#[tokio::test]
async fn calls_beyond_the_rate_are_refused_before_any_handler_and_with_a_reason() {
    let served = served_on_unix(Limits {
        process: Share::new(64, 256, Rate::new(1, 2)),
        ..patient()
    });
    let first = Client::to(&served).await;
    let second = Client::to(&served).await;
    first.header("Who", "pid").await;
    second.header("Who", "pid").await;
    // A panic of the handler would end the stream without an answer.
    let refused = first.call("Panic").await.unwrap();
    assert_eq!(refused.headers()["grpc-status"], "8");
    let message = refused.headers()["grpc-message"].to_str().unwrap();
    assert!(message.contains("calls%20of%20this%20process"), "{message}");
    assert_eq!(served.metrics.refused_by("process_rate"), 1);
    assert_eq!(served.tasks.contained_panics(), 0);
}

#[tokio::test]
async fn who_was_refused_is_not_heard_for_a_moment_on_this_connection_or_another() {
    let served = served_on_unix(Limits {
        process: Share::new(64, 256, Rate::new(1, 1)),
        ..patient()
    });
    // A slow machine may have a call to give again.
    let refused_late = async |client: &Client, since: Instant| {
        let answer = client.call("Who").await.unwrap();
        let is_refused = answer.headers().contains_key("grpc-status");
        assert!(!is_refused || since.elapsed() >= PAUSE);
    };
    let first = Client::to(&served).await;
    first.header("Who", "pid").await;
    let mut refused = Instant::now();
    while served.metrics.refused_by("process_rate") == 0 {
        // The moment begins with the refusal, which comes after this.
        refused = Instant::now();
        first.call("Who").await.unwrap();
    }
    refused_late(&first, refused).await;
    let connected = Instant::now();
    refused_late(&Client::to(&served).await, connected).await;
}

#[tokio::test]
async fn a_caller_is_counted_for_its_container_if_it_is_in_one() {
    let containers = Containers::found_by(|peer| {
        assert_eq!(peer.pid(), std::process::id());
        Some(ContainerKey::of("the only one"))
    });
    let served = served_on_unix(Limits {
        container: Share::new(1, 256, Rate::new(1, 1)),
        user: Share::new(0, 0, Rate::UNLIMITED),
        containers,
        ..patient()
    });
    let client = Client::to(&served).await;
    client.header("Who", "pid").await;
    assert_eq!(client.header("Who", "grpc-status").await, "8");
    assert_eq!(served.metrics.refused_by("container_rate"), 1);
    let mut second = Raw::to(&served).await;
    assert_eq!(second.until_closed().await, b"");
    assert_eq!(served.metrics.ended_by("container_full"), 1);
}

#[tokio::test]
async fn a_stream_without_window_is_reset_while_its_connection_goes_on() {
    let served = served_on_unix(Limits {
        write: Duration::from_millis(20),
        ..patient()
    });
    let mut client = Raw::to(&served).await;
    client.send(client::PREFACE).await;
    // SETTINGS with an initial window of no bytes.
    client
        .send(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0])
        .await;
    client.request_for(1, "Talk").await;
    let reset = async { while client.answer(1).await.0 != RST_STREAM {} };
    tokio::time::timeout(GUARD, reset).await.unwrap();
    assert_eq!(served.metrics.refused_by("not_read"), 1);
    client.request_for(3, "Who").await;
    client.answer(3).await;
}

#[tokio::test]
async fn a_stream_with_window_that_waits_for_news_is_let_be() {
    let mut served = served_on_unix(Limits {
        write: Duration::from_millis(1),
        ..patient()
    });
    let client = Client::to(&served).await;
    let _waiting = client.call("Hang").await.unwrap();
    served.until_hanging(1).await;
    for _ in 0..200 {
        client.header("Who", "pid").await;
    }
    assert_eq!(*served.hanging.borrow(), 1);
    assert_eq!(served.metrics.refused_by("not_read"), 0);
}

#[tokio::test]
async fn a_connection_whose_peer_reads_nothing_at_all_is_closed() {
    let served = served_on_unix(Limits {
        write: Duration::from_millis(50),
        idle_frames: Rate::UNLIMITED,
        ..patient()
    });
    let mut client = Raw::to(&served).await;
    client.begin().await;
    // Pings are answered, and nobody reads the answers: the socket fills.
    let pings = PING.repeat(1000);
    let flood = async {
        while tokio::io::AsyncWriteExt::write_all(&mut client.0, &pings)
            .await
            .is_ok()
        {}
    };
    tokio::time::timeout(GUARD, flood).await.unwrap();
    served.until_closed().await;
    assert_eq!(served.metrics.ended_by("not_read"), 1);
}

#[tokio::test]
async fn a_flood_of_frames_that_ask_for_nothing_ends_its_connection_and_costs_calls() {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const EMPTY_DATA: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 1];
    for frame in [&PING[..], SETTINGS, EMPTY_DATA] {
        let served = served_on_unix(Limits {
            idle_frames: Rate::new(1, 100),
            process: Share::new(64, 256, Rate::new(1, 50)),
            ..patient()
        });
        let mut client = Raw::to(&served).await;
        client.begin().await;
        client.request_for(1, "Who").await;
        client.answer(1).await;
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.0, &frame.repeat(200)).await;
        client.until_closed().await;
        served.until_closed().await;
        assert_eq!(served.metrics.ended_by("broke_rules"), 1, "{frame:?}");
        // The fine is more than the process has.
        let mut again = Raw::to(&served).await;
        assert_eq!(again.until_closed().await, b"");
        assert_eq!(served.metrics.ended_by("process_fined"), 1);
    }
}
