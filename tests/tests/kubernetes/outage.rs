//! Restarts and outages: identities keep coming, and no mount is doubled.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tests::cluster::{Cluster, Daemon};
use tests::process::eventually;

use tests::installed::{Installed, idle_pod};

#[test]
fn identities_keep_coming_through_restarts() {
    let Some(cluster) = Cluster::alone() else {
        return;
    };
    let signet = Installed::on(&cluster);
    let space = cluster.namespace("lasting");
    let id = signet.entry(space.name(), "web", &[]);
    cluster.apply(&idle_pod(space.name(), "web", "web"));
    signet.gets(space.name(), "web", &id);
    let volume = volume_of(&cluster, space.name(), "web");
    assert_eq!(mounted(&cluster, &volume), 1);

    for daemon in [Daemon::Kubelet, Daemon::Containerd] {
        cluster.kill(daemon);
        cluster.start(daemon);
        signet.gets(space.name(), "web", &id);
    }
    signet.delete_agent_pod();
    signet.wait();
    signet.gets(space.name(), "web", &id);
    // Another container of the same pod.
    cluster
        .exec(space.name(), "web", &["touch", "/tmp/end"])
        .success();
    eventually("the container is a new one", || {
        cluster
            .exec(space.name(), "web", &["test", "!", "-e", "/tmp/end"])
            .code
            == 0
    });
    signet.gets(space.name(), "web", &id);
    assert_eq!(mounted(&cluster, &volume), 1);

    cluster.ctl(&["-n", space.name(), "delete", "pod", "web", "--timeout=60s"]);
    assert_eq!(mounted(&cluster, &volume), 0);
    cluster.apply(&idle_pod(space.name(), "web", "web"));
    signet.gets(space.name(), "web", &id);
    let volume = volume_of(&cluster, space.name(), "web");
    assert_eq!(mounted(&cluster, &volume), 1);
    cluster.ctl(&["-n", space.name(), "delete", "pod", "web", "--timeout=60s"]);
    assert_eq!(mounted(&cluster, &volume), 0);
}

