//! What the agent proves itself by, read anew for each try.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use attestors::node::join_token::{self, Token, TokenError};
use attestors::node::k8s_psat::{self, Prover, ProverError};
use attestors::node::{http_challenge, sshpop, x509pop};
use identity::spiffe_id::SpiffeId;
use runtime::files::{self, FileError};
use zeroize::Zeroizing;

use crate::config::{NodeAttestor, TokenSource};

/// More than any token; a larger file is not one.
const MAX_TOKEN_FILE_BYTES: u64 = 4096;

/// Where the agent has its proof from.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A secret that counts once, if the operator gave one.
    JoinToken(Option<TokenSource>),
    /// The token of this pod, which its kubelet replaces in time.
    K8sPsat(Prover),
    /// A certificate and its key.
    X509pop(x509pop::Prover),
    /// A host certificate of SSH and its key.
    Sshpop(sshpop::Prover),
    /// A name that leads to this host.
    HttpChallenge(http_challenge::Prover),
}

/// What is shown to a server in one try.
#[derive(Debug)]
pub struct Shown {
    pub payload: Zeroizing<Vec<u8>>,
    /// What answers the server's challenge, where the proof has one.
    pub answerer: Option<Answerer>,
}

/// What answers a challenge: the other part of a proof whose first part was shown.
#[derive(Clone, Debug)]
pub enum Answerer {
    X509pop(Arc<x509pop::Holder>),
    Sshpop(Arc<sshpop::Holder>),
    HttpChallenge(Arc<http_challenge::Listening>),
}

impl Answerer {
    /// The answer to this challenge.
    pub fn answer(&self, challenge: &[u8]) -> Result<Vec<u8>, ProofError> {
        match self {
            Self::X509pop(holder) => Ok(holder.answer(challenge)?),
            Self::Sshpop(holder) => Ok(holder.answer(challenge)?),
            Self::HttpChallenge(listening) => Ok(listening.answer(challenge)?),
        }
    }

    /// Does what the proof needs while the server looks at it, for as long as `attestation` takes.
    pub async fn attend<T>(&self, attestation: impl Future<Output = T>) -> T {
        match self {
            Self::X509pop(_) | Self::Sshpop(_) => attestation.await,
            Self::HttpChallenge(listening) => listening.serve_during(attestation).await,
        }
    }
}

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    #[error(
        "there is no join token; create one on the server with `token generate`, and give it to this agent as `join_token`, `join_token_file` or `-joinToken`"
    )]
    NoToken,
    #[error("could not read the join token")]
    TokenFile(#[source] FileError),
    #[error("there is no join token file `{}`", .0.display())]
    TokenFileMissing(PathBuf),
    #[error("the join token is unusable")]
    Token(#[source] TokenError),
    #[error(transparent)]
    Psat(#[from] ProverError),
    #[error(transparent)]
    X509pop(#[from] x509pop::ProverError),
    #[error(transparent)]
    Sshpop(#[from] sshpop::ProverError),
    #[error(transparent)]
    HttpChallenge(#[from] http_challenge::ProverError),
}

impl ProofError {
    /// The stable label of metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoToken => "token_missing",
            Self::TokenFile(error) => error.reason(),
            Self::TokenFileMissing(_) => "token_file_missing",
            Self::Token(error) => error.reason(),
            Self::Psat(error) => error.reason(),
            Self::X509pop(error) => error.reason(),
            Self::Sshpop(error) => error.reason(),
            Self::HttpChallenge(error) => error.reason(),
        }
    }
}

impl Proof {
    /// A join token is used wherever there is one, as SPIRE's agent does.
    pub fn of(attestor: &NodeAttestor, token: Option<TokenSource>) -> Self {
        match (attestor, token) {
            (NodeAttestor::K8sPsat(prover), None) => Self::K8sPsat(prover.clone()),
            (NodeAttestor::X509pop(prover), None) => Self::X509pop(prover.clone()),
            (NodeAttestor::Sshpop(prover), None) => Self::Sshpop(prover.clone()),
            (NodeAttestor::HttpChallenge(prover), None) => Self::HttpChallenge(prover.clone()),
            (_, token) => Self::JoinToken(token),
        }
    }

    /// The name of the node attestor.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::JoinToken(_) => join_token::NAME,
            Self::K8sPsat(_) => k8s_psat::NAME,
            Self::X509pop(_) => x509pop::NAME,
            Self::Sshpop(_) => sshpop::NAME,
            Self::HttpChallenge(_) => http_challenge::NAME,
        }
    }

    /// Reads the evidence, as it is now.
    pub fn show(&self) -> Result<Shown, ProofError> {
        let alone = |payload| Shown {
            payload,
            answerer: None,
        };
        match self {
            Self::JoinToken(source) => {
                let token = token(source.as_ref())?;
                Ok(alone(Zeroizing::new(token.payload().to_vec())))
            }
            Self::K8sPsat(prover) => Ok(alone(prover.payload()?.encode())),
            Self::X509pop(prover) => {
                let holder = prover.load()?;
                Ok(Shown {
                    payload: Zeroizing::new(holder.payload().to_vec()),
                    answerer: Some(Answerer::X509pop(Arc::new(holder))),
                })
            }
            Self::Sshpop(prover) => {
                let holder = prover.load()?;
                Ok(Shown {
                    payload: Zeroizing::new(holder.payload().to_vec()),
                    answerer: Some(Answerer::Sshpop(Arc::new(holder))),
                })
            }
            Self::HttpChallenge(prover) => {
                let listening = prover.open()?;
                Ok(Shown {
                    payload: Zeroizing::new(listening.payload().to_vec()),
                    answerer: Some(Answerer::HttpChallenge(Arc::new(listening))),
                })
            }
        }
    }

    /// Whether it counts as often as it is shown, so that a refusal may be cured elsewhere: by the
    /// kubelet, which brings the next token, or by whoever looks after the server.
    pub fn is_repeatable(&self) -> bool {
        !matches!(self, Self::JoinToken(_))
    }

    /// Whether another one may come to the place that it is read from, with nobody's help here.
    pub fn may_change(&self) -> bool {
        match self {
            Self::JoinToken(source) => matches!(source, Some(TokenSource::File(_))),
            Self::K8sPsat(_) | Self::X509pop(_) | Self::Sshpop(_) | Self::HttpChallenge(_) => true,
        }
    }

    /// Whether it can be shown by an agent that is `own`: a join token that made this very agent is
    /// spent, and its name has the token in it.
    pub fn is_left_to(&self, own: &SpiffeId) -> bool {
        let Self::JoinToken(source) = self else {
            return true;
        };
        let spent = |token: &Token| {
            join_token::agent_id(own.trust_domain(), token).is_ok_and(|id| id == *own)
        };
        token(source.as_ref()).is_ok_and(|token| !spent(&token))
    }
}

fn token(source: Option<&TokenSource>) -> Result<Token, ProofError> {
    match source {
        None => Err(ProofError::NoToken),
        Some(TokenSource::Value(token)) => Ok(token.clone()),
        Some(TokenSource::File(path)) => {
            let content =
                files::read_limited(path, MAX_TOKEN_FILE_BYTES).map_err(ProofError::TokenFile)?;
            let content = content
                .map(Zeroizing::new)
                .ok_or_else(|| ProofError::TokenFileMissing(path.clone()))?;
            Token::parse(content.trim_ascii()).map_err(ProofError::Token)
        }
    }
}
