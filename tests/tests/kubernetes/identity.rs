//! Who gets an identity from the shipped manifests, and who does not, with the reason in the agent's log.

use std::path::{Path, PathBuf};

use tests::cluster::{BUSYBOX, Cluster, image};
use tests::peers;
use tests::process::{eventually, run};

use tests::installed::{Installed, Programs, SIGNET, SOCKET, apply, debug, idle_pod, root};

#[test]
fn the_agent_attests_by_the_token_of_its_pod() {
    let Some(cluster) = Cluster::up() else { return };
    let signet = Installed::on(&cluster);
    let id = signet.agent_id();
    let shown = signet
        .server(&["agent", "show", "-spiffeID", &id])
        .success();
    for selector in [
        "k8s_psat:agent_ns:signet",
        "k8s_psat:agent_sa:signet-agent",
        "k8s_psat:cluster:demo",
        "k8s_psat:agent_node_name:n1",
    ] {
        assert!(shown.contains(selector), "{selector}: {shown}");
    }
}

#[test]
fn the_example_gets_the_identity_of_its_service_account_over_a_volume() {
    let Some(cluster) = Cluster::up() else { return };
    let signet = Installed::on(&cluster);
    let id = signet.entry("default", "workload", &[]);
    apply(
        &cluster,
        "k8s/deploy/examples/workload",
        &[("signet", SIGNET)],
    );
    cluster.wait("default", "pod/workload", "Ready");
    eventually("the example has its identity", || {
        cluster.logs("default", "workload").contains(&id)
    });
    let path = "/spiffe-workload-api";
    for name in ["spire-agent.sock", "socket", "api.sock", "agent.sock"] {
        let socket = format!("{path}/{name}");
        let words = [
            "spire-agent",
            "api",
            "fetch",
            "x509",
            "-socketPath",
            &socket,
        ];
        let fetched = cluster.exec("default", "workload", &words).success();
        assert!(fetched.contains(&id), "{name}: {fetched}");
    }
    cluster.ctl(&["-n", "default", "delete", "pod", "workload"]);
}

#[test]
fn a_pod_of_another_service_account_and_one_without_an_entry_get_nothing() {
    let Some(cluster) = Cluster::up() else { return };
    let signet = Installed::on(&cluster);
    let (space, empty) = (cluster.namespace("others"), cluster.namespace("empty"));
    let id = signet.entry(space.name(), "right", &[]);
    for account in ["right", "wrong"] {
        cluster.apply(&idle_pod(space.name(), account, account));
    }
    cluster.apply(&idle_pod(empty.name(), "right", "right"));
    signet.gets(space.name(), "right", &id);
    for (space, pod) in [(space.name(), "wrong"), (empty.name(), "right")] {
        cluster.wait(space, &format!("pod/{pod}"), "Ready");
        signet.refuses("no_identity", || signet.fetch(space, pod));
    }
}

#[test]
fn two_containers_of_a_pod_have_an_identity_each() {
    let Some(cluster) = Cluster::up() else { return };
    let signet = Installed::on(&cluster);
    let space = cluster.namespace("containers");
    let mut ids = Vec::new();
    for container in ["first", "second"] {
        let id = format!("spiffe://example.org/containers/{container}");
        let name = format!("k8s:container-name:{container}");
        let parent = tests::installed::AGENTS;
        signet
            .server(&[
                "entry",
                "create",
                "-parentID",
                parent,
                "-spiffeID",
                &id,
                "-selector",
                "k8s:ns:containers",
                "-selector",
                &name,
            ])
            .success();
        ids.push(id);
    }
    let pod = idle_pod(space.name(), "both", "both");
    let one = pod.lines().skip_while(|line| !line.contains("- name: app"));
    let one = one.take_while(|line| *line != "  volumes:");
    let second = one
        .collect::<Vec<_>>()
        .join("\n")
        .replace("- name: app", "- name: second");
    let pod = pod.replace("- name: app", "- name: first");
    cluster.apply(&pod.replace("  volumes:\n", &format!("{second}\n  volumes:\n")));
    for (container, id) in ["first", "second"].into_iter().zip(&ids) {
        signet.gets(space.name(), &format!("both -c {container}"), id);
        let fetched = signet.fetch(space.name(), &format!("both -c {container}"));
        let others = ids.iter().filter(|other| *other != id);
        for other in others {
            assert!(!fetched.stdout.contains(other.as_str()), "{fetched:?}");
        }
    }
}

