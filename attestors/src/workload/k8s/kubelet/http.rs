//! One request for the list of pods: connection, credentials, answer.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use runtime::clock::Clock;
use runtime::tasks::TaskGroup;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::KubeletError;
use super::credentials::{Material, authorization};
use super::list::{ListError, MAX_LIST_BYTES, PodList};
use super::options::{Endpoint, KubeletOptions, Secure};
use super::tls::client_config;
use crate::workload::http::{BodyError, Line, Stream, body, speak};

/// Asks for the list, one request at a time, over a connection that is kept.
#[derive(Debug)]
pub(super) struct Client {
    endpoint: Endpoint,
    request_timeout: Duration,
    reload_interval: Duration,
    clock: Clock,
    tasks: TaskGroup,
    tls: Option<(Arc<ClientConfig>, Instant)>,
    line: Option<Line>,
    /// The memory of a list that was replaced: the next one is read into it.
    spare: Vec<u8>,
}

impl Client {
    pub(super) fn new(
        endpoint: Endpoint,
        options: &KubeletOptions,
        clock: Clock,
        tasks: TaskGroup,
    ) -> Self {
        Self {
            endpoint,
            request_timeout: options.request_timeout,
            reload_interval: options.reload_interval,
            clock,
            tasks,
            tls: None,
            line: None,
            spare: Vec::new(),
        }
    }

    /// Takes over the memory of a list that nobody reads any more.
    pub(super) fn reuse(&mut self, list: PodList) {
        if let Some(memory) = list.into_memory() {
            self.spare = memory;
        }
    }

    /// The list as the kubelet has it now.
    pub(super) async fn list(&mut self) -> Result<PodList, KubeletError> {
        let answered = tokio::time::timeout(self.request_timeout, self.fetch()).await;
        let list = answered.unwrap_or(Err(KubeletError::Timeout(self.request_timeout)));
        if list.is_err() {
            // The next request begins anew: other files, another connection.
            (self.line, self.tls) = (None, None);
        }
        parse(list?).await
    }

    async fn fetch(&mut self) -> Result<Bytes, KubeletError> {
        let shown = self.authorization()?;
        let mut response = self.send(shown.as_ref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            // The token may have been replaced between its reading and the kubelet's answer.
            let now = self.authorization()?;
            if now != shown {
                self.line = None;
                response = self.send(now.as_ref()).await?;
            }
        }
        match response.status() {
            StatusCode::OK => read(response, std::mem::take(&mut self.spare)).await,
            StatusCode::UNAUTHORIZED => Err(KubeletError::Unauthorized),
            StatusCode::FORBIDDEN => Err(KubeletError::Forbidden),
            other => Err(KubeletError::Status(other.as_u16())),
        }
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, KubeletError> {
        match &self.endpoint {
            Endpoint::ReadOnly { .. } => Ok(None),
            Endpoint::Secure(secure) => authorization(secure),
        }
    }

    async fn send(
        &mut self,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, KubeletError> {
        self.renew()?;
        if let Some(mut line) = self.line.take()
            && line.ready().await.is_ok()
        {
            // The kubelet may close a kept connection while the request is on its way.
            if let Ok(response) = line.send_request(self.request(authorization)).await {
                self.line = Some(line);
                return Ok(response);
            }
        }
        let mut line = self.connect().await?;
        let response = line.send_request(self.request(authorization)).await;
        self.line = Some(line);
        response.map_err(|error| KubeletError::Interrupted(Arc::new(error)))
    }

    /// Forgets a connection whose certificates were read too long ago.
    fn renew(&mut self) -> Result<(), KubeletError> {
        let Endpoint::Secure(secure) = &self.endpoint else {
            return Ok(());
        };
        let is_current = |at: &Instant| at.elapsed() < self.reload_interval;
        if self.tls.as_ref().is_some_and(|(_, at)| is_current(at)) {
            return Ok(());
        }
        self.line = None;
        let material = Material::read(secure)?;
        let config =
            client_config(material, self.clock.clone()).map_err(|error| KubeletError::Tls {
                address: address(&self.endpoint),
                source: Arc::new(io::Error::other(error)),
            })?;
        self.tls = Some((Arc::new(config), Instant::now()));
        Ok(())
    }

    fn request(&self, authorization: Option<&HeaderValue>) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = http::Uri::from_static("/pods");
        let headers = request.headers_mut();
        if let Ok(host) = HeaderValue::try_from(address(&self.endpoint)) {
            headers.insert(HOST, host);
        }
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        request
    }

    async fn connect(&self) -> Result<Line, KubeletError> {
        let (host, port) = host_and_port(&self.endpoint);
        let unreachable = |source: io::Error| KubeletError::Unreachable {
            address: address(&self.endpoint),
            source: Arc::new(source),
        };
        let tcp = TcpStream::connect((host, port))
            .await
            .map_err(unreachable)?;
        match (&self.endpoint, &self.tls) {
            (Endpoint::Secure(secure), Some((config, _))) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let name = shown_name(secure);
                let tls = connector.connect(name, tcp).await;
                let tls = tls.map_err(|error| refused(address(&self.endpoint), error))?;
                self.speak(Box::new(tls)).await
            }
            _ => self.speak(Box::new(tcp)).await,
        }
    }

