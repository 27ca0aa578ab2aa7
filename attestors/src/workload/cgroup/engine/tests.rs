//! Paths that engines make, and paths that others would like to have.

use proptest::prelude::*;

use super::*;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const V: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const POD: &str = "2c48913c-b29f-11e7-9350-020968147796";

fn found(agent: &str, text: &str) -> String {
    let fill = |text: &str| {
        let text = text.replace("{A}", A).replace("{V}", V);
        text.replace("{P}", POD)
    };
    let viewpoint = match agent {
        "" => Viewpoint::default(),
        agent => Viewpoint::of_agent(fill(agent).as_bytes()).unwrap(),
    };
    match viewpoint.container(fill(text).as_bytes()) {
        Ok(None) => "none".to_owned(),
        Ok(Some(Container { id, engine })) => {
            let id = if id.as_str() == A { "A" } else { "V" };
            match engine {
                Engine::Docker => format!("docker {id}"),
                Engine::Podman { claimed: None } => format!("podman {id}"),
                Engine::Podman {
                    claimed: Some(cgroup),
                } => format!(
                    "podman {id} claimed {}",
                    String::from_utf8_lossy(&cgroup).replace(A, "{A}")
                ),
                Engine::RootlessPodman { uid } => format!("user {uid} {id}"),
                Engine::Kubelet => format!("kubelet {id}"),
            }
        }
        Err(error) => error.reason().to_owned(),
    }
}

#[test]
fn every_form_that_engines_make_is_read() {
    for (text, expected) in [
        ("0::/docker/{A}", "docker A"),
        ("0::/system.slice/docker-{A}.scope", "docker A"),
        ("0::/system.slice/docker-{A}.scope/init", "docker A"),
        (
            "0::/nomad.slice/nomad-share.slice/docker-{A}.scope",
            "docker A",
        ),
        ("0::/ecs/0123456789abcdef/{A}", "docker A"),
        (
            "0::/ecstasks.slice/ecstasks-0a.slice/docker-{A}.scope",
            "docker A",
        ),
        // As seen on a host with version 1 and no systemd (Podman 4.3, cgroupfs).
        (
            "9:name=systemd:/libpod_parent/libpod-{A}\n8:pids:/libpod_parent/libpod-{A}\n0::/libpod_parent/libpod-{A}",
            "podman A",
        ),
        ("0::/libpod_parent/{V}/libpod-{A}", "podman A"),
        ("0::/machine.slice/libpod-{A}.scope", "podman A"),
        ("0::/machine.slice/libpod-{A}.scope/container", "podman A"),
        (
            "0::/machine.slice/machine-libpod_pod_{V}.slice/libpod-{A}.scope",
            "podman A",
        ),
        (
            "0::/system.slice/web.service/libpod-payload-{A}",
            "podman A claimed /system.slice/web.service/libpod-payload-{A}",
        ),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container",
            "user 1000 A",
        ),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/web.service/libpod-payload-{A}",
            "user 1000 A",
        ),
        ("0::/kubepods/burstable/pod{P}/{A}", "kubelet A"),
        // A hybrid host, where one hierarchy says nothing.
        (
            "9:pids:/docker/{A}\n0::/system.slice/containerd.service",
            "docker A",
        ),
    ] {
        assert_eq!(found("", text), expected, "{text}");
    }
}

#[test]
fn monitors_logins_and_services_are_in_no_container() {
    for text in [
        "0::/",
        "0::/user.slice/user-1000.slice/session-3.scope",
        "0::/system.slice/docker.service",
        "8:pids:/libpod_parent/conmon\n0::/",
        "0::/machine.slice/libpod-conmon-{A}.scope",
        "0::/system.slice/web.service/supervisor",
        "0::/docker/buildx",
        // Podman of a user, on a host where nothing was delegated.
        "0::/user.slice/user-1000.slice/session-3.scope/x",
    ] {
        assert_eq!(found("", text), "none", "{text}");
    }
}

#[test]
fn what_a_container_makes_below_itself_is_not_read() {
    for (text, expected) in [
        ("0::/docker/{A}/docker/{V}", "docker A"),
        ("0::/docker/{A}/system.slice/docker-{V}.scope", "docker A"),
        (
            "0::/system.slice/docker-{A}.scope/docker-{V}.scope",
            "docker A",
        ),
        (
            "0::/machine.slice/libpod-{A}.scope/libpod-{V}.scope",
            "podman A",
        ),
        (
            "0::/user.slice/user-7.slice/user@7.service/user.slice/libpod-{A}.scope/libpod-{V}.scope",
            "user 7 A",
        ),
    ] {
        assert_eq!(found("", text), expected, "{text}");
    }
}

