//! The corpus, and what holds for every text.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

/// The cases of `corpus.txt`, with what stands there about each.
fn corpus() -> Vec<Case> {
    let blocks = include_str!("corpus.txt").split("\n\n");
    blocks
        .filter(|block| block.contains("\n=> "))
        .map(Case::read)
        .collect()
}

#[derive(Debug)]
struct Case {
    about: String,
    agent: String,
    caller: String,
    expected: String,
}

impl Case {
    fn read(block: &str) -> Self {
        let mut case = Self {
            about: String::new(),
            agent: String::new(),
            caller: String::new(),
            expected: String::new(),
        };
        for line in block.lines() {
            let line = ids()
                .iter()
                .fold(line.to_owned(), |line, (name, id)| line.replace(name, id));
            if let Some(expected) = line.strip_prefix("=> ") {
                case.expected = expected.to_owned();
            } else if let Some(agent) = line.strip_prefix("agent ") {
                case.agent += &format!("{agent}\n");
            } else if line.starts_with('#') {
                case.about += line.trim_start_matches('#').trim();
            } else {
                case.caller += &format!("{line}\n");
            }
        }
        if case.about.contains("without its last line end") {
            case.caller.pop();
        }
        case
    }

    fn viewpoint(&self) -> Viewpoint {
        if self.agent.is_empty() {
            return Viewpoint::default();
        }
        Viewpoint::of_agent(self.agent.as_bytes()).unwrap()
    }

    fn found(&self) -> String {
        match self.viewpoint().locate(self.caller.as_bytes()) {
            Ok(Place::Host) => "host".to_owned(),
            Ok(Place::Pod {
                pod: Some(pod),
                container,
            }) => format!("pod {pod} {container}"),
            Ok(Place::Pod {
                pod: None,
                container,
            }) => format!("container {container}"),
            Err(error) => format!("error {}", error.reason()),
        }
    }
}

/// What the names in braces stand for.
fn ids() -> Vec<(String, String)> {
    let mut ids = Vec::new();
    for name in ["A", "V", "G", "O"] {
        let digit = name.as_bytes()[0] % 16;
        let uid = format!("{digit:x}0000000-1111-4222-8333-44444444444{digit:x}");
        ids.push((format!("{{{name}_}}"), uid.replace('-', "_")));
        ids.push((format!("{{{name}}}"), uid));
        ids.push((
            format!("{{{}}}", name.to_lowercase()),
            format!("{digit:x}").repeat(64),
        ));
    }
    ids.push(("{S}".to_owned(), "5ea71c00".repeat(4)));
    ids.push(("{s}".to_owned(), "5e".repeat(32)));
    ids.push(("{N}".to_owned(), "0d".repeat(32)));
    ids.push(("{M}".to_owned(), "0e".repeat(32)));
    ids
}

