//! Identities and bundles for the tests of both dialects.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use identity::bundle::Bundle;

use super::machine::{Action, Desk, Response};
use super::node::NodeTraits;
use super::resources::Catalog;
use crate::options::SdsOptions;
use crate::source::{Bundles, Identity, Update};
use crate::testing::Pki;

pub(crate) struct Fixture {
    pub(crate) own: Arc<Bundle>,
    pub(crate) foreign: Arc<Bundle>,
    pub(crate) identities: [Arc<Identity>; 3],
    pub(crate) rotated: Arc<Identity>,
}

// Keys take a while to make, so all cases share them.
pub(crate) static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let pki = Pki::new("example.org");
    Fixture {
        own: Arc::clone(&pki.bundle),
        foreign: Arc::clone(&Pki::new("foreign.test").bundle),
        identities: [
            pki.identity("a", "/a", "", 1),
            pki.identity("b", "/b", "", 1),
            // Another entry for the same SPIFFE ID.
            pki.identity("c", "/b", "", 1),
        ],
        rotated: pki.identity("a", "/a", "", 1),
    }
});

/// Names that stand for something at some time, and others.
pub(crate) const NAMES: [&str; 12] = [
    "default",
    "ROOTCA",
    "ALL",
    "spiffe://example.org",
    "spiffe://foreign.test",
    "spiffe://example.org/a",
    "spiffe://example.org/b",
    "spiffe://example.org/nobody",
    "spiffe://EXAMPLE.org/a",
    "file-cert:/etc/certs/cert.pem~/etc/certs/key.pem",
    "*",
    "",
];

/// The update with these identities: 0 to 2 as they are, 3 the rotated first one.
pub(crate) fn update(identities: &[usize], federated: bool) -> Arc<Update> {
    let identities = identities.iter().map(|&index| match index {
        3 => Arc::clone(&FIXTURE.rotated),
        other => Arc::clone(&FIXTURE.identities[other]),
    });
    let foreign = FIXTURE.foreign.trust_domain.clone();
    let federated = federated.then(|| (foreign, Arc::clone(&FIXTURE.foreign)));
    let federated: BTreeMap<_, _> = federated.into_iter().collect();
    let bundles = Bundles::new(Arc::clone(&FIXTURE.own), federated);
    Arc::new(Update::new(identities.collect(), Arc::new(bundles)))
}

pub(crate) fn desk() -> Desk {
    Desk::new(Arc::new(SdsOptions::default()), 7)
}

/// What there is of an update, for a node that says nothing.
pub(crate) fn catalog<'a>(update: &'a Update, options: &'a SdsOptions) -> Catalog<'a> {
    Catalog {
        update,
        options,
        validator: NodeTraits::default().validator(false),
    }
}

pub(crate) fn responses(actions: Vec<Action>) -> Vec<Response> {
    let sent = actions.into_iter().filter_map(|action| match action {
        Action::Send(response) => Some(response),
        Action::Remark(_) => None,
    });
    sent.collect()
}

pub(crate) fn one(actions: Vec<Action>) -> Response {
    let mut sent = responses(actions);
    assert_eq!(sent.len(), 1, "{sent:?}");
    sent.remove(0)
}

pub(crate) fn names(response: &Response) -> Vec<&str> {
    let resources = response.resources.iter();
    resources.map(|resource| resource.name.as_str()).collect()
}

/// The names and versions of a response.
pub(crate) fn versions(response: &Response) -> BTreeMap<String, String> {
    let resources = response.resources.iter();
    resources
        .map(|it| (it.name.clone(), it.secret.version().to_string()))
        .collect()
}
