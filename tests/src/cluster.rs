//! A real Kubernetes on this machine, made by `tests/kubernetes`: one for the whole test program.
//!
//! Tests share it, each in namespaces of its own. A test that stops daemons takes it for itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use serde_json::Value;

use crate::peers;
use crate::process::{Ended, Process, eventually, run, run_with_input};

/// The name of the node.
pub const NODE: &str = "n1";

/// An image with a shell and the usual small programs.
pub const BUSYBOX: &str = "localhost/busybox:1";

/// A running cluster. It ends with this process, however that ends.
#[derive(Debug)]
pub struct Cluster {
    _supervisor: Process,
}

/// What the tests stop and start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Daemon {
    ApiServer,
    Controllers,
    Scheduler,
    Kubelet,
    Proxy,
    Containerd,
}

impl Daemon {
    fn words(self) -> [&'static str; 2] {
        match self {
            Self::ApiServer => ["cp", "apiserver"],
            Self::Controllers => ["cp", "controller-manager"],
            Self::Scheduler => ["cp", "scheduler"],
            Self::Kubelet => [NODE, "kubelet"],
            Self::Proxy => [NODE, "proxy"],
            Self::Containerd => [NODE, "containerd"],
        }
    }
}

impl Cluster {
    /// The cluster, shared with other tests; `None`, with the reason said, where it cannot run.
    pub fn up() -> Option<RwLockReadGuard<'static, Self>> {
        Some(the_one()?.read())
    }

    /// The cluster for this test alone, which may stop its daemons.
    pub fn alone() -> Option<RwLockWriteGuard<'static, Self>> {
        Some(the_one()?.write())
    }

    /// Runs kubectl as the cluster's administrator.
    pub fn kubectl(&self, words: &[&str]) -> Ended {
        run(script().arg("ctl").args(words))
    }

    /// The same for a command that has to succeed; returns what it prints.
    pub fn ctl(&self, words: &[&str]) -> String {
        self.kubectl(words).success()
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) {
        let mut command = script();
        run_with_input(command.args(["ctl", "apply", "-f", "-"]), manifest).success();
    }

    /// Applies a folder with a `kustomization.yaml`.
    pub fn apply_folder(&self, folder: &Path) {
        self.ctl(&["apply", "-k", &folder.display().to_string()]);
    }

    /// An object, or `None` if there is none of that name.
    pub fn object(&self, namespace: &str, kind: &str, name: &str) -> Option<Value> {
        let ended = self.kubectl(&["-n", namespace, "get", kind, name, "-o", "json"]);
        if ended.code != 0 && ended.stderr.contains("NotFound") {
            return None;
        }
        Some(serde_json::from_str(&ended.success()).unwrap())
    }

    /// Waits until a condition of an object holds.
    pub fn wait(&self, namespace: &str, object: &str, condition: &str) {
        let condition = format!("--for=condition={condition}");
        let ended = self.kubectl(&["-n", namespace, "wait", &condition, object, "--timeout=90s"]);
        if ended.code != 0 {
            let told = self.kubectl(&["-n", namespace, "describe", object]);
            let logs = self.kubectl(&["-n", namespace, "logs", object, "--all-containers"]);
            panic!("{ended:?}\n{}\n{}{}", told.stdout, logs.stdout, logs.stderr);
        }
    }

    /// Runs a program in a pod, or in one of its containers (`pod -c container`).
    pub fn exec(&self, namespace: &str, pod: &str, words: &[&str]) -> Ended {
        let mut command = script();
        command.args(["ctl", "-n", namespace, "exec"]);
        command.args(pod.split(' ')).arg("--").args(words);
        run(&mut command)
    }

    /// What all containers of a pod have printed.
    pub fn logs(&self, namespace: &str, pod: &str) -> String {
        self.ctl(&[
            "-n",
            namespace,
            "logs",
            pod,
            "--all-containers",
            "--tail=-1",
        ])
    }

    /// A new namespace, which goes with the returned value.
    pub fn namespace(&self, name: &str) -> Namespace {
        self.ctl(&["create", "namespace", name]);
        eventually("the namespace has its service account", || {
            self.object(name, "serviceaccount", "default").is_some()
        });
        Namespace(name.to_owned())
    }

    /// Makes an image available to pods. It has to be one with `imagePullPolicy: Never` or a tag.
    pub fn load(&self, archive: &Path) {
        run(script().arg("load").arg(archive)).success();
    }

    /// Ends a daemon as a crash would.
    pub fn kill(&self, daemon: Daemon) {
        run(script().arg("stop").args(daemon.words()).arg("KILL")).success();
    }

    /// Ends a daemon by SIGTERM, and waits until it is gone.
    pub fn stop(&self, daemon: Daemon) {
        run(script().arg("stop").args(daemon.words())).success();
    }

    /// Starts a daemon that was stopped.
    pub fn start(&self, daemon: Daemon) {
        run(script().arg("start").args(daemon.words())).success();
    }

    /// Starts the API server after a long outage, and then anew what has asked it in vain: Kubernetes' own programs wait
    /// ever longer between two tries, up to a minute, and the next test would wait with them.
    pub fn end_outage(&self) {
        self.start(Daemon::ApiServer);
        eventually("the API server is back", || {
            self.kubectl(&["get", "nodes"]).code == 0
        });
        for daemon in [
            Daemon::Controllers,
            Daemon::Scheduler,
            Daemon::Proxy,
            Daemon::Kubelet,
        ] {
            self.kill(daemon);
            self.start(daemon);
        }
    }

    /// A program in the namespaces of the node, but in no pod.
    pub fn on_the_node(&self, words: &[&str]) -> Ended {
        run(script().args(["in", NODE]).args(words))
    }

    /// Where the node's own paths (`/run/spire`, `/var/lib/kubelet`) lie on this machine.
    pub fn node_root(&self) -> PathBuf {
        run(script().args(["root", NODE])).success().trim().into()
    }
}

/// A namespace, deleted when this is dropped.
#[derive(Debug)]
pub struct Namespace(String);

impl Namespace {
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What a failed test leaves in it is still there to look at until the pods are gone.
        let mut command = script();
        command.args(["ctl", "delete", "namespace", &self.0, "--wait=false"]);
        run(&mut command);
    }
}

/// Makes an image of one of the kinds of `tests/kubernetes/image`.
pub fn image(kind: &str, archive: &Path, name: &str, words: &[&str]) {
    let mut command = Command::new(folder().join("image"));
    run(command.arg(kind).arg(archive).arg(name).args(words)).success();
}

fn the_one() -> Option<&'static RwLock<Cluster>> {
    static ONE: OnceLock<Option<RwLock<Cluster>>> = OnceLock::new();
    let one = ONE.get_or_init(|| {
        let why = run(script().arg("why")).success();
        if !why.trim().is_empty() {
            peers::skip(&format!("no Kubernetes cluster can run: {}", why.trim()));
            return None;
        }
        let mut supervisor = Process::start_with_open_input("cluster", script().arg("run"));
        supervisor.line("cluster: up after");
        Some(RwLock::new(Cluster {
            _supervisor: supervisor,
        }))
    });
    one.as_ref()
}

fn script() -> Command {
    Command::new(folder().join("cluster"))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes")
}
