//! The sockets: what is served to workloads, and how all of them are opened.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use attestors::workload::cgroup::{self, Viewpoint};
use attestors::workload::docker::Docker;
use attestors::workload::k8s::K8s;
use attestors::workload::k8s::kubelet::{Kubelet, KubeletMetrics};
use attestors::workload::k8s::volumes::Volumes;
use attestors::workload::systemd::Systemd;
use attestors::workload::unix::Unix;
use runtime::listen::{self, BoundUnix, ContainerKey, Containers, Limits, ListenError, Share};
use runtime::report;
use runtime::unix::Blindness;
use tracing::{debug, error, warn};
use workload_api::options::{SdsOptions, SocketOptions};

use crate::agent::Deps;
use crate::attest::{self, Attestors, WorkloadAttestor};
use crate::config::{Config, K8sConfig, SdsConfig, Shares, SocketConfig, WorkloadAttestorConfig};

/// Everybody on the node may connect: who they are is found out then.
const MODE: u32 = 0o777;

/// The mode of the admin socket is SPIRE's. Who connects is looked at too.
const ADMIN_MODE: u32 = 0o770;

/// Opens the socket for a moment, before anything is done that cannot be done twice: a path that is
/// too long, served by another process or in a folder that takes no socket ends the start here. It is
/// opened to stay when there is something to serve. Of its other names those are refused that another
/// process serves, or that are no sockets.
pub fn check(socket: &SocketConfig) -> Result<(), ListenError> {
    drop(listen::bind_unix(&socket.path, MODE)?);
    for alias in aliases(socket) {
        // A link is replaced, wherever it leads.
        if !std::fs::symlink_metadata(&alias).is_ok_and(|file| file.file_type().is_symlink()) {
            check_path(&alias)?;
        }
    }
    Ok(())
}

fn check_path(path: &Path) -> Result<(), ListenError> {
    match std::fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => Err(ListenError::InUse(path.to_owned())),
        _ => Ok(()),
    }
}

/// Opens the socket, and then its other names.
///
/// Nothing but its own folder is touched, and each name is put there whole: a folder that is mounted
/// into pods shows the new socket of a restarted agent without being mounted again.
pub fn open(socket: &SocketConfig) -> Result<BoundUnix, ListenError> {
    let mut bound = listen::bind_unix(&socket.path, MODE)?;
    for alias in &socket.aliases {
        bound.add_alias(alias)?;
    }
    Ok(bound)
}

/// Opens the admin socket.
pub fn open_admin(path: &Path) -> Result<BoundUnix, ListenError> {
    listen::bind_unix(path, ADMIN_MODE)
}

fn aliases(socket: &SocketConfig) -> impl Iterator<Item = PathBuf> {
    let names = socket.aliases.iter();
    names.map(|name| socket.path.with_file_name(name))
}

/// What each peer may have of the socket of the workloads.
pub fn limits(socket: &SocketConfig) -> Limits {
    let usual = Limits::workload();
    let Shares {
        process,
        container,
        user,
    } = socket.shares;
    let most = |share: fn(&Share) -> usize| {
        let shares = [process, container, user];
        shares.iter().map(share).max().unwrap_or_default()
    };
    Limits {
        process,
        container,
        user,
        // Who may have more may have it on one connection, and more than all is of no use.
        streams_per_connection: u32::try_from(process.streams)
            .unwrap_or(u32::MAX)
            .max(usual.streams_per_connection),
        connections: most(|share| share.connections).max(usual.connections),
        containers: containers(),
        ..usual
    }
}

/// Callers are counted by the container that their cgroup names, whoever made it. What the cgroup does not
/// tell, or tells by a contradiction, is no container: then it is the user's share that is taken from.
fn containers() -> Containers {
    let viewpoint = viewpoint();
    Containers::found_by(move |peer| {
        let text = peer.proc_file("cgroup", cgroup::MAX_BYTES).ok()?;
        let container = viewpoint.container(&text).ok()??;
        Some(ContainerKey::of(container.id.as_str()))
    })
}

/// Says what this process cannot see of its callers from where it is, before one of them comes.
fn warn_of_blindness(config: &Config) {
    let Some(blindness) = Blindness::of_this_process() else {
        return;
    };
    let is_for_containers = |attestor: &WorkloadAttestorConfig| match attestor {
        WorkloadAttestorConfig::K8s(_) | WorkloadAttestorConfig::Docker(_) => true,
        WorkloadAttestorConfig::Unix(_) | WorkloadAttestorConfig::Systemd(_) => false,
    };
    let reason = blindness.reason();
    match blindness {
        Blindness::ForeignProc => error!(
            error.reason = reason,
            "No caller can be attested: /proc does not show this process's pid namespace"
        ),
        Blindness::OwnPidNamespace if config.workload_attestors.iter().any(is_for_containers) => {
            warn!(
                error.reason = reason,
                "Callers in other pid namespaces are refused: let the agent share its host's (`hostPID`)"
            );
        }
        Blindness::OwnPidNamespace => debug!(
            error.reason = reason,
            "Callers in other pid namespaces are refused"
        ),
    }
}

