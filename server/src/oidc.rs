//! OpenID Connect discovery: our JWT authorities for those who know OpenID Connect and not SPIFFE.
//!
//! What SPIRE has in a program of its own. JWT-SVIDs of this server then serve as ID tokens where the
//! `iss` of the tokens (`jwt_issuer`) is the issuer that this shows.

use std::collections::BTreeSet;

use http::header::{CACHE_CONTROL, HOST};
use http::{HeaderValue, Method, StatusCode, request};
use serde_json::json;

use crate::index::Index;
use crate::web::{Answer, Document, json, text};

const CONFIGURATION: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/keys";
/// Whoever keeps keys goes on believing one that was revoked.
const NOT_CACHED: HeaderValue = HeaderValue::from_static("no-cache, no-store, must-revalidate");

/// The two documents.
#[derive(Clone, Debug)]
pub(crate) struct Discovery {
    pub(crate) index: Index,
    /// Under which names this may be asked, in lower case.
    pub(crate) domains: BTreeSet<String>,
    /// The `iss` of our tokens, if it is configured.
    pub(crate) issuer: Option<String>,
}

impl Document for Discovery {
    fn answer(&self, request: &request::Parts) -> Answer {
        let path = request.uri.path();
        if path != CONFIGURATION && path != KEYS {
            return text(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        if request.method != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
        }
        // The answer names the host, so it must not be one of the caller's choice.
        let Some(host) = self.host(request) else {
            return text(StatusCode::BAD_REQUEST, "domain is not allowed\n");
        };
        let mut answer = if path == KEYS {
            self.keys()
        } else {
            self.configuration(&host)
        };
        answer.headers_mut().insert(CACHE_CONTROL, NOT_CACHED);
        answer
    }
}

impl Discovery {
    /// The host, with its port, if it is one of ours.
    fn host(&self, request: &request::Parts) -> Option<String> {
        let mut named = request.headers.get_all(HOST).iter();
        let (Some(host), None) = (named.next(), named.next()) else {
            return None;
        };
        let host = host.to_str().ok()?.to_ascii_lowercase();
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.parse::<u16>().is_ok() => name,
            Some(_) => return None,
            None => &host,
        };
        self.domains.contains(name).then_some(host)
    }

    /// OpenID Connect Discovery 4.2, with what it requires and nothing else.
    fn configuration(&self, host: &str) -> Answer {
        let own = || format!("https://{host}");
        let document = json!({
            "issuer": self.issuer.clone().unwrap_or_else(own),
            "jwks_uri": format!("https://{host}{KEYS}"),
            "authorization_endpoint": "",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256", "ES384"],
        });
        json(document.to_string())
    }

    fn keys(&self) -> Answer {
        let snapshot = self.index.snapshot();
        match snapshot.bundles.own() {
            Some(own) if !own.value.jwt_authorities.is_empty() => json(own.value.oidc_jwks_json()),
            Some(_) => text(
                StatusCode::NOT_IMPLEMENTED,
                "jwt not supported/enabled in this service\n",
            ),
            None => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "document not available\n",
            ),
        }
    }
}
