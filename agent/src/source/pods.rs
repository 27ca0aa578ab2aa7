//! An open stream of a pod's container, and a label that goes.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use attestors::workload::cgroup::Viewpoint;
use attestors::workload::k8s::kubelet::fake::{FakePod, FakePodsApi};
use attestors::workload::k8s::kubelet::{Kubelet, KubeletMetrics, KubeletOptions};
use attestors::workload::k8s::volumes::Volumes;
use attestors::workload::k8s::{K8s, Options as K8sOptions};

use super::tests::{TTL, source_of};
use super::*;
use crate::attest::WorkloadAttestor;
use crate::upstream::fake::entry;

/// A process in a pod's cgroup, in each hierarchy that takes one. The cgroups go with it.
struct Container {
    process: Child,
    roots: Vec<PathBuf>,
}

impl Container {
    /// `None` where this process may not make cgroups.
    fn start(pod: &FakePod) -> Option<Self> {
        let name = format!("signet-agent-{}", std::process::id());
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let usable = |line: &str| {
            let fields: Vec<_> = line.split(' ').collect();
            let [_, at, kind, options, ..] = fields[..] else {
                return None;
            };
            // Hierarchies in which a new cgroup takes processes as it is.
            let is_plain = options
                .split(',')
                .any(|name| name == "pids" || name == "freezer");
            let root = PathBuf::from(at).join(&name);
            let is_usable = kind == "cgroup2" || (kind == "cgroup" && is_plain);
            (is_usable && std::fs::create_dir(&root).is_ok()).then_some(root)
        };
        let roots: Vec<_> = mounts.lines().filter_map(usable).collect();
        if roots.is_empty() {
            return None;
        }
        // `cat` ends when its input does, so not even a killed test leaves it behind.
        let process = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let id = pod.container.as_ref().unwrap();
        for root in &roots {
            let folder = root.join(format!("kubepods/burstable/pod{}/{id}", pod.uid));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("cgroup.procs"), process.id().to_string()).unwrap();
        }
        Some(Self { process, roots })
    }

    /// Where an agent stands that is a pod of the same node.
    fn viewpoint(&self, pod: &FakePod) -> Viewpoint {
        let text = std::fs::read_to_string(format!("/proc/{}/cgroup", self.process.id())).unwrap();
        let agent = FakePod::new(9);
        let text = text.replace(&pod.uid, &agent.uid).replace(
            pod.container.as_ref().unwrap(),
            agent.container.as_ref().unwrap(),
        );
        Viewpoint::of_agent(text.as_bytes()).unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        for root in &self.roots {
            let mut folders = vec![root.clone()];
            // Cgroups go from the innermost outwards.
            let mut at = 0;
            while let Some(folder) = folders.get(at).cloned() {
                let inner = std::fs::read_dir(folder).into_iter().flatten().flatten();
                folders.extend(inner.map(|entry| entry.path()).filter(|path| path.is_dir()));
                at += 1;
            }
            for folder in folders.iter().rev() {
                let _ = std::fs::remove_dir(folder);
            }
        }
    }
}

#[tokio::test]
async fn a_label_that_goes_ends_what_an_open_stream_is_told() {
    let pod = FakePod::new(1).labelled("team", "red");
    let Some(container) = Container::start(&pod) else {
        eprintln!("SKIPPED: this process may not make cgroups");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("pods.sock");
    let tasks = runtime::tasks::TaskGroup::new(runtime::shutdown::Shutdown::new().0);
    let api = FakePodsApi::start(&socket, vec![pod.clone()], &tasks).unwrap();
    let options = KubeletOptions {
        endpoint: None,
        pods_api_socket: Some(socket),
        ..KubeletOptions::default()
    };
    let clock = runtime::clock::Clock::system();
    let metrics = KubeletMetrics::register(
        &mut prometheus_client::registry::Registry::default(),
        clock.clone(),
    );
    let kubelet = Kubelet::start(&options, &clock, &tasks, &metrics);
    // The first telling of all pods is news to whoever follows one by then.
    kubelet.snapshot().await.unwrap();
    let viewpoint = container.viewpoint(&pod);
    let k8s = K8s::new(K8sOptions::default(), viewpoint, kubelet, Volumes::new());
    let red = entry("red", &["k8s:pod-label:team:red"]);
    let any = entry("any", &["k8s:ns:default"]);
    let source = source_of(vec![WorkloadAttestor::K8s(k8s)], [red, any], TTL).await;

    let peer = Arc::new(Peer::for_test(container.process.id(), 0, 0).unwrap());
    let caller = source.attest(&peer, None).await.unwrap();
    let paths = async |caller: &Caller| {
        let update = source.subscribe(caller).next().await.unwrap();
        let identities = update.identities().iter();
        let paths = identities.map(|identity| identity.svid.id().path().to_owned());
        paths.collect::<std::collections::BTreeSet<_>>()
    };
    let of = |names: &[&str]| -> std::collections::BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    };
    assert_eq!(paths(&caller).await, of(&["/any", "/red"]));

    api.put(&FakePod::new(1).labelled("team", "blue"));
    let suspected =
        tokio::time::timeout(std::time::Duration::from_secs(30), source.suspect(&caller));
    suspected.await.unwrap();
    let caller = source.attest(&peer, Some(&caller)).await.unwrap();
    assert_eq!(paths(&caller).await, of(&["/any"]));

    api.remove(&pod);
    let suspected =
        tokio::time::timeout(std::time::Duration::from_secs(30), source.suspect(&caller));
    suspected.await.unwrap();
}
