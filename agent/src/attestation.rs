//! How the agent proves which node it is: with what, towards whom, and what it does with the answer.

use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest;
use identity::bundle::Bundle;
use identity::key::{PrivateKey, PublicKey};
use identity::trust_domain::TrustDomain;
use identity::x509::{SvidError, X509Svid};
use runtime::clock::Clock;
use tracing::{info, warn};

use crate::bootstrap::{BootstrapError, Occasion, Trust, TrustSource};
use crate::config::ServerAddress;
use crate::credentials::{AgentSvid, told};
use crate::custody::{self, Custody, CustodyError};
use crate::lock::Lock;
use crate::proof::{Proof, ProofError, Shown};
use crate::state::{State, StateError, StateFile};
use crate::upstream::grpc::{self, Attested, Evidence, Target};
use crate::upstream::{Denial, UpstreamError};

/// Where an agent shows its proof: a server, or in tests what stands for one.
pub trait Gate: Send + Sync + 'static {
    /// Attests, and fetches the bundle from the same server.
    fn attest(
        &self,
        trust: Trust,
        evidence: Evidence,
    ) -> impl Future<Output = Result<Attested, UpstreamError>> + Send;
}

/// A server by its address, asked over a connection of its own.
#[derive(Clone, Debug)]
pub struct Remote {
    pub target: Target,
    pub clock: Clock,
}

impl Gate for Remote {
    async fn attest(&self, trust: Trust, evidence: Evidence) -> Result<Attested, UpstreamError> {
        grpc::attest(self.target.clone(), trust, evidence, self.clock.clone()).await
    }
}

/// What attestation needs besides keys and state.
#[derive(Clone, Debug)]
pub struct Attestor<G = Remote> {
    pub gate: G,
    /// The server as an operator wrote it.
    pub server: ServerAddress,
    pub trust_domain: TrustDomain,
    pub trust_source: TrustSource,
    pub proof: Proof,
    pub clock: Clock,
}

