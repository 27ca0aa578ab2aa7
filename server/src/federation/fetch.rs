//! Fetching the bundle of another trust domain over HTTPS.
//!
//! One request to the configured URL, and nothing else: no redirect is followed, and no other profile
//! is tried when one fails (SPIFFE Federation 7.2, 7.5.1). The endpoint is not trusted before its
//! certificate is, nor to be quick or brief after that.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use identity::bundle::{Bundle, BundleError, MAX_BUNDLE_BYTES};
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use runtime::clock::Clock;
use runtime::dial::client_config;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::EndpointUrl;
use crate::tls::NamedPeer;

/// The head of an answer.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// By what the endpoint is known.
#[derive(Clone, Debug)]
pub(crate) enum Anchor {
    /// `https_web`: the authorities of the Web PKI.
    Web(RootCertStore),
    /// `https_spiffe`: a SPIFFE ID, and the bundle of its trust domain.
    Spiffe(SpiffeId, Box<Bundle>),
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("could not connect to `{host}`")]
    Connect {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("`{0}` is no name that a certificate can be checked against")]
    Name(String),
    #[error("could not set up TLS")]
    Tls(#[source] rustls::Error),
    #[error("could not authenticate the bundle endpoint `{host}`")]
    Handshake {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("HTTP failed")]
    Http(#[source] hyper::Error),
    #[error("the request could not be made")]
    Request(#[source] http::Error),
    #[error("unexpected status {0} fetching bundle; redirects are not followed")]
    Redirect(StatusCode),
    #[error("unexpected status {0} fetching bundle")]
    Status(StatusCode),
    #[error("the answer is larger than {MAX_BUNDLE_BYTES} bytes or broke off")]
    Body(#[source] Box<dyn Error + Send + Sync>),
    #[error("the answer is not a bundle")]
    Bundle(#[source] BundleError),
    #[error("the endpoint did not answer within {} s", .0.as_secs())]
    Deadline(Duration),
}

impl FetchError {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "endpoint_connect",
            Self::Name(_) => "endpoint_name",
            Self::Tls(_) => "endpoint_tls",
            Self::Handshake { .. } => "endpoint_handshake",
            Self::Http(_) | Self::Request(_) => "endpoint_http",
            Self::Redirect(_) => "endpoint_redirect",
            Self::Status(_) => "endpoint_status",
            Self::Body(_) => "endpoint_body",
            Self::Bundle(error) => error.reason(),
            Self::Deadline(_) => "endpoint_deadline",
        }
    }
}

/// Fetches a bundle. All of it takes no longer than `deadline`.
pub(crate) async fn fetch(
    trust_domain: &TrustDomain,
    url: &EndpointUrl,
    anchor: Anchor,
    clock: &Clock,
    deadline: Duration,
) -> Result<Bundle, FetchError> {
    let answer = tokio::time::timeout(deadline, get(url, anchor, clock));
    let body = answer
        .await
        .map_err(|_elapsed| FetchError::Deadline(deadline))??;
    // SPIFFE Trust Domain and Bundle 3: the name is the relationship's; the JSON has none.
    Bundle::from_spiffe_json(trust_domain.clone(), &body).map_err(FetchError::Bundle)
}

async fn get(url: &EndpointUrl, anchor: Anchor, clock: &Clock) -> Result<Bytes, FetchError> {
    let host = || url.host().to_owned();
    let name = ServerName::try_from(host()).map_err(|_invalid| FetchError::Name(host()))?;
    let tls = TlsConnector::from(Arc::new(config(anchor, clock).map_err(FetchError::Tls)?));
    let connect = TcpStream::connect((url.host(), url.port())).await;
    let tcp = connect.map_err(|source| FetchError::Connect {
        host: host(),
        source,
    })?;
    let stream = tls.connect(name, tcp).await;
    let stream = stream.map_err(|source| FetchError::Handshake {
        host: host(),
        source,
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(FetchError::Http)?;
    let request = Request::get(url.path_and_query())
        .header(HOST, url.authority())
        .body(Empty::<Bytes>::new())
        .map_err(FetchError::Request)?;
    let exchange = async {
        let response = sender.send_request(request).await;
        read(response.map_err(FetchError::Http)?).await
    };
    // The connection moves only while it is polled. Its failure shows in the exchange.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        body = exchange => body,
        never = drive => match never {},
    }
}

async fn read(response: Response<Incoming>) -> Result<Bytes, FetchError> {
    let status = response.status();
    if status.is_redirection() {
        return Err(FetchError::Redirect(status));
    }
    if status != StatusCode::OK {
        return Err(FetchError::Status(status));
    }
    let body = Limited::new(response.into_body(), MAX_BUNDLE_BYTES);
    let body = body.collect().await.map_err(FetchError::Body)?;
    Ok(body.to_bytes())
}

fn config(anchor: Anchor, clock: &Clock) -> Result<ClientConfig, rustls::Error> {
    let provider = aws_lc_rs::default_provider();
    // SPIFFE Federation 5.2.1.3, 5.2.2.3: the client shows nothing of itself.
    match anchor {
        Anchor::Web(roots) => {
            let builder = ClientConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(&[&rustls::version::TLS13])?;
            Ok(builder.with_root_certificates(roots).with_no_client_auth())
        }
        Anchor::Spiffe(expected, bundle) => {
            // SPIFFE Federation 5.2.2.4: a valid X509-SVID with the SPIFFE ID of the endpoint, by the bundle
            // of its trust domain. The host of the URL is not looked for in it.
            let endpoint = NamedPeer {
                expected,
                bundle: Arc::new(*bundle),
                clock: clock.clone(),
            };
            client_config(provider, endpoint, None)
        }
    }
}
