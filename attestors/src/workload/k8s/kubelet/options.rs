//! How the kubelet is reached, and what is believed of it.

use std::path::PathBuf;
use std::time::Duration;

/// Where pods mount their service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The options of the client. The defaults are SPIRE's where SPIRE has the option.
#[derive(Clone, Debug)]
pub struct KubeletOptions {
    /// The list over HTTP; `None` asks the Pods API alone.
    pub endpoint: Option<Endpoint>,
    /// Ours: the socket of the kubelet's Pods API. It is used while it is there; `None` never.
    pub pods_api_socket: Option<PathBuf>,
    /// How long a list is taken for current, and the longest pause between two requests of callers
    /// that wait for a newer one.
    pub poll_retry_interval: Duration,
    /// How often token, certificates and authorities are read again.
    pub reload_interval: Duration,
    /// How long what the Pods API has told is taken to be complete.
    pub resync_interval: Duration,
    /// How long one request may take, from the connection to the last byte.
    pub request_timeout: Duration,
}

/// One of the kubelet's two ports.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// `kubelet_read_only_port`: plain HTTP on 127.0.0.1.
    ReadOnly {
        /// The port.
        port: u16,
    },
    /// `kubelet_secure_port`.
    Secure(Secure),
}

/// The port with TLS.
#[derive(Clone, Debug)]
pub struct Secure {
    /// Ours: the address to connect to, if it is not the node's name. A node's name need not resolve
    /// on the node; the address of the node (`status.hostIP`) always leads to its kubelet.
    pub address: Option<String>,
    /// `node_name`, or what the variable of `node_name_env` holds: the name that the kubelet's
    /// certificate must have. Without name and address, 127.0.0.1 is asked, and the certificate's
    /// authority alone is checked.
    pub node_name: Option<String>,
    /// `kubelet_secure_port`.
    pub port: u16,
    /// Whom to believe.
    pub verification: Verification,
    /// What to show.
    pub authentication: Authentication,
}

/// How the kubelet's certificate is checked.
#[derive(Clone, Debug)]
pub enum Verification {
    /// By the authorities in `ca`; failing that, by being exactly one of the certificates in the
    /// files of `pinned`, which only the node's root can have put there. What is not there is left
    /// out; if nothing is there, nobody is believed.
    Auto {
        /// `kubelet_ca_path`.
        ca: Option<PathBuf>,
        /// Ours: the kubelet's own certificate, as it lies on the node.
        pinned: Vec<PathBuf>,
    },
    /// `skip_kubelet_verification`: whoever holds the port is believed.
    Skip,
}

/// How this agent shows who it is.
#[derive(Clone, Debug)]
pub enum Authentication {
    /// `token_path`.
    Token(PathBuf),
    /// `certificate_path` and `private_key_path`.
    Certificate {
        /// PEM, leaf first.
        certificate: PathBuf,
        /// PEM.
        private_key: PathBuf,
    },
    /// `use_anonymous_authentication`.
    Anonymous,
}

impl KubeletOptions {
    /// `poll_retry_interval`, if none is set.
    pub const POLL_RETRY_INTERVAL: Duration = Duration::from_millis(500);
    /// `reload_interval`, if none is set.
    pub const RELOAD_INTERVAL: Duration = Duration::from_secs(60);
    /// A change of labels alone is not told; this is how late it may be seen.
    pub const RESYNC_INTERVAL: Duration = Duration::from_secs(30);
    /// SPIRE's bound for one request.
    pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
    /// Where a kubelet with the default root folder has its Pods API.
    pub const PODS_API_SOCKET: &str = "/var/lib/kubelet/pods-api/pods-api.sock";
}

impl Default for KubeletOptions {
    fn default() -> Self {
        Self {
            endpoint: Some(Endpoint::Secure(Secure::default())),
            pods_api_socket: Some(PathBuf::from(Self::PODS_API_SOCKET)),
            poll_retry_interval: Self::POLL_RETRY_INTERVAL,
            reload_interval: Self::RELOAD_INTERVAL,
            resync_interval: Self::RESYNC_INTERVAL,
            request_timeout: Self::REQUEST_TIMEOUT,
        }
    }
}

impl Secure {
    /// `kubelet_secure_port`, if none is set.
    pub const PORT: u16 = 10250;
}

impl Default for Secure {
    fn default() -> Self {
        Self {
            address: None,
            node_name: None,
            port: Self::PORT,
            verification: Verification::default(),
            authentication: Authentication::default(),
        }
    }
}

impl Verification {
    /// Where a kubelet with the default root folder keeps its certificate: the one that it makes
    /// itself, and the one that the cluster signs for it.
    pub const PINNED: [&str; 2] = [
        "/var/lib/kubelet/pki/kubelet.crt",
        "/var/lib/kubelet/pki/kubelet-server-current.pem",
    ];
}

impl Default for Verification {
    fn default() -> Self {
        Self::Auto {
            ca: Some(PathBuf::from(format!("{SERVICE_ACCOUNT}/ca.crt"))),
            pinned: Self::PINNED.map(PathBuf::from).to_vec(),
        }
    }
}

impl Default for Authentication {
    fn default() -> Self {
        Self::Token(PathBuf::from(format!("{SERVICE_ACCOUNT}/token")))
    }
}
