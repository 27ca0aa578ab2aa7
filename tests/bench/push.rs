//! From the acknowledgement of a new entry to its X509-SVID on a stream that is open.

use std::time::Duration;

use nix::unistd::getuid;
use proto::spire::server::entry::entry_client::EntryClient;
use proto::spire::server::entry::{BatchCreateEntryRequest, BatchDeleteEntryRequest};
use proto::spire::types;
use proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use proto::workload::{X509svidRequest, X509svidResponse};
use tests::api::admin_channel;
use tests::domain::Plan;
use tests::peers;
use tests::programs::Make;
use tests::scenarios::wait_for_svid;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use crate::cost::{median, wall};
use crate::table::{Goal, Row};

/// Entries that are created, and deleted again, one after the other.
const WRITES: usize = 200;
/// Real SPIRE takes seconds for each.
const SPIRE_WRITES: usize = 8;

pub(crate) fn rows() -> Vec<Row> {
    let signet = Delays::of(Make::Signet, WRITES);
    let mut rows = vec![
        Row {
            name: "entry acknowledged to SVID on the stream, one agent, p99",
            goal: Goal::AtMost(50.0),
            measured: millis(p99(&signet.created)),
            unit: " ms",
            from: told(&signet.created),
        },
        Row {
            name: "deletion acknowledged to SVID gone from the stream, one agent, p99",
            goal: Goal::AtMost(50.0),
            measured: millis(p99(&signet.deleted)),
            unit: " ms",
            from: told(&signet.deleted),
        },
    ];
    if peers::folder("spire").is_some() {
        let spire = Delays::of(Make::Spire, SPIRE_WRITES);
        let mut created = Row::limit(
            "the same from real SPIRE, an entry, p50",
            millis(median(spire.created.clone())),
            " ms",
        );
        created.from = told(&spire.created);
        let mut deleted = Row::limit(
            "the same from real SPIRE, a deletion, p50",
            millis(median(spire.deleted.clone())),
            " ms",
        );
        deleted.from = told(&spire.deleted);
        rows.extend([created, deleted]);
    }
    rows
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn p99(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = (times.len() * 99).div_ceil(100).saturating_sub(1);
    times.get(at).copied().unwrap()
}

fn told(times: &[Duration]) -> String {
    let longest = times.iter().max().copied().unwrap();
    format!(
        "{} writes, p50 {:.1} ms, most {:.1} ms",
        times.len(),
        millis(median(times.to_vec())),
        millis(longest)
    )
}

/// How long each write took to be seen.
struct Delays {
    created: Vec<Duration>,
    deleted: Vec<Duration>,
}

impl Delays {
    /// A stream has one identity all the time, and a second that comes and goes.
    fn of(make: Make, writes: usize) -> Self {
        let domain = Plan::new(make)
            .ids_alone()
            .key(r#"log_level = "WARN""#)
            .start();
        let agent = domain.agent_with(make, r#"log_level = "WARN""#);
        let selector = format!("unix:uid:{}", getuid());
        domain.entry(&agent, "/bench", &selector, &[]);
        wait_for_svid(&agent, "/bench");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut entries = EntryClient::new(admin_channel(&domain.server_socket()).await);
            let mut stream = open(admin_channel(&agent.socket()).await).await;
            assert_eq!(svids(&mut stream).await, 1);
            let (mut created, mut deleted) = (Vec::new(), Vec::new());
            for write in 0..writes {
                let id = create(&mut entries, &agent.id, write).await;
                created.push(until(&mut stream, 2).await);
                delete(&mut entries, id).await;
                deleted.push(until(&mut stream, 1).await);
            }
            Self { created, deleted }
        })
    }
}

async fn open(channel: Channel) -> Streaming<X509svidResponse> {
    let mut request = Request::new(X509svidRequest {});
    let header = "true".parse().unwrap();
    request.metadata_mut().insert("workload.spiffe.io", header);
    let mut client = SpiffeWorkloadApiClient::new(channel);
    client.fetch_x509svid(request).await.unwrap().into_inner()
}

async fn svids(stream: &mut Streaming<X509svidResponse>) -> usize {
    stream.message().await.unwrap().unwrap().svids.len()
}

/// The time until the stream has shown so many SVIDs.
async fn until(stream: &mut Streaming<X509svidResponse>, count: usize) -> Duration {
    let start = wall();
    while svids(stream).await != count {}
    start.elapsed()
}

async fn create(entries: &mut EntryClient<Channel>, agent: &str, write: usize) -> String {
    let id = |path: &str| types::Spiffeid {
        trust_domain: "example.org".to_owned(),
        path: path.to_owned(),
    };
    let entry = types::Entry {
        parent_id: Some(id(agent.trim_start_matches("spiffe://example.org"))),
        spiffe_id: Some(id(&format!("/write/{write}"))),
        selectors: vec![types::Selector {
            r#type: "unix".to_owned(),
            value: format!("uid:{}", getuid()),
        }],
        ..Default::default()
    };
    let request = BatchCreateEntryRequest {
        entries: vec![entry],
        output_mask: None,
    };
    let response = entries.batch_create_entry(request).await.unwrap();
    let result = response.into_inner().results.remove(0);
    assert_eq!(result.status.unwrap().code, 0);
    result.entry.unwrap().id
}

async fn delete(entries: &mut EntryClient<Channel>, id: String) {
    let request = BatchDeleteEntryRequest { ids: vec![id] };
    let response = entries.batch_delete_entry(request).await.unwrap();
    let result = response.into_inner().results.remove(0);
    assert_eq!(result.status.unwrap().code, 0);
}
