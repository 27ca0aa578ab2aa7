//! Publishing into an API server of our own: an honest store of objects behind kube's client.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use identity::bundle::Bundle;
use identity::trust_domain::TrustDomain;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::kubernetes::{Connection, WriteError};
use super::{ConfigMapRef, Format, Place};

const MAP: &str = "/api/v1/namespaces/spire/configmaps/spire-bundle";
const WEBHOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// The objects by path, and every write with its query.
#[derive(Clone, Default)]
struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    writes: Vec<(String, Value)>,
    /// How many writes meet another writer, who changes the version first.
    rivals: usize,
    refuse: Option<StatusCode>,
}

impl FakeApi {
    fn with(path: &str, mut object: Value) -> Self {
        let api = Self::default();
        object["metadata"]["resourceVersion"] = json!("1");
        api.0.lock().objects.insert(path.to_owned(), object);
        api
    }

    fn connection(&self) -> Connection {
        let state = Arc::clone(&self.0);
        let service = tower::service_fn(move |request: Request<Body>| {
            let state = Arc::clone(&state);
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let (code, answer) = state.lock().answer(&head.method, &head.uri, &body);
                let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
                *response.status_mut() = code;
                Ok::<_, Infallible>(response)
            }
        });
        Connection::over(Client::new(service, "default"))
    }

    fn object(&self, path: &str) -> Value {
        self.0.lock().objects.get(path).cloned().unwrap_or_default()
    }

    fn writes(&self) -> usize {
        self.0.lock().writes.len()
    }
}

impl State {
    fn answer(&mut self, method: &Method, uri: &http::Uri, body: &[u8]) -> (StatusCode, Value) {
        if let Some(code) = self.refuse {
            return status(code);
        }
        let path = uri.path().to_owned();
        match *method {
            Method::GET if self.objects.contains_key(&path) => {
                (StatusCode::OK, self.objects[&path].clone())
            }
            Method::GET
                if uri
                    .query()
                    .is_some_and(|query| query.contains("labelSelector")) =>
            {
                let below = |(name, _): &(&String, &Value)| name.starts_with(&format!("{path}/"));
                let items: Vec<_> = self
                    .objects
                    .iter()
                    .filter(below)
                    .map(|(_, v)| v.clone())
                    .collect();
                (StatusCode::OK, json!({ "items": items, "metadata": {} }))
            }
            Method::PATCH => self.patch(path, uri, body),
            _ => status(StatusCode::NOT_FOUND),
        }
    }

    fn patch(&mut self, path: String, uri: &http::Uri, body: &[u8]) -> (StatusCode, Value) {
        let patch: Value = serde_json::from_slice(body).unwrap();
        let applies = uri
            .query()
            .is_some_and(|query| query.contains("fieldManager"));
        if !applies && !self.objects.contains_key(&path) {
            return status(StatusCode::NOT_FOUND);
        }
        let object = self
            .objects
            .entry(path)
            .or_insert_with(|| json!({ "metadata": {} }));
        if self.rivals > 0 {
            self.rivals -= 1;
            object["metadata"]["resourceVersion"] = json!(format!("rival-{}", self.rivals));
        }
        let based_on = &patch["metadata"]["resourceVersion"];
        if !based_on.is_null() && *based_on != object["metadata"]["resourceVersion"] {
            return status(StatusCode::CONFLICT);
        }
        merge(object, &patch);
        self.writes
            .push((uri.query().unwrap_or_default().to_owned(), patch));
        object["metadata"]["resourceVersion"] = json!(format!("w{}", self.writes.len()));
        (StatusCode::OK, object.clone())
    }
}

/// A strategic merge, as far as names of list items go.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(patch)) => {
            for item in patch {
                match into.iter_mut().find(|have| have["name"] == item["name"]) {
                    Some(have) => merge(have, item),
                    None => into.push(item.clone()),
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

fn status(code: StatusCode) -> (StatusCode, Value) {
    let reason = match code {
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::CONFLICT => "Conflict",
        _ => "Forbidden",
    };
    let answer = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "told so", "reason": reason, "code": code.as_u16(),
    });
    (code, answer)
}

fn bundle(name: &str) -> Bundle {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let uri = format!("spiffe://{name}");
    params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
    let der = params.self_signed(&key).unwrap().der().to_vec();
    Bundle::from_x509_der(TrustDomain::parse(name).unwrap(), &der).unwrap()
}

fn map() -> ConfigMapRef {
    ConfigMapRef {
        namespace: "spire".to_owned(),
        name: "spire-bundle".to_owned(),
        key: "bundle.crt".to_owned(),
    }
}

fn config_map() -> Value {
    json!({ "metadata": { "name": "spire-bundle" }, "data": { "mine": "stays" } })
}

