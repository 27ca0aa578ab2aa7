//! The client against a kubelet that does what it is told.

mod faults;
mod list;
mod trust;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use rcgen::{CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use runtime::clock::Clock;
use runtime::metrics::Metrics;
use runtime::shutdown::Shutdown;
use runtime::tasks::TaskGroup;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;

use super::super::super::cgroup::{ContainerId, PodUid};
use super::fake::{Answer, FakeKubelet, FakePod};
use super::{
    Authentication, Endpoint, Kubelet, KubeletMetrics, KubeletOptions, Secure, Verification,
};

/// Everything that a test needs around a kubelet.
struct Bench {
    tasks: TaskGroup,
    metrics: KubeletMetrics,
    clock: Clock,
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let clock = Clock::system();
        Self {
            tasks: TaskGroup::new(Shutdown::new().0),
            metrics: Metrics::new()
                .register(|registry| KubeletMetrics::register(registry, clock.clone())),
            clock,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn kubelet(&self, options: &KubeletOptions) -> Kubelet {
        Kubelet::start(options, &self.clock, &self.tasks, &self.metrics)
    }

    /// A kubelet on plain HTTP, and options that lead to it.
    async fn plain(&self, answer: Answer) -> (FakeKubelet, KubeletOptions) {
        let fake = FakeKubelet::start(None, answer, &self.tasks).await.unwrap();
        let port = fake.addr.port();
        (fake, options(Some(Endpoint::ReadOnly { port })))
    }

    /// A kubelet with this certificate, and options that lead to it and show `token`.
    async fn secure(
        &self,
        served: ServerConfig,
        verification: Verification,
    ) -> (FakeKubelet, KubeletOptions) {
        let pods = Answer::Pods(vec![FakePod::new(1)]);
        let fake = FakeKubelet::start(Some(served), pods, &self.tasks)
            .await
            .unwrap();
        let secure = Secure {
            address: Some("127.0.0.1".to_owned()),
            node_name: Some("n1".to_owned()),
            port: fake.addr.port(),
            verification,
            authentication: Authentication::Token(self.write("token", "first\n")),
        };
        (fake, options(Some(Endpoint::Secure(secure))))
    }
}

fn uid(pod: &FakePod) -> PodUid {
    PodUid::parse(&pod.uid).unwrap()
}

fn id(pod: &FakePod) -> ContainerId {
    ContainerId::parse(pod.container.as_ref().unwrap()).unwrap()
}

/// A list is current for an hour, so that a test counts requests and not milliseconds.
fn options(endpoint: Option<Endpoint>) -> KubeletOptions {
    KubeletOptions {
        endpoint,
        pods_api_socket: None,
        poll_retry_interval: Duration::from_secs(3600),
        ..KubeletOptions::default()
    }
}

/// An authority that signs the certificates of kubelets.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// The certificate of the kubelet of a node, and what serves with it.
    fn kubelet(&self, node: &str) -> (ServerConfig, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![node.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (serving(certificate.der().clone(), &key), certificate.pem())
    }
}

fn serving(certificate: CertificateDer<'static>, key: &KeyPair) -> ServerConfig {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap()
}
