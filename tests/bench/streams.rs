//! Four thousand workload streams on one agent: what they keep, what is given back, and what a rotation costs.

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{geteuid, getuid};
use prost::Message as _;
use tests::domain::{Agent, Domain, Plan};
use tests::peers;
use tests::process::{Process, eventually};
use tests::programs::Make;
use tests::scenarios::wait_for_svid;

use crate::admin::Admin;
use crate::cost::{Least, ROUNDS, pause, wall};
use crate::fetch::fetch;
use crate::meter::Meter;
use crate::push::{open, svids};
use crate::table::{Goal, Row};

const STREAMS: u32 = 4_000;
/// How many connections a process holds, with a stream on each.
const PER_PROCESS: u32 = 50;
const PROCESSES: u32 = STREAMS / PER_PROCESS;
/// Half of the processes are of a user of their own.
const OTHER_USER: u32 = 200_000;
const SETTLED: Duration = Duration::from_secs(10);

pub(crate) fn rows() -> Vec<Row> {
    if !geteuid().is_root() {
        peers::skip("4,000 streams of two users need root");
        return Vec::new();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (domain, agent) = begin();
    pause(SETTLED);
    let meter = Meter::of(agent.process.pid());
    let idle = meter.memory().resident;
    let mut clients = Clients::start(&agent.socket());
    pause(SETTLED);
    let held = meter.memory().resident;
    let rotation = runtime.block_on(rotations(&domain, &mut clients, meter));
    drop(clients);
    pause(SETTLED);
    let left = meter.memory().resident;
    let mut rows = vec![
        Row {
            name: "an open workload stream on its own connection, resident",
            goal: Goal::AtMost(30.0),
            measured: (held - idle) * 1024.0 / f64::from(STREAMS),
            unit: " KiB",
            from: format!("{STREAMS} streams"),
        },
        Row {
            name: "after 4,000 streams closed: memory, of the idle agent's before",
            goal: Goal::AtMost(1.2),
            measured: left / idle,
            unit: "",
            from: format!("{left:.1} of {idle:.1} MiB, {held:.0} MiB with the streams"),
        },
        Row {
            name: "bundle rotation to 4,000 streams: the agent's processor for each",
            goal: Goal::AtMost(10.0),
            measured: rotation.micros,
            unit: " us",
            from: format!(
                "{:.0} ms by the wall until the last process has it",
                rotation.millis
            ),
        },
    ];
    if let Some(folder) = peers::folder("fanout") {
        rows.extend(runtime.block_on(grpc_go(&folder, &agent)));
    }
    rows
}

/// The same from a program of grpc-go that has nothing to find out and nothing to encode.
async fn grpc_go(folder: &Path, agent: &Agent) -> [Row; 2] {
    let (message, _) = fetch(&agent.socket()).await;
    let (file, socket) = (
        agent.folder().join("message"),
        agent.folder().join("go.sock"),
    );
    std::fs::write(&file, message.encode_to_vec()).unwrap();
    let mut program = Command::new(folder.join("fanout"));
    let server = Process::start("fanout", program.arg(&socket).arg(&file));
    eventually("grpc-go serves", || UnixStream::connect(&socket).is_ok());
    pause(SETTLED);
    let meter = Meter::of(server.pid());
    let idle = meter.memory().resident;
    let mut clients = Clients::start(&socket);
    pause(SETTLED);
    let held = meter.memory().resident;
    let rotation = rounds(&mut clients, meter, async || server.signal(Signal::SIGUSR1)).await;
    [
        Row::limit(
            "an open stream of grpc-go, resident",
            (held - idle) * 1024.0 / f64::from(STREAMS),
            " KiB",
        ),
        Row {
            from: format!("{:.0} ms by the wall", rotation.millis),
            ..Row::limit(
                "a message to 4,000 streams from grpc-go: its processor for each",
                rotation.micros,
                " us",
            )
        },
    ]
}

fn begin() -> (Domain, Agent) {
    let domain = Plan::new(Make::Signet)
        .ids_alone()
        .key(r#"log_level = "WARN""#)
        .start();
    let agent = domain.agent_with(Make::Signet, r#"log_level = "WARN""#);
    for (user, path) in [(getuid().as_raw(), "/bench"), (OTHER_USER, "/other")] {
        domain.entry(&agent, path, &format!("unix:uid:{user}"), &[]);
    }
    wait_for_svid(&agent, "/bench");
    (domain, agent)
}

struct Rotation {
    micros: f64,
    millis: f64,
}

/// A new authority comes into the bundle, which every stream is told of.
async fn rotations(domain: &Domain, clients: &mut Clients, meter: Meter) -> Rotation {
    let admin = Admin::of(domain).await;
    rounds(clients, meter, async || {
        admin.prepare_x509_authority().await;
    })
    .await
}

async fn rounds(clients: &mut Clients, meter: Meter, begin: impl AsyncFn()) -> Rotation {
    let [mut micros, mut millis] = [Least::new(); 2];
    for _ in 0..ROUNDS {
        let (before, start) = (meter.processor(), wall());
        begin().await;
        clients.wait("again");
        millis.see(start.elapsed().as_secs_f64() * 1e3);
        let used = meter.processor() - before;
        micros.see(used.as_secs_f64() * 1e6 / f64::from(STREAMS));
    }
    Rotation {
        micros: micros.0,
        millis: millis.0,
    }
}

struct Clients {
    processes: Vec<(Process, usize)>,
}

impl Clients {
    fn start(socket: &Path) -> Self {
        let this = std::env::current_exe().unwrap();
        let process = |at| {
            let mut program = Command::new(&this);
            program.arg("hold").arg(socket);
            program.arg(PER_PROCESS.to_string());
            if at % 2 == 1 {
                program.uid(OTHER_USER);
            }
            // One after the other, so that they are not counted as a flood.
            let mut process = Process::start("hold", &mut program);
            let (_, lines) = process.line_after(0, "held");
            (process, lines)
        };
        Self {
            processes: (0..PROCESSES).map(process).collect(),
        }
    }

    /// Waits until each process has said this once more.
    fn wait(&mut self, word: &str) {
        for (process, lines) in &mut self.processes {
            *lines = process.line_after(*lines, word).1;
        }
    }
}

/// Holds streams, each on its own connection, and says when all of them have had one more message.
pub(crate) fn hold(socket: &Path, count: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut streams = Vec::new();
        for _ in 0..count {
            let mut stream = open(socket).await;
            assert!(svids(&mut stream).await > 0);
            streams.push(stream);
        }
        println!("held");
        loop {
            for stream in &mut streams {
                svids(stream).await;
            }
            println!("again");
        }
    });
}
