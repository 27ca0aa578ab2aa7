//! A workload's first X509-SVID on a new connection, against a tonic server that has nothing to do.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::unistd::getuid;
use prost::Message as _;
use proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use proto::workload::{X509svidRequest, X509svidResponse};
use tests::api::admin_channel;
use tests::domain::Plan;
use tests::peers;
use tests::process::{Process, eventually};
use tests::programs::Make;
use tests::scenarios::wait_for_svid;
use tonic::{Request, Streaming};

use crate::cost::{ROUNDS, median, micros, wall};
use crate::table::{Goal, Row};

const CONNECTIONS: usize = 500;

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let (signet, bare) = against_bare(Make::Signet);
    rows.push(Row::limit(
        "bare tonic: connect, stream, first message, p50",
        micros(bare),
        " us",
    ));
    rows.push(Row {
        name: "FetchX509SVID on a new connection, attested, p50, of bare tonic",
        goal: Goal::AtMost(1.5),
        measured: signet.as_secs_f64() / bare.as_secs_f64(),
        unit: "",
        from: format!("{:.0} us", micros(signet)),
    });
    if peers::folder("spire").is_some() {
        let (spire, _) = against_bare(Make::Spire);
        rows.push(Row::limit(
            "the same from real SPIRE, p50",
            micros(spire),
            " us",
        ));
    }
    rows
}

/// The best p50 of an agent's answer, and of the bare server's, taken in turns.
fn against_bare(make: Make) -> (Duration, Duration) {
    let domain = Plan::new(make)
        .ids_alone()
        .key(r#"log_level = "WARN""#)
        .start();
    let agent = domain.agent_with(make, r#"log_level = "WARN""#);
    let selector = format!("unix:uid:{}", getuid());
    domain.entry(&agent, "/bench", &selector, &[]);
    wait_for_svid(&agent, "/bench");

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    // The bare server says what the agent says, so that both send and the client reads the same.
    let message = domain.folder().join("message");
    let (said, _) = runtime.block_on(fetch(&agent.socket()));
    fs::write(&message, said.encode_to_vec()).unwrap();
    let socket = domain.folder().join("bare.sock");
    let mut program = Command::new(std::env::current_exe().unwrap());
    let _bare = Process::start("bare", program.arg("bare").arg(&socket).arg(&message));
    eventually("the bare server is there", || {
        UnixStream::connect(&socket).is_ok()
    });

    let mut best = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        let (mut agents, mut bares) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            agents.push(runtime.block_on(timed(fetch(&agent.socket()))));
            bares.push(runtime.block_on(timed(fetch(&socket))));
        }
        best = (best.0.min(median(agents)), best.1.min(median(bares)));
    }
    best
}

/// The time to an answer. What closes its connection is done before the next one is timed.
async fn timed<T>(answer: impl Future<Output = T>) -> Duration {
    let start = wall();
    let kept = answer.await;
    let time = start.elapsed();
    drop(kept);
    tokio::time::sleep(Duration::from_millis(1)).await;
    time
}

/// Connects, and waits for the first message of a stream.
pub(crate) async fn fetch(socket: &Path) -> (X509svidResponse, Streaming<X509svidResponse>) {
    let mut client = SpiffeWorkloadApiClient::new(admin_channel(socket).await);
    let mut request = Request::new(X509svidRequest {});
    let header = "true".parse().unwrap();
    request.metadata_mut().insert("workload.spiffe.io", header);
    let mut stream = client.fetch_x509svid(request).await.unwrap().into_inner();
    let message = stream.message().await.unwrap().unwrap();
    assert_eq!(message.svids.len(), 1);
    (message, stream)
}
