//! An agent of ours whose node has many pods, listed over HTTP: the memory that it keeps.
//!
//! Agent and caller stand in cgroups as a kubelet would make them, below one of this program's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::domain::Plan;
use tests::process::eventually;
use tests::programs::Make;

use crate::kubelet::{container, serve, uid};
use crate::meter::{Memory, Meter};

const CALLS: &str = "200";

/// What an agent keeps that has asked again and again; `None`, with the reason said, where no cgroups can be made.
pub(crate) fn agent_of(pods: usize) -> Option<Memory> {
    let Some(tree) = Tree::plant() else {
        eprintln!("bench: LEFT OUT: the agent with many pods: cgroups can be made by root alone");
        return None;
    };
    let domain = Plan::new(Make::Signet).key(r#"log_level = "INFO""#).start();
    let place = domain.place(r#"log_level = "INFO""#);
    let files = tempfile::tempdir().unwrap();
    let (_runtime, fake) = serve(files.path(), pods);
    place.configure(
        r#"WorkloadAttestor "unix" { plugin_data { discover_workload_path = true } }"#,
        &attestor(files.path(), fake.addr.port()),
    );
    let process = tree.within(&below(pods), || place.start());
    place.wait();
    domain.entry_below(&place.id, "/bench", "k8s:ns:shop", &[]);

    let socket = place.folder().join("agent.sock");
    let this = std::env::current_exe().unwrap();
    let ask = |words: &[&str]| {
        let mut asker = Command::new(&this);
        asker.arg(words.first().unwrap()).arg(&socket);
        let asker = asker.args(words.iter().skip(1));
        let output = tree.within(&below(7), || asker.output().unwrap());
        output.status.success()
    };
    eventually("the agent has the entry", || ask(&["call"]));
    assert!(ask(&["calls", CALLS, "0"]));
    Some(Meter::of(process.pid()).memory())
}

/// Each call asks for a list of its own.
fn attestor(files: &Path, port: u16) -> String {
    let files = files.display();
    format!(
        r#"WorkloadAttestor "k8s" {{ plugin_data {{
        node_name = "n1"
        kubelet_secure_port = {port}
        token_path = "{files}/token"
        poll_retry_interval = "1ms"
        max_poll_attempts = 10000
        signet {{
            kubelet_address = "127.0.0.1"
            kubelet_certificate_paths = ["{files}/kubelet.crt"]
            pods_api_socket = ""
        }}
    }} }}"#
    )
}

/// Where a pod's container is among the cgroups.
fn below(number: usize) -> String {
    let (uid, container) = (uid(number), container(number));
    format!("kubepods/burstable/pod{uid}/{container}")
}

/// A tree of pods in one hierarchy of cgroups.
struct Tree {
    root: PathBuf,
    /// The cgroup of this process.
    home: PathBuf,
}

impl Tree {
    fn plant() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let path_in = |controllers: &str| {
            let fields = own.lines().map(|line| line.splitn(3, ':').skip(1));
            let mut fields = fields.filter_map(|mut fields| Some((fields.next()?, fields.next()?)));
            fields
                .find(|(name, _)| *name == controllers)
                .map(|(_, path)| path)
        };
        let hierarchies = [("/sys/fs/cgroup/pids", "pids"), ("/sys/fs/cgroup", "")];
        hierarchies.into_iter().find_map(|(mount, controllers)| {
            let mount = PathBuf::from(mount);
            fs::metadata(mount.join("cgroup.procs")).ok()?;
            let home = mount.join(path_in(controllers)?.trim_start_matches('/'));
            let root = mount.join(format!("signet-bench-{}", std::process::id()));
            fs::create_dir(&root).ok()?;
            Some(Self { root, home })
        })
    }

    /// Does something that starts a process, while this one is in a cgroup of the tree.
    fn within<T>(&self, below: &str, start: impl FnOnce() -> T) -> T {
        let folder = self.root.join(below);
        fs::create_dir_all(&folder).unwrap();
        enter(&folder);
        let started = start();
        enter(&self.home);
        started
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        remove(&self.root);
    }
}

fn enter(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
}

/// Cgroups go from the innermost outwards, once their processes have.
fn remove(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}
