//! The bundle endpoint: our own trust bundle, for whoever asks (SPIFFE Federation 5).

use std::time::Duration;

use http::{Method, StatusCode};

use crate::index::Index;
use crate::web::{Answer, Document, text};

/// What the endpoint serves.
#[derive(Clone, Debug)]
pub(crate) struct BundleDocument {
    pub(crate) index: Index,
    /// How often others are to ask.
    pub(crate) refresh_hint: Duration,
}

impl Document for BundleDocument {
    fn answer(&self, request: &http::request::Parts) -> Answer {
        if request.method != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed\n");
        }
        if request.uri.path() != "/" {
            return text(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        let snapshot = self.index.snapshot();
        // Never an empty bundle in place of ours: who fetched it would trust nobody.
        let Some(own) = snapshot.bundles.own() else {
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "500 unable to retrieve local bundle\n",
            );
        };
        let mut bundle = own.value.clone();
        bundle.refresh_hint = Some(self.refresh_hint);
        // SPIFFE Federation 5.2.1.3, 5.2.2.3: the newest bundle, in UTF-8, as JSON.
        crate::web::json(bundle.to_spiffe_json())
    }
}