#[tokio::test]
async fn applies_a_config_map_that_is_not_there_once() {
    let api = FakeApi::default();
    let place = Place::Applied(map(), Format::Pem);
    let bundle = bundle("example.org");
    assert_eq!(api.connection().write(&place, &bundle).await.unwrap(), 1);
    assert_eq!(
        api.object(MAP)["data"]["bundle.crt"],
        json!(bundle.x509_pem())
    );
    assert_eq!(api.connection().write(&place, &bundle).await.unwrap(), 0);
    assert_eq!(api.writes(), 1);
    let query = api.0.lock().writes[0].0.clone();
    // Another manager would take the field from a SPIRE server that is replaced, or conflict with it.
    assert!(
        query.contains("fieldManager=spire-bundlepublisher-k8s_configmap"),
        "{query}"
    );
}

#[tokio::test]
async fn patches_one_key_and_leaves_the_others() {
    let api = FakeApi::with(MAP, config_map());
    let bundle = bundle("example.org");
    let written = api
        .connection()
        .write(&Place::Patched(map()), &bundle)
        .await;
    assert_eq!(written.unwrap(), 1);
    let data = &api.object(MAP)["data"];
    assert_eq!(data["mine"], json!("stays"));
    assert_eq!(data["bundle.crt"], json!(bundle.x509_pem()));
}

#[tokio::test]
async fn a_patch_that_lost_a_race_is_made_again_on_what_won() {
    let api = FakeApi::with(MAP, config_map());
    api.0.lock().rivals = 2;
    let bundle = bundle("example.org");
    let written = api
        .connection()
        .write(&Place::Patched(map()), &bundle)
        .await;
    assert_eq!(written.unwrap(), 1);
    assert_eq!(
        api.object(MAP)["data"]["bundle.crt"],
        json!(bundle.x509_pem())
    );
}

#[tokio::test]
async fn gives_up_on_rivals_without_end() {
    let api = FakeApi::with(MAP, config_map());
    api.0.lock().rivals = usize::MAX;
    let error = api
        .connection()
        .write(&Place::Patched(map()), &bundle("example.org"))
        .await;
    assert!(
        matches!(error, Err(WriteError::Contended { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn says_that_the_config_map_of_k8sbundle_must_be_made() {
    let error = FakeApi::default()
        .connection()
        .write(&Place::Patched(map()), &bundle("example.org"))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "kubernetes_missing");
    assert!(
        error.to_string().contains("`spire/spire-bundle`"),
        "{error}"
    );
}

#[tokio::test]
async fn a_refusal_says_what_was_refused() {
    let api = FakeApi::with(MAP, config_map());
    api.0.lock().refuse = Some(StatusCode::FORBIDDEN);
    let connection = api.connection();
    let error = connection
        .write(&Place::Patched(map()), &bundle("example.org"))
        .await;
    let error = error.unwrap_err();
    assert_eq!(error.reason(), "kubernetes_forbidden");
    assert!(
        error
            .to_string()
            .contains("get the ConfigMap `spire/spire-bundle`"),
        "{error}"
    );
}

#[tokio::test]
async fn changes_only_the_webhooks_that_differ() {
    let bundle = bundle("example.org");
    let good = STANDARD.encode(bundle.x509_pem());
    let hook = |name: &str, ca: &str| {
        json!({
            "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": { "caBundle": ca, "url": "https://hook.example.org" },
        })
    };
    let path = format!("{WEBHOOKS}/hooks");
    let object = json!({
        "metadata": { "name": "hooks" },
        "webhooks": [hook("a.example.org", &good), hook("b.example.org", "b2xk")],
    });
    let api = FakeApi::with(&path, object);
    let place = Place::Webhooks {
        label: "spiffe.io/webhook".to_owned(),
    };
    assert_eq!(api.connection().write(&place, &bundle).await.unwrap(), 1);
    let now = api.object(&path);
    assert_eq!(now["webhooks"][1]["clientConfig"]["caBundle"], json!(good));
    assert_eq!(
        now["webhooks"][1]["clientConfig"]["url"],
        json!("https://hook.example.org")
    );
    let patch = api.0.lock().writes[0].1.clone();
    assert_eq!(patch["webhooks"].as_array().unwrap().len(), 1);
    assert_eq!(api.connection().write(&place, &bundle).await.unwrap(), 0);
}

#[test]
fn the_formats_are_spires() {
    let bundle = bundle("example.org");
    let hint = Some(std::time::Duration::from_secs(600));
    let spiffe = Format::parse("SPIFFE", hint).unwrap().write(&bundle);
    let read = Bundle::from_spiffe_json(bundle.trust_domain.clone(), spiffe.as_bytes()).unwrap();
    assert_eq!(read.refresh_hint, hint);
    assert_eq!(read.x509_authorities, bundle.x509_authorities);
    let jwks: Value =
        serde_json::from_str(&Format::parse("jwks", None).unwrap().write(&bundle)).unwrap();
    assert!(
        jwks["keys"][0]["use"].is_null() && jwks["keys"][0]["x5c"].is_array(),
        "{jwks}"
    );
    assert!(jwks["spiffe_sequence"].is_null(), "{jwks}");
    assert_eq!(
        Format::parse("pem", None).unwrap().write(&bundle),
        bundle.x509_pem()
    );
    assert_eq!(Format::parse("der", None), None);
}
