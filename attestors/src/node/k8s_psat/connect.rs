//! A way to the API server of a cluster, as a kubeconfig file or the pod's own account says.
//!
//! `kubeconfig` reads the files, and `kube` speaks the API. Credentials and TLS are put together here, because
//! kube's own bring login programs and providers of clouds, and with them parsers that weigh several
//! megabytes in a server that has a token or a certificate. What is not built is refused by its key.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::config::{AuthInfo, KubeConfigOptions};
use kube::{Client, Config};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::ExposeSecret;
use tower::{ServiceBuilder, service_fn};
use zeroize::Zeroizing;

use super::kubeconfig::{self, KubeconfigError};

/// How to reach an API server, and as whom.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KubeConfig {
    /// As the service account of the pod that this process is in.
    InCluster,
    /// As a kubeconfig file says.
    File(PathBuf),
}

/// Why there is no way to an API server: a file or a setting is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The process has no service account to use.
    #[error(
        "could not use the service account of this pod; outside of a cluster, set the path of a kubeconfig file"
    )]
    InCluster(#[source] Box<kube::config::InClusterError>),
    /// The kubeconfig file cannot be used.
    #[error("could not use the kubeconfig file `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KubeconfigError,
    },
    /// The kubeconfig asks for what is not built.
    #[error(
        "`{0}` of a kubeconfig is not built; use `token`, `tokenFile`, or a client certificate, and `certificate-authority`"
    )]
    Unbuilt(&'static str),
    /// The token, the certificate or the key cannot be read.
    #[error("could not read the {what}")]
    Credential {
        /// Which of them.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// TLS cannot be set up with them.
    #[error("could not set up TLS towards the API server")]
    Tls(#[from] rustls::Error),
    /// The name that the server's certificate is to have is none.
    #[error("`tls-server-name` is not a name that a certificate can have")]
    ServerName,
}

impl ConnectError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InCluster(_) => "kubernetes_in_cluster",
            Self::File { .. } => "kubeconfig",
            Self::Unbuilt(_) => "kubeconfig_unbuilt",
            Self::Credential { .. } => "kubeconfig_credential",
            Self::Tls(_) => "kubeconfig_tls",
            Self::ServerName => "kubeconfig_server_name",
        }
    }
}

/// A client with the files as they are now; a token file is read again for each request. The API
/// server is not asked yet, and a connection that takes longer than `within` is given up.
pub async fn connect(config: &KubeConfig, within: Duration) -> Result<Client, ConnectError> {
    let config = read(config).await?;
    let login = Arc::new(Login::of(&config.auth_info));
    // A token that cannot be read is told now, and not by the API server's refusal.
    login.header()?;
    let namespace = config.default_namespace.clone();
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .build(connector(&config, within)?);
    let send = service_fn(move |mut request: Request<Body>| {
        let (http, login) = (http.clone(), Arc::clone(&login));
        async move {
            if let Some(header) = login.header()? {
                request.headers_mut().insert(AUTHORIZATION, header);
            }
            let answer: Response<Incoming> = http.request(request).await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(answer)
        }
    });
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .service(send);
    Ok(Client::new(service, namespace))
}

async fn read(config: &KubeConfig) -> Result<Config, ConnectError> {
    let config = match config {
        KubeConfig::InCluster => {
            Config::incluster().map_err(|source| ConnectError::InCluster(Box::new(source)))?
        }
        KubeConfig::File(path) => {
            let failed = |source| ConnectError::File {
                path: path.clone(),
                source,
            };
            let file = kubeconfig::read(path).map_err(failed)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|source| failed(KubeconfigError::Use(Box::new(source))))?
        }
    };
    match unbuilt(&config) {
        Some(key) => Err(ConnectError::Unbuilt(key)),
        None => Ok(config),
    }
}

/// The first key that asks for what is not built.
fn unbuilt(config: &Config) -> Option<&'static str> {
    let user = &config.auth_info;
    let asked = [
        (user.exec.is_some(), "exec"),
        (user.auth_provider.is_some(), "auth-provider"),
        (user.username.is_some(), "username"),
        (user.impersonate.is_some(), "as"),
        (user.impersonate_uid.is_some(), "as-uid"),
        (user.impersonate_groups.is_some(), "as-groups"),
        (config.proxy_url.is_some(), "proxy-url"),
        (config.accept_invalid_certs, "insecure-skip-tls-verify"),
    ];
    asked.iter().find(|(asked, _)| *asked).map(|(_, key)| *key)
}

/// The token that requests carry, if any. A certificate is shown by TLS instead.
enum Login {
    None,
    Token(Zeroizing<String>),
    File(PathBuf),
}

