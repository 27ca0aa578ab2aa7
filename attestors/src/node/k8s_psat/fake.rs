//! A small API server for tests: it reviews tokens, and has pods and nodes.
//!
//! It answers as a real one does: a token counts as long as the pod that it is bound to is there, and
//! for the audiences that it was issued for. It can be told to be slow, wrong, or to forbid.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use runtime::tasks::TaskGroup;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A pod, as far as attestation is concerned.
#[derive(Clone, Debug)]
pub struct FakePod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its service account.
    pub service_account: String,
    /// The node that it is on.
    pub node_name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A token that was issued for a pod, or for a service account alone.
#[derive(Clone, Debug)]
pub struct FakeToken {
    /// `system:serviceaccount:…`
    pub username: String,
    /// Who it is for.
    pub audiences: Vec<String>,
    /// Name and UID of the pod that it is bound to.
    pub pod: Option<(String, String)>,
    /// Name and UID of the node, as clusters since 1.32 bind it.
    pub node: Option<(String, String)>,
    /// What the API server calls it.
    pub credential_id: Option<String>,
}

/// What goes wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    /// Every request is answered with this status.
    Status(u16),
    /// No request is answered.
    Hang,
    /// Every request is answered with this body, and 200.
    Body(Bytes),
    /// Tokens are taken for any audience, and the audience is not spoken of.
    UnawareOfAudiences,
    /// Tokens are reviewed by what was there a moment ago: nobody looks for their pods.
    StaleReviews,
}

#[derive(Debug, Default)]
struct State {
    tokens: BTreeMap<String, FakeToken>,
    pods: BTreeMap<(String, String), FakePod>,
    nodes: BTreeMap<String, (String, BTreeMap<String, String>)>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    forbidden: BTreeSet<&'static str>,
    fault: Option<Fault>,
    asked: Vec<String>,
}

