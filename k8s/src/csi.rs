//! The storage driver `csi.spiffe.io`: it shows the folder of the agent's sockets to the pods that ask
//! for it, as a volume.
//!
//! It mounts, and needs the privileges for that; so it does nothing else: no keys, no tokens, and, once
//! [`leave_network`] was called, no network. It speaks with the kubelet, which it tells of itself
//! without a sidecar, and tells the agent what the kubelet said of each pod, over sockets of the file
//! system alone.

mod driver;
pub mod inputs;
mod mount;
mod network;
mod node;
mod registration;
mod report;
mod request;
#[cfg(test)]
mod sandbox;
mod target;
#[cfg(test)]
mod tests;
mod volumes;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::csi::identity_server::IdentityServer;
use proto::csi::node_server::NodeServer;
use proto::pluginregistration::registration_server::RegistrationServer;
use runtime::clock::Clock;
use runtime::files::FileError;
use runtime::listen::{self, BoundUnix, Limits, ListenError, ListenMetrics, Serve, SocketMetrics};
use runtime::metrics::Metrics;
use runtime::readiness::Readiness;
use runtime::report as errors;
use runtime::shutdown::Reason;
use runtime::tasks::TaskGroup;
use tonic::service::Routes;
use tracing::{error, info, warn};

use self::driver::Driver;
use self::mount::{Condition, Mounts};
pub use self::network::{NetworkError, leave_network};
use self::node::Service;
use self::registration::Registrar;
use self::report::Reporter;
use self::volumes::Volumes;

/// The driver's name, as pods write it.
pub const DEFAULT_PLUGIN: &str = "csi.spiffe.io";
/// Where the kubelet keeps its state.
pub const DEFAULT_KUBELET_DIR: &str = "/var/lib/kubelet";
/// Where the driver's socket is in its container.
pub const DEFAULT_SOCKET: &str = "/spiffe-csi/csi.sock";

/// Only root may ask for mounts; a kubelet is root.
const SOCKET_MODE: u32 = 0o600;
/// A request names one volume; tokens may be in it.
const MAX_REQUEST_BYTES: usize = 1 << 20;
/// The folder of the volumes' files, beside the driver's socket.
const VOLUMES_FOLDER: &str = "volumes";

/// What the driver is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// The name of the node, as its Node object has it.
    pub node: String,
    /// The name that pods and the CSIDriver object have.
    pub plugin: String,
    /// What is mounted: the folder of the Workload API's socket.
    pub sockets: PathBuf,
    /// The driver's own socket.
    pub socket: PathBuf,
    /// The same as the kubelet sees it.
    pub endpoint: PathBuf,
    /// The folder that the kubelet watches; `None` leaves the registration to somebody else.
    pub registration: Option<PathBuf>,
    /// The kubelet's folder. Targets are below `pods` in it, by the kubelet's path.
    pub kubelet: PathBuf,
    /// The agent's admin socket; `None` tells no agent.
    pub agent: Option<PathBuf>,
}

/// What the driver needs of its process.
#[derive(Clone, Debug)]
pub struct Deps {
    pub clock: Clock,
    pub metrics: Metrics,
    pub tasks: TaskGroup,
    pub readiness: Readiness,
}

/// Why a driver did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("node ID is required")]
    NoNode,
    #[error("workload API socket directory is required")]
    NoSockets,
    #[error("plugin name `{0}` is not valid")]
    Plugin(String),
    #[error("`{}` must be an absolute path", .0.display())]
    Relative(PathBuf),
    #[error("`{}` has to lie in a folder", .0.display())]
    NoFolder(PathBuf),
    #[error("could not look at `{}`, the kubelet's folder of pods", .path.display())]
    Pods {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Volumes(#[from] FileError),
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl StartError {
    /// The stable label of logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoNode => "no_node",
            Self::NoSockets => "no_sockets_folder",
            Self::Plugin(_) => "plugin_name",
            Self::Relative(_) => "relative_path",
            Self::NoFolder(_) => "no_folder",
            Self::Pods { .. } => "no_pods_folder",
            Self::Volumes(error) => error.reason(),
            Self::Listen(error) => error.reason(),
        }
    }
}

