//! Objects of the API server that hold certificates, which a server keeps at its bundle.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tests::cluster::Cluster;
use tests::process::eventually;
use tests::programs::Make;

use tests::pairs::SPACE;
use tests::pairs::{label, server_name, word};

/// A webhook of each kind and an API service with the mark of a server, and one webhook without. None is ever called.
pub(super) struct Holders<'a> {
    cluster: &'a Cluster,
    server: Make,
}

const VALIDATING: &str = "validatingwebhookconfiguration";
const MUTATING: &str = "mutatingwebhookconfiguration";
const API_SERVICE: &str = "apiservice";

impl<'a> Holders<'a> {
    pub(super) fn made(cluster: &'a Cluster, server: Make) -> Self {
        let holders = Self { cluster, server };
        let (name, label) = (holders.name(), label(server));
        let marked = format!("{{ {label}: \"true\" }}");
        let webhooks = [
            webhooks("ValidatingWebhookConfiguration", &name, &marked),
            webhooks("MutatingWebhookConfiguration", &name, &marked),
            webhooks("MutatingWebhookConfiguration", &holders.unmarked(), "{}"),
        ];
        cluster.apply(&format!(
            "{}---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {{ name: {}, labels: {marked} }}
spec:
  group: {}.signet.test
  version: v1
  groupPriorityMinimum: 1
  versionPriority: 1
  service: {{ name: none, namespace: {SPACE} }}
",
            webhooks.concat(),
            holders.api_service(),
            word(server)
        ));
        holders
    }

    /// Waits until all that are marked hold the bundle, and no other does.
    pub(super) fn hold(&self, bundle: &str) {
        let map = format!("{}-bundle", server_name(self.server));
        let published = || {
            let map = self.cluster.object(SPACE, "configmap", &map).unwrap();
            Some(map.pointer("/data/bundle.crt")?.as_str()?.to_owned())
        };
        eventually("the server has published its bundle", || {
            published().is_some()
        });
        assert_eq!(published().unwrap().trim(), bundle.trim());
        let encoded = STANDARD.encode(published().unwrap());
        let (name, api_service) = (self.name(), self.api_service());
        for (kind, name, count) in [
            (VALIDATING, &name, 2),
            (MUTATING, &name, 2),
            (API_SERVICE, &api_service, 1),
        ] {
            let expected = vec![encoded.clone(); count];
            eventually(&format!("the {kind} holds the bundle"), || {
                self.held(kind, name) == expected
            });
        }
        assert_eq!(self.held(MUTATING, &self.unmarked()), ["", ""]);
        self.forget();
    }

    fn held(&self, kind: &str, name: &str) -> Vec<String> {
        let object = self.cluster.object(SPACE, kind, name).unwrap();
        let text = |value: Option<&Value>| -> String {
            let text = value.and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        match object.pointer("/webhooks").and_then(Value::as_array) {
            None => vec![text(object.pointer("/spec/caBundle"))],
            Some(webhooks) => webhooks
                .iter()
                .map(|webhook| text(webhook.pointer("/clientConfig/caBundle")))
                .collect(),
        }
    }

    fn name(&self) -> String {
        format!("pairs-{}", word(self.server))
    }

    fn unmarked(&self) -> String {
        format!("pairs-{}-unmarked", word(self.server))
    }

    fn api_service(&self) -> String {
        format!("v1.{}.signet.test", word(self.server))
    }

    /// A namespace is not deleted as long as there is an API service that does not answer.
    fn forget(&self) {
        let delete = |kind: &str, names: &[&str]| {
            let words = [&["delete", "--ignore-not-found", kind], names].concat();
            self.cluster.kubectl(&words);
        };
        delete(API_SERVICE, &[&self.api_service()]);
        delete(VALIDATING, &[&self.name()]);
        delete(MUTATING, &[&self.name(), &self.unmarked()]);
    }
}

impl Drop for Holders<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}

fn webhooks(kind: &str, name: &str, labels: &str) -> String {
    let webhook = |first: &str| {
        format!(
            "  - name: {first}.pairs.signet.test
    failurePolicy: Ignore
    sideEffects: None
    admissionReviewVersions: [v1]
    clientConfig: {{ service: {{ name: none, namespace: {SPACE} }} }}
    rules: [{{ apiGroups: [nothing.signet.test], apiVersions: [v1], resources: [nothings], operations: [CREATE] }}]
"
        )
    };
    format!(
        "---
apiVersion: admissionregistration.k8s.io/v1
kind: {kind}
metadata: {{ name: {name}, labels: {labels} }}
webhooks:
{}{}",
        webhook("one"),
        webhook("two")
    )
}
