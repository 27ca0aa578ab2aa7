//! Every method of every service against every variant of what a browser or a proxy could be made to send.
//!
//! The requests are written byte by byte: no library would send most of them.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::client::Endpoint;
use crate::testing::Served;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const GUARD: Duration = Duration::from_secs(30);

const WORKLOAD: [&str; 7] = [
    "FetchX509SVID",
    "FetchX509Bundles",
    "FetchJWTSVID",
    "FetchJWTBundles",
    "ValidateJWTSVID",
    "FetchWITSVID",
    "FetchWITBundles",
];

const OTHERS: [&str; 7] = [
    "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
    "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
    "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

type Headers = &'static [(&'static str, &'static str)];

/// What is not the header of the standard: exactly one, and exactly `true`.
const WRONG: [Headers; 14] = [
    &[],
    &[("workload.spiffe.io", "True")],
    &[("workload.spiffe.io", "TRUE")],
    &[("workload.spiffe.io", "1")],
    &[("workload.spiffe.io", "")],
    &[("workload.spiffe.io", "true, true")],
    &[("workload.spiffe.io", "truetrue")],
    &[("workload.spiffe.io", "true\0")],
    &[("workload.spiffe.io", "true\r\nworkload.spiffe.io: true")],
    &[
        ("workload.spiffe.io", "true"),
        ("workload.spiffe.io", "true"),
    ],
    &[
        ("workload.spiffe.io", "true"),
        ("workload.spiffe.io", "false"),
    ],
    &[("Workload.SPIFFE.io", "true")],
    &[("workload.spiffe.io-bin", "dHJ1ZQ")],
    &[
        ("x-forwarded-workload.spiffe.io", "true"),
        ("x-forwarded-for", "169.254.169.254"),
    ],
];

/// Besides the right header, these change nothing: no address in a request is believed.
const BESIDE: [Headers; 4] = [
    &[
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "unix"),
    ],
    &[("host", "http://169.254.169.254/latest")],
    &[("forwarded", "for=unix"), ("via", "1.1 proxy")],
    &[("origin", "https://example.com"), ("cookie", "a=b")],
];

/// How a request was answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Answer {
    /// By the gRPC status of a refusal that came at once.
    Refused(u8),
    /// By anything else of a service.
    Heard,
    /// Not by any service: its stream was reset, or its connection closed.
    Cut,
}

fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let length = u8::try_from(text.len()).unwrap();
        assert!(length < 127, "one byte holds the length");
        [&[length], text.as_bytes()].concat()
    };
    [vec![0], text(name), text(value)].concat()
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

/// Calls a method with an empty message.
async fn call(served: &Served, path: &str, headers: &[Headers]) -> Answer {
    let usual: Headers = &[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
    ];
    let grpc: Headers = &[("content-type", "application/grpc"), ("te", "trailers")];
    let mut block = Vec::new();
    for (name, value) in usual.iter().chain(&[(":path", path)]) {
        block.extend(literal(name, value));
    }
    for (name, value) in headers.iter().chain([&grpc]).copied().flatten() {
        block.extend(literal(name, value));
    }
    let request = [PREFACE.to_vec(), frame(1, 4, &block), frame(0, 1, &[0; 5])].concat();
    let mut stream = connect(served).await;
    stream.write_all(&request).await.unwrap();
    tokio::time::timeout(GUARD, answer(&mut stream))
        .await
        .unwrap()
}

async fn connect(served: &Served) -> UnixStream {
    let Endpoint::Unix(path) = &served.endpoint else {
        panic!("it is a Unix socket");
    };
    UnixStream::connect(path).await.unwrap()
}

async fn answer(stream: &mut UnixStream) -> Answer {
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return Answer::Cut;
        }
        let [high, middle, low, kind, _, .., at] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        match (kind, at) {
            (1, 1) => {
                let mut decoder = fluke_hpack::Decoder::new();
                let headers = decoder.decode(&payload).unwrap();
                let status = headers.iter().find(|(name, _)| name == b"grpc-status");
                return status.map_or(Answer::Heard, |(_, code)| {
                    Answer::Refused(std::str::from_utf8(code).unwrap().parse().unwrap())
                });
            }
            (3, 1) | (7, _) => return Answer::Cut,
            _ => {}
        }
    }
}

const INVALID_ARGUMENT: u8 = 3;

#[tokio::test]
async fn no_method_of_the_workload_api_hears_a_request_without_exactly_the_header() {
    let served = Served::start();
    served
        .source
        .publish(vec![served.pki.identity("a", "/a", "", 1)]);
    for method in WORKLOAD {
        let path = format!("/SpiffeWorkloadAPI/{method}");
        for wrong in WRONG {
            for beside in BESIDE.into_iter().chain([&[][..]]) {
                let answer = call(&served, &path, &[wrong, beside]).await;
                let is_refused = matches!(answer, Answer::Refused(INVALID_ARGUMENT) | Answer::Cut);
                assert!(is_refused, "{method} {wrong:?} {beside:?}: {answer:?}");
            }
        }
    }
    assert_eq!(served.source.attestations(), 0);
}

#[tokio::test]
async fn with_exactly_the_header_no_other_changes_the_answer() {
    let served = Served::start();
    served
        .source
        .publish(vec![served.pki.identity("a", "/a", "", 1)]);
    let right: Headers = &[("workload.spiffe.io", "true")];
    for method in WORKLOAD {
        let path = format!("/SpiffeWorkloadAPI/{method}");
        let expected = call(&served, &path, &[right]).await;
        assert_ne!(expected, Answer::Cut);
        for beside in BESIDE {
            let answer = call(&served, &path, &[right, beside]).await;
            assert_eq!(answer, expected, "{method} {beside:?}");
        }
    }
}

/// SPIRE asks no header of Envoy, so neither do we. Health and reflection tell nobody anything secret;
/// secret discovery attests its caller as the Workload API does, and believes nothing else that is said.
#[tokio::test]
async fn the_other_services_answer_the_same_whatever_header_comes_along() {
    let served = Served::start();
    served
        .source
        .publish(vec![served.pki.identity("a", "/a", "", 1)]);
    for path in OTHERS {
        let expected = call(&served, path, &[]).await;
        assert_ne!(expected, Answer::Cut, "{path}");
        let before = served.source.attestations();
        let mut heard = 0;
        for headers in WRONG.into_iter().chain(BESIDE) {
            match call(&served, path, &[headers]).await {
                // What is no header of HTTP/2 at all never comes to a service.
                Answer::Cut => {}
                answer => {
                    heard += 1;
                    assert_eq!(answer, expected, "{path} {headers:?}");
                }
            }
        }
        let attested = served.source.attestations() - before;
        let is_sds = path.contains("SecretDiscovery");
        assert_eq!(attested, if is_sds { heard } else { 0 }, "{path}");
    }
}

#[tokio::test]
async fn http_1_is_closed_unheard_whatever_it_asks_for() {
    let served = Served::start();
    for text in [
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST /SpiffeWorkloadAPI/FetchX509SVID HTTP/1.1\r\nHost: http://169.254.169.254\r\nworkload.spiffe.io: true\r\ncontent-type: application/grpc\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nworkload.spiffe.io: true\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\nworkload.spiffe.io: true\r\n\r\n",
    ] {
        let mut stream = connect(&served).await;
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        // A server that closes with bytes unread resets, which says the same.
        let _ = tokio::time::timeout(GUARD, stream.read_to_end(&mut said))
            .await
            .unwrap();
        assert!(said.is_empty(), "{text}: {said:?}");
    }
    assert_eq!(served.source.attestations(), 0);
}
