//! The proof of possession of an X.509 key: a node has a certificate of some PKI, and its key.
//!
//! The agent's half, [`Prover`], shows the chain and signs what the server draws. The server's half,
//! [`Verifier`], checks the chain first and says nothing of what it read there until the signature over
//! its own nonce fits the key of that very leaf: [`Challenged`] has the outcome locked in.
//!
//! Instead of a PKI of the operator's it may be the server's own trust domain (`mode = "spiffe"`): then
//! an X509-SVID under a prefix is exchanged for that of an agent.

mod error;
mod messages;
mod prover;
mod selectors;
mod verifier;

pub use self::error::VerifyError;
pub use self::messages::{Challenge, Payload, PayloadError, Response};
pub use self::prover::{Holder, Prover, ProverError};
pub use self::verifier::{Challenged, Options, Trust, Verifier, template};

/// The name of this attestor in configuration, on the wire and in agent ids.
pub const NAME: &str = "x509pop";
/// How many certificates may stand between leaf and root, unless an operator says otherwise.
pub const DEFAULT_MAX_INTERMEDIATES: usize = 4;
/// The longest RSA key, in bits, unless an operator says otherwise; longer ones cannot be checked.
pub const DEFAULT_MAX_RSA_BITS: u16 = 8192;
/// Below which path an X509-SVID may be exchanged, unless an operator says otherwise.
pub const DEFAULT_SVID_PREFIX: &str = "/spire-exchange/";