#[test]
fn a_restart_of_the_driver_alone_leaves_volumes_where_they_are_and_new_pods_get_theirs() {
    let Some(cluster) = Cluster::alone() else {
        return;
    };
    let signet = Installed::on(&cluster);
    let space = cluster.namespace("driver");
    let id = signet.entry(space.name(), "web", &[]);
    let mut mounts = Vec::new();
    let mut start = |pod: &str| {
        cluster.apply(&idle_pod(space.name(), pod, "web"));
        signet.gets(space.name(), pod, &id);
        mounts.push(volume_of(&cluster, space.name(), pod));
    };
    start("before");
    let (agent, driver) = (signet.restarts_of("agent"), signet.restarts_of("csi"));

    let container = signet.container("csi");
    let kill = [
        "ctr", "-n", "k8s.io", "tasks", "kill", "--signal", "SIGKILL",
    ];
    let killed = [&kill[..], &[&container]].concat();
    cluster.on_the_node(&killed).success();
    let fetched = signet.fetch(space.name(), "before");
    assert!(fetched.stdout.contains(&id), "{fetched:?}");
    start("after");
    eventually("the driver is a new one", || {
        signet.restarts_of("csi") > driver
    });
    assert_eq!(signet.restarts_of("agent"), agent);
    let counts = mounts.iter().map(|path| mounted(&cluster, path));
    assert_eq!(counts.collect::<Vec<_>>(), [1, 1]);

    // One that was mounted before is taken away by the new driver.
    for pod in ["before", "after"] {
        cluster.ctl(&["-n", space.name(), "delete", "pod", pod, "--timeout=60s"]);
    }
    let counts = mounts.iter().map(|path| mounted(&cluster, path));
    assert_eq!(counts.collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn the_agent_and_the_driver_live_on_while_the_server_is_away() {
    let Some(cluster) = Cluster::alone() else {
        return;
    };
    let signet = Installed::on(&cluster);
    let space = cluster.namespace("serverless");
    let id = signet.entry(space.name(), "web", &[]);
    cluster.apply(&idle_pod(space.name(), "before", "web"));
    signet.gets(space.name(), "before", &id);
    let restarts = signet.restarts();

    signet.scale_server(0);
    let down = now();
    eventually("the agent's readiness tells it", || {
        !signet.agent_is_ready()
    });
    while down.elapsed() < SERVER_OUTAGE {
        let fetched = signet.fetch(space.name(), "before");
        assert!(fetched.stdout.contains(&id), "{fetched:?}");
    }
    cluster.apply(&idle_pod(space.name(), "after", "web"));
    signet.gets(space.name(), "after", &id);
    assert!(!signet.agent_is_ready());
    assert_eq!(signet.restarts(), restarts, "{}", signet.told());

    signet.scale_server(1);
    signet.wait();
    assert_eq!(signet.restarts(), restarts, "{}", signet.told());
    for pod in ["before", "after"] {
        signet.gets(space.name(), pod, &id);
    }
}

/// Real SPIRE's agent tries once, and is then left to whoever starts it again.
#[test]
fn an_agent_that_was_evicted_or_has_expired_attests_again_in_its_process() {
    let Some(cluster) = Cluster::alone() else {
        return;
    };
    let signet = Installed::on(&cluster);
    let space = cluster.namespace("recovery");
    let id = signet.entry(space.name(), "web", &[]);
    cluster.apply(&idle_pod(space.name(), "before", "web"));
    signet.gets(space.name(), "before", &id);
    let (restarts, agent) = (signet.restarts(), signet.agent_id());

    signet
        .server(&["agent", "evict", "-spiffeID", &agent])
        .success();
    eventually("the agent is one again", || {
        signet.server(&["agent", "show", "-spiffeID", &agent]).code == 0
    });
    signet.wait();
    signet.gets(space.name(), "before", &id);
    assert_eq!(signet.restarts(), restarts, "{}", signet.told());

    // The next SVID of the agent is a short one.
    let usual = signet.configure_server(|usual| {
        usual.replace(
            "  trust_domain =",
            "  agent_ttl = \"60s\"\n  trust_domain =",
        )
    });
    signet
        .server(&["agent", "evict", "-spiffeID", &agent])
        .success();
    eventually("the agent is one again", || {
        signet.server(&["agent", "show", "-spiffeID", &agent]).code == 0
    });
    signet.scale_server(0);
    let down = now();
    while down.elapsed() < EXPIRY {
        let fetched = signet.fetch(space.name(), "before");
        assert!(fetched.stdout.contains(&id), "{fetched:?}");
    }
    assert!(!signet.agent_is_ready());
    signet.scale_server(1);
    signet.wait();
    cluster.apply(&idle_pod(space.name(), "after", "web"));
    for pod in ["before", "after"] {
        signet.gets(space.name(), pod, &id);
    }
    assert_eq!(signet.restarts(), restarts, "{}", signet.told());
    signet.configure_server(|_| usual);
}

/// Real SPIRE loses the node in such an outage: the kubelet turns its token away, its liveness probe fails, the agent is
/// killed and cannot attest again.
#[test]
fn the_node_keeps_its_identities_while_the_api_server_is_down() {
    let Some(cluster) = Cluster::alone() else {
        return;
    };
    let signet = Installed::on(&cluster);
    let space = cluster.namespace("outage");
    // Renewed every half minute.
    let id = signet.entry(space.name(), "web", &["-x509SVIDTTL", "60"]);
    for name in ["watches", "calls"] {
        cluster.apply(&talker(space.name(), name));
    }
    let watches = Talker::new(&cluster, space.name(), "watches");
    let mut calls = Talker::new(&cluster, space.name(), "calls");
    for talker in [&watches, &calls] {
        eventually("both have the identity", || talker.said(&id) > 0);
    }
    let restarts = signet.restarts();

    cluster.kill(Daemon::ApiServer);
    let down = now();
    let mut seen = watches.said("Received");
    while down.elapsed() < OUTAGE {
        // A stream goes on with new SVIDs, and who asks anew is answered.
        eventually("the open stream gets renewed SVIDs", || {
            watches.said("Received") > seen
        });
        seen = watches.said("Received");
        let answered = calls.said(&id);
        eventually("a pod that was attested before is served", || {
            calls.said(&id) > answered
        });
    }
    calls.restart();
    eventually(
        "a restarted container gets its identity without the API server",
        || calls.said(&id) > 0,
    );

    cluster.end_outage();
    assert_eq!(
        signet.restarts(),
        restarts,
        "the agent did not outlive it:\n{}",
        signet.told()
    );
    // What was changed meanwhile is seen: a new pod is made, and gets its own.
    cluster.apply(&idle_pod(space.name(), "after", "web"));
    signet.gets(space.name(), "after", &id);
}

/// How long the API server is away: longer than the kubelet believes a token without it (two minutes), and longer than
/// failing probes would need after that.
const OUTAGE: Duration = Duration::from_secs(300);

/// Longer than three failing liveness probes would need, which come each ten seconds.
const SERVER_OUTAGE: Duration = Duration::from_secs(50);

/// Longer than the agent's SVID of a minute can last, from its last renewal on.
const EXPIRY: Duration = Duration::from_secs(75);

/// A pod that speaks in its log, so that it can be followed without the API server.
fn talker(namespace: &str, name: &str) -> String {
    let agent = "spire-agent api";
    let socket = format!("-socketPath {}", tests::installed::SOCKET);
    let script = match name {
        "watches" => format!("exec {agent} watch {socket}"),
        _ => format!(
            "rm -f /signals/end; until [ -e /signals/end ]; do {agent} fetch x509 {socket}; sleep 1; done"
        ),
    };
    idle_pod(namespace, name, "web")
        .replace("until [ -e /tmp/end ]; do sleep 0.2; done", &script)
        .replace("      volumeMounts:\n", "      volumeMounts:\n        - { name: signals, mountPath: /signals }\n")
        .replace("  volumes:\n", "  volumes:\n    - { name: signals, hostPath: { path: /run/spire/signals, type: DirectoryOrCreate } }\n")
}

struct Talker {
    signals: PathBuf,
    logs: PathBuf,
    /// Which container of the pod, counted from its start.
    container: usize,
}

impl Talker {
    fn new(cluster: &Cluster, namespace: &str, name: &str) -> Self {
        cluster.wait(namespace, &format!("pod/{name}"), "Ready");
        let pod = cluster.object(namespace, "pod", name).unwrap();
        let uid = pod.pointer("/metadata/uid").unwrap().as_str().unwrap();
        let root = cluster.node_root();
        Self {
            signals: root.join("run/spire/signals"),
            logs: root.join(format!("var/log/pods/{namespace}_{name}_{uid}/app")),
            container: 0,
        }
    }

    /// How many lines of its present container have these words.
    fn said(&self, words: &str) -> usize {
        let log = std::fs::read_to_string(self.logs.join(format!("{}.log", self.container)));
        log.unwrap_or_default().matches(words).count()
    }

    /// Ends its container. The kubelet starts another one.
    fn restart(&mut self) {
        std::fs::write(self.signals.join("end"), "").unwrap();
        self.container += 1;
    }
}

/// Where a pod's volume of the agent's sockets is mounted, as far as no other volume is. The harness shows the node's
/// folders at a second path too, and other tests' pods come and go.
fn volume_of(cluster: &Cluster, namespace: &str, pod: &str) -> String {
    let pod = cluster.object(namespace, "pod", pod).unwrap();
    let uid = pod.pointer("/metadata/uid").unwrap().as_str().unwrap();
    format!(" /var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/")
}

/// How many mounts of the node have this in their paths.
fn mounted(cluster: &Cluster, path: &str) -> usize {
    let mounts = cluster
        .on_the_node(&["cat", "/proc/self/mountinfo"])
        .success();
    mounts.lines().filter(|line| line.contains(path)).count()
}

#[expect(clippy::disallowed_methods, reason = "an outage lasts in real time")]
fn now() -> Instant {
    Instant::now()
}