/// By the volume of its pod a debugger could take the pod's identity.
#[test]
fn a_debug_container_gets_nothing_of_its_pod() {
    let Some(cluster) = Cluster::up() else { return };
    let signet = Installed::on(&cluster);
    let space = cluster.namespace("debug");
    let id = signet.entry(space.name(), "debugged", &[]);
    cluster.apply(&idle_pod(space.name(), "debugged", "debugged"));
    signet.gets(space.name(), "debugged", &id);
    let debugger = debug(&cluster, space.name(), "debugged");
    signet.refuses("ephemeral_container", || {
        signet.fetch(space.name(), &debugger)
    });
}

#[test]
fn a_process_of_the_node_gets_nothing() {
    let Some(cluster) = Cluster::up() else { return };
    let signet = Installed::on(&cluster);
    let program = Programs::on(&cluster).signet.display().to_string();
    let socket = "/run/spire/agent-sockets/spire-agent.sock";
    let words = [
        &program,
        "agent",
        "api",
        "fetch",
        "x509",
        "-socketPath",
        socket,
    ];
    signet.refuses("no_identity", || cluster.on_the_node(&words));
}

#[test]
fn two_services_speak_mutual_tls_through_envoy_sidecars() {
    let Some(cluster) = Cluster::up() else { return };
    let Some(envoy) = peers::envoy() else { return };
    let signet = Installed::on(&cluster);
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("envoy.tar");
    let name = "localhost/envoy:test";
    let envoy = envoy.canonicalize().unwrap().display().to_string();
    image("program", &archive, name, &[&envoy]);
    cluster.load(&archive);
    for account in ["frontend", "backend"] {
        signet.entry("default", account, &[]);
    }
    let images = [("envoyproxy/envoy", name), ("busybox", BUSYBOX)];
    apply(&cluster, "k8s/deploy/examples/envoy", &images);
    for deployment in ["deployment/backend", "deployment/frontend"] {
        cluster.wait("default", deployment, "Available");
    }
    eventually("the backend's Envoy has served the frontend", || {
        let log = cluster.ctl(&["logs", "deployment/backend", "-c", "envoy"]);
        log.contains("200 from=spiffe://example.org/ns/default/sa/frontend")
    });
    eventually("the application has its answer", || {
        cluster
            .ctl(&["logs", "deployment/frontend", "-c", "app"])
            .contains("hello")
    });
    cluster.ctl(&["delete", "deployment", "frontend", "backend"]);
}

#[test]
fn py_spiffe_in_a_pod_gets_both_kinds_of_svid() {
    let Some(cluster) = Cluster::up() else { return };
    let Some(mut python) = peers::python() else {
        return;
    };
    let signet = Installed::on(&cluster);
    let space = cluster.namespace("python");
    let id = signet.entry(space.name(), "client", &[]);
    let program = PathBuf::from(python.get_program()).canonicalize().unwrap();
    let environment = program.ancestors().nth(2).unwrap().to_owned();
    let where_is = "import sys; print(sys.base_prefix)";
    let base = run(python.args(["-c", where_is])).success();
    let scripts = root().join("tests/peers/python");
    let folders = [
        Path::new("/lib"),
        Path::new("/lib64"),
        Path::new("/usr"),
        &environment,
        Path::new(base.trim()),
        &scripts,
    ];
    let pod = idle_pod(space.name(), "client", "client");
    cluster.apply(&with_folders_of_the_machine(&pod, &folders));
    cluster.wait(space.name(), "pod/client", "Ready");

    let (program, script) = (program.display().to_string(), scripts.join("fetch.py"));
    let (script, address) = (script.display().to_string(), format!("unix://{SOCKET}"));
    signet.gets(space.name(), "client", &id);
    let words = [&program, &script, &address].map(String::as_str);
    let printed = cluster.exec(space.name(), "client", &words).success();
    for line in [
        format!("x509 {id}"),
        format!("jwt {id}"),
        format!("jwt valid {id}"),
    ] {
        assert!(printed.contains(&line), "{line}: {printed}");
    }
}

/// Shows a pod folders of this machine, at their own paths, which spares it an image of a whole Python.
fn with_folders_of_the_machine(pod: &str, folders: &[&Path]) -> String {
    let (mut mounts, mut volumes) = (String::new(), String::new());
    let mut shown: Vec<&Path> = Vec::new();
    for folder in folders {
        if shown.iter().any(|shown| folder.starts_with(shown)) {
            continue;
        }
        let (index, path) = (shown.len(), folder.display());
        mounts += &format!("        - {{ name: f{index}, mountPath: {path}, readOnly: true }}\n");
        volumes += &format!("    - {{ name: f{index}, hostPath: {{ path: {path} }} }}\n");
        shown.push(folder);
    }
    pod.replace(
        "      volumeMounts:\n",
        &format!("      volumeMounts:\n{mounts}"),
    )
    .replace("  volumes:\n", &format!("  volumes:\n{volumes}"))
}
