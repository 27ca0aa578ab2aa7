//! The storage driver of the SPIFFE project, which existing clusters have, before our agent.

use tests::cluster::{Cluster, image};
use tests::installed::{Installed, SIGNET, idle_pod};
use tests::peers;

const SPACE: &str = "spiffe-csi";

/// Not `csi.spiffe.io`: that is the driver of the shipped manifests, which goes on beside this one.
const NAME: &str = "spiffe-csi.signet.test";

const IMAGE: &str = "localhost/spiffe-csi:test";

#[test]
fn the_existing_spiffe_driver_shows_pods_our_agents_socket() {
    let Some(cluster) = Cluster::alone() else {
        return;
    };
    let Some(driver) = peers::folder("csi") else {
        return;
    };
    let signet = Installed::on(&cluster);
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("driver.tar");
    let program = driver.join("spiffe-csi-driver").display().to_string();
    image("program", &archive, IMAGE, &[&program]);
    cluster.load(&archive);
    let space = cluster.namespace(SPACE);
    cluster.apply(&driver_pod());
    cluster.wait(space.name(), "pod/driver", "Ready");

    let id = signet.entry(space.name(), "web", &[]);
    let pod = idle_pod(space.name(), "web", "web").replace("csi.spiffe.io", NAME);
    cluster.apply(&pod);
    signet.gets(space.name(), "web", &id);
    let published = cluster.logs(space.name(), "driver");
    assert!(published.contains("Volume published"), "{published}");
    // The agent's next pod makes a new socket in the folder that this driver has mounted.
    signet.delete_agent_pod();
    signet.wait();
    signet.gets(space.name(), "web", &id);

    cluster.ctl(&["-n", SPACE, "delete", "pod", "web", "--timeout=60s"]);
    cluster.ctl(&["delete", "csidriver", NAME]);
}

/// The driver as its own manifests run it. Its usual registrar cannot be had here; ours takes any driver's name and
/// socket to the kubelet, and mounts nothing unless it is called.
fn driver_pod() -> String {
    format!(
        r#"
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {{ name: {NAME} }}
spec:
  attachRequired: false
  podInfoOnMount: true
  fsGroupPolicy: None
  volumeLifecycleModes: [Ephemeral]
---
apiVersion: v1
kind: Pod
metadata: {{ name: driver, namespace: {SPACE} }}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: driver
      image: {IMAGE}
      args: [-workload-api-socket-dir, /run/spire/agent-sockets, -csi-socket-path, /spiffe-csi/csi.sock, -plugin-name, {NAME}]
      env: &node [{{ name: MY_NODE_NAME, valueFrom: {{ fieldRef: {{ fieldPath: spec.nodeName }} }} }}]
      securityContext: {{ privileged: true }}
      volumeMounts:
        - {{ name: sockets, mountPath: /run/spire/agent-sockets }}
        - {{ name: plugin, mountPath: /spiffe-csi }}
        - {{ name: pods, mountPath: /var/lib/kubelet/pods, mountPropagation: Bidirectional }}
    - name: registrar
      image: {SIGNET}
      args:
        - k8s
        - csi
        - -plugin-name={NAME}
        - -workload-api-socket-dir=/run/spire/agent-sockets
        - -csi-socket-path=/registrar/unused.sock
        - -kubelet-registration-path=/var/lib/kubelet/plugins/{NAME}/csi.sock
      env: *node
      securityContext: {{ privileged: true }}
      volumeMounts:
        - {{ name: sockets, mountPath: /run/spire/agent-sockets }}
        - {{ name: registrar, mountPath: /registrar }}
        - {{ name: registry, mountPath: /var/lib/kubelet/plugins_registry }}
        - {{ name: pods, mountPath: /var/lib/kubelet/pods, readOnly: true }}
  volumes:
    - {{ name: sockets, hostPath: {{ path: /run/spire/agent-sockets, type: Directory }} }}
    - {{ name: plugin, hostPath: {{ path: /var/lib/kubelet/plugins/{NAME}, type: DirectoryOrCreate }} }}
    - {{ name: registry, hostPath: {{ path: /var/lib/kubelet/plugins_registry, type: Directory }} }}
    - {{ name: pods, hostPath: {{ path: /var/lib/kubelet/pods, type: Directory }} }}
    - {{ name: registrar, emptyDir: {{}} }}
"#
    )
}
