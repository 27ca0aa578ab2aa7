//! What a verified node is known by: SPIRE's selectors, in SPIRE's form.

use std::collections::{BTreeMap, BTreeSet};

use identity::selector::{Selector, SelectorError, Selectors};

use super::NAME;
use super::facts::{Node, ObjectName, Pod, ServiceAccount};

/// What was found out about an agent and its node.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) cluster: &'a str,
    pub(super) service_account: &'a ServiceAccount,
    pub(super) pod_name: &'a ObjectName,
    pub(super) pod_uid: &'a ObjectName,
    pub(super) node_name: &'a ObjectName,
    pub(super) node_uid: &'a ObjectName,
    /// What the server may read besides.
    pub(super) pod: Option<&'a Pod>,
    pub(super) node: Option<&'a Node>,
}

/// Whose labels become selectors.
#[derive(Clone, Debug, Default)]
pub(super) struct Labels {
    pub(super) of_node: BTreeSet<String>,
    pub(super) of_pod: BTreeSet<String>,
}

pub(super) fn selectors(found: &Found<'_>, labels: &Labels) -> Result<Selectors, SelectorError> {
    let mut values = vec![
        format!("cluster:{}", found.cluster),
        format!("agent_ns:{}", found.service_account.namespace),
        format!("agent_sa:{}", found.service_account.name),
        format!("agent_pod_name:{}", found.pod_name),
        format!("agent_pod_uid:{}", found.pod_uid),
        format!("agent_node_name:{}", found.node_name),
        format!("agent_node_uid:{}", found.node_uid),
    ];
    if let Some(pod) = found.pod {
        values.push(format!("agent_node_ip:{}", pod.host_ip));
        values.extend(labeled("agent_pod_label", &pod.labels, &labels.of_pod));
    }
    if let Some(node) = found.node {
        values.extend(labeled("agent_node_label", &node.labels, &labels.of_node));
    }
    values
        .iter()
        .map(|value| Selector::new(NAME, value))
        .collect()
}

fn labeled<'a>(
    kind: &'a str,
    labels: &'a BTreeMap<String, String>,
    allowed: &'a BTreeSet<String>,
) -> impl Iterator<Item = String> + 'a {
    labels
        .iter()
        .filter(|(key, _)| allowed.contains(*key))
        .map(move |(key, value)| format!("{kind}:{key}:{value}"))
}
