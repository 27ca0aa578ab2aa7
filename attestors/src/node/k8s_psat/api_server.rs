//! The API server of a cluster, asked within bounds of time, number and size.
//!
//! A client is kept for a few minutes only, so that credentials and authorities which were replaced on
//! disk are seen, and it is dropped with the first sign of trouble.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::connect::{ConnectError, KubeConfig, connect};
use super::facts::{FactsError, MAX_ANSWER_BYTES, Namespace, Node, ObjectName, Pod, Review};
use super::payload::ServiceAccountToken;

/// How long a client is used before its configuration is read again.
const CLIENT_LIFE: Duration = Duration::from_secs(5 * 60);

/// What one cluster may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long one request may take. Three in a row have to fit an agent's patience of 30 s.
    pub within: Duration,
    /// How many requests are under way at a time; others wait, within the same time.
    pub at_once: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            within: Duration::from_secs(8),
            at_once: 64,
        }
    }
}

/// The API server of one cluster.
#[derive(Debug)]
pub struct ApiServer {
    config: KubeConfig,
    limits: Limits,
    permits: Semaphore,
    current: Mutex<Option<Kept>>,
}

struct Kept {
    client: Client,
    made: Instant,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept")
            .field("made", &self.made)
            .finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Nothing is asked, and no file read, before the first attestation.
    #[must_use]
    pub fn new(config: KubeConfig, limits: Limits) -> Self {
        Self {
            config,
            permits: Semaphore::new(limits.at_once),
            limits,
            current: Mutex::new(None),
        }
    }

    /// Has a token reviewed, for any of these audiences; without one, for the API server's own.
    pub async fn review(
        &self,
        token: &ServiceAccountToken,
        audiences: &[String],
    ) -> Result<Review, ApiError> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct TokenReview<'a> {
            api_version: &'a str,
            kind: &'a str,
            spec: Spec<'a>,
        }
        #[derive(Serialize)]
        struct Spec<'a> {
            token: &'a str,
            #[serde(skip_serializing_if = "<[String]>::is_empty")]
            audiences: &'a [String],
        }
        let review = TokenReview {
            api_version: "authentication.k8s.io/v1",
            kind: "TokenReview",
            spec: Spec {
                token: token.reveal(),
                audiences,
            },
        };
        let body = serde_json::to_vec(&review).map_err(|error| ApiError::Request(error.into()))?;
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        Ok(Review::from_json(
            &self.ask(Method::POST, path, body).await?,
        )?)
    }

    /// Reads a pod.
    pub async fn pod(&self, namespace: &ObjectName, name: &ObjectName) -> Result<Pod, ApiError> {
        // Names are checked to have nothing that means something in a path.
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        Ok(Pod::from_json(
            &self.ask(Method::GET, &path, Vec::new()).await?,
        )?)
    }

    /// Reads a node.
    pub async fn node(&self, name: &ObjectName) -> Result<Node, ApiError> {
        let path = format!("/api/v1/nodes/{name}");
        Ok(Node::from_json(
            &self.ask(Method::GET, &path, Vec::new()).await?,
        )?)
    }

    /// Reads a namespace.
    pub async fn namespace(&self, name: &ObjectName) -> Result<Namespace, ApiError> {
        let path = format!("/api/v1/namespaces/{name}");
        Ok(Namespace::from_json(
            &self.ask(Method::GET, &path, Vec::new()).await?,
        )?)
    }

    async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, ApiError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .map_err(|error| ApiError::Request(error.into()))?;
        let within = self.limits.within;
        let answer = timeout(within, self.exchange(request))
            .await
            .unwrap_or(Err(ApiError::Late(within)));
        if let Err(ApiError::Late(_) | ApiError::Unreachable(_) | ApiError::Unauthorized) = &answer
        {
            // The next one connects anew, and with what the files say then.
            *self.current.lock() = None;
        }
        answer
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Bytes, ApiError> {
        let _permit = self.permits.acquire().await;
        let client = self.client().await?;
        let response = client
            .send(request)
            .await
            .map_err(|error| ApiError::Unreachable(error.into()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
        let body = body.collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                ApiError::Answer(FactsError::TooLong)
            } else {
                ApiError::Unreachable(error)
            }
        })?;
        match status {
            status if status.is_success() => Ok(body.to_bytes()),
            StatusCode::UNAUTHORIZED => Err(ApiError::Unauthorized),
            StatusCode::FORBIDDEN => Err(ApiError::Forbidden),
            StatusCode::NOT_FOUND => Err(ApiError::NotFound),
            other => Err(ApiError::Status(other.as_u16())),
        }
    }

    async fn client(&self) -> Result<Client, ApiError> {
        if let Some(kept) = &*self.current.lock()
            && kept.made.elapsed() < CLIENT_LIFE
        {
            return Ok(kept.client.clone());
        }
        let client = connect(&self.config, self.limits.within).await?;
        *self.current.lock() = Some(Kept {
            client: client.clone(),
            made: Instant::now(),
        });
        Ok(client)
    }
}

/// Why the API server gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The kubeconfig file or the pod's own account cannot be used.
    #[error("unable to create client config")]
    Config(#[from] ConnectError),
    /// The request could not be put together.
    #[error("unable to write the request")]
    Request(#[source] Box<dyn Error + Send + Sync>),
    /// The connection failed, or broke off.
    #[error("the API server cannot be reached")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    /// It took too long, or too many others came first.
    #[error("the API server did not answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// 401: it does not know who asks.
    #[error("the API server does not know this server: its credentials are not valid")]
    Unauthorized,
    /// 403: this server may not ask.
    #[error("forbidden: a role with this permission is missing")]
    Forbidden,
    /// 404: there is no such object.
    #[error("not found")]
    NotFound,
    /// Any other status.
    #[error("the API server answered with HTTP status {0}")]
    Status(u16),
    /// The answer is not what it should be.
    #[error(transparent)]
    Answer(#[from] FactsError),
}

impl ApiError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Config(_) => "api_server_config",
            Self::Request(_) => "api_server_request",
            Self::Unreachable(_) => "api_server_unreachable",
            Self::Late(_) => "api_server_late",
            Self::Unauthorized => "api_server_unauthorized",
            Self::Forbidden => "api_server_forbidden",
            Self::NotFound => "object_not_found",
            Self::Status(_) => "api_server_status",
            Self::Answer(error) => error.reason(),
        }
    }
}
