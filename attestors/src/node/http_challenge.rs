//! The challenge over HTTP: a node shows that it is what a DNS name leads to, as ACME has it.
//!
//! The agent's half, [`Prover`], opens a port and says under which name it is reached. The server's half,
//! [`Verifier`], draws a nonce and fetches it from there. Whoever asks for an attestation chooses where
//! the server connects to, before anything is known of him: so the server goes to no address that is not
//! of the open internet unless its operator allows that network, it goes to the very address that it
//! looked at, and takes nothing from there but 64 bytes.
//!
//! Any process on a host can open a high port. Unless only ports below 1024 count, who comes first is
//! trusted, and nobody after.

mod error;
mod fetch;
mod lookup;
mod messages;
mod network;
mod places;
mod prover;
mod target;
mod verifier;

pub use self::error::VerifyError;
pub use self::fetch::FetchError;
pub use self::messages::{Challenge, Payload, PayloadError};
pub use self::network::{Network, NotANetwork};
pub use self::prover::{Listening, Prover, ProverError};
pub use self::target::{AgentName, HostName, TargetError};
pub use self::verifier::{Challenged, Options, Pattern, Verifier};

/// The name of this attestor in configuration, on the wire and in agent ids.
pub const NAME: &str = "http_challenge";

/// Where the agent of this name has its nonce.
fn path(agent: &AgentName) -> String {
    format!("/.well-known/spiffe/nodeattestor/{NAME}/{agent}/challenge")
}