#[test]
fn who_may_write_below_their_own_cgroup_names_no_container_of_root() {
    let user = "0::/user.slice/user-1000.slice/user@1000.service";
    for (text, expected) in [
        (format!("{user}/docker-{{V}}.scope"), "none"),
        (format!("{user}/app.slice/docker-{{V}}.scope"), "none"),
        (format!("{user}/docker/{{V}}"), "none"),
        (format!("{user}/libpod_parent/libpod-{{V}}"), "user 1000 V"),
        (
            format!("{user}/machine.slice/libpod-{{V}}.scope"),
            "user 1000 V",
        ),
        // Another user's name, below one's own.
        (
            format!("{user}/user-1001.slice/user@1001.service/libpod-{{V}}.scope"),
            "user 1000 V",
        ),
        (
            "0::/user.slice/user-1000.slice/user@1001.service/libpod-{V}.scope".to_owned(),
            "none",
        ),
        (
            "0::/system.slice/game.service/docker-{V}.scope".to_owned(),
            "none",
        ),
        (
            "0::/system.slice/game.service/libpod-{V}.scope".to_owned(),
            "none",
        ),
        (
            "0::/system.slice/game.service/x/libpod-payload-{V}".to_owned(),
            "none",
        ),
        // Slices that do not nest as systemd nests them.
        (
            "0::/system.slice/user-1000.slice/docker-{V}.scope".to_owned(),
            "none",
        ),
        ("0::/anything/{V}".to_owned(), "none"),
        ("0::/{V}".to_owned(), "none"),
    ] {
        assert_eq!(found("", &text), expected, "{text}");
    }
}

#[test]
fn hierarchies_that_disagree_are_a_contradiction() {
    for text in [
        "1:pids:/docker/{A}\n0::/docker/{V}",
        "1:pids:/docker/{A}\n0::/machine.slice/libpod-{A}.scope",
        "1:pids:/docker/{A}\n0::/kubepods/burstable/pod{P}/{A}",
        "1:pids:/system.slice/a.service/libpod-payload-{A}\n0::/system.slice/b.service/libpod-payload-{A}",
    ] {
        assert_eq!(found("", text), "cgroup_contradiction", "{text}");
    }
}

#[test]
fn siblings_of_an_agent_in_a_container_are_read_from_its_ancestors() {
    for (text, expected) in [
        ("0::/../docker-{A}.scope", "docker A"),
        ("0::/../libpod-{A}.scope", "podman A"),
        ("0::/../../machine.slice/libpod-{A}.scope", "podman A"),
        // The name does not tell whose it is: docker's with cgroupfs, or a kubelet's.
        ("0::/../{A}", "kubelet A"),
        ("0::/../docker-{A}.scope/docker-{V}.scope", "docker A"),
        (
            "0::/../../user.slice/user-1000.slice/user@1000.service/docker-{V}.scope",
            "none",
        ),
    ] {
        assert_eq!(found("", text), expected, "{text}");
    }
}

#[test]
fn a_node_that_is_a_container_is_no_container_of_its_own_engine() {
    let agent = "9:pids:/docker/{V}/kubepods/besteffort/pod{P}/{V}";
    for (text, expected) in [
        (
            "9:pids:/docker/{V}/kubepods/burstable/pod{P}/{A}",
            "kubelet A",
        ),
        ("9:pids:/docker/{V}/docker/{A}", "docker A"),
        ("9:pids:/docker/{V}/system.slice/containerd.service", "none"),
        ("9:pids:/docker/{A}", "none"),
    ] {
        assert_eq!(found(agent, text), expected, "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Viewpoint::default().container(&text);
    }

    #[test]
    fn nothing_below_a_container_changes_who_it_is(below in "(/[a-z0-9@][a-z0-9.@-]{0,79}){0,5}") {
        for path in ["/docker/{A}", "/machine.slice/libpod-{A}.scope"] {
            let own = found("", &format!("0::{path}"));
            prop_assert_eq!(found("", &format!("0::{path}{below}")), own);
        }
    }
}
