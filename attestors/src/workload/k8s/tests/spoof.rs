//! Real processes in real cgroups, some of which lie about where they are.
//!
//! The tree of pods stands in a cgroup of the test's own, as the kubelet's stands in that of a node
//! that is a container; so no kubelet of this machine finds it and clears it away.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// What the attacker is told of the others, in the order of the arguments of its script.
struct Lies {
    /// The victim's `/proc/PID/cgroup`, in a file.
    text: PathBuf,
    /// The directory of the victim's container in one hierarchy, and of its own.
    victim: PathBuf,
    own: PathBuf,
    /// Names below the own directory that read like the victim's path.
    below: String,
}

/// A tree of pods in each hierarchy that lets us make one.
struct Tree {
    roots: Vec<PathBuf>,
}

impl Tree {
    /// `None` where this process may not make cgroups.
    fn plant() -> Option<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("signet-test-{}-{number}", std::process::id());
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let root = |line: &str| {
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
            (is_usable && fs::create_dir(&root).is_ok()).then_some(root)
        };
        let roots: Vec<_> = mounts.lines().filter_map(root).collect();
        (!roots.is_empty()).then_some(Self { roots })
    }

    /// Makes a cgroup below each root.
    fn folders(&self, below: &str) -> Vec<PathBuf> {
        let folder = |root: &PathBuf| {
            let folder = root.join(below);
            fs::create_dir_all(&folder).unwrap();
            folder
        };
        self.roots.iter().map(folder).collect()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for root in &self.roots {
            remove(root);
        }
    }
}

/// Cgroups go from the innermost outwards, once their processes have.
fn remove(folder: &std::path::Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}

/// A process in a cgroup.
struct Placed(Child);

