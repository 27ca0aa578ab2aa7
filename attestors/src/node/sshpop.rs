//! The proof of possession of an SSH host key: a node has a host certificate, and its key.
//!
//! The agent's half, [`Prover`], shows the certificate and signs what the server draws. The server's
//! half, [`Verifier`], takes host certificates of the authorities that an operator trusts, and tells who
//! it is only when a signature over its own nonce fits the certified key.
//!
//! Keys are read by `ssh_key`, which knows all their forms; whether a signature is good is asked of our
//! one cryptography library.

mod authorities;
mod certificate;
mod error;
#[cfg(any(test, feature = "test-util"))]
pub mod fake;
mod fields;
mod messages;
mod prover;
mod signature;
mod verifier;

pub use self::authorities::{Authorities, AuthorityError};
pub use self::certificate::{CertificateError, HostCertificate};
pub use self::error::VerifyError;
pub use self::messages::{Challenge, Payload, PayloadError, Response};
pub use self::prover::{DEFAULT_CERT_PATH, DEFAULT_KEY_PATH, Holder, Prover, ProverError};
pub use self::verifier::{Challenged, Options, Verifier, template};

/// The name of this attestor in configuration, on the wire and in agent ids.
pub const NAME: &str = "sshpop";
