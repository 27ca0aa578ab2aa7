//! One question to an engine, on a connection of its own.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, StatusCode, Uri};
use http_body_util::Empty;
use identity::selector::Selectors;
use runtime::report;
use runtime::unix::Credentials;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tracing::warn;

use super::description::{Description, MAX_BYTES, image_digest};
use super::{ApiVersion, ContainerId, DockerError};
use crate::workload::http::{BodyError, Line, body, speak};

/// Where an engine answers.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    pub(super) path: PathBuf,
    /// Who must be at the other end, if it matters.
    pub(super) owner: Option<u32>,
    pub(super) version: Option<ApiVersion>,
    pub(super) timeout: Duration,
}

/// What an engine said of a container.
pub(super) struct Found {
    pub(super) id: String,
    pub(super) pid: u32,
    pub(super) selectors: Selectors,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The selectors hold variables, and those may hold secrets.
        let mut shown = f.debug_struct("Found");
        shown.field("id", &self.id).finish_non_exhaustive()
    }
}

/// Asks for a container, and then for the digest of its image. As with SPIRE, the container has its
/// other properties also if the image cannot be asked for.
pub(super) async fn ask(socket: &Socket, id: &ContainerId) -> Result<Found, DockerError> {
    let text = socket.fetch(&format!("/containers/{id}/json")).await?;
    let description = Description::parse(&text)?;
    let mut digest = None;
    if let Some(image) = description.image() {
        digest = match socket.image_digest(image).await {
            Ok(digest) => digest,
            // It was removed while the container runs.
            Err(DockerError::NotListed) => None,
            Err(error) => {
                warn!(error.reason = error.reason(), error = %report::chain(&error), "Could not ask for the image of the caller's container");
                None
            }
        };
    }
    Ok(Found {
        id: description.id().to_owned(),
        pid: description.pid(),
        selectors: description.selectors(digest.as_deref()),
    })
}

impl Socket {
    async fn image_digest(&self, image: &str) -> Result<Option<String>, DockerError> {
        let text = self.fetch(&format!("/images/{image}/json")).await?;
        Ok(image_digest(&text)?)
    }

    async fn fetch(&self, path: &str) -> Result<Vec<u8>, DockerError> {
        let path = match &self.version {
            Some(version) => format!("/v{}{path}", version.as_str()),
            None => path.to_owned(),
        };
        timeout(self.timeout, self.exchange(&path))
            .await
            .unwrap_or(Err(DockerError::Timeout(self.timeout)))
    }

    async fn exchange(&self, path: &str) -> Result<Vec<u8>, DockerError> {
        let stream = self.connect().await?;
        let (line, connection) = speak(Box::new(stream)).await.map_err(broken_off)?;
        let answer = answer(line, path);
        tokio::pin!(answer);
        tokio::select! {
            biased;
            answered = &mut answer => answered,
            // Once the connection is over, everything that came on it has been handed on.
            _ = connection => answer.await,
        }
    }

    async fn connect(&self) -> Result<UnixStream, DockerError> {
        let unreachable = |source| DockerError::Unreachable {
            path: self.path.clone(),
            source: Arc::new(source),
        };
        let stream = UnixStream::connect(&self.path).await.map_err(unreachable)?;
        if let Some(uid) = self.owner {
            let found = Credentials::of(&stream);
            if !found.is_ok_and(|found| found.uid == uid) {
                let path = self.path.clone();
                return Err(DockerError::NotTheUsers { path, uid });
            }
        }
        Ok(stream)
    }
}

async fn answer(mut line: Line, path: &str) -> Result<Vec<u8>, DockerError> {
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = Uri::try_from(path).unwrap_or_default();
    let host = HeaderValue::from_static("localhost");
    request.headers_mut().insert(HOST, host);
    let response = line.send_request(request).await.map_err(broken_off)?;
    match response.status() {
        StatusCode::OK => {
            body(response, Vec::new(), MAX_BYTES)
                .await
                .map_err(|error| match error {
                    BodyError::TooLarge => DockerError::TooLarge,
                    BodyError::Interrupted(error) => broken_off(error),
                })
        }
        StatusCode::NOT_FOUND => Err(DockerError::NotListed),
        other => Err(DockerError::Status(other.as_u16())),
    }
}

fn broken_off(error: hyper::Error) -> DockerError {
    DockerError::BrokenOff(Arc::new(error))
}