impl Placed {
    /// Runs `script` in a mount namespace of its own, once the process is in the folders.
    fn start(folders: &[PathBuf], script: &str, lies: Option<&Lies>) -> Self {
        let script = format!("read -r go; set -e; {script}\necho ready; exec cat");
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            &script,
            "sh",
        ]);
        if let Some(lies) = lies {
            command
                .args([&lies.text, &lies.victim, &lies.own])
                .arg(&lies.below);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        for folder in folders {
            fs::write(folder.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        writeln!(child.stdin.as_mut().unwrap(), "go").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n", "{script}");
        Self(child)
    }

    fn peer(&self) -> Arc<Peer> {
        Arc::new(Peer::for_test(self.0.id(), 0, 0).unwrap())
    }

    fn cgroup(&self) -> Vec<u8> {
        fs::read(format!("/proc/{}/cgroup", self.0.id())).unwrap()
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The scripts of an attacker in its container: `$1` is the text of the victim's cgroups, `$2` the
/// victim's directory, `$3` its own, `$4` names below it.
const ATTACKS: [(&str, &str); 8] = [
    ("nothing", ":"),
    (
        "moves into cgroups of the victim's name below its own",
        r#"mkdir -p "$3/$4"; echo $$ >"$3/$4/cgroup.procs""#,
    ),
    (
        "moves into a cgroup of the victim's id right below its own",
        r#"mkdir -p "$3/${4##*/}"; echo $$ >"$3/${4##*/}/cgroup.procs""#,
    ),
    (
        "mounts the victim's cgroup over its own",
        r#"mount --bind "$2" "$3""#,
    ),
    (
        "mounts the victim's text over its own /proc/PID/cgroup",
        r#"mount --bind "$1" /proc/$$/cgroup; grep -q pod /proc/$$/cgroup"#,
    ),
    (
        "mounts a /proc of its own making",
        r#"text=$(cat "$1"); mount -t tmpfs none /proc; mkdir /proc/$$; echo "$text" >/proc/$$/cgroup; ln -s $$ /proc/self"#,
    ),
    (
        "looks from a cgroup namespace of its own",
        "exec unshare --cgroup sh -c 'echo ready; exec cat'",
    ),
    (
        "does all of it",
        r#"mkdir -p "$3/$4"; echo $$ >"$3/$4/cgroup.procs"; mount --bind "$2" "$3"; mount --bind "$1" /proc/$$/cgroup; mount -t tmpfs none /proc"#,
    ),
];

fn tree() -> Option<Tree> {
    let tree = Tree::plant();
    if tree.is_none() {
        skip();
    }
    tree
}

#[expect(
    clippy::disallowed_methods,
    reason = "the tests have no `main` of their own"
)]
fn skip() {
    assert!(std::env::var("CI").is_err(), "cgroups can be made by root");
    eprintln!("SKIPPED: this process may not make cgroups");
}

/// A pod's container in the tree.
fn below(pod: &FakePod) -> String {
    let id = pod.container.as_ref().unwrap();
    format!("kubepods/burstable/pod{}/{id}", pod.uid)
}

/// The attestor, as the agent in a pod of this tree makes it.
fn k8s_in(tree: &Tree, bench: &Bench, pods: Vec<FakePod>) -> (FakePodsApi, K8s) {
    let (api, k8s) = bench.watched(pods, Options::default());
    let viewpoint = viewpoint_in(tree);
    (api, K8s { viewpoint, ..k8s })
}

fn viewpoint_in(tree: &Tree) -> Arc<Viewpoint> {
    let agent = Placed::start(&tree.folders(&below(&FakePod::new(9))), ":", None);
    let viewpoint = Viewpoint::of_agent(&agent.cgroup()).unwrap();
    assert_ne!(viewpoint, Viewpoint::default(), "the agent is in a pod");
    Arc::new(viewpoint)
}

#[tokio::test]
async fn whatever_a_container_makes_and_mounts_it_is_nobody_else() {
    let Some(tree) = tree() else { return };
    let bench = Bench::new();
    let (attacker, victim) = (FakePod::new(1), FakePod::new(2));
    let (_api, k8s) = k8s_in(&tree, &bench, vec![attacker.clone(), victim.clone()]);
    let of_victim = tree.folders(&below(&victim));
    let honest = Placed::start(&of_victim, ":", None);
    let found = k8s.attest(&honest.peer(), &WAITED_FOR).await.unwrap();
    assert!(has(&found.verdict, "k8s:pod-name:pod-2"));
    let text = bench.folder.path().join("cgroup");
    fs::write(&text, honest.cgroup()).unwrap();
    for (attack, script) in ATTACKS {
        let own = tree.folders(&below(&attacker));
        // In each hierarchy by itself: the others still say where it is.
        for (own_folder, victims_folder) in own.iter().zip(&of_victim) {
            let lies = Lies {
                text: text.clone(),
                victim: victims_folder.clone(),
                own: own_folder.clone(),
                below: below(&victim),
            };
            let process = Placed::start(&own, script, Some(&lies));
            let found = k8s.attest(&process.peer(), &WAITED_FOR).await.unwrap();
            let found = found.verdict;
            assert!(has(&found, "k8s:pod-name:pod-1"), "{attack}: {found:?}");
            assert!(!has(&found, "k8s:pod-name:pod-2"), "{attack}: {found:?}");
        }
    }
}

#[tokio::test]
async fn a_process_that_is_in_two_pods_at_once_is_denied() {
    let Some(tree) = tree() else { return };
    if tree.roots.len() < 2 {
        return;
    }
    let bench = Bench::new();
    let (one, two) = (FakePod::new(1), FakePod::new(2));
    let (_api, k8s) = k8s_in(&tree, &bench, vec![one.clone(), two.clone()]);
    let mut folders = tree.folders(&below(&one));
    folders[0].clone_from(&tree.folders(&below(&two))[0]);
    let process = Placed::start(&folders, ":", None);
    assert_eq!(
        k8s.attest(&process.peer(), &WAITED_FOR)
            .await
            .unwrap()
            .verdict,
        Verdict::Denied(Denial::CgroupContradiction)
    );
}

#[tokio::test]
async fn a_tree_of_pods_beside_the_agents_is_none() {
    let Some(tree) = tree() else { return };
    let Some(other) = Tree::plant() else { return };
    let bench = Bench::new();
    let victim = FakePod::new(2);
    let (_api, k8s) = k8s_in(&tree, &bench, vec![victim.clone()]);
    let process = Placed::start(&other.folders(&below(&victim)), ":", None);
    assert_eq!(
        k8s.attest(&process.peer(), &WAITED_FOR)
            .await
            .unwrap()
            .verdict,
        Verdict::Attested(Selectors::default())
    );
    drop(process);
}

#[tokio::test]
async fn a_caller_that_exits_while_its_container_is_awaited_is_denied() {
    let Some(tree) = tree() else { return };
    let bench = Bench::new();
    let pod = FakePod::new(1);
    let (fake, k8s) = bench.listed(Answer::Hang, Options::default()).await;
    let viewpoint = viewpoint_in(&tree);
    let k8s = K8s { viewpoint, ..k8s };
    let mut process = Placed::start(&tree.folders(&below(&pod)), ":", None);
    let peer = process.peer();
    let exits = async {
        // By then its cgroup has been read.
        fake.requested(1).await;
        process.kill();
    };
    let (found, ()) = tokio::join!(k8s.attest(&peer, &WAITED_FOR), exits);
    assert_eq!(found.unwrap().verdict, Verdict::Denied(Denial::Exited));
}

/// A label goes, the pod goes, the volume of the pod goes: whoever follows the caller hears of each, and of
/// nothing that happens to others.
#[tokio::test]
async fn what_changes_about_a_pod_is_told_to_those_who_attested_its_callers() {
    let Some(tree) = tree() else { return };
    let bench = Bench::new();
    let (mine, other) = (FakePod::new(1), FakePod::new(2));
    let (api, k8s) = k8s_in(&tree, &bench, vec![mine.clone(), other.clone()]);
    let process = Placed::start(&tree.folders(&below(&mine)), ":", None);
    let peer = process.peer();
    let mut report = k8s.rules.volumes.report();
    let volume = volumes::Volume {
        id: "v".to_owned(),
        pod: PodUid::parse(&mine.uid).unwrap(),
        pod_name: "pod-1".to_owned(),
        namespace: "default".to_owned(),
        service_account: "web".to_owned(),
    };
    // The first telling of all pods is news to whoever follows one by then.
    k8s.kubelet.snapshot().await.unwrap();
    for change in 0..4 {
        let finding = k8s.attest(&peer, &WAITED_FOR).await.unwrap();
        let changes = finding.changes.unwrap();
        let seen = k8s.kubelet.snapshot().await.unwrap().version;
        api.put(&other.clone().labelled("change", &change.to_string()));
        k8s.kubelet.newer_than(seen).await.unwrap();
        assert!(changes.changed().now_or_never().is_none(), "{change}");
        match change {
            0 => report.published(volume.clone()).map(|_| ()).unwrap(),
            1 => report.unpublished("v").unwrap(),
            2 => api.put(&mine.clone().labelled("team", "red")),
            _ => api.remove(&mine),
        }
        tokio::time::timeout(Duration::from_secs(30), changes.changed())
            .await
            .unwrap();
        assert!(changes.without_past().changed().now_or_never().is_none());
    }
    let after = k8s.kubelet.snapshot().await.unwrap();
    assert!(after.pod(&volume.pod).unwrap().is_none());
}

#[tokio::test]
async fn over_http_a_pod_that_changed_is_told_with_the_list_that_somebody_else_asked_for() {
    let bench = Bench::new();
    let (one, two) = (FakePod::new(1), FakePod::new(2));
    let pods = |label: &str| Answer::Pods(vec![one.clone().labelled("team", label), two.clone()]);
    let (fake, k8s) = bench.listed(pods("red"), Options::default()).await;
    let first = k8s.kubelet.snapshot().await.unwrap();
    let uid = |pod: &FakePod| PodUid::parse(&pod.uid).unwrap();
    let (of_one, of_two) = (k8s.changes(Some(&uid(&one))), k8s.changes(Some(&uid(&two))));
    fake.answer(pods("blue"));
    k8s.kubelet.newer_than(first.version).await.unwrap();
    of_one.changed().await;
    assert!(of_two.changed().now_or_never().is_none());
}
