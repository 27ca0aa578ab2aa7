//! The plugins of an agent: which are built, and why the others are refused.

use std::path::PathBuf;

use attestors::node::join_token;
use attestors::node::k8s_psat::{self, Prover};
use attestors::node::{http_challenge, sshpop, x509pop};
use attestors::workload::{docker, k8s, systemd, unix};
use runtime::config::{self, Body, Nothing, Plugin, Problems, Unbuilt, given};
use serde::Deserialize;

use super::Variables;
use super::k8s::K8sConfig;
use crate::custody::CustodyConfig;

/// What the plugins amount to.
#[derive(Debug, Default)]
pub(super) struct Plugins {
    pub(super) custody: Option<CustodyConfig>,
    pub(super) node_attestor: Option<NodeAttestor>,
    pub(super) workload_attestors: Vec<WorkloadAttestorConfig>,
}

/// How the agent proves which node it is.
#[derive(Clone, Debug)]
pub enum NodeAttestor {
    /// By a token that an operator created for it, once.
    JoinToken,
    /// By the service-account token of its pod.
    K8sPsat(Prover),
    /// By a certificate and its key.
    X509pop(x509pop::Prover),
    /// By a host certificate of SSH and its key.
    Sshpop(sshpop::Prover),
    /// By a name that leads to its host.
    HttpChallenge(http_challenge::Prover),
}

/// How the agent finds out who is calling.
#[derive(Clone, Debug)]
pub enum WorkloadAttestorConfig {
    /// By what the kernel says of the process.
    Unix(unix::Options),
    /// By the pod that the kubelet has it in.
    K8s(Box<K8sConfig>),
    /// By what docker or Podman knows of its container.
    Docker(Box<docker::Options>),
    /// By the unit that systemd has it in.
    Systemd(systemd::Options),
}

/// SPIRE's plugins that are not built.
const UNBUILT: Unbuilt<'_> = &[
    (
        "NodeAttestor",
        &["aws_iid", "gcp_iit", "azure_msi", "azure_imds", "tpm_devid"],
    ),
    ("WorkloadAttestor", &["slurm", "windows"]),
    ("SVIDStore", &["aws_secretsmanager", "gcp_secretmanager"]),
];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Disk {
    directory: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Psat {
    cluster: Option<String>,
    token_path: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Unix {
    discover_workload_path: bool,
    workload_size_limit: i64,
}

/// Reads the section `plugins`.
pub(super) fn read(
    section: Option<&Body>,
    variables: Variables<'_>,
    problems: &mut Problems,
) -> Plugins {
    let mut plugins = Plugins::default();
    let Some(declared) = config::Plugins::read(section, problems) else {
        return plugins;
    };
    for plugin in &declared {
        match plugin.id() {
            ("KeyManager", "disk") => plugins.custody = disk(plugin, problems),
            ("KeyManager", "memory") => {
                let Nothing {} = plugin.settings(problems);
                plugins.custody = Some(CustodyConfig::Memory);
            }
            ("NodeAttestor", join_token::NAME) => {
                let Nothing {} = plugin.settings(problems);
                plugins.node_attestor = Some(NodeAttestor::JoinToken);
            }
            ("NodeAttestor", k8s_psat::NAME) => {
                plugins.node_attestor = psat(plugin, problems).map(NodeAttestor::K8sPsat);
            }
            ("NodeAttestor", x509pop::NAME) => {
                let prover = super::node::x509pop(plugin, problems);
                plugins.node_attestor = prover.map(NodeAttestor::X509pop);
            }
            ("NodeAttestor", sshpop::NAME) => {
                let prover = super::node::sshpop(plugin, problems);
                plugins.node_attestor = Some(NodeAttestor::Sshpop(prover));
            }
            ("NodeAttestor", http_challenge::NAME) => {
                let prover = super::node::http_challenge(plugin, problems);
                plugins.node_attestor = prover.map(NodeAttestor::HttpChallenge);
            }
            ("WorkloadAttestor", unix::NAME) => {
                let attestor = WorkloadAttestorConfig::Unix(unix(plugin, problems));
                plugins.workload_attestors.push(attestor);
            }
            ("WorkloadAttestor", k8s::NAME) => {
                let config = super::k8s::read(plugin, variables, problems);
                let attestor = config.map(|config| WorkloadAttestorConfig::K8s(Box::new(config)));
                plugins.workload_attestors.extend(attestor);
            }
            ("WorkloadAttestor", docker::NAME) => {
                let options = Box::new(super::docker::read(plugin, problems));
                let attestor = WorkloadAttestorConfig::Docker(options);
                plugins.workload_attestors.push(attestor);
            }
            ("WorkloadAttestor", systemd::NAME) => {
                let options = super::docker::systemd(plugin, variables, problems);
                let attestor = WorkloadAttestorConfig::Systemd(options);
                plugins.workload_attestors.push(attestor);
            }
            _ => plugin.refuse(UNBUILT, problems),
        }
    }
    declared.exactly_one("KeyManager", "`disk` or `memory`", problems);
    declared.exactly_one(
        "NodeAttestor",
        "`join_token`, `k8s_psat`, `x509pop`, `sshpop` or `http_challenge`",
        problems,
    );
    declared.at_least_one(
        "WorkloadAttestor",
        "`unix`, `k8s`, `docker` or `systemd`",
        problems,
    );
    plugins
}

fn disk(plugin: &Plugin, problems: &mut Problems) -> Option<CustodyConfig> {
    let Disk { directory } = plugin.settings(problems);
    let directory = given(directory);
    let what = "must be set: the folder of `keys.json`";
    problems.add_if(directory.is_none(), &plugin.key("directory"), what);
    directory.map(|directory| CustodyConfig::Disk { directory })
}

fn psat(plugin: &Plugin, problems: &mut Problems) -> Option<Prover> {
    let said: Psat = plugin.settings(problems);
    let cluster = said.cluster.filter(|cluster| !cluster.is_empty());
    let what = "must be set: the name that the server knows this cluster by";
    problems.add_if(cluster.is_none(), &plugin.key("cluster"), what);
    cluster.map(|cluster| Prover::new(cluster, given(said.token_path)))
}

fn unix(plugin: &Plugin, problems: &mut Problems) -> unix::Options {
    let said: Unix = plugin.settings(problems);
    unix::Options {
        discover_workload_path: said.discover_workload_path,
        workload_size_limit: said.workload_size_limit,
    }
}
