//! What the agent sends: the name of its cluster, and its token.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Longer payloads are refused before they are parsed. A token has one to two KiB.
pub(super) const MAX_PAYLOAD_BYTES: usize = 32 * 1024;

/// A service-account token. It is a secret until it expires, so nothing prints it.
#[derive(Clone, Eq, PartialEq)]
pub struct ServiceAccountToken(Zeroizing<String>);

impl ServiceAccountToken {
    /// Takes a token as the kubelet wrote it, or as an agent sent it.
    #[must_use]
    pub fn new(token: String) -> Self {
        Self(Zeroizing::new(token))
    }

    /// The token, for the API server or the wire.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ServiceAccountToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceAccountToken(<{} bytes>)", self.0.len())
    }
}

/// The evidence of an agent, before anybody checked it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Payload {
    cluster: String,
    token: ServiceAccountToken,
}

/// The payload on the wire. Fields that are not known are ignored, as SPIRE's server does.
#[derive(Deserialize, Serialize)]
struct Wire<'a> {
    #[serde(default, borrow)]
    cluster: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, borrow)]
    token: Option<std::borrow::Cow<'a, str>>,
}

impl Payload {
    /// Joins the two; neither may be empty.
    pub fn new(cluster: String, token: ServiceAccountToken) -> Result<Self, PayloadError> {
        if cluster.is_empty() {
            return Err(PayloadError::NoCluster);
        }
        if token.reveal().is_empty() {
            return Err(PayloadError::NoToken);
        }
        Ok(Self { cluster, token })
    }

    /// Parses the payload of an attestation request.
    pub fn parse(payload: &[u8]) -> Result<Self, PayloadError> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(PayloadError::TooLong);
        }
        let wire: Wire<'_> =
            serde_json::from_slice(payload).map_err(|error| PayloadError::Json {
                line: error.line(),
                column: error.column(),
            })?;
        let cluster = wire.cluster.unwrap_or_default().into_owned();
        let token = ServiceAccountToken::new(wire.token.unwrap_or_default().into_owned());
        Self::new(cluster, token)
    }

    /// The bytes that the agent sends.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let wire = Wire {
            cluster: Some(self.cluster.as_str().into()),
            token: Some(self.token.reveal().into()),
        };
        // Two strings always have a JSON form.
        Zeroizing::new(serde_json::to_vec(&wire).unwrap_or_default())
    }

    /// The cluster that the agent says it is in. Which API server is asked depends on it, nothing else.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The token.
    #[must_use]
    pub fn token(&self) -> &ServiceAccountToken {
        &self.token
    }
}

/// Why some bytes are not a payload. Nothing of the bytes is shown: the token is among them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PayloadError {
    /// It is too long.
    #[error("the data payload is longer than {MAX_PAYLOAD_BYTES} bytes")]
    TooLong,
    /// It is not the JSON object that it should be.
    #[error("failed to unmarshal data payload: no such JSON at line {line}, column {column}")]
    Json {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// It names no cluster.
    #[error("missing cluster in attestation data")]
    NoCluster,
    /// It has no token.
    #[error("missing token in attestation data")]
    NoToken,
}

impl PayloadError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong => "payload_too_long",
            Self::Json { .. } => "payload_malformed",
            Self::NoCluster => "payload_without_cluster",
            Self::NoToken => "payload_without_token",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_an_agent_of_spire_sends_and_ignores_what_it_does_not_know() {
        for text in [
            r#"{"cluster":"prod","token":"a.b.c"}"#,
            r#"{"token":"a.b.c","more":{"x":[1,null]},"cluster":"prod"}"#,
            r#"{"cluster":"\u0070rod","token":"a.b.c"}"#,
        ] {
            let payload = Payload::parse(text.as_bytes()).unwrap();
            assert_eq!(payload.cluster(), "prod");
            assert_eq!(payload.token().reveal(), "a.b.c");
        }
    }

    #[test]
    fn says_what_is_missing_or_wrong_and_shows_no_token() {
        for (text, error) in [
            ("{}", PayloadError::NoCluster),
            (r#"{"token":"t"}"#, PayloadError::NoCluster),
            (r#"{"cluster":null,"token":"t"}"#, PayloadError::NoCluster),
            (r#"{"cluster":"c"}"#, PayloadError::NoToken),
            (r#"{"cluster":"c","token":""}"#, PayloadError::NoToken),
        ] {
            assert_eq!(Payload::parse(text.as_bytes()), Err(error), "{text}");
        }
        for text in ["", "secret", r#"{"cluster":"c","token":["secret"]}"#, "[]x"] {
            let error = Payload::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.reason(), "payload_malformed", "{text}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let long = vec![b' '; MAX_PAYLOAD_BYTES + 1];
        assert_eq!(Payload::parse(&long), Err(PayloadError::TooLong));
        let payload = Payload::parse(br#"{"cluster":"c","token":"secret"}"#).unwrap();
        assert!(!format!("{payload:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(cluster in ".{1,40}", token in ".{1,200}") {
            let payload = Payload::new(cluster, ServiceAccountToken::new(token)).unwrap();
            prop_assert_eq!(Payload::parse(&payload.encode()), Ok(payload));
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _outcome = Payload::parse(&bytes);
        }
    }
}
