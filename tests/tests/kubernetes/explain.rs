//! What an operator is told who asks why a pod has no identity.

use serde_json::Value;
use tests::cluster::Cluster;
use tests::installed::{Installed, debug, idle_pod};
use tests::process::eventually;

#[test]
fn explain_tells_of_each_container_of_a_pod_why_it_has_its_identity_or_none() {
    let Some(cluster) = Cluster::up() else { return };
    let signet = Installed::on(&cluster);
    let space = cluster.namespace("explained");
    let id = signet.entry(space.name(), "right", &[]);
    for account in ["right", "wrong"] {
        cluster.apply(&idle_pod(space.name(), account, account));
    }
    signet.gets(space.name(), "right", &id);
    cluster.wait(space.name(), "pod/wrong", "Ready");

    let [served] = processes(&signet, "right");
    assert_eq!(served["has_identity"], true, "{served}");
    assert_eq!(served["verdict"], "it has 1 identity");
    let found = served["selectors"].as_array().unwrap();
    for selector in [
        "k8s:ns:explained",
        "k8s:sa:right",
        "k8s:container-name:app",
        "k8s:node-name:n1",
    ] {
        assert!(found.iter().any(|found| found == selector), "{served}");
    }
    let [matching] = list(&served, "matching");
    assert_eq!(matching["entry"]["spiffe_id"], id);
    assert_eq!(matching["state"], "issued");

    let [unknown] = processes(&signet, "wrong");
    assert_eq!(unknown["has_identity"], false, "{unknown}");
    let verdict = unknown["verdict"].as_str().unwrap();
    assert!(
        verdict.starts_with("no entry matches; the closest is "),
        "{verdict}"
    );
    let lacks = format!("({id}), which also asks for k8s:sa:right (the process has k8s:sa:wrong)");
    assert!(verdict.ends_with(&lacks), "{verdict}");

    // The debugger beside the application is told of by itself.
    debug(&cluster, space.name(), "right");
    eventually("the kubelet has reported the debugger", || {
        let told = signet.explain(space.name(), "right");
        told["processes"].as_array().unwrap().len() == 2
    });
    let mut both = processes::<2>(&signet, "right");
    both.sort_by_key(|process| process["has_identity"] == true);
    let [debugger, served] = both;
    assert_eq!(served["verdict"], "it has 1 identity");
    let [seen] = list(&debugger, "attestors");
    assert_eq!(seen["attestor"], "k8s");
    assert_eq!(seen["outcome"], "denied");
    assert_eq!(seen["reason"], "ephemeral_container");
    assert_eq!(debugger["has_identity"], false);

    // The same for people, and of what is not there.
    let told = signet.ask_why(space.name(), "wrong", &[]).success();
    for line in [
        "Identity         : no\n".to_owned(),
        format!("Because          : {verdict}\n"),
        "  Missing        : k8s:sa:right (the process has k8s:sa:wrong)\n".to_owned(),
        format!("Agent            : {}\n", signet.agent_id()),
    ] {
        assert!(told.contains(&line), "{line}: {told}");
    }
    let nobody = signet.ask_why(space.name(), "nobody", &[]);
    assert_eq!(nobody.code, 1, "{nobody:?}");
    assert!(
        nobody.stderr.contains("reports no pod explained/nobody"),
        "{nobody:?}"
    );
}

fn processes<const N: usize>(signet: &Installed<'_>, pod: &str) -> [Value; N] {
    list(&signet.explain("explained", pod), "processes")
}

/// All of a list, which has so many.
fn list<const N: usize>(object: &Value, name: &str) -> [Value; N] {
    let list = object[name].as_array().unwrap().clone();
    list.try_into().unwrap()
}
