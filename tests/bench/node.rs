//! A node of the real cluster that has an agent, ours or SPIRE's, and pods that ask it.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use tests::cluster::{BUSYBOX, Cluster};
use tests::process::eventually;

use crate::cost::{pause, wall};

/// The namespace of the pods that ask.
pub(crate) const SPACE: &str = "bench";
/// Where the pods that ask have the folder of the agent's sockets.
const SOCKETS: &str = "/sockets";

/// Pods that ask for one kind of identity.
pub(crate) struct Askers<'a> {
    pub(crate) cluster: &'a Cluster,
    /// The image of this program.
    pub(crate) image: &'a str,
    /// The volume with the agent's sockets, as a pod declares it.
    pub(crate) volume: String,
    /// The socket's name in that folder.
    pub(crate) socket: &'static str,
    /// Their service account.
    pub(crate) account: &'static str,
}

impl Askers<'_> {
    /// Makes the account, and a pod that stays; returns once that has an identity.
    pub(crate) fn settle(&self) {
        let words = ["-n", SPACE, "create", "serviceaccount", self.account];
        self.cluster.ctl(&words);
        let stays = ["/bin/sleep", "infinity"];
        self.cluster.apply(&self.pod(self.account, "stays", &stays));
        let pod = format!("pod/{}", self.account);
        self.cluster.wait(SPACE, &pod, "Ready");
        eventually("the pod that stays has an identity", || {
            let words = ["bench", "call", &self.socket()];
            self.cluster.exec(SPACE, self.account, &words).code == 0
        });
    }

    /// What pods take, in ms, whose first act is to ask: each started a second after the other, or all at once.
    pub(crate) fn first_acts(&self, count: usize, are_spaced: bool) -> Vec<f64> {
        let socket = self.socket();
        let words = ["/bin/bench", "call", &socket];
        let pods = (0..count).map(|at| self.pod(&format!("first-{at}"), "first", &words));
        if are_spaced {
            for pod in pods {
                let start = wall();
                self.cluster.apply(&pod);
                pause(Duration::from_secs(1).saturating_sub(start.elapsed()));
            }
        } else {
            self.cluster.apply(&pods.collect::<Vec<_>>().join("---"));
        }
        let ended = "--for=jsonpath={.status.phase}=Succeeded";
        let which = ["pod", "-l", "app=first"];
        let wait = ["-n", SPACE, "wait", ended, "--timeout=60s"];
        self.cluster.ctl(&[&wait[..], &which].concat());
        let logs = ["-n", SPACE, "logs", "-l", "app=first", "--tail=-1"];
        let times = milliseconds(&self.cluster.ctl(&logs));
        assert_eq!(times.len(), count);
        self.cluster
            .ctl(&[&["-n", SPACE, "delete"], &which[..]].concat());
        times
    }

    /// What processes of the pod that stays take, in ms, each of its own and on a connection of its own.
    pub(crate) fn later_acts(&self, count: u32, pause: Duration) -> Vec<f64> {
        let (count, pause) = (count.to_string(), pause.as_millis().to_string());
        let words = ["bench", "calls", &self.socket(), &count, &pause];
        milliseconds(&self.cluster.exec(SPACE, self.account, &words).success())
    }

    /// Starts a pod that notes when the agent is away.
    pub(crate) fn start_follower(&self) {
        let socket = self.socket();
        let words = ["/bin/bench", "follow", &socket];
        self.cluster.apply(&self.pod("follows", "follows", &words));
        self.cluster.wait(SPACE, "pod/follows", "Ready");
    }

    /// Ends it: it keeps its agent busy.
    pub(crate) fn end_follower(&self) {
        let words = ["-n", SPACE, "delete", "pod", "follows"];
        self.cluster.ctl(&words);
    }

    /// When it was answered, and again after each time that it was not.
    pub(crate) fn answered(&self) -> Vec<f64> {
        let log = self.cluster.logs(SPACE, "follows");
        let times = log
            .lines()
            .filter_map(|line| line.strip_prefix("answered "));
        times.map(|time| time.trim().parse().unwrap()).collect()
    }

    fn socket(&self) -> String {
        format!("{SOCKETS}/{}", self.socket)
    }

    fn pod(&self, name: &str, app: &str, command: &[&str]) -> String {
        let Self {
            image,
            volume,
            account,
            ..
        } = self;
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: {SPACE}, labels: {{ app: {app} }} }}
spec:
  serviceAccountName: {account}
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
    - name: app
      image: {image}
      command: {command:?}
      volumeMounts: [{{ name: sockets, mountPath: {SOCKETS}, readOnly: true }}]
  volumes: [{{ name: sockets, {volume} }}]
