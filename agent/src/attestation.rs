//! How the agent proves which node it is: with what, towards whom, and what it does with the answer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use attestors::node::join_token::{self, Token, TokenError};
use identity::bundle::Bundle;
use identity::spiffe_id::SpiffeId;
use identity::x509::{SvidError, X509Svid};
use runtime::clock::Clock;
use runtime::files::{self, FileError};
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::bootstrap::{BootstrapError, Trust, TrustSource};
use crate::config::TokenSource;
use crate::credentials::{AgentSvid, told};
use crate::custody::{self, Custody, CustodyError};
use crate::state::{State, StateError, StateFile};
use crate::upstream::UpstreamError;
use crate::upstream::grpc::{self, Attested, Evidence, Target};

/// More than any token; a larger file is not one.
const MAX_TOKEN_FILE_BYTES: u64 = 4096;

/// What attestation needs besides keys and state.
#[derive(Clone, Debug)]
pub struct Attestor {
    pub target: Target,
    pub trust_source: TrustSource,
    pub token: Option<TokenSource>,
    pub clock: Clock,
}

/// What the agent keeps on disk. One task owns it.
#[derive(Debug)]
pub struct Kept {
    pub state: StateFile,
    pub custody: Custody,
}

/// An identity that the agent can go on with.
#[derive(Clone, Debug)]
pub struct Standing {
    pub own: Arc<AgentSvid>,
    pub bundle: Arc<Bundle>,
}

/// Why the agent has no identity.
#[derive(Debug, thiserror::Error)]
pub enum AttestationError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Custody(#[from] CustodyError),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
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
    #[error("node attestation with the server `{server}` failed")]
    Server {
        server: String,
        #[source]
        source: UpstreamError,
    },
    #[error("the server issued an SVID that this agent cannot use")]
    Svid(#[from] SvidError),
}

impl AttestationError {
    /// The stable label of metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::State(error) => error.reason(),
            Self::Custody(error) => error.reason(),
            Self::Bootstrap(error) => error.reason(),
            Self::NoToken => "token_missing",
            Self::TokenFile(error) => error.reason(),
            Self::TokenFileMissing(_) => "token_file_missing",
            Self::Token(error) => error.reason(),
            Self::Server { source, .. } => source.reason(),
            Self::Svid(error) => error.reason(),
        }
    }

    /// Whether the same try may succeed later, without anybody's help here.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Bootstrap(error) => error.is_transient(),
            Self::Server { source, .. } => is_curable(source),
            _ => false,
        }
    }
}

fn is_curable(error: &UpstreamError) -> bool {
    match error {
        // The trust bundle is read anew for each try, and an operator may correct it.
        UpstreamError::Unavailable(_)
        | UpstreamError::Overloaded { .. }
        | UpstreamError::UnknownAuthority(_) => true,
        UpstreamError::Refused { code, .. } => {
            matches!(code.0, "internal" | "unknown" | "aborted" | "data_loss")
        }
        UpstreamError::Denied(_) | UpstreamError::Protocol { .. } => false,
    }
}

impl Attestor {
    /// Reads the token, as it is now.
    fn token(&self) -> Result<Token, AttestationError> {
        match &self.token {
            None => Err(AttestationError::NoToken),
            Some(TokenSource::Value(token)) => Ok(token.clone()),
            Some(TokenSource::File(path)) => {
                let content = files::read_limited(path, MAX_TOKEN_FILE_BYTES)
                    .map_err(AttestationError::TokenFile)?;
                let content = content
                    .map(Zeroizing::new)
                    .ok_or_else(|| AttestationError::TokenFileMissing(path.clone()))?;
                Token::parse(content.trim_ascii()).map_err(AttestationError::Token)
            }
        }
    }

    /// Whether there is a token that `own` has not spent: its name would have the token in it.
    pub fn has_unspent_token(&self, own: &SpiffeId) -> bool {
        let spent = |token: &Token| {
            join_token::agent_id(own.trust_domain(), token).is_ok_and(|id| id == *own)
        };
        self.token().is_ok_and(|token| !spent(&token))
    }

