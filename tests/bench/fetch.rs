//! A workload's first X509-SVID, and a JWT-SVID that the agent has, against a tonic server that has nothing to do.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::unistd::getuid;
use proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use proto::workload::{JwtsvidRequest, JwtsvidResponse, X509svidResponse};
use tests::api::admin_channel;
use tests::domain::Plan;
use tests::peers;
use tests::process::{Process, eventually};
use tests::programs::Make;
use tests::scenarios::wait_for_svid;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use crate::bare::Said;
use crate::cost::{ROUNDS, median, micros, wall};
use crate::push::open;
use crate::table::{Goal, Row};

const CALLS: usize = 500;

/// How much faster than real SPIRE's agent.
const FASTER: f64 = 5.0;
/// How much slower than a server that has nothing to do.
const SLOWER: f64 = 1.5;

pub(crate) fn rows() -> Vec<Row> {
    let signet = against_bare(Make::Signet);
    let spire = peers::folder("spire").map(|_| against_bare(Make::Spire));
    let mut rows = Vec::new();
    for (at, what) in KINDS.iter().enumerate() {
        let (ours, bare) = signet[at];
        rows.push(Row::limit(what.bare, micros(bare), " us"));
        rows.push(Row {
            name: what.ours,
            goal: Goal::AtMost(SLOWER),
            measured: ours.as_secs_f64() / bare.as_secs_f64(),
            unit: "",
            from: format!("{:.0} us", micros(ours)),
        });
        if let Some(spire) = &spire {
            let (spire, _) = spire[at];
            rows.push(Row {
                name: "times faster than real SPIRE's agent",
                goal: Goal::AtLeast(FASTER),
                measured: spire.as_secs_f64() / ours.as_secs_f64(),
                unit: "",
                from: format!("{:.0} us", micros(spire)),
            });
        }
    }
    rows
}

struct Kind {
    bare: &'static str,
    ours: &'static str,
}

const KINDS: [Kind; 3] = [
    Kind {
        bare: "bare tonic: connect, stream, first message, p50",
        ours: "FetchX509SVID on a new connection, attested, p50, of bare tonic",
    },
    Kind {
        bare: "bare tonic: connect, one call, p50",
        ours: "cached JWT-SVID on a new connection, attested, p50, of bare tonic",
    },
    Kind {
        bare: "bare tonic: one call on an open connection, p50",
        ours: "cached JWT-SVID on an open connection, attested for the call, p50, of bare tonic",
    },
];

/// The best p50 of an agent's answers, and of the bare server's, taken in turns; for each kind.
fn against_bare(make: Make) -> [(Duration, Duration); KINDS.len()] {
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
    let said = Said {
        x509: runtime.block_on(fetch(&agent.socket())).0,
        jwt: runtime.block_on(fetch_jwt(&agent.socket())).0,
    };
    said.write(domain.folder());
    let socket = domain.folder().join("bare.sock");
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.arg("bare").arg(&socket).arg(domain.folder());
    let _bare = Process::start("bare", &mut program);
    eventually("the bare server is there", || {
        UnixStream::connect(&socket).is_ok()
    });
    let sockets = [agent.socket(), socket];
    let x509 = runtime.block_on(in_turns(async |at: usize| timed(fetch(&sockets[at])).await));
    let jwt = runtime.block_on(in_turns(async |at: usize| {
        timed(fetch_jwt(&sockets[at])).await
    }));
    let open = runtime.block_on(async {
        let ours = admin_channel(&sockets[0]).await;
        let channels = [ours, admin_channel(&sockets[1]).await];
        in_turns(async |at: usize| timed(call_jwt(channels[at].clone())).await).await
    });
    [x509, jwt, open]
}

/// The best p50 of the first and of the second.
async fn in_turns(call: impl AsyncFn(usize) -> Duration) -> (Duration, Duration) {
    let mut best = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        let (mut agents, mut bares) = (Vec::new(), Vec::new());
        for _ in 0..CALLS {
            agents.push(call(0).await);
            bares.push(call(1).await);
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
    let mut stream = open(socket).await;
    let message = stream.message().await.unwrap().unwrap();
    assert_eq!(message.svids.len(), 1);
    (message, stream)
}

/// Connects, and has a JWT-SVID.
async fn fetch_jwt(socket: &Path) -> (JwtsvidResponse, Channel) {
    let channel = admin_channel(socket).await;
    (call_jwt(channel.clone()).await, channel)
}

async fn call_jwt(channel: Channel) -> JwtsvidResponse {
    let mut request = Request::new(JwtsvidRequest {
        audience: vec!["bench".to_owned()],
        ..Default::default()
    });
    let header = "true".parse().unwrap();
    request.metadata_mut().insert("workload.spiffe.io", header);
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let response = client.fetch_jwtsvid(request).await.unwrap().into_inner();
    assert_eq!(response.svids.len(), 1);
    response
}