/// Starts a driver. It ends by the shutdown of its task group.
///
/// The kubelet finds the registration last: from then on it calls, and everything must be there.
pub fn start(config: &Config, deps: &Deps) -> Result<(), StartError> {
    check(config)?;
    let driver = Arc::new(open(config)?);
    let service = Service {
        driver: Arc::clone(&driver),
        plugin: config.plugin.as_str().into(),
        node: config.node.as_str().into(),
    };
    let identity =
        IdentityServer::new(service.clone()).max_decoding_message_size(MAX_REQUEST_BYTES);
    let node = NodeServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES);
    let routes = Routes::new(identity).add_service(node);
    let bound = listen::bind_unix(&config.socket, SOCKET_MODE)?;
    let metrics = deps.metrics.register(ListenMetrics::register);
    serve("k8s.csi", bound, routes, metrics.socket("csi"), deps);
    if let Some(socket) = &config.agent {
        let reporter = Reporter {
            socket: socket.clone(),
            volumes: driver.follow(),
            clock: deps.clock.clone(),
        };
        let shutdown = deps.tasks.shutdown();
        deps.tasks.spawn("k8s.csi.report", reporter.run(shutdown));
    }
    if let Some(folder) = &config.registration {
        register(folder, config, metrics.socket("registration"), deps)?;
    }
    Ok(())
}

fn check(config: &Config) -> Result<(), StartError> {
    if config.node.is_empty() {
        return Err(StartError::NoNode);
    }
    if config.sockets.as_os_str().is_empty() {
        return Err(StartError::NoSockets);
    }
    // It becomes a part of file names. CSI: a domain name of at most 63 bytes.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let is_name = (1..=63).contains(&config.plugin.len()) && config.plugin.bytes().all(is_plain);
    if !is_name || config.plugin.starts_with('.') {
        return Err(StartError::Plugin(config.plugin.clone()));
    }
    for path in [&config.kubelet, &config.endpoint] {
        if path.is_relative() {
            return Err(StartError::Relative(path.clone()));
        }
    }
    let pods = pods(config);
    std::fs::read_dir(&pods)
        .map(drop)
        .map_err(|source| StartError::Pods { path: pods, source })
}

fn pods(config: &Config) -> PathBuf {
    // A path is made of its components, so a slash at the end or doubled does not matter.
    let kubelet: PathBuf = config.kubelet.components().collect();
    kubelet.join("pods")
}

fn open(config: &Config) -> Result<Driver, StartError> {
    let mounts = Mounts::new(pods(config), config.sockets.clone());
    let folder = config
        .socket
        .parent()
        .filter(|folder| *folder != Path::new(""))
        .ok_or_else(|| StartError::NoFolder(config.socket.clone()))?;
    let volumes = Volumes::open(folder.join(VOLUMES_FOLDER), |target| {
        // One that shows another folder, or cannot be read now, is there all the same.
        !matches!(mounts.condition(target), Ok(Condition::NotMounted))
    })?;
    let count = volumes.follow().borrow().len();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        driver.name = config.plugin,
        node.name = config.node,
        count,
        "Starting storage driver"
    );
    if let Err(error) = std::fs::read_dir(&config.sockets) {
        warn!(path = %config.sockets.display(), %error, "Folder of the agent's sockets is not there yet");
    }
    Ok(Driver::new(mounts, volumes))
}

fn register(
    folder: &Path,
    config: &Config,
    metrics: SocketMetrics,
    deps: &Deps,
) -> Result<(), StartError> {
    let endpoint = config.endpoint.to_string_lossy();
    let registrar = Registrar {
        plugin: config.plugin.as_str().into(),
        endpoint: endpoint.as_ref().into(),
        health: deps.readiness.component("registration"),
    };
    // The name that the usual registrar takes: two of them for one driver must clash.
    let socket = folder.join(format!("{}-reg.sock", config.plugin));
    let bound = listen::bind_unix(&socket, SOCKET_MODE)?;
    let routes = Routes::new(
        RegistrationServer::new(registrar).max_decoding_message_size(MAX_REQUEST_BYTES),
    );
    serve("k8s.csi.registration", bound, routes, metrics, deps);
    Ok(())
}

fn serve(
    task: &'static str,
    bound: BoundUnix,
    routes: Routes,
    metrics: SocketMetrics,
    deps: &Deps,
) {
    let serve = Serve {
        // The kubelet may be in a foreign pid namespace, and is root in any case.
        limits: Limits::admin(),
        shutdown: deps.tasks.shutdown(),
        tasks: deps.tasks.clone(),
        metrics,
    };
    let trigger = deps.tasks.trigger().clone();
    deps.tasks.spawn(task, async move {
        if let Err(error) = listen::serve_unix(bound, routes, serve).await {
            error!(error.reason = error.reason(), error = %errors::chain(&error), "Could not serve a socket of the driver");
            trigger.trigger(Reason::Failed("could not serve a socket of the driver"));
        }
    });
}