/// The workload attestors that are configured.
pub fn attestors(config: &Config, volumes: &Arc<Volumes>, deps: &Deps) -> Attestors {
    warn_of_blindness(config);
    let attestor = |attestor: &WorkloadAttestorConfig| match attestor {
        WorkloadAttestorConfig::Unix(options) => WorkloadAttestor::Unix(Unix::new(*options)),
        WorkloadAttestorConfig::K8s(config) => WorkloadAttestor::K8s(k8s(config, volumes, deps)),
        WorkloadAttestorConfig::Docker(options) => {
            let docker = Docker::new(options.as_ref().clone(), viewpoint());
            WorkloadAttestor::Docker(docker)
        }
        WorkloadAttestorConfig::Systemd(options) => {
            WorkloadAttestor::Systemd(Systemd::new(options.clone()))
        }
    };
    let all = config.workload_attestors.iter().map(attestor).collect();
    Attestors::new(
        all,
        config.log_selectors.clone(),
        deps.metrics.register(attest::Metrics::register),
    )
}

fn k8s(config: &K8sConfig, volumes: &Arc<Volumes>, deps: &Deps) -> K8s {
    let metrics = deps
        .metrics
        .register(|registry| KubeletMetrics::register(registry, deps.clock.clone()));
    let kubelet = Kubelet::start(&config.kubelet, &deps.clock, &deps.tasks, &metrics);
    K8s::new(
        config.options.clone(),
        viewpoint(),
        kubelet,
        Arc::clone(volumes),
    )
}

/// Where this process stands among the pods. If it cannot be told, pods are looked for where they
/// are on a common host, and nowhere else.
fn viewpoint() -> Viewpoint {
    let found = std::fs::read("/proc/self/cgroup")
        .map_err(OwnCgroupError::Read)
        .and_then(|text| Ok(Viewpoint::of_agent(&text)?));
    found.unwrap_or_else(|error| {
        warn!(error.reason = error.reason(), error = %report::chain(&error), "Could not tell where the agent stands among the pods");
        Viewpoint::default()
    })
}

#[derive(Debug, thiserror::Error)]
enum OwnCgroupError {
    #[error("could not read the agent's own cgroups")]
    Read(#[source] io::Error),
    #[error("could not place the agent by its own cgroups")]
    Place(#[from] cgroup::CgroupError),
}

impl OwnCgroupError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Read(_) => "cgroup_unreadable",
            Self::Place(error) => error.reason(),
        }
    }
}

/// What is served on the socket.
pub fn options(socket: &SocketConfig) -> SocketOptions {
    SocketOptions {
        workload_api: socket.workload_api,
        sds: socket.sds.as_ref().map(sds),
        allow_unauthenticated_verifiers: socket.allow_unauthenticated_verifiers,
        allowed_foreign_jwt_claims: socket.allowed_foreign_jwt_claims.clone(),
        ..SocketOptions::default()
    }
}

fn sds(sds: &SdsConfig) -> SdsOptions {
    SdsOptions {
        default_svid_name: sds.default_svid_name.clone(),
        default_bundle_name: sds.default_bundle_name.clone(),
        default_all_bundles_name: sds.default_all_bundles_name.clone(),
        disable_spiffe_cert_validation: sds.disable_spiffe_cert_validation,
    }
}

/// The name of the socket in metrics.
pub const NAME: &str = "workload";
/// The name of the admin socket in metrics.
pub const ADMIN_NAME: &str = "admin";

/// Serves until shutdown.
pub async fn serve<S: workload_api::source::IdentitySource>(
    bound: BoundUnix,
    source: Arc<S>,
    options: SocketOptions,
    deps: workload_api::routes::Deps,
    serve: listen::Serve,
) -> Result<(), ServeError> {
    let routes = workload_api::routes::routes(source, options, deps)
        .map_err(|error| ServeError::Routes(error.into()))?;
    Ok(listen::serve_unix(bound, routes, serve).await?)
}

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("could not set up the services of the socket")]
    Routes(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ServeError {
    /// The stable label of metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Listen(error) => error.reason(),
            Self::Routes(_) => "routes",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn config(folder: &Path, aliases: &[&str]) -> SocketConfig {
        SocketConfig {
            path: folder.join("api.sock"),
            aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
            workload_api: true,
            sds: None,
            allow_unauthenticated_verifiers: false,
            allowed_foreign_jwt_claims: std::collections::BTreeSet::new(),
            shares: Shares::default(),
        }
    }

    #[test]
    fn every_alias_leads_to_the_socket_also_where_the_folder_is_mounted() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), &["socket", "spire-agent.sock"]);
        // Twice, as after a restart, and over what an older agent left there.
        drop(UnixListener::bind(folder.path().join("socket")).unwrap());
        for _ in 0..2 {
            check(&config).unwrap();
            let bound = open(&config).unwrap();
            let elsewhere = tempfile::tempdir().unwrap();
            let other = elsewhere.path().join("other");
            symlink(folder.path(), &other).unwrap();
            for name in ["api.sock", "socket", "spire-agent.sock"] {
                UnixStream::connect(other.join(name)).unwrap();
            }
            let target = std::fs::read_link(folder.path().join("socket")).unwrap();
            assert_eq!(target, Path::new("api.sock"));
            drop(bound);
        }
        let names = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 2, "the links stay, and nothing else does");
    }

    #[test]
    fn an_alias_that_belongs_to_somebody_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), &["socket"]);
        let other = UnixListener::bind(folder.path().join("socket")).unwrap();
        assert_eq!(check(&config).unwrap_err().reason(), "in_use");
        drop(other);
        std::fs::remove_file(folder.path().join("socket")).unwrap();
        std::fs::write(folder.path().join("socket"), "kept").unwrap();
        assert_eq!(check(&config).unwrap_err().reason(), "not_a_socket");
    }
}
