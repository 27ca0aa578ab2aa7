//! A server that dies, as by `kill -9`, at each point of the life of its authorities.
//!
//! The points stand in the server's code, in a debug build alone (`runtime::failpoint`). Each case starts
//! a server that dies at one of them, does what leads there, and sees it die; a point that is not reached
//! fails the case. What is stored then, and what the next start makes of it, is judged by what others see.

mod machine;
mod sound;

use std::time::SystemTime;

use super::operator::{Kind, Step};
use machine::{Machine, Roots};

/// Where a new key is made and kept.
const KEYS: &[&str] = &["keys.made", "file.written", "file.replaced", "keys.kept"];
/// Where a commit is made durable and told.
const STORE: &[&str] = &[
    "store.begun",
    "store.written",
    "store.durable",
    "store.told",
];
/// Where a bundle is changed.
const BUNDLE: &[&str] = &["bundle.changed", "bundle.stored"];
/// Where the authority above signs ours.
const UPSTREAM: &[&str] = &["upstream.read", "upstream.signed"];
/// Where the server's own SVID is replaced.
const SERVER_SVID: &[&str] = &["server_svid.issued"];
// `*` stands for the kind.
const PREPARE: &[&str] = &[
    "*.prepare.begun",
    "*.prepare.key_kept",
    "*.prepare.signed",
    "*.prepare.stored",
    "*.prepare.taken",
];
const PREPARED: &[&str] = &["*.prepare.done"];
const ACTIVATE: &[&str] = &[
    "*.activate.begun",
    "*.activate.visible",
    "*.activate.stored",
    "*.activate.taken",
];
const ACTIVATED: &[&str] = &["*.activate.signing"];
const TAINT: &[&str] = &["taint.visible", "taint.done"];
const REVOKE: &[&str] = &["revoke.visible", "revoke.done"];
const ORPHAN: &[&str] = &[
    "file.written",
    "file.replaced",
    "keys.kept",
    "*.orphan.forgotten",
];

/// What is done when the server dies, and where.
#[derive(Clone, Debug)]
struct Case {
    kind: Kind,
    step: Step,
    point: String,
}

impl Case {
    fn all(roots: Roots) -> Vec<Self> {
        let mut all = Vec::new();
        for kind in Kind::ALL {
            // Another authority signs those of X.509 alone.
            if (roots, kind) == (Roots::Above, Kind::Jwt) {
                continue;
            }
            for step in Step::ALL {
                let points = points(step, kind, roots).concat();
                let case = |point| Self {
                    kind,
                    step,
                    point: named(point, kind),
                };
                all.extend(points.into_iter().map(case));
            }
        }
        all
    }

    /// Whether other steps pass the point too.
    fn is_shared(&self) -> bool {
        [KEYS, STORE, BUNDLE, UPSTREAM]
            .concat()
            .contains(&self.point.as_str())
    }
}

/// What a step passes.
fn points(step: Step, kind: Kind, roots: Roots) -> Vec<&'static [&'static str]> {
    match (step, kind, roots) {
        (Step::Prepare, _, Roots::Own) => vec![KEYS, STORE, BUNDLE, PREPARE, PREPARED],
        (Step::Prepare, _, Roots::Above) => {
            vec![KEYS, UPSTREAM, STORE, BUNDLE, PREPARE, PREPARED]
        }
        (Step::Activate, ..) => vec![STORE, ACTIVATE, ACTIVATED],
        (Step::Taint, Kind::X509, _) => vec![STORE, BUNDLE, SERVER_SVID, TAINT],
        (Step::Taint, Kind::Jwt, _) => vec![STORE, BUNDLE, TAINT],
        (Step::Revoke, ..) => vec![STORE, BUNDLE, REVOKE],
    }
}

fn named(point: &str, kind: Kind) -> String {
    point.replace('*', kind.name())
}

/// Draws so many of them, and keeps their order.
fn drawn<T>(mut all: Vec<T>, count: usize) -> Vec<T> {
    let seed = SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(1, |now| now.subsec_nanos());
    println!("seed {seed}: {} of {}", count.min(all.len()), all.len());
    let mut random = u64::from(seed) | 1;
    while all.len() > count {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let at = usize::try_from(random % all.len() as u64).unwrap_or(0);
        all.remove(at);
    }
    all
}

/// How many cases a run has: so many, or as many rounds as were asked for.
fn count(normal: u32) -> usize {
    usize::try_from(super::rounds(normal)).unwrap_or(usize::MAX)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_at_any_failpoint_of_a_replacement_comes_back_sound() {
    die_at_each(Roots::Own, 18).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_below_another_authority_killed_at_any_failpoint_comes_back_sound() {
    die_at_each(Roots::Above, 8).await;
}

async fn die_at_each(roots: Roots, normal: u32) {
    let mut machine = Machine::start(roots);
    for case in drawn(Case::all(roots), count(normal)) {
        println!("{case:?}");
        machine.die(&case).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_at_any_failpoint_of_its_first_start_starts() {
    let mut all = [KEYS, STORE, BUNDLE].concat();
    all.extend([PREPARE, ACTIVATE].concat());
    let all = all
        .into_iter()
        .flat_map(|point| Kind::ALL.map(|kind| named(point, kind)));
    let mut all: Vec<String> = all.collect();
    all.dedup();
    for point in drawn(all, count(6)) {
        println!("first start, {point}");
        Machine::die_at_first_start(&point).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_while_it_forgets_the_key_of_a_cut_preparation_starts() {
    let all = ORPHAN
        .iter()
        .flat_map(|point| Kind::ALL.map(|kind| (named(point, kind), kind)));
    let mut machine = Machine::start(Roots::Own);
    for (point, kind) in drawn(all.collect(), count(3)) {
        println!("orphan, {kind:?}, {point}");
        machine.die_while_forgetting(kind, &point).await;
    }
}
