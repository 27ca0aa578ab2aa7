//! What a pod waits for its identity on a real Kubernetes, and what that costs the node, with real SPIRE beside.
//!
//! It needs root and what `tests/setup kubernetes` makes. Everything runs on this machine: API server, kubelet,
//! runtime, server, agents, and the pods that ask.

use std::time::Duration;

use tests::cluster::{Cluster, Namespace, image};
use tests::installed::{AGENTS, Installed};
use tests::pairs::{self, Rights};
use tests::peers;
use tests::process::eventually;
use tests::programs::Make::Spire;

use crate::calls::since_start;
use crate::cost::pause;
use crate::footprint::memory;
use crate::meter::Meter;
use crate::node::{AgentProcess, Askers, SPACE, fill};
use crate::table::{Goal, Row};

/// The image of this program.
const IMAGE: &str = "localhost/bench:test";
/// How many pods start, each time.
const PODS: usize = 20;
/// How many pods the node has where processes of long-running ones ask.
const CROWD: usize = 53;
/// How many of these processes are a good while apart, and that while: a list of the kubelet is then old.
const CALLS: u32 = 100;
const APART: Duration = Duration::from_millis(580);
/// How many ask back to back.
const IN_A_ROW: u32 = 200;
/// How often the agent's pod is deleted.
const RESTARTS: usize = 3;

pub(crate) fn rows() -> Vec<Row> {
    let Some(cluster) = Cluster::alone() else {
        eprintln!("bench: LEFT OUT: kubernetes, for the reason above");
        return Vec::new();
    };
    let signet = Installed::on(&cluster);
    load(&cluster);
    let _space = cluster.namespace(SPACE);
    let mut rows = Vec::new();

    let [plain, strict] = ours(&signet);
    rows.extend(first_acts(&plain, &PLAIN));
    rows.extend(first_acts(&strict, &STRICT));
    rows.push(restarts(&signet, &plain));

    let spire = peers::folder("spire").map(|_| SpirePair::start(&cluster));
    let theirs = spire.as_ref().map(SpirePair::askers);
    rows.extend(theirs.iter().flat_map(|askers| first_acts(askers, &THEIRS)));

    fill(&cluster, CROWD);
    let agent = AgentProcess::of(&cluster, "signet", &signet.agent_pod());
    let ours = Long::of(&plain, &agent);
    rows.extend(ours.rows(Goal::AtMost(3.0)));
    let theirs = theirs.map(|askers| {
        let name = pairs::agent_name(Spire, Spire);
        Long::of(&askers, &AgentProcess::of(&cluster, pairs::SPACE, &name))
    });
    rows.extend(theirs.iter().flat_map(|theirs| theirs.rows(Goal::Limit)));
    rows.push(cost(&ours, theirs.as_ref()));
    rows
}

/// Pods whose identity rests on what is known of their pod, and pods for which the container must be known as well.
fn ours<'a>(signet: &Installed<'a>) -> [Askers<'a>; 2] {
    let askers = |account| Askers {
        cluster: signet.cluster,
        image: IMAGE,
        volume: "csi: { driver: csi.spiffe.io, readOnly: true }".to_owned(),
        socket: "agent.sock",
        account,
    };
    signet.entry(SPACE, "plain", &[]);
    signet.entry(SPACE, "strict", &["-selector", "k8s:container-name:app"]);
    let both = ["plain", "strict"].map(askers);
    both.iter().for_each(Askers::settle);
    both
}

