//! What agent and server say to each other: JSON.

use runtime::random;
use serde::{Deserialize, Serialize};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;

use crate::node::json::{self, Unread};

use super::target::{AgentName, HostName, TargetError};

/// Longer messages are refused before they are parsed.
const MAX_MESSAGE_BYTES: usize = 4096;
/// The longest nonce that an agent serves; a server of either make draws 44 characters.
const MAX_NONCE_BYTES: usize = 64;

/// Where an agent says that it is, before anybody looked there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Payload {
    /// The host.
    pub hostname: HostName,
    /// The agent's name on the host.
    pub agent: AgentName,
    /// The port.
    pub port: u16,
}

/// Fields that are not known are ignored, as SPIRE's server does.
#[derive(Deserialize, Serialize)]
#[serde(default)]
#[derive(Default)]
struct Wire {
    hostname: String,
    agentname: String,
    port: i64,
}

impl Payload {
    /// Parses the payload of an attestation request.
    pub fn parse(payload: &[u8]) -> Result<Self, PayloadError> {
        let wire: Wire = json::read(payload, MAX_MESSAGE_BYTES)?;
        let port = u16::try_from(wire.port).ok().filter(|port| *port > 0);
        Ok(Self {
            port: port.ok_or(PayloadError::Port)?,
            agent: AgentName::parse(&wire.agentname)?,
            hostname: HostName::parse(&wire.hostname)?,
        })
    }

    /// The bytes that the agent sends.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        json::write(&Wire {
            hostname: self.hostname.as_str().to_owned(),
            agentname: self.agent.to_string(),
            port: i64::from(self.port),
        })
    }
}

/// What the server wants to find at the agent's.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Challenge {
    pub(super) nonce: String,
}

impl Challenge {
    /// Draws one.
    pub(super) fn draw() -> Self {
        Self {
            nonce: URL_SAFE.encode(random::bytes::<32>()),
        }
    }

    /// Parses what a server sent. What is served is a few letters, whatever a server may want to be
    /// served.
    pub fn parse(message: &[u8]) -> Result<Self, PayloadError> {
        let challenge: Self = json::read(message, MAX_MESSAGE_BYTES)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=+/".contains(&byte);
        let fits = (1..=MAX_NONCE_BYTES).contains(&challenge.nonce.len());
        match fits && challenge.nonce.bytes().all(plain) {
            true => Ok(challenge),
            false => Err(PayloadError::Nonce),
        }
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
    #[error("failed to unmarshal data: no such JSON at line {line}, column {column}")]
    Json {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// The port is none.
    #[error("port is invalid")]
    Port,
    /// A name is none.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The nonce is no short text.
    #[error("the nonce is not a text of at most {MAX_NONCE_BYTES} letters and digits")]
    Nonce,
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
            Self::Port => "port_invalid",
            Self::Target(error) => error.reason(),
            Self::Nonce => "nonce_invalid",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_an_agent_of_spire_sends() {
        let text = br#"{"hostname":"p1.example.org","agentname":"default","port":80}"#;
        let payload = Payload::parse(text).unwrap();
        assert_eq!(payload.hostname.as_str(), "p1.example.org");
        assert_eq!(
            (payload.agent.to_string().as_str(), payload.port),
            ("default", 80)
        );
        assert_eq!(payload.encode(), text);
    }

    #[test]
    fn says_what_is_missing_or_wrong() {
        for (host, agent, port, reason) in [
            ("h", "a", 0, "port_invalid"),
            ("h", "a", -1, "port_invalid"),
            ("h", "a", 65536, "port_invalid"),
            ("h", "", 80, "agent_name_invalid"),
            ("", "a", 80, "hostname_invalid"),
            ("h/x", "a", 80, "hostname_invalid"),
        ] {
            let text = format!(r#"{{"hostname":"{host}","agentname":"{agent}","port":{port}}}"#);
            let error = Payload::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.reason(), reason, "{text}");
        }
        let long = vec![b' '; MAX_MESSAGE_BYTES + 1];
        assert_eq!(Payload::parse(&long), Err(PayloadError::TooLong));
    }

    #[test]
    fn an_agent_serves_a_nonce_and_no_text_of_the_servers_choice() {
        let drawn = Challenge::draw();
        assert_eq!(Challenge::parse(&drawn.encode()), Ok(drawn));
        for nonce in ["", "<script>", "a b", "a\\r\\nb", &"a".repeat(65)] {
            let text = format!(r#"{{"nonce":"{nonce}"}}"#);
            let error = Challenge::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error, PayloadError::Nonce, "{nonce}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _outcome = (Payload::parse(&bytes), Challenge::parse(&bytes));
        }
    }
}