    /// Attests with a new key, and keeps what comes of it before anybody uses it.
    ///
    /// The key in use stays where it is, so that a failure costs nothing but the token.
    pub async fn attest(
        &self,
        kept: &mut Kept,
        trust: Option<&Bundle>,
    ) -> Result<Standing, AttestationError> {
        let token = self.token()?;
        let trust = match trust {
            Some(bundle) => Trust::Bundle(Box::new(bundle.clone())),
            None => self.trust_source.obtain(&self.target.trust_domain).await?,
        };
        // A token can be used once: that its fruit can be kept is tried first.
        let state = kept.state.state().clone();
        let in_use = state.svid.first().map(|leaf| leaf.public_key().clone());
        kept.state.write(state)?;
        let key = kept.custody.generate(in_use.as_ref())?;
        let payload = Zeroizing::new(token.payload().to_vec());
        let evidence = Evidence {
            kind: join_token::NAME,
            payload,
            csr: custody::request(&key)?,
        };
        info!(server.addr = %self.server(), attestor = join_token::NAME, "Attesting");
        let attested = grpc::attest(self.target.clone(), trust, evidence, self.clock.clone()).await;
        let Attested {
            chain,
            reattestable,
            bundle,
        } = attested.map_err(|source| AttestationError::Server {
            server: self.server(),
            source,
        })?;
        let svid = X509Svid::new(chain, key)?;
        kept.keep(&svid, reattestable, &bundle)?;
        info!(spiffe.id = %svid.id(), svid.not_after = told(svid.leaf()), "Attested");
        Ok(Standing {
            own: Arc::new(AgentSvid { svid, reattestable }),
            bundle: Arc::new(bundle),
        })
    }

    /// The server as an operator wrote it.
    pub fn server(&self) -> String {
        format!("{}:{}", self.target.host, self.target.port)
    }
}

impl Kept {
    /// Keeps an SVID whose key is kept already. Durable when this returns.
    pub fn keep(
        &mut self,
        svid: &X509Svid,
        reattestable: bool,
        bundle: &Bundle,
    ) -> Result<(), StateError> {
        self.state.write(State {
            svid: svid.chain().to_vec(),
            bundle: bundle.certificates().cloned().collect(),
            reattestable,
        })
    }

    /// Keeps a bundle beside the SVID that is kept.
    pub fn keep_bundle(&mut self, bundle: &Bundle) -> Result<(), StateError> {
        let bundle = bundle.certificates().cloned().collect();
        self.state.write(State {
            bundle,
            ..self.state.state().clone()
        })
    }

    /// Forgets the SVID. The bundle stays: the server is still the server.
    pub fn forget_svid(&mut self) -> Result<(), StateError> {
        let bundle = self.state.state().bundle.clone();
        self.state.write(State {
            svid: Vec::new(),
            bundle,
            reattestable: false,
        })
    }

    /// The bundle that is kept.
    pub fn bundle(&self, attestor: &Attestor) -> Option<Bundle> {
        let certificates = self.state.state().bundle.clone();
        let trust_domain = attestor.target.trust_domain.clone();
        (!certificates.is_empty()).then(|| Bundle::from_certificates(trust_domain, certificates))
    }

    /// The identity that is kept, if it can still be used. A key is known by its certificate, whatever
    /// slot it is in.
    pub fn restore(&self, attestor: &Attestor, now: SystemTime) -> Option<Standing> {
        let state = self.state.state();
        let leaf = state.svid.first()?;
        let bundle = self.bundle(attestor)?;
        if leaf.validity().is_over(now) {
            warn!(svid.not_after = told(leaf), "The agent's SVID has expired");
            return None;
        }
        let Some(key) = self.custody.find(leaf.public_key()) else {
            let path = self.custody.path().map(|path| path.display().to_string());
            warn!(path, "The key of the agent's SVID is not there");
            return None;
        };
        let svid = X509Svid::new(state.svid.clone(), key);
        let svid = svid.inspect_err(
            |error| warn!(error.reason = error.reason(), %error, "The agent's SVID cannot be used"),
        );
        let own = AgentSvid {
            svid: svid.ok()?,
            reattestable: state.reattestable,
        };
        info!(spiffe.id = %own.svid.id(), svid.not_after = own.not_after(), "Restored the agent's SVID");
        Some(Standing {
            own: Arc::new(own),
            bundle: Arc::new(bundle),
        })
    }
}
