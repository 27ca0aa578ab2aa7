//! What an attestation costs the agent that has to ask the kubelet, and what a node's list weighs.
//!
//! The kubelet is one that does what it is told, in this process; the client is a process of its own,
//! so that all of its processor's time and all of its memory is the client's.

use std::path::Path;
use std::process::Command;

use attestors::workload::cgroup::{ContainerId, PodUid};
use attestors::workload::k8s::kubelet::fake::{Answer, FakeKubelet};
use attestors::workload::k8s::kubelet::list::PodList;
use attestors::workload::k8s::kubelet::{
    Authentication, Endpoint, Kubelet, KubeletMetrics, KubeletOptions, Secure, Verification,
};
use bytes::Bytes;
use nix::time::ClockId;
use rcgen::{CertificateParams, KeyPair};
use runtime::clock::Clock;
use runtime::metrics::Metrics;
use runtime::shutdown::Shutdown;
use runtime::tasks::TaskGroup;
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::runtime::Runtime;

use crate::cost::{Least, ROUNDS, micros, processor};
use crate::footprint::memory;
use crate::listed::agent_of;
use crate::table::{Goal, Row};

const CALLS: u32 = 200;

pub(crate) fn rows() -> Vec<Row> {
    let (cost, _) = client(53);
    let (_, kept) = client(1000);
    let (walk, decode) = walk_and_decode(250);
    let mut rows = vec![
        Row {
            name: "attestation of a pod, the list fetched anew, 53 pods, processor",
            goal: Goal::AtMost(1500.0),
            measured: cost,
            unit: " us",
            from: "real SPIRE: 14900 us".to_owned(),
        },
        Row {
            name: "250 pods: list walked and one pod decoded, of decoding all of it",
            goal: Goal::AtMost(0.2),
            measured: walk / decode,
            unit: "",
            from: format!("{walk:.0} of {decode:.0} us"),
        },
        Row {
            name: "the kubelet's client alone, 1000 pods: memory that no file backs",
            goal: Goal::Limit,
            measured: kept,
            unit: " MiB",
            from: "the whole process".to_owned(),
        },
    ];
    rows.extend(agent_of(1000).map(|kept| {
        let name = "agent, 1000 pods listed again and again, resident";
        memory(name, Goal::AtMost(30.0), &kept)
    }));
    rows
}

/// The processor's time of one attestation in a process that does nothing else, in microseconds; and
/// the memory of that process, in MiB.
fn client(pods: usize) -> (f64, f64) {
    let folder = tempfile::tempdir().unwrap();
    let (_runtime, fake) = serve(folder.path(), pods);
    let (mut cost, mut kept) = (Least::new(), Least::new());
    for _ in 0..ROUNDS {
        let mut program = Command::new(std::env::current_exe().unwrap());
        let program = program.arg("kubelet-client").arg(folder.path());
        let program = program
            .arg(fake.addr.port().to_string())
            .arg(pods.to_string());
        let output = program.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        let mut numbers = text
            .split_whitespace()
            .map(|number| number.parse().unwrap());
        cost.see(numbers.next().unwrap());
        kept.see(numbers.next().unwrap());
    }
    (cost.0, kept.0)
}

/// A kubelet with that many pods, and in the folder what a client needs: its certificate and a token.
pub(crate) fn serve(folder: &Path, pods: usize) -> (Runtime, FakeKubelet) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["n1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(folder.join("kubelet.crt"), certificate.pem()).unwrap();
    std::fs::write(folder.join("token"), "a token").unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let served =
        ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let tasks = TaskGroup::new(Shutdown::new().0);
    let answer = Answer::Body(list(pods));
    let fake = runtime
        .block_on(FakeKubelet::start(Some(served), answer, &tasks))
        .unwrap();
    (runtime, fake)
}

/// The client's process: attests one pod after the other, each by a list of its own.
pub(crate) fn attest(folder: &Path, port: u16, pods: usize) {
    let secure = Secure {
        address: Some("127.0.0.1".to_owned()),
        node_name: Some("n1".to_owned()),
        port,
        verification: Verification::Auto {
            ca: None,
            pinned: vec![folder.join("kubelet.crt")],
        },
        authentication: Authentication::Token(folder.join("token")),
    };
    let options = KubeletOptions {
        endpoint: Some(Endpoint::Secure(secure)),
        pods_api_socket: None,
        poll_retry_interval: std::time::Duration::ZERO,
        ..KubeletOptions::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let clock = Clock::system();
        let metrics = Metrics::new();
        let metrics =
            metrics.register(|registry| KubeletMetrics::register(registry, clock.clone()));
        let tasks = TaskGroup::new(Shutdown::new().0);
        let kubelet = Kubelet::start(&options, &clock, &tasks, &metrics);
        let time = || ClockId::CLOCK_PROCESS_CPUTIME_ID.now().unwrap();
        look(&kubelet, 0).await;
        let before = time();
        for at in 0..CALLS {
            look(&kubelet, usize::try_from(at).unwrap() % pods).await;
        }
        let cost = micros((time() - before).into()) / f64::from(CALLS);
        println!("{cost} {}", anonymous());
    });
}

async fn look(kubelet: &Kubelet, number: usize) {
    let snapshot = kubelet.snapshot().await.unwrap();
    assert!(snapshot.stale().is_none());
    let pod = snapshot
        .pod(&PodUid::parse(&uid(number)).unwrap())
        .unwrap()
        .unwrap();
    assert!(pod.has_container(&ContainerId::parse(&container(number)).unwrap()));
}

/// Both by the processor, in microseconds.
fn walk_and_decode(pods: usize) -> (f64, f64) {
    let text = list(pods);
    let (mut walk, mut decode) = (Least::new(), Least::new());
    for _ in 0..ROUNDS {
        walk.see(processor(50, |at| {
            let list = PodList::parse(text.clone()).unwrap();
            let uid = PodUid::parse(&uid(at % pods)).unwrap();
            assert!(list.pod(&uid).unwrap().is_some());
        }));
        decode.see(processor(50, |_| {
            let list: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert!(list.is_object());
        }));
    }
    (walk.0, decode.0)
}

/// A list with about 4 KB for each pod, as real ones have.
fn list(pods: usize) -> Bytes {
    let items: Vec<String> = (0..pods).map(pod).collect();
    format!(
        r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{}},"items":[{}]}}"#,
        items.join(",")
    )
    .into()
}

pub(crate) fn uid(number: usize) -> String {
    format!("{number:08x}-0000-4000-8000-000000000000")
}

pub(crate) fn container(number: usize) -> String {
    format!("{number:064x}")
}

fn pod(number: usize) -> String {
    POD.replace("UID", &uid(number))
        .replace("NUMBER", &number.to_string())
        .replace("CONTAINER", &container(number))
}

/// MiB that no file backs.
fn anonymous() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .unwrap();
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib / 1024.0
}

const POD: &str = include_str!("pod.json");
