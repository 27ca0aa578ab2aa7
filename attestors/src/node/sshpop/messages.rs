//! What agent and server say to each other: JSON, with bytes in base64 and names as Go writes them.

use serde::{Deserialize, Serialize};

use crate::node::json::{self, Bytes, Unread};
use crate::node::nonce::Nonce;

/// Longer messages are refused before they are parsed. A certificate of an RSA-8192 key by another has
/// less than 4 KiB.
const MAX_MESSAGE_BYTES: usize = 32 * 1024;

/// The evidence of an agent, before anybody checked it: a certificate in the form of the SSH protocol.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Payload(pub(super) Vec<u8>);

#[derive(Default, Deserialize, Serialize)]
struct WirePayload {
    #[serde(rename = "Certificate", alias = "certificate")]
    certificate: Option<Bytes>,
}

impl Payload {
    /// Parses the payload of an attestation request.
    pub fn parse(payload: &[u8]) -> Result<Self, PayloadError> {
        let wire: WirePayload = json::read(payload, MAX_MESSAGE_BYTES)?;
        let certificate = wire.certificate.filter(|bytes| !bytes.0.is_empty());
        Ok(Self(certificate.ok_or(PayloadError::NoCertificate)?.0))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        json::write(&WirePayload {
            certificate: Some(Bytes(self.0.clone())),
        })
    }
}

/// What the server asks: a signature over this nonce and one of the agent's.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Challenge {
    #[serde(rename = "Nonce", alias = "nonce")]
    pub(super) nonce: Nonce,
}

impl Challenge {
    /// Parses what a server sent.
    pub fn parse(message: &[u8]) -> Result<Self, PayloadError> {
        Ok(json::read(message, MAX_MESSAGE_BYTES)?)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        json::write(self)
    }
}

/// What the agent answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Response {
    #[serde(rename = "Nonce", alias = "nonce")]
    pub(super) nonce: Nonce,
    #[serde(rename = "Signature", alias = "signature")]
    pub(super) signature: Signed,
}

/// A signature in the form of the SSH protocol (RFC 4253 6.6): by which algorithm, and its bytes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Signed {
    #[serde(rename = "Format", alias = "format")]
    pub(super) format: String,
    #[serde(rename = "Blob", alias = "blob")]
    pub(super) blob: Bytes,
    /// What only keys on a token add, which nobody has as a host key.
    #[serde(rename = "Rest", alias = "rest", default)]
    pub(super) rest: Option<Bytes>,
}

impl Response {
    /// Parses what an agent sent.
    pub fn parse(message: &[u8]) -> Result<Self, PayloadError> {
        Ok(json::read(message, MAX_MESSAGE_BYTES)?)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        json::write(self)
    }
}

/// Why some bytes are not what agent and server say to each other here.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PayloadError {
    /// It is too long.
    #[error("the message is longer than {MAX_MESSAGE_BYTES} bytes")]
    TooLong,
    /// It is not the JSON object that it should be.
    #[error("no such JSON at line {line}, column {column}")]
    Json {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// There is no certificate.
    #[error("no certificate in response")]
    NoCertificate,
}

impl From<Unread> for PayloadError {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::TooLong => Self::TooLong,
            Unread::Json { line, column } => Self::Json { line, column },
        }
    }
}

impl PayloadError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong => "payload_too_long",
            Self::Json { .. } => "payload_malformed",
            Self::NoCertificate => "payload_without_certificate",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_an_agent_of_spire_sends() {
        let payload = Payload::parse(br#"{"Certificate":"AQI="}"#).unwrap();
        assert_eq!(payload, Payload(vec![1, 2]));
        assert_eq!(payload.encode(), br#"{"Certificate":"AQI="}"#);
        let nonce = String::from(Nonce::draw());
        let text = format!(
            r#"{{"Nonce":"{nonce}","Signature":{{"Format":"ssh-ed25519","Blob":"AQ==","Rest":null}}}}"#
        );
        let response = Response::parse(text.as_bytes()).unwrap();
        assert_eq!(response.signature.blob, Bytes(vec![1]));
        assert_eq!(String::from_utf8(response.encode()).unwrap(), text);
    }

    #[test]
    fn says_what_is_missing_or_too_much() {
        for text in ["{}", r#"{"Certificate":""}"#, r#"{"Certificate":null}"#] {
            let error = Payload::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error, PayloadError::NoCertificate, "{text}");
        }
        let long = vec![b' '; MAX_MESSAGE_BYTES + 1];
        assert_eq!(Payload::parse(&long), Err(PayloadError::TooLong));
        assert_eq!(Response::parse(&long), Err(PayloadError::TooLong));
        assert_eq!(Challenge::parse(&long), Err(PayloadError::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _outcome = (Payload::parse(&bytes), Response::parse(&bytes), Challenge::parse(&bytes));
        }
    }
}