/// The names of the rows of first acts, spaced and at once, p50 and most, and their goals.
struct FirstActs {
    names: [[&'static str; 2]; 2],
    goals: [Goal; 2],
}

const PLAIN: FirstActs = FirstActs {
    names: [
        [
            "pod's first act, 20 a second apart, p50",
            "pod's first act, 20 a second apart, most",
        ],
        [
            "pod's first act, 20 at once, p50",
            "pod's first act, 20 at once, most",
        ],
    ],
    goals: [Goal::AtMost(50.0), Goal::AtMost(150.0)],
};

const STRICT: FirstActs = FirstActs {
    names: [
        [
            "the same where an entry asks for the container, a second apart, p50",
            "the same where an entry asks for the container, a second apart, most",
        ],
        [
            "the same where an entry asks for the container, at once, p50",
            "the same where an entry asks for the container, at once, most",
        ],
    ],
    goals: [Goal::AtMost(50.0), Goal::AtMost(150.0)],
};

const THEIRS: FirstActs = FirstActs {
    names: [
        [
            "real SPIRE: pod's first act, a second apart, p50",
            "real SPIRE: pod's first act, a second apart, most",
        ],
        [
            "real SPIRE: pod's first act, at once, p50",
            "real SPIRE: pod's first act, at once, most",
        ],
    ],
    goals: [Goal::Limit, Goal::Limit],
};

fn first_acts(askers: &Askers<'_>, rows: &FirstActs) -> Vec<Row> {
    let mut found = Vec::new();
    for (names, are_spaced) in rows.names.into_iter().zip([true, false]) {
        let times = askers.first_acts(PODS, are_spaced);
        let all = told(&times);
        for ((name, goal), measured) in names
            .into_iter()
            .zip(rows.goals)
            .zip(middle_and_most(times))
        {
            found.push(Row {
                name,
                goal,
                measured,
                unit: " ms",
                from: all.clone(),
            });
        }
    }
    found
}

/// The longest time from the start of a new agent's process to the first SVID that it gives.
fn restarts(signet: &Installed<'_>, askers: &Askers<'_>) -> Row {
    askers.start_follower();
    eventually("the follower is answered", || !askers.answered().is_empty());
    let (mut longest, mut tries) = (0.0_f64, Vec::new());
    for _ in 0..RESTARTS {
        let deleted = since_start();
        signet.delete_agent_pod();
        signet.wait();
        let agent = AgentProcess::of(signet.cluster, "signet", &signet.agent_pod());
        let mut again = None;
        eventually("the follower is answered again", || {
            again = askers.answered().into_iter().find(|at| *at > agent.start());
            again.is_some()
        });
        let (start, again) = (agent.start(), again.unwrap());
        longest = longest.max(again - start);
        tries.push(format!("{:.2} ({:.2})", again - start, again - deleted));
        // The back-off of the kubelet is for containers that end by themselves; a moment of peace is for the node.
        pause(Duration::from_secs(2));
    }
    askers.end_follower();
    Row {
        name: "agent's pod deleted: from the new one's process to the first SVID, the longest of 3",
        goal: Goal::AtMost(0.5),
        measured: longest,
        unit: " s",
        from: format!("after the deletion in brackets: {}", tries.join(", ")),
    }
}

/// What processes of a long-running pod take, and what they cost their agent.
struct Long {
    apart: Vec<f64>,
    in_a_row: Vec<f64>,
    /// Microseconds of processors for a call, the calls far apart.
    cost: f64,
    pid: u32,
    names: [&'static str; 3],
}

impl Long {
    fn of(askers: &Askers<'_>, agent: &AgentProcess) -> Self {
        let mut apart = Vec::new();
        let cost = agent.cost(CALLS, || apart = askers.later_acts(CALLS, APART));
        let is_ours = askers.account == "plain";
        let names = if is_ours {
            [
                "process of a long-running pod, 53 pods, 0.58 s apart, p50",
                "process of a long-running pod, 53 pods, back to back, p50",
                "agent of 53 pods, resident",
            ]
        } else {
            [
                "real SPIRE: process of a long-running pod, 0.58 s apart, p50",
                "real SPIRE: process of a long-running pod, back to back, p50",
                "real SPIRE: agent of 53 pods, resident",
            ]
        };
        Self {
            apart,
            in_a_row: askers.later_acts(IN_A_ROW, Duration::ZERO),
            cost,
            pid: agent.pid,
            names,
        }
    }

    fn rows(&self, goal: Goal) -> Vec<Row> {
        let times = [&self.apart, &self.in_a_row].into_iter().zip(self.names);
        let times = times.map(|(times, name)| {
            let [middle, _] = middle_and_most(times.clone());
            Row {
                name,
                goal,
                measured: middle,
                unit: " ms",
                from: told(times),
            }
        });
        let kept = memory(self.names[2], Goal::Limit, &Meter::of(self.pid).memory());
        times.chain([kept]).collect()
    }
}

fn cost(ours: &Long, theirs: Option<&Long>) -> Row {
    match theirs {
        Some(theirs) => Row {
            name: "attestation's processor time, 53 pods, 0.58 s apart, of real SPIRE's",
            goal: Goal::AtMost(0.1),
            measured: ours.cost / theirs.cost,
            unit: "",
            from: format!("{:.0} of {:.0} us", ours.cost, theirs.cost),
        },
        None => Row {
            name: "attestation's processor time, 53 pods, 0.58 s apart",
            goal: Goal::AtMost(1500.0),
            measured: ours.cost,
            unit: " us",
            from: "real SPIRE: 14900 us".to_owned(),
        },
    }
}

/// Real SPIRE as two pods of its own.
struct SpirePair<'a> {
    cluster: &'a Cluster,
    _space: Namespace,
    _rights: Rights<'a>,
}

impl<'a> SpirePair<'a> {
    fn start(cluster: &'a Cluster) -> Self {
        let folder = peers::folder("spire").unwrap();
        let archives = tempfile::tempdir().unwrap();
        for part in ["server", "agent"] {
            let archive = archives.path().join(part);
            let program = folder.canonicalize().unwrap().join(format!("spire-{part}"));
            let name = pairs::image_of(Spire, part);
            image(
                "program",
                &archive,
                &name,
                &[&program.display().to_string()],
            );
            cluster.load(&archive);
        }
        let pair = Self {
            cluster,
            _space: cluster.namespace(pairs::SPACE),
            _rights: Rights::granted(cluster),
        };
        // As operators run it: without every line, and without what it asks the API server at each attestation.
        let quiet = |manifest: String| {
            manifest
                .replace("DEBUG", "INFO")
                .replace(" enable_namespace_labels = true", "")
        };
        pair.apply(&pairs::server_name(Spire), &quiet(pairs::server_pod(Spire)));
        eventually("real SPIRE's server answers", || {
            pair.ask(&["healthcheck"]).is_some()
        });
        let bundle = pair.ask(&["bundle", "show"]).unwrap();
        cluster.apply(&pairs::bundle_map(Spire, &bundle));
        let name = pairs::agent_name(Spire, Spire);
        pair.apply(&name, &quiet(pairs::agent_pod(Spire, Spire)));
        let node = format!("k8s_psat:cluster:{}", pairs::cluster_name(Spire));
        let alias = ["-node", "-spiffeID", AGENTS, "-selector", &node];
        pair.ask(&[&["entry", "create"], &alias[..]].concat())
            .unwrap();
        let id = "spiffe://example.org/bench/spire";
        let selectors = [format!("k8s:ns:{SPACE}"), "k8s:sa:spire".to_owned()];
        let entry = ["entry", "create", "-parentID", AGENTS, "-spiffeID", id];
        let selectors = ["-selector", &selectors[0], "-selector", &selectors[1]];
        pair.ask(&[&entry[..], &selectors].concat()).unwrap();
        pair
    }

    fn askers(&self) -> Askers<'a> {
        let folder = format!("/run/spire/pairs/{}", pairs::agent_name(Spire, Spire));
        let askers = Askers {
            cluster: self.cluster,
            image: IMAGE,
            volume: format!("hostPath: {{ path: {folder}, type: Directory }}"),
            socket: "agent.sock",
            account: "spire",
        };
        askers.settle();
        askers
    }

    fn apply(&self, name: &str, manifest: &str) {
        self.cluster.apply(manifest);
        self.cluster
            .wait(pairs::SPACE, &format!("pod/{name}"), "Ready");
    }

    /// What the server's program prints, if it succeeds.
    fn ask(&self, words: &[&str]) -> Option<String> {
        let words = [&["spire-server"], words].concat();
        let name = pairs::server_name(Spire);
        let ended = self.cluster.exec(pairs::SPACE, &name, &words);
        (ended.code == 0).then_some(ended.stdout)
    }
}

/// Makes this program an image, as `/bin/bench`.
fn load(cluster: &Cluster) {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("bench.tar");
    let this = std::env::current_exe().unwrap();
    image("program", &archive, IMAGE, &[&this.display().to_string()]);
    cluster.load(&archive);
}

fn middle_and_most(mut times: Vec<f64>) -> [f64; 2] {
    times.sort_unstable_by(f64::total_cmp);
    let [middle, most] = [times.len() / 2, times.len() - 1];
    [middle, most].map(|at| times.get(at).copied().unwrap())
}

fn told(times: &[f64]) -> String {
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    let [_, most] = middle_and_most(times.to_vec());
    format!("{} of {least:.1} to {most:.1} ms", times.len())
}