/// The API server. It ends with the task group that it was started in.
#[derive(Clone, Debug)]
pub struct FakeApiServer {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl FakeApiServer {
    /// Starts one on a free port, over TLS if there is an acceptor.
    pub async fn start(tasks: &TaskGroup, tls: Option<TlsAcceptor>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let server = Self {
            addr: listener.local_addr()?,
            state: Arc::default(),
        };
        let (serving, group, shutdown) = (server.clone(), tasks.clone(), tasks.shutdown());
        tasks.spawn("fake API server", async move {
            tokio::select! {
                () = shutdown.requested() => {}
                () = serving.accept(listener, tls, group) => {}
            }
        });
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Writes a kubeconfig that leads here.
    pub fn write_kubeconfig(&self, path: &Path, ca_file: Option<&Path>) -> io::Result<()> {
        let (scheme, authority) = match ca_file {
            None => ("http", Value::Null),
            Some(path) => ("https", json!(path)),
        };
        let mut cluster = json!({ "server": format!("{scheme}://{}", self.addr) });
        if let (Value::Object(cluster), Value::String(_)) = (&mut cluster, &authority) {
            cluster.insert("certificate-authority".to_owned(), authority);
        }
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{ "name": "fake", "cluster": cluster }],
            "users": [{ "name": "fake", "user": { "token": "server" } }],
            "contexts": [{ "name": "fake", "context": { "cluster": "fake", "user": "fake" } }],
        });
        // JSON is YAML.
        std::fs::write(path, config.to_string())
    }

    /// Adds a node, or replaces the one of that name.
    pub fn put_node(&self, name: &str, uid: &str, labels: &[(&str, &str)]) {
        let labels = to_map(labels);
        let node = (uid.to_owned(), labels);
        self.state.lock().nodes.insert(name.to_owned(), node);
    }

    /// Adds a namespace, or replaces the one of that name.
    pub fn put_namespace(&self, name: &str, labels: &[(&str, &str)]) {
        let labels = to_map(labels);
        self.state.lock().namespaces.insert(name.to_owned(), labels);
    }

    /// Removes a node.
    pub fn delete_node(&self, name: &str) {
        self.state.lock().nodes.remove(name);
    }

    /// Adds a pod, or replaces the one of that name.
    pub fn put_pod(&self, pod: FakePod) {
        let key = (pod.namespace.clone(), pod.name.clone());
        self.state.lock().pods.insert(key, pod);
    }

    /// Removes a pod. Its tokens stop to count.
    pub fn delete_pod(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        self.state.lock().pods.remove(&key);
    }

    /// Issues a token for a pod, as the kubelet would ask for it.
    pub fn issue(&self, token: &str, pod: &FakePod, audience: &str) {
        let node_uid = {
            let state = self.state.lock();
            state.nodes.get(&pod.node_name).map(|(uid, _)| uid.clone())
        };
        let issued = FakeToken {
            username: format!(
                "system:serviceaccount:{}:{}",
                pod.namespace, pod.service_account
            ),
            audiences: vec![audience.to_owned()],
            pod: Some((pod.name.clone(), pod.uid.clone())),
            node: node_uid.map(|uid| (pod.node_name.clone(), uid)),
            credential_id: Some(format!("JTI={token}")),
        };
        self.put_token(token, issued);
    }

    /// Issues any token.
    pub fn put_token(&self, token: &str, facts: FakeToken) {
        self.state.lock().tokens.insert(token.to_owned(), facts);
    }

    /// The token as it was issued.
    #[must_use]
    pub fn token(&self, token: &str) -> Option<FakeToken> {
        self.state.lock().tokens.get(token).cloned()
    }

    /// Forbids to read `pods`, `nodes`, `namespaces`, or to create `tokenreviews`.
    pub fn forbid(&self, resources: &[&'static str]) {
        self.state.lock().forbidden = resources.iter().copied().collect();
    }

    /// Breaks it, or mends it.
    pub fn fail(&self, fault: Option<Fault>) {
        self.state.lock().fault = fault;
    }

    /// The paths that were asked for, since the last time this was.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().asked)
    }

    async fn accept(self, listener: TcpListener, tls: Option<TlsAcceptor>, tasks: TaskGroup) {
        while let Ok((stream, _)) = listener.accept().await {
            let (server, tls, shutdown) = (self.clone(), tls.clone(), tasks.shutdown());
            tasks.spawn_contained("fake API connection", async move {
                let served = async {
                    match tls {
                        None => server.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                server.serve(stream).await;
                            }
                        }
                    }
                };
                tokio::select! {
                    () = shutdown.requested() => {}
                    () = served => {}
                }
            });
        }
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new();
        let _ended = connection
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        self.state.lock().asked.push(path.clone());
        let fault = self.state.lock().fault.clone();
        match fault {
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Status(code)) => return status(code),
            Some(Fault::Body(body)) => return answer(200, body),
            Some(Fault::UnawareOfAudiences | Fault::StaleReviews) | None => {}
        }
        let method = request.method().clone();
        let Ok(body) = request.into_body().collect().await else {
            return status(400);
        };
        let body = body.to_bytes();
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let state = self.state.lock();
        let (resource, object) = match (&method, segments.as_slice()) {
            (&Method::POST, ["apis", "authentication.k8s.io", "v1", "tokenreviews"]) => {
                ("tokenreviews", state.review(&body))
            }
            (&Method::GET, ["api", "v1", "namespaces", namespace, "pods", name]) => {
                ("pods", state.pod(namespace, name))
            }
            (&Method::GET, ["api", "v1", "nodes", name]) => ("nodes", state.node(name)),
            (&Method::GET, ["api", "v1", "namespaces", name]) => {
                let labels = state.namespaces.get(*name);
                let object = |labels| json!({ "metadata": { "name": name, "labels": labels } });
                ("namespaces", labels.map(object))
            }
            _ => ("", None),
        };
        if state.forbidden.contains(resource) {
            return status(403);
        }
        let created = if method == Method::POST { 201 } else { 200 };
        object.map_or_else(
            || status(404),
            |object| answer(created, object.to_string().into()),
        )
    }
}

