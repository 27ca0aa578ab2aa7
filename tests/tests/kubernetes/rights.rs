//! The rights of the shipped manifests: each verb is needed, since something fails without it, and there is no other.

use serde_json::{Value, json};
use tests::cluster::{Cluster, Daemon};
use tests::process::eventually;

use tests::installed::{Installed, idle_pod};

/// A right, and what shows that it is used.
struct Right {
    role: &'static str,
    verb: &'static str,
    on: &'static str,
    /// Makes our programs use it.
    used: fn(&Installed<'_>),
    /// Whether it worked.
    worked: fn(&Installed<'_>) -> bool,
    /// How often it was said that it did not.
    missed: fn(&Installed<'_>) -> usize,
}

const RIGHTS: &[Right] = &[
    Right {
        role: "clusterrole/signet-server",
        verb: "create",
        on: "tokenreviews",
        used: forget_the_agent,
        worked: |signet| signet.agent_is_ready(),
        missed: |signet| refusals(&signet.log("statefulset/signet-server")),
    },
    Right {
        role: "role/signet-server",
        verb: "get",
        on: "configmaps",
        used: empty_the_bundle,
        worked: has_the_bundle,
        missed: |signet| refusals(&signet.log("statefulset/signet-server")),
    },
    Right {
        role: "role/signet-server",
        verb: "patch",
        on: "configmaps",
        used: empty_the_bundle,
        worked: has_the_bundle,
        missed: |signet| refusals(&signet.log("statefulset/signet-server")),
    },
    Right {
        role: "clusterrole/signet-agent",
        verb: "get",
        on: "nodes/pods",
        used: hide_the_kubelets_socket,
        worked: |signet| signet.fetch("rights", "caller").code == 0,
        missed: |signet| refusals(&signet.agent_log()),
    },
];

#[test]
fn every_verb_of_our_roles_is_needed_and_there_is_no_other() {
    let Some(cluster) = Cluster::alone() else {
        return;
    };
    let signet = Installed::on(&cluster);
    let mut granted = Vec::new();
    for role in [
        "clusterrole/signet-server",
        "role/signet-server",
        "clusterrole/signet-agent",
    ] {
        for (verb, on) in verbs(&rules(&cluster, role)) {
            granted.push((role.to_owned(), verb, on));
        }
    }
    let known = RIGHTS.iter().map(|right| {
        (
            right.role.to_owned(),
            right.verb.to_owned(),
            right.on.to_owned(),
        )
    });
    assert_eq!(granted, known.collect::<Vec<_>>());

    let space = cluster.namespace("rights");
    let id = signet.entry(space.name(), "caller", &[]);
    cluster.apply(&idle_pod(space.name(), "caller", "caller"));
    signet.gets(space.name(), "caller", &id);
    for right in RIGHTS {
        let rules = rules(&cluster, right.role);
        replace_rules(&cluster, right.role, &without(&rules, right.verb));
        let before = (right.missed)(&signet);
        (right.used)(&signet);
        let what = format!("{} {} is missed", right.verb, right.on);
        eventually(&what, || {
            // Whoever has to be called for the right to be used is called.
            signet.fetch(space.name(), "caller");
            (right.missed)(&signet) > before
        });
        assert!(!(right.worked)(&signet), "not needed: {what}");
        replace_rules(&cluster, right.role, &rules);
        eventually(&format!("{} {} works", right.verb, right.on), || {
            (right.worked)(&signet)
        });
    }
    // Another attestation says no second time what is amiss with all.
    forget_the_agent(&signet);
    eventually("the agent has attested again", || signet.agent_is_ready());
    let log = signet.log("statefulset/signet-server");
    assert_eq!(log.matches("May not read pods or nodes").count(), 1);
    // Its socket is back with the kubelet's next start.
    cluster.kill(Daemon::Kubelet);
    cluster.start(Daemon::Kubelet);
    signet.gets(space.name(), "caller", &id);
}

fn refusals(log: &str) -> usize {
    log.matches("forbidden").count()
}

/// The agent's next pod has to attest anew.
fn forget_the_agent(signet: &Installed<'_>) {
    let data = signet.cluster.node_root().join("var/lib/signet/agent");
    for kept in std::fs::read_dir(data).unwrap() {
        let kept = kept.unwrap();
        match kept.file_type().unwrap().is_dir() {
            true => std::fs::remove_dir_all(kept.path()).unwrap(),
            false => std::fs::remove_file(kept.path()).unwrap(),
        }
    }
    signet.delete_agent_pod();
}

fn empty_the_bundle(signet: &Installed<'_>) {
    let patch = r#"[{"op":"remove","path":"/data"}]"#;
    signet.cluster.ctl(&[
        "-n",
        "signet",
        "patch",
        "configmap",
        "signet-bundle",
        "--type=json",
        "-p",
        patch,
    ]);
}

fn has_the_bundle(signet: &Installed<'_>) -> bool {
    let map = signet
        .cluster
        .object("signet", "configmap", "signet-bundle")
        .unwrap();
    map.pointer("/data/bundle.crt").is_some()
}

/// As on a node before Kubernetes 1.37: the agent asks the kubelet over HTTPS.
fn hide_the_kubelets_socket(signet: &Installed<'_>) {
    let socket = "var/lib/kubelet/pods-api/pods-api.sock";
    std::fs::remove_file(signet.cluster.node_root().join(socket)).unwrap();
    signet.delete_agent_pod();
}

fn rules(cluster: &Cluster, role: &str) -> Value {
    let (kind, name) = role.split_once('/').unwrap();
    let role = cluster.object("signet", kind, name).unwrap();
    role.pointer("/rules").unwrap().clone()
}

fn verbs(rules: &Value) -> Vec<(String, String)> {
    let texts = |rule: &Value, key: &str| -> Vec<String> {
        let list = rule.get(key).unwrap().as_array().unwrap();
        list.iter()
            .map(|text| text.as_str().unwrap().to_owned())
            .collect()
    };
    let mut verbs = Vec::new();
    for rule in rules.as_array().unwrap() {
        for verb in texts(rule, "verbs") {
            for on in texts(rule, "resources") {
                verbs.push((verb.clone(), on));
            }
        }
    }
    verbs
}

fn without(rules: &Value, verb: &str) -> Value {
    let mut rules = rules.clone();
    let rule = &mut rules[0];
    let left: Vec<Value> = rule["verbs"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|v| *v != verb)
        .cloned()
        .collect();
    if left.is_empty() {
        return json!([]);
    }
    rule["verbs"] = Value::Array(left);
    rules
}

fn replace_rules(cluster: &Cluster, role: &str, rules: &Value) {
    let (kind, name) = role.split_once('/').unwrap();
    let patch = json!([{ "op": "replace", "path": "/rules", "value": rules }]).to_string();
    cluster.ctl(&[
        "-n",
        "signet",
        "patch",
        kind,
        name,
        "--type=json",
        "-p",
        &patch,
    ]);
}
