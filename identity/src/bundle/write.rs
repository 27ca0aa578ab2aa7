//! Writing bundles as JSON Web Key Sets.

use serde::Serialize;
use serde_json::ser::PrettyFormatter;

use super::{Bundle, jwk::Jwk};

#[derive(Serialize)]
struct Document {
    keys: Vec<Jwk>,
    #[serde(skip_serializing_if = "is_zero")]
    spiffe_sequence: u64,
    #[serde(skip_serializing_if = "is_zero")]
    spiffe_refresh_hint: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Bundle {
    /// The bundle as a SPIFFE bundle (SPIFFE Trust Domain and Bundle 4), indented and ordered as
    /// SPIRE prints it; without a newline at its end. A sequence or hint of zero is left out.
    pub fn to_spiffe_json(&self) -> String {
        let x509 = self.x509_authorities.iter().map(Jwk::of_x509);
        let jwt = self.jwt_authorities.iter().map(Jwk::of_jwt);
        let document = Document {
            // SPIFFE Trust Domain and Bundle 4.1.3: `keys` is there, if only as an empty list.
            keys: x509.chain(jwt).collect(),
            spiffe_sequence: self.sequence,
            spiffe_refresh_hint: self.refresh_hint.unwrap_or_default().as_secs(),
        };
        to_text(&document)
    }

    /// All authorities as a plain JWK Set (RFC 7517 5): keys without a `use`, and nothing else that
    /// SPIFFE adds.
    pub fn plain_jwks_json(&self) -> String {
        let x509 = self.x509_authorities.iter().map(Jwk::of_x509_without_use);
        let jwt = self.jwt_authorities.iter().map(Jwk::of_jwt_without_use);
        to_text(&Document {
            keys: x509.chain(jwt).collect(),
            spiffe_sequence: 0,
            spiffe_refresh_hint: 0,
        })
    }

    /// The JWT authorities alone, as the Workload API carries them: a JWK Set whose keys have a
    /// `kid`, and no `use`.
    pub fn jwks_json(&self) -> String {
        let keys = self
            .jwt_authorities
            .iter()
            .map(Jwk::of_jwt_without_use)
            .collect();
        to_text(&Document {
            keys,
            spiffe_sequence: 0,
            spiffe_refresh_hint: 0,
        })
    }

    /// The JWT authorities alone, for readers who know OpenID Connect and not SPIFFE: a JWK Set whose
    /// keys have a `kid`, and are for signatures by one algorithm each.
    pub fn oidc_jwks_json(&self) -> String {
        let keys = self.jwt_authorities.iter().map(Jwk::of_jwt_for_signatures);
        to_text(&Document {
            keys: keys.collect(),
            spiffe_sequence: 0,
            spiffe_refresh_hint: 0,
        })
    }
}

/// Texts and numbers in a vector: nothing that could fail to be written.
fn to_text(document: &Document) -> String {
    let mut text = Vec::new();
    let formatter = PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    let written = document.serialize(&mut serializer);
    debug_assert!(written.is_ok(), "a bundle is always written");
    String::from_utf8(text).unwrap_or_default()
}
