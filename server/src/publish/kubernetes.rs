//! Writing to the API server of a Kubernetes cluster.
//!
//! Every write is of what differs, and against the version that was read: two servers, or a server
//! and an operator, never overwrite each other blindly.

use std::fmt;
use std::time::Duration;

use attestors::node::k8s_psat::{ConnectError, KubeConfig, connect};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use identity::bundle::Bundle;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use super::{ConfigMapRef, Format, Place};

/// SPIRE's name as an owner of fields, so that either program may follow the other.
const FIELD_MANAGER: &str = "spire-bundlepublisher-k8s_configmap";
/// The end of an API call that is not answered.
const CALL: Duration = Duration::from_secs(10);
/// How often a write is tried against other writers.
const MAX_TRIES: usize = 5;
/// HTTP's answer to a write that was based on an old version.
const CONFLICT: u16 = 409;

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error("could not {verb} the {object}: the Kubernetes API says {code}, {message}")]
    Refused {
        verb: &'static str,
        object: String,
        code: u16,
        message: String,
    },
    #[error("could not ask the Kubernetes API to {verb} the {object}")]
    Unreachable {
        verb: &'static str,
        object: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("the Kubernetes API did not answer in time")]
    Deadline,
    #[error("the {object} is changed by others without end")]
    Contended { object: String },
    #[error(
        "there is no {object}; create it, and let this server `get` and `patch` it (`k8s_configmap` makes it itself)"
    )]
    Missing { object: String },
}

impl WriteError {
    /// A stable label for metrics and logs.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Refused { code: 401, .. } => "kubernetes_unauthorized",
            Self::Refused { code: 403, .. } => "kubernetes_forbidden",
            Self::Refused { .. } => "kubernetes_refused",
            Self::Unreachable { .. } => "kubernetes_unreachable",
            Self::Deadline => "kubernetes_deadline",
            Self::Contended { .. } => "kubernetes_contended",
            Self::Missing { .. } => "kubernetes_missing",
        }
    }
}

/// A way to one API server.
#[derive(Clone)]
pub struct Connection {
    client: Client,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

impl Connection {
    /// Reads the credentials; the API server itself is not asked yet.
    pub async fn new(config: &KubeConfig) -> Result<Self, ConnectError> {
        let client = connect(config, CALL).await?;
        Ok(Self { client })
    }

    #[cfg(test)]
    pub(super) fn over(client: Client) -> Self {
        Self { client }
    }

    /// Puts the bundle where it differs. Returns the number of objects that were written.
    pub(super) async fn write(&self, place: &Place, bundle: &Bundle) -> Result<usize, WriteError> {
        match place {
            Place::Applied(map, format) => self.apply(map, format.write(bundle)).await,
            Place::Patched(map) => self.patch(map, Format::Pem.write(bundle)).await,
            Place::Webhooks { label } => {
                let pem = Format::Pem.write(bundle);
                let validating = self.patch_labelled(Holder::Validating, label, &pem).await?;
                let mutating = self.patch_labelled(Holder::Mutating, label, &pem).await?;
                Ok(validating.saturating_add(mutating))
            }
            Place::ApiServices { label } => {
                let pem = Format::Pem.write(bundle);
                self.patch_labelled(Holder::ApiService, label, &pem).await
            }
        }
    }

    /// Server-side apply: makes the ConfigMap if it is missing, and owns one key of it.
    async fn apply(&self, map: &ConfigMapRef, text: String) -> Result<usize, WriteError> {
        let api = self.config_maps(&map.namespace);
        let found = call("get", map, api.get_opt(&map.name)).await?;
        if found.is_some_and(|found| value(&found, map) == Some(text.as_str())) {
            return Ok(0);
        }
        let patch = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": map.name, "namespace": map.namespace },
            "data": { (map.key.as_str()): text },
        });
        let params = PatchParams::apply(FIELD_MANAGER);
        call(
            "apply",
            map,
            api.patch(&map.name, &params, &Patch::Apply(patch)),
        )
        .await?;
        Ok(1)
    }

    /// Changes one key of a ConfigMap that is there.
    async fn patch(&self, map: &ConfigMapRef, text: String) -> Result<usize, WriteError> {
        let api = self.config_maps(&map.namespace);
        for _ in 0..MAX_TRIES {
            let found = call("get", map, api.get_opt(&map.name)).await?;
            let found = found.ok_or_else(|| WriteError::Missing {
                object: map.to_string(),
            })?;
            if value(&found, map) == Some(text.as_str()) {
                return Ok(0);
            }
            let patch = json!({
                "metadata": { "resourceVersion": found.resource_version() },
                "data": { (map.key.as_str()): text },
            });
            if patched(&api, &map.name, map, patch).await? {
                return Ok(1);
            }
        }
        Err(WriteError::Contended {
            object: map.to_string(),
        })
    }

    fn config_maps(&self, namespace: &str) -> Api<DynamicObject> {
        let kind = resource("", "ConfigMap", "configmaps");
        Api::namespaced_with(self.client.clone(), namespace, &kind)
    }

    async fn patch_labelled(
        &self,
        holder: Holder,
        label: &str,
        pem: &str,
    ) -> Result<usize, WriteError> {
        let kind = holder.resource();
        let api = Api::all_with(self.client.clone(), &kind);
        let params = ListParams::default().labels(&format!("{label}=true"));
        let found = call("list", &kind.plural, api.list(&params)).await?;
        let mut written: usize = 0;
        let mut failure = None;
        for object in found {
            match patch_one(&api, holder, object, pem).await {
                Ok(count) => written = written.saturating_add(count),
                // The others get theirs all the same.
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(written), Err)
    }
}

