//! A node and its server, each with a wall clock of its own, in simulated time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use attestors::node::join_token::{self, Token};
use attestors::node::k8s_psat::Prover;
use identity::spiffe_id::SpiffeId;
use identity::x509::Certificate;
use parking_lot::Mutex;
use runtime::clock::ClockSteps;
use runtime::readiness::Readiness;
use runtime::shutdown::Shutdown;
use runtime::tasks::TaskGroup;
use tempfile::TempDir;

use super::*;
use crate::bootstrap::{BundleFormat, Trust, TrustSource};
use crate::config::{ServerAddress, TokenSource};
use crate::custody::{Custody, CustodyConfig};
use crate::proof::Proof;
use crate::rebootstrap::Mode;
use crate::state::StateFile;
use crate::sync::{Failing, Status};
use crate::upstream::Code;
use crate::upstream::fake::{Ca, bundle, epoch, trust_domain};
use crate::upstream::grpc::{Attested, Evidence};

pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// How long the server's certificate and agents' SVIDs last.
pub(super) const LIFETIME: Duration = HOUR;

/// What the server does, and what it has seen.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) is_away: bool,
    pub(super) deny: Option<Denial>,
    pub(super) tokens: BTreeSet<String>,
    pub(super) ca: Arc<Ca>,
    pub(super) attested: usize,
    pub(super) renewed: usize,
    pub(super) tried: usize,
}

/// A server that judges by its own clock, and that the agent judges by the agent's.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) script: Mutex<Script>,
    pub(super) clock: Clock,
    agent_clock: Clock,
    credentials: Mutex<Option<Arc<Credentials>>>,
}

impl Server {
    fn new(clock: Clock, agent_clock: Clock) -> Arc<Self> {
        let script = Script {
            is_away: false,
            deny: None,
            tokens: BTreeSet::new(),
            ca: Arc::new(Ca::new()),
            attested: 0,
            renewed: 0,
            tried: 0,
        };
        Arc::new(Self {
            script: Mutex::new(script),
            clock,
            agent_clock,
            credentials: Mutex::default(),
        })
    }

    /// What a handshake shows: a server that is away, one that is over by the agent's clock, one of an
    /// authority that the agent does not know.
    fn handshake(&self, trust: &Bundle) -> Result<(), UpstreamError> {
        let mut script = self.script.lock();
        script.tried += 1;
        let away = |why: &str| Err(UpstreamError::Unavailable(why.into()));
        if script.is_away {
            return away("away");
        }
        let (now, seen) = (self.clock.now(), self.agent_clock.now());
        if seen < now - LIFETIME / 2 || seen > now + LIFETIME / 2 {
            return away("the server's certificate is not valid now");
        }
        if trust
            .certificates()
            .any(|known| *known == script.ca.certificate)
        {
            Ok(())
        } else {
            Err(UpstreamError::UnknownAuthority("unknown".into()))
        }
    }

    fn issue(&self, csr: &[u8], id: &SpiffeId) -> Vec<Certificate> {
        let from = self.clock.now() - Duration::from_secs(10);
        let ca = Arc::clone(&self.script.lock().ca);
        ca.sign(csr, id, from, LIFETIME)
    }

    fn bundle(&self) -> Bundle {
        bundle(&[&self.script.lock().ca.certificate])
    }
}

impl Gate for Arc<Server> {
    async fn attest(&self, trust: Trust, evidence: Evidence) -> Result<Attested, UpstreamError> {
        let Trust::Bundle(trust) = trust else {
            panic!("the tests bootstrap by a bundle");
        };
        self.handshake(&trust)?;
        if self.script.lock().deny == Some(Denial::Banned) {
            return Err(UpstreamError::Denied(Denial::Banned));
        }
        let reattestable = evidence.kind == "k8s_psat";
        let id = if reattestable {
            SpiffeId::from_path(&trust_domain(), "/spire/agent/k8s_psat/prod/node").unwrap()
        } else {
            let token = Token::parse(&evidence.payload).unwrap();
            if !self.script.lock().tokens.remove(token.reveal()) {
                return Err(UpstreamError::Refused {
                    code: Code("invalid_argument"),
                    message: "join token does not exist or has already been used".to_owned(),
                });
            }
            join_token::agent_id(&trust_domain(), &token).unwrap()
        };
        let chain = self.issue(&evidence.csr, &id);
        let mut script = self.script.lock();
        script.attested += 1;
        script.deny = None;
        drop(script);
        Ok(Attested {
            chain,
            reattestable,
            bundle: self.bundle(),
        })
    }
}

impl Registrar for Server {
    async fn renew(&self, csr: Vec<u8>) -> Result<Vec<Certificate>, UpstreamError> {
        let credentials = self.credentials.lock().clone().unwrap();
        self.handshake(&credentials.trust())?;
        let own = credentials.own();
        let denial = self.script.lock().deny;
        let is_over = own.svid.validity().is_over(self.clock.now());
        if let Some(denial) = denial.or_else(|| is_over.then_some(Denial::Expired)) {
            return Err(UpstreamError::Denied(denial));
        }
        self.script.lock().renewed += 1;
        Ok(self.issue(&csr, own.svid.id()))
    }
}

/// An agent whose life goes on in the background.
pub(super) struct Node {
    pub(super) server: Arc<Server>,
    pub(super) credentials: Arc<Credentials>,
    /// The wall clock of the node, and that of the server.
    pub(super) steps: (ClockSteps, ClockSteps),
    pub(super) trigger: ShutdownTrigger,
    pub(super) readiness: Readiness,
    pub(super) denials: mpsc::Sender<Denial>,
    pub(super) sync: watch::Sender<Status>,
    _bundle: watch::Sender<Arc<Bundle>>,
    folder: TempDir,
    clock: Clock,
}