#[test]
fn every_path_of_the_corpus_comes_out_as_it_says() {
    let cases = corpus();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    let wrong: Vec<_> = cases
        .iter()
        .filter(|case| case.found() != case.expected)
        .map(|case| {
            format!(
                "{}: {} instead of {}\n{case:#?}",
                case.about,
                case.found(),
                case.expected
            )
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases.iter().all(|case| !case.about.is_empty()));
}

#[test]
fn the_victim_of_an_attack_is_never_named() {
    let ids = ids();
    let victim = |name: &str| {
        ids.iter()
            .find(|(known, _)| known == name)
            .unwrap()
            .1
            .clone()
    };
    for case in corpus() {
        let found = case.found();
        for name in ["{V}", "{v}"] {
            assert!(!found.contains(&victim(name)), "{}: {found}", case.about);
        }
    }
}

#[test]
fn a_text_is_limited_in_bytes_and_lines() {
    let viewpoint = Viewpoint::default();
    let long = format!("0::/{}\n", "x".repeat(MAX_BYTES));
    assert_eq!(viewpoint.locate(long.as_bytes()), Err(CgroupError::TooLong));
    let lines = |count: usize| -> String { (0..count).map(|n| format!("{n}:c{n}:/\n")).collect() };
    assert_eq!(
        viewpoint.locate(lines(MAX_LINES).as_bytes()),
        Ok(Place::Host)
    );
    assert_eq!(
        viewpoint.locate(lines(MAX_LINES + 1).as_bytes()),
        Err(CgroupError::TooLong)
    );
    assert_eq!(viewpoint.locate(b""), Err(CgroupError::Malformed));
}

#[test]
fn ids_of_the_kubelet_have_any_runtime_before_them() {
    let id = "ab".repeat(32);
    for runtime in ["containerd", "cri-o", "docker"] {
        let found = ContainerId::from_status(&format!("{runtime}://{id}")).unwrap();
        assert_eq!(found.as_str(), id);
    }
    for wrong in ["", "containerd://", &id, &format!("containerd://{id}0")] {
        assert!(ContainerId::from_status(wrong).is_none(), "{wrong}");
    }
}

/// Components that mean something to the parser, and some that do not.
fn component() -> impl Strategy<Value = String> {
    let names: Vec<String> = [
        "kubepods",
        "burstable",
        "besteffort",
        "pod{V}",
        "{v}",
        "kubepods.slice",
        "kubepods-burstable.slice",
        "kubepods-burstable-pod{V_}.slice",
        "kubepods-pod{V_}.slice",
        "cri-containerd-{v}.scope",
        "crio-{v}.scope",
        "kubepods-pod{V_}.slice:cri-containerd:{v}",
        "docker",
        "{N}",
        "kubelet",
        "kubelet.slice",
        "user.slice",
        "system.slice",
        "containerd.service",
        "x",
        "container",
    ]
    .iter()
    .map(|name| {
        ids().iter().fold((*name).to_owned(), |name, (from, to)| {
            name.replace(from, to)
        })
    })
    .collect();
    prop_oneof![4 => proptest::sample::select(names), 1 => "[a-z0-9:. -]{1,12}"]
        .prop_filter("not a component", |name| name != "." && name != "..")
}

/// The cases of processes in pods.
static INSIDE: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let is_inside = |case: &Case| {
        let place = case.viewpoint().locate(case.caller.as_bytes());
        matches!(place, Ok(Place::Pod { .. }))
    };
    corpus().into_iter().filter(is_inside).collect()
});

proptest! {
    #[test]
    fn any_bytes_are_refused_or_read(agent in proptest::collection::vec(any::<u8>(), 0..256), caller in proptest::collection::vec(any::<u8>(), 0..256)) {
        let viewpoint = Viewpoint::of_agent(&agent).unwrap_or_default();
        let _ = viewpoint.locate(&caller);
    }

    #[test]
    fn what_a_container_makes_below_its_own_cgroup_changes_nothing(
        index in any::<proptest::sample::Index>(),
        below in proptest::collection::vec(component(), 1..6),
    ) {
        let case = index.get(&INSIDE);
        let below = below.join("/");
        // One hierarchy after the other, as the processes of version 1 move, and then all.
        let lines: Vec<_> = case.caller.lines().collect();
        for moved in 0..=lines.len() {
            let text: String = lines
                .iter()
                .enumerate()
                .map(|(n, line)| {
                    let is_pod = line.contains("pod") || line.contains("/../");
                    let moves = is_pod && (n == moved || moved == lines.len());
                    if moves { format!("{line}/{below}\n") } else { format!("{line}\n") }
                })
                .collect();
            prop_assert_eq!(
                case.viewpoint().locate(text.as_bytes()),
                case.viewpoint().locate(case.caller.as_bytes()),
                "{}", text
            );
        }
    }

    #[test]
    fn what_anybody_makes_below_a_cgroup_of_its_own_names_no_pod(
        below in proptest::collection::vec(component(), 1..6),
        base in proptest::sample::select(vec![
            "/user.slice/user-1000.slice/user@1000.service", "/system.slice/game.service",
            "/docker/0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d",
            "/../../../user.slice/user-1000.slice/user@1000.service", "/lxc/x", "/machine.slice/x.scope",
        ]),
    ) {
        let text = format!("0::{base}/{}\n", below.join("/"));
        prop_assert_eq!(Viewpoint::default().locate(text.as_bytes()), Ok(Place::Host));
        let agent = "0::/kubepods/besteffort/pod70000000-1111-4222-8333-444444444447/".to_owned() + &"7".repeat(64);
        let agent = Viewpoint::of_agent(agent.as_bytes()).unwrap();
        prop_assert_eq!(agent.locate(text.as_bytes()), Ok(Place::Host));
    }
}