/// What may hold certificates to verify somebody by.
#[derive(Clone, Copy, Debug)]
enum Holder {
    Validating,
    Mutating,
    ApiService,
}

impl Holder {
    fn resource(self) -> ApiResource {
        const ADMISSION: &str = "admissionregistration.k8s.io";
        match self {
            Self::Validating => resource(
                ADMISSION,
                "ValidatingWebhookConfiguration",
                "validatingwebhookconfigurations",
            ),
            Self::Mutating => resource(
                ADMISSION,
                "MutatingWebhookConfiguration",
                "mutatingwebhookconfigurations",
            ),
            Self::ApiService => resource("apiregistration.k8s.io", "APIService", "apiservices"),
        }
    }

    /// The change that makes an object hold these certificates, or nothing if it does.
    fn patch_for(self, object: &Value, ca: &str) -> Option<Value> {
        let holds = |ca_bundle: Option<&Value>| ca_bundle.and_then(Value::as_str) == Some(ca);
        match self {
            Self::ApiService => (!holds(object.pointer("/spec/caBundle")))
                .then(|| json!({ "spec": { "caBundle": ca } })),
            // The list of webhooks is merged by name, so only those that differ are named.
            Self::Validating | Self::Mutating => {
                let webhooks = object.get("webhooks").and_then(Value::as_array);
                let stale: Vec<_> = webhooks
                    .into_iter()
                    .flatten()
                    .filter(|webhook| !holds(webhook.pointer("/clientConfig/caBundle")))
                    .filter_map(|webhook| webhook.get("name"))
                    .map(|name| json!({ "name": name, "clientConfig": { "caBundle": ca } }))
                    .collect();
                (!stale.is_empty()).then(|| json!({ "webhooks": stale }))
            }
        }
    }
}

/// A kind in version 1 of its group.
fn resource(group: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural)
}

async fn patch_one(
    api: &Api<DynamicObject>,
    holder: Holder,
    mut object: DynamicObject,
    pem: &str,
) -> Result<usize, WriteError> {
    let name = object.name_any();
    let what = format!("{} `{name}`", holder.resource().kind);
    let ca = STANDARD.encode(pem);
    for _ in 0..MAX_TRIES {
        let Some(mut patch) = holder.patch_for(&object.data, &ca) else {
            return Ok(0);
        };
        if let Some(patch) = patch.as_object_mut() {
            let version = json!({ "resourceVersion": object.resource_version() });
            patch.insert("metadata".to_owned(), version);
        }
        if patched(api, &name, &what, patch).await? {
            return Ok(1);
        }
        match call("get", &what, api.get_opt(&name)).await? {
            Some(newer) => object = newer,
            None => return Ok(0),
        }
    }
    Err(WriteError::Contended { object: what })
}

/// Whether the patch was taken; not so if somebody else was faster.
async fn patched(
    api: &Api<DynamicObject>,
    name: &str,
    object: &impl fmt::Display,
    patch: Value,
) -> Result<bool, WriteError> {
    let patch = Patch::Strategic(patch);
    let params = PatchParams::default();
    match call("patch", object, api.patch(name, &params, &patch)).await {
        Ok(_) => Ok(true),
        Err(WriteError::Refused { code: CONFLICT, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn call<T>(
    verb: &'static str,
    object: &impl fmt::Display,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, WriteError> {
    match tokio::time::timeout(CALL, call).await {
        Err(_elapsed) => Err(WriteError::Deadline),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(WriteError::Refused {
            verb,
            object: object.to_string(),
            code: status.code,
            message: status.message.clone(),
        }),
        Ok(Err(source)) => Err(WriteError::Unreachable {
            verb,
            object: object.to_string(),
            source: Box::new(source),
        }),
    }
}

fn value<'a>(found: &'a DynamicObject, map: &ConfigMapRef) -> Option<&'a str> {
    found.data.get("data")?.get(&map.key)?.as_str()
}

impl fmt::Display for ConfigMapRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigMap `{}/{}`", self.namespace, self.name)
    }
}
