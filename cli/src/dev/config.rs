//! The configuration of `signet dev`, in the same form as a file: nothing here is configured in a
//! second way.

use std::net::SocketAddr;
use std::path::Path;

use identity::trust_domain::TrustDomain;
use runtime::config::Document;
use serde_json::{Value, json};

use super::folder::Folder;
use crate::failure::Failure;

pub(super) fn server(folder: &Folder, trust_domain: &TrustDomain) -> Result<Document, Failure> {
    let data = folder.server_data();
    document(&json!({
        "server": {
            "trust_domain": trust_domain.name(),
            "bind_address": "127.0.0.1",
            "socket_path": text(&folder.server_socket())?,
            "data_dir": text(&data)?,
        },
        "plugins": {
            "DataStore": { "sql": { "plugin_data": { "database_type": "sqlite3" } } },
            "KeyManager": { "disk": { "plugin_data": { "keys_path": text(&data.join("keys.json"))? } } },
            "NodeAttestor": { "join_token": { "plugin_data": {} } },
        },
    }))
}

/// `bundle` is the file to bootstrap from. A join token is there when the agent must attest.
pub(super) fn agent(
    folder: &Folder,
    trust_domain: &TrustDomain,
    server: SocketAddr,
    bundle: &Path,
    join_token: Option<&str>,
) -> Result<Document, Failure> {
    let data = folder.agent_data();
    let mut agent = json!({
        "trust_domain": trust_domain.name(),
        "server_address": server.ip().to_string(),
        "server_port": server.port(),
        "socket_path": text(&folder.agent_socket())?,
        "data_dir": text(&data)?,
        "trust_bundle_path": text(bundle)?,
    });
    if let (Some(token), Value::Object(keys)) = (join_token, &mut agent) {
        keys.insert("join_token".to_owned(), Value::from(token));
    }
    document(&json!({
        "agent": agent,
        "plugins": {
            "KeyManager": { "disk": { "plugin_data": { "directory": text(&data)? } } },
            "NodeAttestor": { "join_token": { "plugin_data": {} } },
            "WorkloadAttestor": { "unix": { "plugin_data": {} } },
        },
    }))
}

fn document(value: &Value) -> Result<Document, Failure> {
    runtime::config::parse(&value.to_string()).map_err(|error| Failure::chain(&error))
}

fn text(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| {
        Failure::new(format!(
            "the path {} is not UTF-8; choose another -dir",
            path.display()
        ))
    })
}