impl Login {
    fn of(user: &AuthInfo) -> Self {
        match (&user.token, &user.token_file) {
            (Some(token), _) => Self::Token(Zeroizing::new(token.expose_secret().to_owned())),
            (None, Some(path)) => Self::File(path.into()),
            (None, None) => Self::None,
        }
    }

    fn header(&self) -> Result<Option<HeaderValue>, ConnectError> {
        let token = match self {
            Self::None => return Ok(None),
            Self::Token(token) => token.clone(),
            Self::File(path) => Zeroizing::new(
                std::fs::read_to_string(path).map_err(|source| credential("token file", source))?,
            ),
        };
        let text = Zeroizing::new(format!("Bearer {}", token.trim()));
        let header = HeaderValue::from_str(&text);
        let mut header = header.map_err(|source| credential("token", io::Error::other(source)))?;
        header.set_sensitive(true);
        Ok(Some(header))
    }
}

fn credential(what: &'static str, source: io::Error) -> ConnectError {
    ConnectError::Credential { what, source }
}

fn connector(
    config: &Config,
    within: Duration,
) -> Result<HttpsConnector<HttpConnector>, ConnectError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(within));
    tcp.set_nodelay(true);
    let mut builder = HttpsConnectorBuilder::new()
        .with_tls_config(tls(config)?)
        .https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into();
        let name = name.map_err(|_invalid| ConnectError::ServerName)?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    Ok(builder.enable_http1().wrap_connector(tcp))
}

fn tls(config: &Config) -> Result<ClientConfig, ConnectError> {
    let mut roots = RootCertStore::empty();
    match &config.root_cert {
        Some(certificates) => {
            for der in certificates {
                roots.add(CertificateDer::from(der.clone()))?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let user = &config.auth_info;
    let chain = material(
        "client certificate",
        user.client_certificate_data.as_deref(),
        user.client_certificate.as_deref().map(Path::new),
    )?;
    let key = material(
        "client key",
        user.client_key_data
            .as_ref()
            .map(ExposeSecret::expose_secret),
        user.client_key.as_deref().map(Path::new),
    )?;
    let (Some(chain), Some(key)) = (chain, key) else {
        return Ok(builder.with_no_client_auth());
    };
    let bad = |what| move |source| credential(what, io::Error::other(source));
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
    let chain = chain.map_err(bad("client certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(bad("client key"))?;
    Ok(builder.with_client_auth_cert(chain, key)?)
}

/// PEM, out of the kubeconfig itself or out of a file that it names.
fn material(
    what: &'static str,
    data: Option<&str>,
    path: Option<&Path>,
) -> Result<Option<Zeroizing<Vec<u8>>>, ConnectError> {
    let read = match (data, path) {
        (Some(data), _) => STANDARD.decode(data).map_err(io::Error::other),
        (None, Some(path)) => std::fs::read(path),
        (None, None) => return Ok(None),
    };
    read.map(|pem| Some(Zeroizing::new(pem)))
        .map_err(|source| credential(what, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refusal(user: &str, cluster: &str) -> ConnectError {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:1'{cluster}}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n"
        );
        std::fs::write(&path, text).unwrap();
        match connect(&KubeConfig::File(path), Duration::from_secs(1)).await {
            Ok(_) => panic!("it was taken: {user} {cluster}"),
            Err(error) => error,
        }
    }

    #[tokio::test]
    async fn refuses_by_its_key_what_a_kubeconfig_asks_for_and_is_not_built() {
        for (user, cluster, key) in [
            (
                "exec: {command: aws, apiVersion: client.authentication.k8s.io/v1}",
                "",
                "exec",
            ),
            (
                "auth-provider: {name: gcp, config: {}}",
                "",
                "auth-provider",
            ),
            ("username: a, password: b", "", "username"),
            ("token: t, as: root", "", "as"),
            (
                "token: t",
                ", insecure-skip-tls-verify: true",
                "insecure-skip-tls-verify",
            ),
        ] {
            let error = refusal(user, cluster).await;
            assert!(
                matches!(error, ConnectError::Unbuilt(found) if found == key),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn says_which_credential_cannot_be_read() {
        for (user, part) in [
            ("tokenFile: /does/not/exist", "token file"),
            (
                "client-certificate: /does/not/exist, client-key: /dev/null",
                "client certificate",
            ),
            (
                "client-certificate-data: '!', client-key: /dev/null",
                "client certificate",
            ),
            ("token: \"a\\nb\"", "token"),
        ] {
            let error = refusal(user, "").await;
            assert!(error.to_string().contains(part), "{user}: {error}");
        }
    }
}
