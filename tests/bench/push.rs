//! From the acknowledgement of a write to its effect on a workload's open stream: one agent.

use std::path::Path;
use std::time::Duration;

use nix::unistd::getuid;
use proto::workload::X509svidResponse;
use tests::api::admin_channel;
use tests::domain::{Agent, Plan};
use tests::peers;
use tests::programs::Make;
use tests::scenarios::wait_for_svid;
use tests::workload::open_x509;
use tonic::Streaming;

use crate::admin::{Admin, NewEntry};
use crate::cost::{Delays, millis, wall};
use crate::table::{Goal, Row};

/// Entries that are created, and deleted again, one after the other.
const WRITES: usize = 200;
/// Real SPIRE takes seconds for each.
const SPIRE_WRITES: usize = 8;
/// Each ban takes an agent.
const BANS: usize = 10;

pub(crate) fn rows() -> Vec<Row> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let signet = runtime.block_on(Seen::of(Make::Signet, WRITES, BANS));
    let at_most = |name, delays: &Delays, what| Row {
        name,
        goal: Goal::AtMost(50.0),
        measured: millis(delays.p99()),
        unit: " ms",
        from: delays.told(what),
    };
    let mut rows = vec![
        at_most(
            "entry acknowledged to SVID on the stream, one agent, p99",
            &signet.created,
            "writes",
        ),
        at_most(
            "deletion acknowledged to SVID gone from the stream, one agent, p99",
            &signet.deleted,
            "writes",
        ),
        at_most(
            "ban acknowledged to the end of the stream, one agent, p99",
            &signet.banned,
            "bans",
        ),
    ];
    if peers::folder("spire").is_some() {
        let spire = runtime.block_on(Seen::of(Make::Spire, SPIRE_WRITES, 0));
        let limit = |name, delays: &Delays| Row {
            from: delays.told("writes"),
            ..Row::limit(name, millis(delays.p50()), " ms")
        };
        rows.push(limit(
            "the same from real SPIRE, an entry, p50",
            &spire.created,
        ));
        rows.push(limit(
            "the same from real SPIRE, a deletion, p50",
            &spire.deleted,
        ));
    }
    rows
}

/// How long each write took to be seen.
#[derive(Default)]
struct Seen {
    created: Delays,
    deleted: Delays,
    banned: Delays,
}

impl Seen {
    /// A stream has one identity all the time, and a second that comes and goes.
    async fn of(make: Make, writes: usize, bans: usize) -> Self {
        let domain = Plan::new(make)
            .ids_alone()
            .key(r#"log_level = "WARN""#)
            .start();
        let selector = format!("unix:uid:{}", getuid());
        let begin = || {
            let agent = domain.agent_with(make, r#"log_level = "WARN""#);
            domain.entry(&agent, "/bench", &selector, &[]);
            wait_for_svid(&agent, "/bench");
            agent
        };
        let admin = Admin::of(&domain).await;
        let mut seen = Self::default();
        let agent = begin();
        seen.see_writes(&admin, &agent, writes).await;
        for _ in 0..bans {
            let agent = begin();
            let mut stream = open(&agent.socket()).await;
            assert_eq!(svids(&mut stream).await, 1);
            admin.ban(&agent.id).await;
            let start = wall();
            while let Ok(Some(_)) = stream.message().await {}
            seen.banned.see(start.elapsed());
        }
        seen
    }

    async fn see_writes(&mut self, admin: &Admin, agent: &Agent, writes: usize) {
        let mut stream = open(&agent.socket()).await;
        assert_eq!(svids(&mut stream).await, 1);
        for write in 0..writes {
            let entry = NewEntry {
                parent: &agent.id,
                path: format!("/write/{write}"),
                selector: ("unix", format!("uid:{}", getuid())),
            };
            let id = admin.create(entry).await;
            self.created.see(until(&mut stream, 2).await);
            admin.delete(id).await;
            self.deleted.see(until(&mut stream, 1).await);
        }
    }
}

pub(crate) async fn open(socket: &Path) -> Streaming<X509svidResponse> {
    open_x509(admin_channel(socket).await).await.unwrap()
}

pub(crate) async fn svids(stream: &mut Streaming<X509svidResponse>) -> usize {
    stream.message().await.unwrap().unwrap().svids.len()
}

/// The time until the stream has shown so many SVIDs.
pub(crate) async fn until(stream: &mut Streaming<X509svidResponse>, count: usize) -> Duration {
    let start = wall();
    while svids(stream).await != count {}
    start.elapsed()
}
