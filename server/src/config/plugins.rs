//! The plugins of a server: which are built, and why the others are refused.

use std::collections::BTreeMap;
use std::path::PathBuf;

use attestors::node::join_token;
use attestors::node::k8s_psat::{self as psat, Cluster};
use attestors::node::x509pop::{self as pop, Options};
use attestors::node::{http_challenge, sshpop};
use runtime::config::{self, Body, HostPort, Nothing, Plugin, Problems, Unbuilt, given};
use serde::Deserialize;
use workload_api::client::Endpoint;

use super::raw::Signet;
use super::{KeysConfig, StoreConfig, k8s_psat, provisioned, publish, x509pop};
use crate::authority::{Composer, DiskConfig, SpireConfig, UpstreamConfig};
use crate::publish::TargetConfig;

/// What the plugins amount to.
#[derive(Debug, Default)]
pub(super) struct Plugins {
    pub(super) store: Option<StoreConfig>,
    pub(super) keys: Option<KeysConfig>,
    pub(super) upstream: Option<UpstreamConfig>,
    pub(super) composer: Option<Composer>,
    pub(super) publish: Vec<TargetConfig>,
    pub(super) k8s_clusters: Option<BTreeMap<String, Cluster>>,
    pub(super) x509pop: Option<Options>,
    pub(super) sshpop: Option<sshpop::Options>,
    pub(super) http_challenge: Option<http_challenge::Options>,
}

