//! The plugins of a server: which are built, and why the others are refused.

use std::path::PathBuf;

use attestors::node::join_token;
use runtime::config::{self, Body, Problems};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{KeysConfig, StoreConfig, raw};

/// What the plugins amount to.
#[derive(Debug, Default)]
pub(super) struct Plugins {
    pub(super) store: Option<StoreConfig>,
    pub(super) keys: Option<KeysConfig>,
}

/// SPIRE's plugins that are not built.
const UNBUILT: [(&str, &[&str]); 6] = [
    (
        "KeyManager",
        &["aws_kms", "gcp_kms", "azure_key_vault", "hashicorp_vault"],
    ),
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
        "UpstreamAuthority",
        &[
            "disk",
            "spire",
            "vault",
            "aws_pca",
            "awssecret",
            "gcp_cas",
            "cert-manager",
            "ejbca",
        ],
    ),
    ("Notifier", &["gcs_bundle", "k8sbundle"]),
    (
        "BundlePublisher",
        &[
            "aws_s3",
            "gcp_cloudstorage",
            "aws_rolesanywhere_trustanchor",
            "k8s_configmap",
        ],
    ),
    ("CredentialComposer", &["uniqueid"]),
];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Disk {
    keys_path: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Nothing {}

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

/// Reads the block `plugins`.
pub(super) fn read(body: &Body, problems: &mut Problems) -> Plugins {
    let mut plugins = Plugins::default();
    let mut key_managers = 0;
    let mut data_stores = 0;
    for (kind, named) in body.entries() {
        for (name, declared) in named.entries() {
            let path = declared.path().to_owned();
            let Some(data) = data(&declared, problems) else {
                continue;
            };
            match (kind, name) {
                ("DataStore", "sql") => {
                    data_stores += 1;
                    plugins.store = store(&path, data.as_ref(), problems);
                }
                ("KeyManager", "disk" | "memory") => {
                    key_managers += 1;
                    plugins.keys = keys(name, &path, data.as_ref(), problems);
                }
                ("NodeAttestor", join_token::NAME) => {
                    let Nothing {} = decode(data.as_ref(), problems);
                }
                _ => problems.add(&path, refusal(kind, name)),
            }
        }
    }
    if key_managers != 1 {
        let what = format!("exactly one is needed, `disk` or `memory`; found {key_managers}");
        problems.add("plugins.KeyManager", what);
    }
    if data_stores > 1 {
        problems.add("plugins.DataStore", "only one can be used");
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
        let what = "external plugins (`plugin_cmd`) are not built; use a plugin that is built in";
        problems.add(declared.path(), what);
        return None;
    }
    match (plugin.plugin_data, plugin.plugin_data_file) {
        (Some(_), Some(_)) => {
            let what = "only one of `plugin_data` and `plugin_data_file` can be given";
            problems.add(declared.path(), what);
            None
        }
        (data, None) => Some(data),
        (None, Some(file)) => match config::load(&file, None) {
            Ok(document) => Some(Some(document.body().clone())),
            Err(error) => {
                let path = format!("{}.plugin_data_file", declared.path());
                problems.add(&path, runtime::report::chain(&error));
                None
            }
        },
    }
}

fn store(path: &str, data: Option<&Body>, problems: &mut Problems) -> Option<StoreConfig> {
    let sql: Sql = decode(data, problems);
    let path = format!("{path}.plugin_data.database_type");
    match sql.database_type.as_deref() {
        Some("sqlite3") => {
            problems.warn(
                "DataStore `sql` with `sqlite3`: the embedded store below `data_dir` is used; \
                 SPIRE's database is not read",
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

fn keys(
    name: &str,
    path: &str,
    data: Option<&Body>,
    problems: &mut Problems,
) -> Option<KeysConfig> {
    if name == "memory" {
        let Nothing {} = decode(data, problems);
        return Some(KeysConfig::Memory);
    }
    let Disk { keys_path } = decode(data, problems);
    let keys_path = keys_path.filter(|path| !path.as_os_str().is_empty());
    if keys_path.is_none() {
        problems.add(
            &format!("{path}.plugin_data.keys_path"),
            "keys_path is required",
        );
    }
    keys_path.map(|path| KeysConfig::Disk { path })
}

fn refusal(kind: &str, name: &str) -> String {
    let known = UNBUILT
        .iter()
        .any(|(unbuilt, names)| *unbuilt == kind && names.contains(&name));
    if known {
        format!("the plugin {kind} `{name}` is not built; README says which are")
    } else {
        // SPIRE's words.
        format!("no built-in plugin {name:?} for type {kind:?}")
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
