//! Fetching one small document over HTTPS.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{HOST, LOCATION};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How often a redirect is followed.
const MAX_REDIRECTS: usize = 3;
const HTTPS_PORT: u16 = 443;

/// An `https` URL.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Url(Uri);

/// Why a text is no URL that we fetch from.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UrlError {
    #[error("it is not a URL")]
    Malformed,
    #[error("it must start with https://")]
    NotHttps,
    #[error("it has a user name or a password")]
    Credentials,
}

/// Why a document could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
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
    #[error("HTTP failed")]
    Http(#[source] hyper::Error),
    #[error("the request could not be made")]
    Request(#[source] hyper::http::Error),
    #[error("the server answered {0}")]
    Status(StatusCode),
    #[error("the server redirects to a place that is not followed")]
    Redirect(#[source] UrlError),
    #[error("the server redirects more than {MAX_REDIRECTS} times")]
    Redirects,
    #[error("the answer is too large or broke off")]
    Body(#[source] Box<dyn Error + Send + Sync>),
    #[error("the server did not answer in time")]
    Deadline,
}

impl WebError {
    /// The stable label of metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "web_connect",
            Self::Name(_) => "web_name",
            Self::Tls(_) => "web_tls",
            Self::Http(_) | Self::Request(_) => "web_http",
            Self::Status(_) => "web_status",
            Self::Redirect(_) | Self::Redirects => "web_redirect",
            Self::Body(_) => "web_body",
            Self::Deadline => "web_deadline",
        }
    }

    /// Whether the same try may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Http(_) | Self::Body(_) | Self::Deadline => true,
            Self::Status(status) => status.is_server_error(),
            Self::Name(_)
            | Self::Tls(_)
            | Self::Request(_)
            | Self::Redirect(_)
            | Self::Redirects => false,
        }
    }
}

impl Url {
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        Self::new(text.parse().map_err(|_malformed| UrlError::Malformed)?)
    }

    fn new(uri: Uri) -> Result<Self, UrlError> {
        if uri.scheme_str() != Some("https") {
            return Err(UrlError::NotHttps);
        }
        match uri.authority() {
            Some(authority) if authority.as_str().contains('@') => Err(UrlError::Credentials),
            Some(_) => Ok(Self(uri)),
            None => Err(UrlError::Malformed),
        }
    }

    /// The host without the brackets of an IPv6 address.
    fn host(&self) -> &str {
        self.0.host().unwrap_or_default().trim_matches(['[', ']'])
    }

    fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(HTTPS_PORT)
    }

    /// Where a redirect leads: another place under https, or another path of this one.
    fn follow(&self, location: &str) -> Result<Self, UrlError> {
        let target: Uri = location.parse().map_err(|_malformed| UrlError::Malformed)?;
        if target.scheme().is_some() {
            return Self::new(target);
        }
        let mut parts = self.0.clone().into_parts();
        parts.path_and_query = target.into_parts().path_and_query;
        Self::new(Uri::from_parts(parts).map_err(|_malformed| UrlError::Malformed)?)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The authorities of the Web PKI, as browsers have them.
pub(super) fn public_roots() -> RootCertStore {
    RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    }
}

/// Fetches a document of at most `limit` bytes.
pub(super) async fn fetch(
    url: &Url,
    roots: RootCertStore,
    limit: usize,
) -> Result<Vec<u8>, WebError> {
    let tls = connector(roots)?;
    let mut url = url.clone();
    for _ in 0..=MAX_REDIRECTS {
        match get(&url, &tls, limit).await? {
            Answer::Document(document) => return Ok(document),
            Answer::Redirect(location) => {
                url = url.follow(&location).map_err(WebError::Redirect)?;
            }
        }
    }
    Err(WebError::Redirects)
}

pub(super) enum Answer {
    Document(Vec<u8>),
    Redirect(String),
}

async fn get(url: &Url, tls: &TlsConnector, limit: usize) -> Result<Answer, WebError> {
    let connect = |source| WebError::Connect {
        host: url.host().to_owned(),
        source,
    };
    let name = ServerName::try_from(url.host().to_owned())
        .map_err(|_invalid| WebError::Name(url.host().to_owned()))?;
    let tcp = TcpStream::connect((url.host(), url.port()))
        .await
        .map_err(connect)?;
    let stream = tls.connect(name, tcp).await.map_err(connect)?;
    let path = url.0.path_and_query().map_or("/", |path| path.as_str());
    let authority = url.0.authority().map_or("", |authority| authority.as_str());
    exchange(stream, authority, path, limit).await
}

/// Asks for one document over a connection.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    authority: &str,
    path: &str,
    limit: usize,
) -> Result<Answer, WebError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(WebError::Http)?;
    let request = Request::get(path)
        .header(HOST, authority)
        .body(Empty::<Bytes>::new())
        .map_err(WebError::Request)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(WebError::Http)?;
        read(response, limit).await
    };
    // The connection moves only while it is polled. Its failure shows in the exchange.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        answer = exchange => answer,
        never = drive => match never {},
    }
}

async fn read(response: Response<hyper::body::Incoming>, limit: usize) -> Result<Answer, WebError> {
    let status = response.status();
    if status.is_redirection() {
        let location = response
            .headers()
            .get(LOCATION)
            .and_then(|location| location.to_str().ok());
        return location
            .map(|location| Answer::Redirect(location.to_owned()))
            .ok_or(WebError::Status(status));
    }
    if status != StatusCode::OK {
        return Err(WebError::Status(status));
    }
    let body = Limited::new(response.into_body(), limit)
        .collect()
        .await
        .map_err(WebError::Body)?;
    Ok(Answer::Document(body.to_bytes().to_vec()))
}

fn connector(roots: RootCertStore) -> Result<TlsConnector, WebError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(WebError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests;
