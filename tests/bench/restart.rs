//! An agent that is killed and starts again: how long its workloads have no SVID. And what an SVID that it keeps costs.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::unistd::getuid;
use tests::domain::{Agent, Domain, Plan};
use tests::peers;
use tests::process::eventually;
use tests::programs::Make;
use tests::scenarios::wait_for_svid;
use tokio::runtime::Runtime;

use crate::admin::{Admin, NewEntry};
use crate::cost::{Delays, millis, pause, wall};
use crate::fetch::fetch;
use crate::meter::Meter;
use crate::table::{Goal, Row};

const ENTRIES: u32 = 1_000;
const RESTARTS: usize = 10;
const SPIRE_RESTARTS: usize = 3;
/// Nobody is of these ids.
const FIRST_USER: u32 = 200_000;
/// What was signed has been kept, and what was needed for it has been let go.
const SETTLED: Duration = Duration::from_secs(15);

pub(crate) fn rows() -> Vec<Row> {
    let runtime = Runtime::new().unwrap();
    let (mut domain, mut agent, kept) = begin(&runtime, Make::Signet);
    let up = restarts(&runtime, &mut agent, RESTARTS);
    domain.server.kill();
    let down = restarts(&runtime, &mut agent, RESTARTS);
    let at_most = |name, delays: &Delays| Row {
        name,
        goal: Goal::AtMost(150.0),
        measured: millis(delays.p99()),
        unit: " ms",
        from: delays.told("restarts"),
    };
    let mut rows = vec![
        kept,
        at_most(
            "agent killed and started with 1,000 entries, from its start to the first SVID, most",
            &up,
        ),
        at_most("the same with the server down, most", &down),
    ];
    drop((agent, domain));
    if peers::folder("spire").is_some() {
        let (_domain, mut agent, kept) = begin(&runtime, Make::Spire);
        let spire = restarts(&runtime, &mut agent, SPIRE_RESTARTS);
        rows.push(Row {
            name: "a cached X509-SVID of real SPIRE, beyond its bytes",
            goal: Goal::Limit,
            ..kept
        });
        rows.push(Row {
            from: spire.told("restarts"),
            ..Row::limit("the restart of real SPIRE, p50", millis(spire.p50()), " ms")
        });
    }
    rows
}

/// An agent that has all its SVIDs.
fn begin(runtime: &Runtime, make: Make) -> (Domain, Agent, Row) {
    let domain = Plan::new(make)
        .ids_alone()
        .key(r#"log_level = "WARN""#)
        .start();
    let agent = domain.agent_with(make, r#"log_level = "INFO""#);
    let selector = format!("unix:uid:{}", getuid());
    domain.entry(&agent, "/bench", &selector, &[]);
    wait_for_svid(&agent, "/bench");
    pause(SETTLED);
    let meter = Meter::of(agent.process.pid());
    let before = meter.memory();
    let (_, svid_bytes) = one_svid(runtime, &agent);
    runtime.block_on(async {
        let entries = (0..ENTRIES).map(|at| NewEntry {
            parent: &agent.id,
            path: format!("/user/{at}"),
            selector: ("unix", format!("uid:{}", FIRST_USER + at)),
        });
        Admin::of(&domain).await.create_all(entries).await;
    });
    if make == Make::Signet {
        eventually("everything is signed", || {
            let text = agent.process.text();
            text.matches("Obtained X509-SVID").count() >= usize::try_from(ENTRIES).unwrap()
        });
    }
    pause(SETTLED);
    let grown = (meter.memory().resident - before.resident) * 1024.0 / f64::from(ENTRIES);
    let kept = Row {
        name: "a cached X509-SVID, its entry and its place on disk included, beyond its bytes",
        goal: Goal::AtMost(2.0),
        measured: grown - svid_bytes / 1024.0,
        unit: " KiB",
        from: format!("{grown:.2} KiB each, of which {svid_bytes} bytes are chain and key"),
    };
    (domain, agent, kept)
}

fn restarts(runtime: &Runtime, agent: &mut Agent, count: usize) -> Delays {
    let mut delays = Delays::default();
    for _ in 0..count {
        agent.process.kill();
        let start = wall();
        agent.process = agent.start_alone();
        while !serves(&agent.socket()) {
            pause(Duration::from_millis(1));
        }
        let kept = one_svid(runtime, agent);
        delays.see(start.elapsed());
        drop(kept);
        // Whatever else a start has to do is not in the way of the next.
        pause(Duration::from_secs(1));
    }
    delays
}

/// Whether somebody speaks HTTP/2 there. That a connection is taken says little: an agent that starts
/// opens its socket to see whether it can, and closes it again.
fn serves(socket: &Path) -> bool {
    // The preface of a client, and its empty SETTINGS.
    const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let Ok(mut stream) = UnixStream::connect(socket) else {
        return false;
    };
    stream.write_all(HELLO).is_ok() && stream.read(&mut [0; 9]).is_ok_and(|read| read > 0)
}

/// A stream that has got its first message, and the length of what is in it for one SVID.
fn one_svid(runtime: &Runtime, agent: &Agent) -> (impl Sized + use<>, f64) {
    let (message, stream) = runtime.block_on(fetch(&agent.socket()));
    let svid = &message.svids[0];
    let bytes = svid.x509_svid.len() + svid.x509_svid_key.len();
    (stream, f64::from(u32::try_from(bytes).unwrap()))
}