/// What a node proves itself by.
#[derive(Clone, Copy)]
pub(super) enum By {
    Psat,
    /// A join token that is read once, from the configuration.
    Token,
    /// A join token in a file that is read each time.
    TokenFile,
}

impl Node {
    pub(super) async fn start(by: By, mode: Mode) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (clock, steps) = Clock::simulated_with_steps(epoch());
        let (true_clock, true_steps) = Clock::simulated_with_steps(epoch());
        let server = Server::new(true_clock, clock.clone());
        server.script.lock().tokens.insert("first".to_owned());
        std::fs::write(path("token"), "first").unwrap();
        write_bundle(&path("bundle.pem"), &server);
        let attestor = attestor(by, folder.path(), &server, &clock);
        let mut kept = kept(folder.path());
        let standing = attestor.attest(&mut kept, None, None).await.unwrap();
        let credentials = Arc::new(Credentials::new(standing.own, Arc::clone(&standing.bundle)));
        *server.credentials.lock() = Some(Arc::clone(&credentials));
        let (trigger, _) = Shutdown::new();
        let readiness = Readiness::new();
        let deps = Deps {
            attestor,
            credentials: Arc::clone(&credentials),
            server: Arc::clone(&server),
            strategy: Strategy::default(),
            rebootstrap: Rebootstrap {
                mode,
                ..Rebootstrap::default()
            },
            clock: clock.clone(),
            health: readiness.component("identity"),
            metrics: Metrics::default(),
            trigger: trigger.clone(),
            sealed: SealedCache::default(),
        };
        let (denials, denied) = mpsc::channel(4);
        let (own_bundle, bundle) = watch::channel(standing.bundle);
        let (sync, status) = watch::channel(Status::default());
        let inputs = Inputs {
            denials: denied,
            bundle,
            sync: status,
        };
        let lifecycle = Lifecycle::new(kept, deps);
        TaskGroup::new(trigger.clone()).spawn("lifecycle", lifecycle.run(inputs));
        Self {
            server,
            credentials,
            steps: (steps, true_steps),
            trigger,
            readiness,
            denials,
            sync,
            _bundle: own_bundle,
            folder,
            clock,
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a token that the server takes where the node looks for one.
    pub(super) fn bring_token(&self, token: &str) {
        self.server.script.lock().tokens.insert(token.to_owned());
        std::fs::write(self.path("token"), token).unwrap();
    }

    /// Whether the server would take the SVID at hand.
    pub(super) fn is_valid(&self) -> bool {
        let validity = self.credentials.own().svid.validity();
        validity.contains(self.server.clock.now())
    }

    pub(super) fn is_running(&self) -> bool {
        self.trigger.subscribe().reason().is_none()
    }

    /// Lets time pass, and looks each half minute whether the SVID at hand is one that the server takes.
    /// Tells how many looks said no.
    pub(super) async fn live(&self, length: Duration) -> usize {
        let step = Duration::from_secs(30);
        let mut gaps = 0;
        for _ in 0..length.as_secs() / step.as_secs() {
            tokio::time::sleep(step).await;
            gaps += usize::from(!self.is_valid());
        }
        gaps
    }

    /// The machine sleeps: nothing runs, and both wall clocks go on.
    pub(super) fn suspend(&self, length: Duration) {
        self.steps.0.forward(length);
        self.steps.1.forward(length);
    }

    /// The server comes back without its authorities, and says so to whoever synchronizes.
    pub(super) fn replace_authority(&self) {
        self.server.script.lock().ca = Arc::new(Ca::new());
        self.fail(UpstreamError::UNKNOWN_AUTHORITY);
    }

    /// Synchronization fails.
    pub(super) fn fail(&self, reason: &'static str) {
        let failing = Failing {
            since: self.clock.now(),
            reason,
            error: "test".into(),
        };
        self.sync
            .send_modify(|status| status.failing = Some(failing));
    }

    /// Synchronization succeeds.
    pub(super) fn succeed(&self) {
        self.sync.send_replace(Status {
            last_success: Some(self.clock.now()),
            failing: None,
        });
    }

    /// An operator puts the bundle of now where the agent fetches it.
    pub(super) fn publish_bundle(&self) {
        write_bundle(&self.path("bundle.pem"), &self.server);
    }

    pub(super) fn knows_the_authority(&self) -> bool {
        *self.credentials.trust() == self.server.bundle()
    }
}

fn attestor(by: By, folder: &Path, server: &Arc<Server>, clock: &Clock) -> Attestor<Arc<Server>> {
    let token = folder.join("token");
    let proof = match by {
        By::Psat => Proof::K8sPsat(Prover::new("prod".to_owned(), Some(token))),
        By::Token => {
            let token = Token::parse(b"first").unwrap();
            Proof::JoinToken(Some(TokenSource::Value(token)))
        }
        By::TokenFile => Proof::JoinToken(Some(TokenSource::File(token))),
    };
    Attestor {
        gate: Arc::clone(server),
        server: ServerAddress {
            host: "server".to_owned(),
            port: 1,
        },
        trust_domain: trust_domain(),
        trust_source: TrustSource::File {
            path: folder.join("bundle.pem"),
            format: BundleFormat::Pem,
        },
        proof,
        clock: clock.clone(),
    }
}

fn kept(folder: &Path) -> Kept {
    let custody = CustodyConfig::Disk {
        directory: folder.to_owned(),
    };
    Kept {
        state: StateFile::open(folder, &trust_domain()).unwrap(),
        custody: Custody::open(&custody).unwrap(),
        fetches: None,
        locks: Vec::new(),
    }
}

fn write_bundle(path: &Path, server: &Server) {
    std::fs::write(path, server.script.lock().ca.certificate.to_pem()).unwrap();
}
