//! The plugins of an agent: which are built, and why the others are refused.

use std::path::PathBuf;

use attestors::node::join_token;
use attestors::workload::unix;
use runtime::config::Problems;
use runtime::config::{self, Body};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::raw;
use crate::custody::CustodyConfig;

/// What the plugins amount to.
#[derive(Debug, Default)]
pub(super) struct Plugins {
    pub(super) custody: Option<CustodyConfig>,
    pub(super) node_attestor: Option<NodeAttestor>,
    pub(super) workload_attestors: Vec<WorkloadAttestorConfig>,
}

/// How the agent proves which node it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NodeAttestor {
    /// By a token that an operator created for it, once.
    JoinToken,
}

/// How the agent finds out who is calling.
#[derive(Clone, Debug)]
pub enum WorkloadAttestorConfig {
    /// By what the kernel says of the process.
    Unix(unix::Options),
}

/// SPIRE's plugins that are not built.
const UNBUILT: [(&str, &[&str]); 3] = [
    (
        "NodeAttestor",
        &[
            "x509pop",
            "k8s_psat",
            "aws_iid",
            "gcp_iit",
            "azure_msi",
            "azure_imds",
            "sshpop",
            "tpm_devid",
            "http_challenge",
        ],
    ),
    (
        "WorkloadAttestor",
        &["k8s", "docker", "systemd", "slurm", "windows"],
    ),
    ("SVIDStore", &["aws_secretsmanager", "gcp_secretmanager"]),
];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Disk {
    directory: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Nothing {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Unix {
    discover_workload_path: bool,
    workload_size_limit: i64,
}

/// Reads the block `plugins`.
pub(super) fn read(body: &Body, problems: &mut Problems) -> Plugins {
    let mut plugins = Plugins::default();
    let mut key_managers = 0;
    let mut node_attestors = 0;
    for (kind, named) in body.entries() {
        for (name, declared) in named.entries() {
            let path = declared.path().to_owned();
            let Some(data) = data(&declared, problems) else {
                continue;
            };
            match (kind, name) {
                ("KeyManager", "disk" | "memory") => {
                    key_managers += 1;
                    plugins.custody = custody(name, &path, data.as_ref(), problems);
                }
                ("NodeAttestor", join_token::NAME) => {
                    node_attestors += 1;
                    let Nothing {} = decode(data.as_ref(), problems);
                    plugins.node_attestor = Some(NodeAttestor::JoinToken);
                }
                ("WorkloadAttestor", unix::NAME) => {
                    let Unix {
                        discover_workload_path,
                        workload_size_limit,
                    } = decode(data.as_ref(), problems);
                    let options = unix::Options {
                        discover_workload_path,
                        workload_size_limit,
                    };
                    plugins
                        .workload_attestors
                        .push(WorkloadAttestorConfig::Unix(options));
                }
                _ => problems.add(&path, refusal(kind, name)),
            }
        }
    }
    if key_managers != 1 {
        problems.add(
            "plugins.KeyManager",
            format!("exactly one is needed, `disk` or `memory`; found {key_managers}"),
        );
    }
    if node_attestors != 1 {
        problems.add(
            "plugins.NodeAttestor",
            format!("exactly one is needed, `join_token`; found {node_attestors}"),
        );
    }
    if plugins.workload_attestors.is_empty() {
        problems.add("plugins.WorkloadAttestor", "at least one is needed, `unix`");
    }
    plugins
}

/// The settings of a plugin. `None` is a plugin that is disabled, or that cannot be had.
fn data(declared: &Body, problems: &mut Problems) -> Option<Option<Body>> {
    let plugin: raw::Plugin = decode(Some(declared), problems);
    if plugin.enabled == Some(false) {
        return None;
    }
    let external = plugin.plugin_cmd.is_some_and(|command| !command.is_empty());
    if external || plugin.plugin_args.is_some() || plugin.plugin_checksum.is_some() {
        problems.add(
            declared.path(),
            "external plugins (`plugin_cmd`) are not built; use a plugin that is built in",
        );
        return None;
    }
    match (plugin.plugin_data, plugin.plugin_data_file) {
        (Some(_), Some(_)) => {
            problems.add(
                declared.path(),
                "only one of `plugin_data` and `plugin_data_file` can be given",
            );
            None
        }
        (data, None) => Some(data),
        (None, Some(file)) => match config::load(&file, None) {
            Ok(document) => Some(Some(document.body().clone())),
            Err(error) => {
                problems.add(
                    &format!("{}.plugin_data_file", declared.path()),
                    runtime::report::chain(&error),
                );
                None
            }
        },
    }
}

fn custody(
    name: &str,
    path: &str,
    data: Option<&Body>,
    problems: &mut Problems,
) -> Option<CustodyConfig> {
    if name == "memory" {
        let Nothing {} = decode(data, problems);
        return Some(CustodyConfig::Memory);
    }
    let Disk { directory } = decode(data, problems);
    let directory = directory.filter(|directory| !directory.as_os_str().is_empty());
    if directory.is_none() {
        problems.add(
            &format!("{path}.plugin_data.directory"),
            "must be set: the folder of `keys.json`",
        );
    }
    directory.map(|directory| CustodyConfig::Disk { directory })
}

fn refusal(kind: &str, name: &str) -> String {
    let known = UNBUILT
        .iter()
        .any(|(unbuilt, names)| *unbuilt == kind && names.contains(&name));
    if known {
        format!("the plugin {kind} `{name}` is not built; README says which are")
    } else {
        format!("there is no plugin {kind} `{name}`")
    }
}

fn decode<T: DeserializeOwned + Default>(body: Option<&Body>, problems: &mut Problems) -> T {
    let Some(body) = body else {
        return T::default();
    };
    match body.decode() {
        Ok((value, unknown)) => {
            problems.unknown(unknown);
            value
        }
        Err(error) => {
            problems.add("", error.to_string());
            T::default()
        }
    }
}
