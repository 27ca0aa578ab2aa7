//! The sockets that the agent opens, as the file names them.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use runtime::config::{Problems, given};

use super::{DEFAULT_SOCKET_PATH, SdsConfig, Shares, SocketConfig, raw};

/// The admin socket, if there is one.
pub(super) fn admin(agent: &raw::Agent, problems: &mut Problems) -> Option<PathBuf> {
    let admin = given(agent.admin_socket_path.clone())?;
    let serves_workloads =
        agent.disable_workload_api != Some(true) || agent.disable_sds_api != Some(true);
    // Whoever may reach the workloads' folder, every pod with a volume among them, could else reach
    // the admin socket.
    let shared = cleaned(&path(agent))
        .parent()
        .is_some_and(|folder| cleaned(&admin).starts_with(folder));
    problems.add_if(
        serves_workloads && shared,
        "agent.admin_socket_path",
        "admin socket cannot be in the same directory or a subdirectory as that containing the Workload API socket",
    );
    Some(admin)
}

/// The socket of the workloads, if it serves anything.
pub(super) fn workload(
    agent: raw::Agent,
    aliases: Vec<String>,
    shares: Shares,
    problems: &mut Problems,
) -> Option<SocketConfig> {
    let path = path(&agent);
    for alias in &aliases {
        let is_name = Path::new(alias).file_name() == Some(OsStr::new(alias));
        problems.add_if(
            !is_name || path.file_name() == Some(OsStr::new(alias)),
            "signet.socket_aliases",
            format!("`{alias}` is not another name for a file in the folder of the socket"),
        );
    }
    let workload_api = agent.disable_workload_api != Some(true);
    let sds = (agent.disable_sds_api != Some(true)).then(|| sds(agent.sds, problems));
    (workload_api || sds.is_some()).then(|| SocketConfig {
        path,
        aliases,
        workload_api,
        sds,
        allow_unauthenticated_verifiers: agent.allow_unauthenticated_verifiers == Some(true),
        allowed_foreign_jwt_claims: agent.allowed_foreign_jwt_claims.into_iter().collect(),
        shares,
    })
}

fn sds(sds: raw::Sds, problems: &mut Problems) -> SdsConfig {
    let name =
        |name: Option<String>, default: &str| given(name).unwrap_or_else(|| default.to_owned());
    let config = SdsConfig {
        default_svid_name: name(sds.default_svid_name, "default"),
        default_bundle_name: name(sds.default_bundle_name, "ROOTCA"),
        default_all_bundles_name: name(sds.default_all_bundles_name, "ALL"),
        disable_spiffe_cert_validation: sds.disable_spiffe_cert_validation == Some(true),
    };
    if config.default_bundle_name == config.default_all_bundles_name {
        problems.warn(
            "`agent.sds.default_bundle_name` and `agent.sds.default_all_bundles_name` are the same; the latter is passed over",
        );
    }
    config
}

fn path(agent: &raw::Agent) -> PathBuf {
    let path = agent.socket_path.clone();
    path.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET_PATH))
}

/// An absolute path without `..`, as its text has it: nothing is there yet that could be looked at.
fn cleaned(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            component => clean.push(component),
        }
    }
    clean
}
