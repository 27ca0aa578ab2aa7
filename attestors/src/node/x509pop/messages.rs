//! What agent and server say to each other: JSON, with bytes in base64 as Go writes them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use identity::x509::MAX_CERTIFICATE_BYTES;
use serde::{Deserialize, Serialize};

use crate::node::json::{self, Bytes, Unread};
use crate::node::nonce::Nonce;

/// Longer payloads are refused before they are parsed.
const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// Longer challenges and responses are refused; a signature has at most 1 KiB.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;

/// The evidence of an agent, before anybody checked it: its chain in DER, leaf first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Payload(Vec<Vec<u8>>);

/// Fields that are not known are ignored, as SPIRE's server does.
#[derive(Default, Deserialize, Serialize)]
struct WirePayload {
    certificates: Option<Vec<String>>,
}

impl Payload {
    /// Takes a chain; there must be a leaf.
    pub fn new(chain: Vec<Vec<u8>>) -> Result<Self, PayloadError> {
        match chain.is_empty() {
            true => Err(PayloadError::NoCertificate),
            false => Ok(Self(chain)),
        }
    }

    /// Parses the payload of an attestation request. More than `max_intermediates` certificates beside
    /// the leaf are not even decoded.
    pub fn parse(payload: &[u8], max_intermediates: usize) -> Result<Self, PayloadError> {
        let wire: WirePayload = json::read(payload, MAX_PAYLOAD_BYTES)?;
        let encoded = wire.certificates.unwrap_or_default();
        if encoded.len().saturating_sub(1) > max_intermediates {
            return Err(PayloadError::TooManyIntermediates);
        }
        let decode = |(position, text): (usize, String)| match STANDARD.decode(text) {
            Ok(der) if der.len() <= MAX_CERTIFICATE_BYTES => Ok(der),
            Ok(_) | Err(_) => Err(PayloadError::Encoding { position }),
        };
        Self::new(
            encoded
                .into_iter()
                .enumerate()
                .map(decode)
                .collect::<Result<_, _>>()?,
        )
    }

    /// The bytes that the agent sends.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let certificates = self.0.iter().map(|der| STANDARD.encode(der)).collect();
        json::write(&WirePayload {
            certificates: Some(certificates),
        })
    }

    pub(super) fn chain(&self) -> &[Vec<u8>] {
        &self.0
    }
}

/// What the server asks: a signature by the kind of key that the leaf has.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Challenge {
    pub(super) rsa_signature: Option<Asked>,
    pub(super) ecdsa_signature: Option<Asked>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Asked {
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
    pub(super) rsa_signature: Option<RsaSignature>,
    pub(super) ecdsa_signature: Option<EcdsaSignature>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct RsaSignature {
    pub(super) nonce: Nonce,
    pub(super) signature: Bytes,
}

/// The two numbers, big-endian, without leading zeros.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct EcdsaSignature {
    pub(super) nonce: Nonce,
    pub(super) r: Bytes,
    pub(super) s: Bytes,
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
    #[error("the message is too long")]
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
    #[error("no certificate to attest")]
    NoCertificate,
    /// There are more certificates than are looked at.
    #[error("too many intermediate certificates")]
    TooManyIntermediates,
    /// A certificate is not base64, or too long for one.
    #[error("certificate {position} cannot be read")]
    Encoding {
        /// Which one, from 0.
        position: usize,
    },
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
            Self::TooManyIntermediates => "too_many_intermediates",
            Self::Encoding { .. } => "payload_encoding",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_an_agent_of_spire_sends() {
        let payload = Payload::parse(br#"{"certificates":["AQI=","Aw=="],"more":1}"#, 1);
        assert_eq!(payload, Ok(Payload(vec![vec![1, 2], vec![3]])));
        assert_eq!(
            payload.unwrap().encode(),
            br#"{"certificates":["AQI=","Aw=="]}"#
        );
    }

    #[test]
    fn says_what_is_missing_or_too_much() {
        for (text, error) in [
            ("{}", PayloadError::NoCertificate),
            (r#"{"certificates":null}"#, PayloadError::NoCertificate),
            (
                r#"{"certificates":["AA==","*"]}"#,
                PayloadError::Encoding { position: 1 },
            ),
            (
                r#"{"certificates":["AA==","*","*"]}"#,
                PayloadError::TooManyIntermediates,
            ),
        ] {
            assert_eq!(Payload::parse(text.as_bytes(), 1), Err(error), "{text}");
        }
        let long = vec![b' '; MAX_PAYLOAD_BYTES + 1];
        assert_eq!(Payload::parse(&long, 1), Err(PayloadError::TooLong));
        let long = vec![b' '; MAX_MESSAGE_BYTES + 1];
        assert_eq!(Response::parse(&long), Err(PayloadError::TooLong));
        assert_eq!(Challenge::parse(&long), Err(PayloadError::TooLong));
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(chain in proptest::collection::vec(any::<Vec<u8>>(), 1..4)) {
            let payload = Payload::new(chain).unwrap();
            prop_assert_eq!(Payload::parse(&payload.encode(), 3), Ok(payload));
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _outcome = (Payload::parse(&bytes, 4), Response::parse(&bytes), Challenge::parse(&bytes));
        }
    }
}