/// What the agent keeps on disk. One task owns it.
#[derive(Debug)]
pub struct Kept {
    pub state: StateFile,
    pub custody: Custody,
    /// How often the trust bundle has been fetched for the attestation that is tried, and since when.
    pub fetches: Option<(u32, SystemTime)>,
    /// The folders of both, which no other agent has meanwhile.
    pub locks: Vec<Lock>,
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
    #[error(transparent)]
    Proof(#[from] ProofError),
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
            Self::Proof(error) => error.reason(),
            Self::Server { source, .. } => source.reason(),
            Self::Svid(error) => error.reason(),
        }
    }

    /// Whether the server does not want the proof, or there is none.
    fn is_about_the_proof(&self) -> bool {
        matches!(
            self,
            Self::Proof(_)
                | Self::Server {
                    source: UpstreamError::Refused { .. },
                    ..
                }
        )
    }

    /// Whether the server has banned the agent.
    pub fn is_ban(&self) -> bool {
        matches!(
            self,
            Self::Server {
                source: UpstreamError::Denied(Denial::Banned),
                ..
            }
        )
    }

    /// Whether the server is of an authority that the agent does not know.
    pub fn is_unknown_authority(&self) -> bool {
        matches!(
            self,
            Self::Server {
                source: UpstreamError::UnknownAuthority(_),
                ..
            }
        )
    }

    /// Whether the same try may succeed later, without anybody's help here.
    fn is_transient(&self) -> bool {
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

impl<G: Gate> Attestor<G> {
    /// Whether a first attestation that failed is worth another, however long it takes.
    ///
    /// An agent that can show its proof again and again does so: it would be started again and again
    /// if it ended, and its refusal may be cured at the server. Whoever starts one with a join token
    /// is told what is wrong with it.
    pub fn may_try_again(&self, error: &AttestationError) -> bool {
        let is_served_elsewhere = error.is_about_the_proof() && self.proof.is_repeatable();
        error.is_transient() || is_served_elsewhere
    }

    /// Whether an agent that was one already may yet come to an identity after this failure, with
    /// nobody's help here. No trouble of its disk, of its server or of the network is for good: only a
    /// ban is, and a refused token that no other can take the place of.
    pub fn may_recover(&self, error: &AttestationError) -> bool {
        !error.is_ban() && (!error.is_about_the_proof() || self.proof.may_change())
    }

    /// Attests with a new key, and keeps what comes of it before anybody uses it.
    ///
    /// The key in use stays where it is, so that a failure costs nothing but the token. An attempt whose
    /// end is not known, for the answer was lost or the process died, is repeated with its very key: the
    /// server may have spent the token for it, and gives it another SVID. `own` is what the agent is
    /// still known by, if it is.
    pub async fn attest(
        &self,
        kept: &mut Kept,
        trust: Option<&Bundle>,
        own: Option<&AgentSvid>,
    ) -> Result<Standing, AttestationError> {
        let Shown { payload, answerer } = self.proof.show()?;
        let trust = match trust {
            Some(bundle) => Trust::Bundle(Box::new(bundle.clone())),
            None => self.bootstrap(kept).await?,
        };
        let key = kept.key_for(&payload)?;
        let kind = self.proof.kind();
        let evidence = Evidence {
            kind,
            payload,
            answerer,
            csr: custody::request(&key)?,
            shown: own.and_then(|own| self.to_show(own)),
        };
        info!(server.addr = %self.server(), attestor = kind, "Attesting");
        let attested = self.present(trust, evidence).await;
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
        kept.fetches = None;
        info!(spiffe.id = %svid.id(), svid.not_after = told(svid.leaf()), "Attested");
        Ok(Standing {
            own: Arc::new(AgentSvid { svid, reattestable }),
            bundle: Arc::new(bundle),
        })
    }

    /// Fetches what to trust from where an operator said.
    async fn bootstrap(&self, kept: &mut Kept) -> Result<Trust, BootstrapError> {
        let (attempts, since) = kept.fetches.get_or_insert_with(|| (0, self.clock.now()));
        *attempts = attempts.saturating_add(1);
        let occasion = Occasion {
            trust_domain: &self.trust_domain,
            host: &self.server.host,
            port: self.server.port,
            attempts: *attempts,
            since: *since,
            is_again: kept.was_an_agent(),
        };
        self.trust_source.obtain(occasion).await
    }

    /// The SVID that tells the server that this is the agent itself, and nobody who has its token.
    fn to_show(&self, own: &AgentSvid) -> Option<X509Svid> {
        let is_over = own.svid.validity().is_over(self.clock.now());
        (self.proof.is_repeatable() && !is_over).then(|| own.svid.clone())
    }

    async fn present(&self, trust: Trust, evidence: Evidence) -> Result<Attested, UpstreamError> {
        if evidence.shown.is_none() {
            return self.gate.attest(trust, evidence).await;
        }
        let shown = self.gate.attest(trust.clone(), evidence.clone()).await;
        match shown {
            // A server that does not take the SVID any more ends the connection.
            Err(UpstreamError::Unavailable(_)) => {
                let bare = Evidence {
                    shown: None,
                    ..evidence
                };
                self.gate.attest(trust, bare).await
            }
            shown => shown,
        }
    }

    /// The server, for messages.
    pub fn server(&self) -> String {
        format!("{}:{}", self.server.host, self.server.port)
    }
}

/// What an attempt is known by: its proof and its key.
fn attempt(payload: &[u8], key: &PublicKey) -> String {
    let mut sum = digest::Context::new(&digest::SHA256);
    sum.update(digest::digest(&digest::SHA256, payload).as_ref());
    sum.update(key.spki_der());
    hex::encode(sum.finish().as_ref())
}

impl Kept {
    /// The key to attest with: that of the last try with this proof, or a new one. Key and try are
    /// kept before the proof leaves this node, which also shows that the fruit of it can be.
    fn key_for(&mut self, payload: &[u8]) -> Result<Arc<PrivateKey>, AttestationError> {
        let begun = self.state.attempt();
        let is_begun = |key: &PublicKey| begun == Some(attempt(payload, key).as_str());
        let key = match self.custody.find_own(is_begun) {
            Some(key) => key,
            None => {
                let leaf = self.state.state().svid.first();
                let in_use = leaf.map(|leaf| leaf.public_key().clone());
                self.custody.generate(in_use.as_ref())?
            }
        };
        self.state.begin(attempt(payload, key.public_key()))?;
        Ok(key)
    }

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

    /// Whether this has been an agent before: it knows its server still when its SVID is no more.
    pub fn was_an_agent(&self) -> bool {
        !self.state.state().bundle.is_empty()
    }

    /// The bundle that is kept.
    pub fn bundle<G>(&self, attestor: &Attestor<G>) -> Option<Bundle> {
        let certificates = self.state.state().bundle.clone();
        let trust_domain = attestor.trust_domain.clone();
        (!certificates.is_empty()).then(|| Bundle::from_certificates(trust_domain, certificates))
    }

    /// The identity that is kept, if it can still be used. A key is known by its certificate, whatever
    /// slot it is in.
    pub fn restore<G>(&self, attestor: &Attestor<G>, now: SystemTime) -> Option<Standing> {
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
