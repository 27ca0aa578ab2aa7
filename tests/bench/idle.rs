//! Ten thousand agents that follow one server, and nothing happens.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use agent::credentials::AgentSvid;
use identity::bundle::Bundle;
use identity::key::PrivateKey;
use identity::trust_domain::TrustDomain;
use identity::x509::{Certificate, X509Svid};
use tests::domain::Plan;
use tests::process::Process;
use tests::programs::Make;
use tests::simulated::{SimulatedAgent, Site, target};

use crate::bare_feed::{Signed, Signer};
use crate::cost::{pause, wall};
use crate::meter::Meter;
use crate::table::{Goal, Row};

const AGENTS: usize = 10_000;
/// What opening the streams has left to do is done after this.
const SETTLED: Duration = Duration::from_secs(5);
/// Two keepalives of each stream.
const IDLE: Duration = Duration::from_secs(60);

pub(crate) fn rows() -> Vec<Row> {
    runtime::process::raise_open_file_limit().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ours = runtime.block_on(ours());
    let bare = runtime.block_on(bare());
    vec![
        Row::limit(
            "bare tonic and rustls: memory of an idle stream",
            bare,
            " KiB",
        ),
        Row {
            name: "10,000 idle agents: the server's memory for each, of bare tonic's",
            goal: Goal::AtMost(1.3),
            measured: ours.kibibytes / bare,
            unit: "",
            from: format!(
                "{:.1} KiB, with what is remembered of an attested agent",
                ours.kibibytes
            ),
        },
        Row {
            name: "10,000 idle agents: the server's processor",
            goal: Goal::AtMost(2.0),
            measured: ours.share * 100.0,
            unit: " % of a core",
            from: format!("over {} s", IDLE.as_secs()),
        },
        Row {
            name: "10,000 idle agents: reads of files, so of the store",
            goal: Goal::AtMost(0.0),
            measured: ours.reads,
            unit: "",
            from: String::new(),
        },
    ]
}

struct Idle {
    kibibytes: f64,
    share: f64,
    reads: f64,
}

async fn ours() -> Idle {
    let domain = Plan::new(Make::Signet).key(r#"log_level = "WARN""#).start();
    let meter = Meter::of(domain.server.pid());
    let before = meter.memory();
    let site = Site::open(&domain.server_socket(), domain.port).await;
    let agents = site.agents(AGENTS).await;
    let following = SimulatedAgent::follow_all(&agents).await;
    pause(SETTLED);
    let after = meter.memory();
    let (used, reads, start) = (meter.processor(), meter.file_reads(), wall());
    pause(IDLE);
    let idle = Idle {
        kibibytes: per_agent(after.resident - before.resident),
        share: (meter.processor() - used).as_secs_f64() / start.elapsed().as_secs_f64(),
        reads: meter.file_reads() - reads,
    };
    drop(following);
    idle
}

/// The kibibytes that the bare server has for each stream.
async fn bare() -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let signer = Signer::new();
    signer.equip(folder.path());
    let mut program = Command::new(std::env::current_exe().unwrap());
    let mut server = Process::start("bare", program.arg("bare-feed").arg(folder.path()));
    let port = server.line("port ");
    let port = port.trim_start_matches("port ").parse().unwrap();
    let meter = Meter::of(server.pid());
    let before = meter.memory();
    let Signed { certificate, key } = signer.sign("spiffe://example.org/spire/agent/bare/1");
    let key = Arc::new(PrivateKey::from_pkcs8_der(key.into()).unwrap());
    let chain = vec![Certificate::parse(&certificate).unwrap()];
    let own = AgentSvid {
        svid: X509Svid::new(chain, key).unwrap(),
        reattestable: false,
    };
    let own_domain = TrustDomain::parse("example.org").unwrap();
    let bundle = Bundle::from_x509_der(own_domain.clone(), &signer.authority).unwrap();
    let target = target(port, own_domain);
    let agent = |_| SimulatedAgent::with(own.clone(), bundle.clone(), target.clone());
    let agents = (0..AGENTS).map(agent);
    let agents: Vec<_> = agents.collect();
    let following = SimulatedAgent::follow_all(&agents).await;
    pause(SETTLED);
    let kibibytes = per_agent(meter.memory().resident - before.resident);
    drop(following);
    kibibytes
}

fn per_agent(mebibytes: f64) -> f64 {
    mebibytes * 1024.0 / f64::from(u32::try_from(AGENTS).unwrap())
}