"
        )
    }
}

/// Adds pods that do nothing until the node has `count`.
pub(crate) fn fill(cluster: &Cluster, count: usize) {
    let pods = cluster.ctl(&["get", "pods", "-A", "-o", "name"]);
    let missing = count.saturating_sub(pods.lines().count());
    let pod = |at| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{ name: idle-{at}, namespace: {SPACE}, labels: {{ app: idle }} }}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{ name: app, image: {BUSYBOX}, command: [/bin/sleep, infinity] }}]
"
        )
    };
    cluster.apply(&(0..missing).map(pod).collect::<Vec<_>>().join("---"));
    let words = ["wait", "--for=condition=Ready", "--timeout=120s"];
    cluster.ctl(&[&["-n", SPACE], &words[..], &["pod", "-l", "app=idle"]].concat());
}

/// The process of an agent's container.
pub(crate) struct AgentProcess {
    pub(crate) pid: u32,
}

impl AgentProcess {
    pub(crate) fn of(cluster: &Cluster, namespace: &str, pod: &str) -> Self {
        let pod = cluster.object(namespace, "pod", pod).unwrap();
        let containers = pod.pointer("/status/containerStatuses").unwrap();
        let is_agent = |container: &&Value| container.pointer("/name") == Some(&"agent".into());
        let agent = containers.as_array().unwrap().iter().find(is_agent);
        let id = agent.unwrap().pointer("/containerID").unwrap();
        let id = id.as_str().unwrap().rsplit('/').next().unwrap();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_in = |pid: &u32| {
            let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup"));
            cgroup.is_ok_and(|text| text.contains(id))
        };
        let pid = processes.filter(is_in).min().unwrap();
        Self { pid }
    }

    /// When it was made, in seconds since the machine's start. The runtime makes it before it becomes the agent's.
    pub(crate) fn start(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        let fields = stat.rsplit(')').next().unwrap();
        // Field 22 of proc(5), counted from the one behind the name, in hundredths of a second.
        let ticks: f64 = fields.split_whitespace().nth(19).unwrap().parse().unwrap();
        ticks / 100.0
    }

    /// The time of processors that its container has used, in microseconds.
    pub(crate) fn used(&self) -> f64 {
        let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", self.pid)).unwrap();
        let path = cgroups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let is_it = fields.next()?.split(',').any(|name| name == "cpuacct");
            is_it.then(|| fields.next())?
        });
        let path = format!("/sys/fs/cgroup/cpuacct{}/cpuacct.usage", path.unwrap());
        let nanoseconds: f64 = fs::read_to_string(path).unwrap().trim().parse().unwrap();
        nanoseconds / 1e3
    }

    /// What each of `count` calls of `work` takes of processors, in microseconds, beyond what the agent needs idle.
    pub(crate) fn cost(&self, count: u32, work: impl FnOnce()) -> f64 {
        let spent = |work: Box<dyn FnOnce() + '_>| {
            let (start, used) = (wall(), self.used());
            work();
            (self.used() - used, start.elapsed().as_secs_f64())
        };
        let (idle, idle_time) = spent(Box::new(|| pause(Duration::from_secs(10))));
        let (busy, busy_time) = spent(Box::new(work));
        (busy - idle / idle_time * busy_time) / f64::from(count)
    }
}

fn milliseconds(printed: &str) -> Vec<f64> {
    let micros = printed.lines().map(|line| line.trim().parse::<f64>());
    micros.map(|micros| micros.unwrap() / 1e3).collect()
}