impl State {
    fn review(&self, body: &[u8]) -> Option<Value> {
        let (token, audiences) = asked_about(body)?;
        let verdict = match self.tokens.get(&token) {
            Some(facts) => self.authenticate(facts, &audiences),
            None => Err("[invalid bearer token, unknown]"),
        };
        let status = verdict.unwrap_or_else(|error| json!({ "user": {}, "error": error }));
        Some(json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "metadata": {}, "spec": { "token": token, "audiences": audiences },
            "status": status,
        }))
    }

    fn authenticate(&self, facts: &FakeToken, wanted: &[String]) -> Result<Value, &'static str> {
        let unaware = self.fault == Some(Fault::UnawareOfAudiences);
        let server = ["https://kubernetes.default.svc".to_owned()];
        let wanted = if wanted.is_empty() { &server } else { wanted };
        let mut found: Vec<&String> = wanted
            .iter()
            .filter(|audience| facts.audiences.contains(audience))
            .collect();
        if found.is_empty() && !unaware {
            return Err(
                "[invalid bearer token, token audiences are invalid for the target audiences]",
            );
        }
        if unaware {
            found.clear();
        }
        let mut extra = serde_json::Map::new();
        let mut bind = |key: &str, value: &str| {
            extra.insert(
                format!("authentication.kubernetes.io/{key}"),
                json!([value]),
            );
        };
        if let Some((name, uid)) = &facts.pod {
            let is_there = self
                .pods
                .values()
                .any(|pod| pod.name == *name && pod.uid == *uid);
            if !is_there && self.fault != Some(Fault::StaleReviews) {
                return Err("[invalid bearer token, service account token has been invalidated]");
            }
            bind("pod-name", name);
            bind("pod-uid", uid);
        }
        if let Some((name, uid)) = &facts.node {
            bind("node-name", name);
            bind("node-uid", uid);
        }
        if let Some(id) = &facts.credential_id {
            bind("credential-id", id);
        }
        Ok(json!({
            "authenticated": true, "audiences": found,
            "user": { "username": facts.username, "uid": "sa-uid", "extra": extra,
                      "groups": ["system:serviceaccounts", "system:authenticated"] },
        }))
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<Value> {
        let pod = self.pods.get(&(namespace.to_owned(), name.to_owned()))?;
        Some(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": namespace, "name": name, "uid": pod.uid, "labels": pod.labels },
            "spec": { "serviceAccountName": pod.service_account, "nodeName": pod.node_name, "containers": [] },
            "status": { "phase": "Running", "hostIP": "172.16.10.1" },
        }))
    }

    fn node(&self, name: &str) -> Option<Value> {
        let (uid, labels) = self.nodes.get(name)?;
        Some(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": name, "uid": uid, "labels": labels },
        }))
    }
}

/// The token and the audiences of a review, in JSON or, as newer Go clients send it, in protobuf.
fn asked_about(body: &[u8]) -> Option<(String, Vec<String>)> {
    if let Some(envelope) = body.strip_prefix(b"k8s\0") {
        let envelope = <Envelope as prost::Message>::decode(envelope).ok()?;
        let review = <TokenReview as prost::Message>::decode(envelope.raw.as_slice()).ok()?;
        let spec = review.spec?;
        return Some((spec.token, spec.audiences));
    }
    let body: Value = serde_json::from_slice(body).ok()?;
    let spec = body.get("spec")?;
    let audiences = spec.get("audiences").and_then(Value::as_array).into_iter();
    let audiences = audiences.flatten().filter_map(Value::as_str);
    Some((
        spec.get("token")?.as_str()?.to_owned(),
        audiences.map(str::to_owned).collect(),
    ))
}

#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TokenReview {
    #[prost(message, optional, tag = "2")]
    spec: Option<Spec>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Spec {
    #[prost(string, tag = "1")]
    token: String,
    #[prost(string, repeated, tag = "2")]
    audiences: Vec<String>,
}

fn status(code: u16) -> Response<Full<Bytes>> {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        _ => "Unknown",
    };
    let body = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure",
        "reason": reason, "message": reason, "code": code,
    });
    answer(code, body.to_string().into())
}

fn answer(code: u16, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or_default();
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn to_map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}
