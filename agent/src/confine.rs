//! What an agent gives up at its start.
//!
//! It writes into a few folders of its own and runs no program, so the kernel may hold it to that. The
//! price is that the kernel then shows it no program of a workload either; so an agent that is to know
//! programs is not confined.

use std::path::{Path, PathBuf};

use attestors::workload::unix;
use runtime::process::{self, Sandbox, SandboxError};

use crate::config::{Config, WorkloadAttestorConfig};
use crate::custody::CustodyConfig;

/// What became of the agent's confinement.
#[derive(Debug)]
pub enum Confinement {
    /// As far as the kernel knows how.
    Entered(Sandbox),
    /// It was not to be, for this reason.
    Left(&'static str),
    /// It failed, and the agent runs without.
    Failed(SandboxError),
}

/// Confines this thread and all that it starts. The folders that are missing are made first.
pub fn confine(config: &Config) -> Confinement {
    if !config.sandbox {
        return Confinement::Left("switched off");
    }
    if config.workload_attestors.iter().any(looks_at_programs) {
        return Confinement::Left("workloads' programs are to be looked at");
    }
    let own = own_folders(config);
    for folder in &own {
        // What cannot be made is told by the start, with what needs it.
        let _ = std::fs::create_dir_all(folder);
    }
    // The log is opened anew after a rotation.
    let log = config.log.file.as_deref().map(folder_of);
    let writable: Vec<PathBuf> = own.into_iter().chain(log).collect();
    match process::enter_sandbox(&writable) {
        Ok(sandbox) => Confinement::Entered(sandbox),
        Err(error) => Confinement::Failed(error),
    }
}

fn looks_at_programs(attestor: &WorkloadAttestorConfig) -> bool {
    match attestor {
        WorkloadAttestorConfig::Unix(unix::Options {
            discover_workload_path,
            ..
        }) => *discover_workload_path,
        WorkloadAttestorConfig::K8s(_)
        | WorkloadAttestorConfig::Docker(_)
        | WorkloadAttestorConfig::Systemd(_) => false,
    }
}

/// The folders of the agent's state and of its sockets.
fn own_folders(config: &Config) -> Vec<PathBuf> {
    let keys = match &config.custody {
        CustodyConfig::Disk { directory } => Some(directory.clone()),
        CustodyConfig::Memory => None,
    };
    let socket = config.socket.as_ref().map(|socket| &socket.path);
    let sockets = [socket, config.admin_socket.as_ref()];
    let folders = sockets.into_iter().flatten().map(|path| folder_of(path));
    let own = std::iter::once(config.data_dir.clone()).chain(keys);
    own.chain(folders).collect()
}

fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
