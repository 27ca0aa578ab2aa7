//! What the other tests rest upon: the cluster is a real one.

use tests::cluster::{BUSYBOX, Cluster, Daemon};
use tests::process::eventually;

/// The line of a process in a pod, as the agent finds it in `/proc/PID/cgroup`.
#[test]
fn a_pods_process_has_the_cgroup_of_its_pod_and_container() {
    let Some(cluster) = Cluster::up() else { return };
    let space = cluster.namespace("cgroups");
    cluster.apply(&pod(space.name(), "plain"));
    cluster.wait(space.name(), "pod/plain", "Ready");

    let pod = cluster.object(space.name(), "pod", "plain").unwrap();
    let uid = pod.pointer("/metadata/uid").unwrap().as_str().unwrap();
    let id = pod.pointer("/status/containerStatuses/0/containerID");
    let id = id.unwrap().as_str().unwrap();
    let id = id.strip_prefix("containerd://").unwrap();
    let lines = cluster.exec(space.name(), "plain", &["cat", "/proc/self/cgroup"]);
    let lines = lines.success();
    let path = format!("/kubepods/burstable/pod{uid}/{id}");
    assert!(lines.contains(&format!("0::{path}\n")), "{lines}");
    assert!(lines.lines().all(|line| line.ends_with(&path)), "{lines}");
}

#[test]
fn a_pod_outlives_restarts_of_its_kubelet_its_runtime_and_the_api_server() {
    let Some(cluster) = Cluster::alone() else {
        return;
    };
    let space = cluster.namespace("restarts");
    cluster.apply(&pod(space.name(), "plain"));
    cluster.wait(space.name(), "pod/plain", "Ready");
    let marked = cluster.exec(space.name(), "plain", &["touch", "/tmp/here"]);
    marked.success();
    for daemon in [Daemon::Kubelet, Daemon::Containerd, Daemon::ApiServer] {
        cluster.kill(daemon);
        cluster.start(daemon);
        eventually("the pod is reached again, and is the same", || {
            let found = cluster.exec(space.name(), "plain", &["ls", "/tmp/here"]);
            found.code == 0
        });
    }
}

fn pod(namespace: &str, name: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: {namespace} }}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: app
      image: {BUSYBOX}
      command: [/bin/sleep, infinity]
      resources: {{ requests: {{ cpu: 1m }} }}
"
    )
}