/// SPIRE's plugins that are not built.
const UNBUILT: Unbuilt<'_> = &[
    (
        "KeyManager",
        &["aws_kms", "gcp_kms", "azure_key_vault", "hashicorp_vault"],
    ),
    (
        "NodeAttestor",
        &["aws_iid", "gcp_iit", "azure_msi", "azure_imds", "tpm_devid"],
    ),
    (
        "UpstreamAuthority",
        &[
            "vault",
            "aws_pca",
            "awssecret",
            "gcp_cas",
            "cert-manager",
            "ejbca",
        ],
    ),
    ("Notifier", &["gcs_bundle"]),
    (
        "BundlePublisher",
        &[
            "aws_s3",
            "gcp_cloudstorage",
            "azure_blob",
            "aws_rolesanywhere_trustanchor",
        ],
    ),
];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Disk {
    keys_path: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct UpstreamDisk {
    cert_file_path: Option<PathBuf>,
    key_file_path: Option<PathBuf>,
    bundle_file_path: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct UpstreamSpire {
    server_address: Option<String>,
    server_port: Option<String>,
    workload_api_socket: Option<String>,
    experimental: Option<Body>,
}

/// The settings of SPIRE's database. Only the type is looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Sql {
    database_type: Option<String>,
    connection_string: Option<Body>,
    ro_connection_string: Option<Body>,
    max_open_conns: Option<Body>,
    max_idle_conns: Option<Body>,
    conn_max_lifetime: Option<Body>,
    disable_migration: Option<Body>,
    root_ca_path: Option<Body>,
    client_cert_path: Option<Body>,
    client_key_path: Option<Body>,
}

/// Reads the section `plugins`.
pub(super) fn read(section: Option<&Body>, ours: &Signet, problems: &mut Problems) -> Plugins {
    let mut plugins = Plugins::default();
    let Some(declared) = config::Plugins::read(section, problems) else {
        return plugins;
    };
    for plugin in &declared {
        match plugin.id() {
            ("DataStore", "sql") => plugins.store = store(plugin, problems),
            ("KeyManager", "disk") => plugins.keys = disk(plugin, problems),
            ("KeyManager", "memory") => {
                let Nothing {} = plugin.settings(problems);
                plugins.keys = Some(KeysConfig::Memory);
            }
            ("NodeAttestor", join_token::NAME) => {
                let Nothing {} = plugin.settings(problems);
            }
            ("UpstreamAuthority", "disk") => {
                plugins.upstream = upstream_disk(plugin, problems);
            }
            ("UpstreamAuthority", "spire") => {
                plugins.upstream = upstream_spire(plugin, problems);
            }
            ("CredentialComposer", "uniqueid") => {
                let Nothing {} = plugin.settings(problems);
                plugins.composer = Some(Composer::UniqueId);
            }
            ("BundlePublisher", "k8s_configmap") => {
                plugins
                    .publish
                    .extend(publish::k8s_configmap(plugin, problems));
            }
            ("Notifier", "k8sbundle") => {
                plugins.publish.extend(publish::k8sbundle(plugin, problems));
            }
            ("NodeAttestor", psat::NAME) => {
                let settings = plugin.settings(problems);
                let clusters = k8s_psat::read(settings, &plugin.key("clusters"), problems);
                plugins.k8s_clusters = Some(clusters);
            }
            ("NodeAttestor", pop::NAME) => plugins.x509pop = x509pop::read(plugin, problems),
            ("NodeAttestor", sshpop::NAME) => {
                plugins.sshpop = provisioned::sshpop(plugin, problems);
            }
            ("NodeAttestor", http_challenge::NAME) => {
                let networks = &ours.http_challenge_networks;
                plugins.http_challenge = provisioned::http_challenge(plugin, networks, problems);
            }
            _ => plugin.refuse(UNBUILT, problems),
        }
    }
    declared.exactly_one("KeyManager", "`disk` or `memory`", problems);
    declared.at_most_one("DataStore", problems);
    declared.at_most_one("UpstreamAuthority", problems);
    declared.at_most_one("CredentialComposer", problems);
    plugins
}

fn store(plugin: &Plugin, problems: &mut Problems) -> Option<StoreConfig> {
    let sql: Sql = plugin.settings(problems);
    let path = plugin.key("database_type");
    match sql.database_type.as_deref() {
        Some("sqlite3") => {
            problems.warn(
                "DataStore `sql` with `sqlite3`: the embedded store below `data_dir` is used; \
                 SPIRE's database is not read, `signet migrate` asks the server that has it",
            );
            Some(StoreConfig::Embedded)
        }
        Some(other @ ("postgres" | "aws_postgres" | "mysql" | "aws_mysql")) => {
            problems.add(
                &path,
                format!("`{other}` is not built; use `sqlite3`, the embedded store"),
            );
            None
        }
        Some(other) => {
            problems.add(&path, format!("there is no database type `{other}`"));
            None
        }
        None => {
            problems.add(&path, "database_type must be set");
            None
        }
    }
}

fn upstream_disk(plugin: &Plugin, problems: &mut Problems) -> Option<UpstreamConfig> {
    let settings: UpstreamDisk = plugin.settings(problems);
    let files = given(settings.cert_file_path).zip(given(settings.key_file_path));
    let what = "'cert_file_path' and 'key_file_path' must be set and not empty";
    problems.add_if(files.is_none(), &plugin.key("cert_file_path"), what);
    let (cert_file_path, key_file_path) = files?;
    Some(UpstreamConfig::Disk(DiskConfig {
        cert_file_path,
        key_file_path,
        bundle_file_path: given(settings.bundle_file_path),
    }))
}

fn upstream_spire(plugin: &Plugin, problems: &mut Problems) -> Option<UpstreamConfig> {
    let settings: UpstreamSpire = plugin.settings(problems);
    let mut required = |key: &str, value: Option<String>| {
        let value = given(value);
        let what = format!("{key} is required");
        problems.add_if(value.is_none(), &plugin.key(key), what);
        value
    };
    let address = required("server_address", settings.server_address);
    let port = required("server_port", settings.server_port);
    let socket = required("workload_api_socket", settings.workload_api_socket);
    let is_experimental = settings.experimental.is_some();
    let what = "is not built: the upstream server is called as SPIRE calls it without this block";
    problems.add_if(is_experimental, &plugin.key("experimental"), what);
    let port = port.map(|port| match port.parse() {
        Ok(0) | Err(_) => Err(format!("`{port}` is not a port")),
        Ok(port) => Ok(port),
    });
    let port = problems.take(&plugin.key("server_port"), port?);
    let endpoint = std::path::absolute(socket?).map_err(|error| error.to_string());
    let endpoint = endpoint.and_then(|path| Endpoint::unix(&path).map_err(|e| e.to_string()));
    let workload_api = problems.take(&plugin.key("workload_api_socket"), endpoint);
    Some(UpstreamConfig::Spire(SpireConfig {
        server: HostPort {
            host: address?.trim_matches(['[', ']']).to_owned(),
            port: port?,
        },
        workload_api: workload_api?,
    }))
}

fn disk(plugin: &Plugin, problems: &mut Problems) -> Option<KeysConfig> {
    let Disk { keys_path } = plugin.settings(problems);
    let path = given(keys_path);
    let what = "keys_path is required";
    problems.add_if(path.is_none(), &plugin.key("keys_path"), what);
    path.map(|path| KeysConfig::Disk { path })
}
