//! An agent in a pod, before an API server of ours: what the two makes agree on without a cluster.

use attestors::node::k8s_psat::fake::{FakeApiServer, FakePod};
use runtime::shutdown::{Reason, Shutdown};
use runtime::tasks::TaskGroup;

use super::{Pairing, serial, wait_for_svid};
use crate::domain::Plan;
use crate::process::eventually;

const AGENT: &str = "spiffe://example.org/spire/agent/k8s_psat/prod/node-uid";

/// What the agent of the pod below is known by.
const SELECTORS: [&str; 10] = [
    "k8s_psat:agent_node_ip:172.16.10.1",
    "k8s_psat:agent_node_label:zone:a",
    "k8s_psat:agent_node_name:node",
    "k8s_psat:agent_node_uid:node-uid",
    "k8s_psat:agent_ns:spire",
    "k8s_psat:agent_pod_label:app:agent",
    "k8s_psat:agent_pod_name:agent-1",
    "k8s_psat:agent_pod_uid:pod-uid",
    "k8s_psat:agent_sa:agent",
    "k8s_psat:cluster:prod",
];

/// The agent attests by the token of its pod, is found by an alias over its selectors, renews, and
/// comes back without its state.
pub fn a_pod_attests_by_its_service_account_token(pairing: Pairing) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (trigger, _) = Shutdown::new();
    let tasks = TaskGroup::new(trigger.clone());
    let api = runtime
        .block_on(FakeApiServer::start(&tasks, None))
        .unwrap();
    let pod = FakePod {
        namespace: "spire".to_owned(),
        name: "agent-1".to_owned(),
        uid: "pod-uid".to_owned(),
        service_account: "agent".to_owned(),
        node_name: "node".to_owned(),
        labels: [("app".to_owned(), "agent".to_owned())].into(),
    };
    api.put_node("node", "node-uid", &[("zone", "a")]);
    api.put_pod(pod.clone());
    api.issue("token-of-the-pod", &pod, "spire-server");
    let folder = tempfile::tempdir().unwrap();
    let (token, kubeconfig) = (
        folder.path().join("token"),
        folder.path().join("kubeconfig"),
    );
    std::fs::write(&token, "token-of-the-pod").unwrap();
    api.write_kubeconfig(&kubeconfig, None).unwrap();

    let clusters = format!(
        r#"NodeAttestor "k8s_psat" {{ plugin_data {{ clusters = {{ "prod" = {{
            service_account_allow_list = ["spire:agent"]
            kube_config_file = "{}"
            allowed_node_label_keys = ["zone"]
            allowed_pod_label_keys = ["app"]
        }} }} }} }}"#,
        kubeconfig.display()
    );
    // Half life is at ten seconds, and SPIRE's agent looks every five.
    let domain = Plan::new(pairing.server)
        .key(r#"agent_ttl = "20s""#)
        .plugin(&clusters)
        .start();
    let proof = format!(
        r#"NodeAttestor "k8s_psat" {{ plugin_data {{ cluster = "prod" token_path = "{}" }} }}"#,
        token.display()
    );
    let mut agent = domain.agent_by(pairing.agent, AGENT, &proof);
    let shown = domain.cli(&["agent", "show", "-spiffeID", AGENT]).success();
    let mut selectors: Vec<&str> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("Selectors"))
        .map(|line| line.trim_start_matches([' ', ':']))
        .collect();
    selectors.sort_unstable();
    assert_eq!(selectors, SELECTORS, "{shown}");

    let alias = "spiffe://example.org/cluster/prod";
    let words = ["entry", "create", "-node", "-spiffeID", alias];
    let selector = ["-selector", "k8s_psat:cluster:prod"];
    domain.cli(&[&words[..], &selector].concat()).success();
    domain.entry_below(alias, "/web", "unix:uid:0", &[]);
    wait_for_svid(&agent, "/web");

    let first = serial(&domain, &agent);
    eventually("the server has seen a new serial", || {
        serial(&domain, &agent) != first
    });

    agent.process.kill();
    std::fs::remove_dir_all(agent.data_dir()).unwrap();
    std::fs::create_dir_all(agent.data_dir()).unwrap();
    agent.restart();
    wait_for_svid(&agent, "/web");
    trigger.trigger(Reason::Requested("the scenario is over"));
}