    async fn speak(&self, stream: Box<dyn Stream>) -> Result<Line, KubeletError> {
        let spoken = speak(stream).await;
        let (line, connection) =
            spoken.map_err(|error| KubeletError::Interrupted(Arc::new(error)))?;
        self.tasks
            .spawn_contained("kubelet-connection", async move {
                // Its failure is told to the request that was on it.
                let _ = connection.await;
            });
        Ok(line)
    }
}

/// Walks a list away from the threads that serve sockets.
async fn parse(bytes: Bytes) -> Result<PodList, KubeletError> {
    let parsed = tokio::task::spawn_blocking(move || PodList::parse(bytes)).await;
    // A walk that panics spoils this one answer.
    parsed
        .unwrap_or(Err(ListError::Truncated))
        .map_err(KubeletError::Garbage)
}

/// Reads the list into this memory.
async fn read(response: Response<Incoming>, memory: Vec<u8>) -> Result<Bytes, KubeletError> {
    let read = body(response, memory, MAX_LIST_BYTES).await;
    let mut content = read.map_err(|error| match error {
        BodyError::TooLarge => KubeletError::TooLarge,
        BodyError::Interrupted(error) => KubeletError::Interrupted(Arc::new(error)),
    })?;
    if content.capacity() / 2 > content.len() {
        content.shrink_to_fit();
    }
    Ok(content.into())
}

fn host_and_port(endpoint: &Endpoint) -> (&str, u16) {
    const LOOPBACK: &str = "127.0.0.1";
    match endpoint {
        Endpoint::ReadOnly { port } => (LOOPBACK, *port),
        Endpoint::Secure(secure) => {
            let host = secure.address.as_deref().or(secure.node_name.as_deref());
            (host.unwrap_or(LOOPBACK), secure.port)
        }
    }
}

fn address(endpoint: &Endpoint) -> String {
    match host_and_port(endpoint) {
        (host, port) if host.contains(':') => format!("[{host}]:{port}"),
        (host, port) => format!("{host}:{port}"),
    }
}

/// The name that is sent to the kubelet; the verifier has its own.
fn shown_name(secure: &Secure) -> ServerName<'static> {
    let name = secure.node_name.as_ref().or(secure.address.as_ref());
    let name = name.and_then(|name| ServerName::try_from(name.clone()).ok());
    name.unwrap_or_else(|| ServerName::IpAddress(Ipv4Addr::LOCALHOST.into()))
}

/// Tells a certificate that is refused from a handshake that fails.
fn refused(address: String, error: io::Error) -> KubeletError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    let is_certificate = matches!(tls, Some(rustls::Error::InvalidCertificate(_)));
    let source = Arc::new(error);
    if is_certificate {
        KubeletError::Certificate { address, source }
    } else {
        KubeletError::Tls { address, source }
    }
}
