//! Who we are to the server above, as the Workload API of the agent beside us says.
//!
//! It is followed for as long as the server runs: a renewed SVID and a bundle with a new root come by
//! themselves. When the agent is away, what it said last goes on.

use std::sync::Arc;
use std::time::Duration;

use identity::bundle::Bundle;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::x509::X509Svid;
use runtime::backoff::Backoff;
use runtime::clock::Clock;
use runtime::report;
use runtime::tasks::TaskGroup;
use tokio::sync::watch;
use tracing::{debug, info, warn};
use workload_api::client::{ClientError, Endpoint, WorkloadClient, X509Context};

use super::SpireError;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After so many failures in a row the log is told at the level `debug` alone.
const TOLD_FAILURES: u32 = 3;

/// What we show to the server above, and what we know it by.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) svid: X509Svid,
    pub(super) bundle: Arc<Bundle>,
}

/// What is known of our identity.
#[derive(Clone, Debug)]
enum Known {
    /// Nothing yet; and why.
    Nothing(String),
    This(Arc<Identity>),
}

/// Why the Workload API is of no use.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the agent gives `{0}`, which is not of the trust domain of this server")]
    Foreign(SpiffeId),
}

impl Trouble {
    fn reason(&self) -> &'static str {
        match self {
            Self::Client(error) => error.reason(),
            Self::Foreign(_) => "workload_api_foreign",
        }
    }
}

/// Where our identity comes from.
#[derive(Debug)]
pub(super) struct Source {
    endpoint: Endpoint,
    known: watch::Receiver<Known>,
}

impl Source {
    pub(super) fn start(
        endpoint: Endpoint,
        trust_domain: TrustDomain,
        clock: Clock,
        tasks: &TaskGroup,
    ) -> Self {
        let nothing = Known::Nothing("it has not answered".to_owned());
        let (known, receiver) = watch::channel(nothing);
        let follower = Follower {
            endpoint: endpoint.clone(),
            trust_domain,
            known,
            clock,
        };
        let shutdown = tasks.shutdown();
        tasks.spawn("upstream identity", async move {
            tokio::select! {
                () = shutdown.requested() => {}
                () = follower.follow() => {}
            }
        });
        Self {
            endpoint,
            known: receiver,
        }
    }

    /// Our identity of now; the first one is waited for.
    pub(super) async fn wait(&self, patience: Duration) -> Result<Arc<Identity>, SpireError> {
        let mut known = self.known.clone();
        let is_known = |known: &Known| matches!(known, Known::This(_));
        // When it took too long, or nobody asks the agent any more, what is known counts.
        let _ = tokio::time::timeout(patience, known.wait_for(is_known)).await;
        let known = self.known.borrow().clone();
        match known {
            Known::This(own) => Ok(own),
            Known::Nothing(trouble) => Err(SpireError::NoIdentity {
                endpoint: self.endpoint.clone(),
                trouble,
            }),
        }
    }
}

struct Follower {
    endpoint: Endpoint,
    trust_domain: TrustDomain,
    known: watch::Sender<Known>,
    clock: Clock,
}

impl Follower {
    async fn follow(self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let trouble = match self.watch(&mut backoff).await {
                Ok(()) => ClientError::Ended.into(),
                Err(trouble) => trouble,
            };
            let pause = backoff.next_delay();
            self.tell(&trouble, pause, backoff.failures());
            self.clock.sleep(pause).await;
        }
    }

    /// Takes what the agent says, until it says no more.
    async fn watch(&self, backoff: &mut Backoff) -> Result<(), Trouble> {
        let client = WorkloadClient::connect(&self.endpoint).await?;
        let mut watch = client.watch_x509().await?;
        while let Some(context) = watch.next().await? {
            self.take(context)?;
            backoff.reset();
        }
        Ok(())
    }

    /// Of several identities the first is the default one, as for every workload.
    fn take(&self, context: X509Context) -> Result<(), Trouble> {
        // INVARIANT: a context has an SVID.
        let Some(first) = context.svids.into_iter().next() else {
            return Ok(());
        };
        let id = first.svid.id();
        if !id.is_member_of(&self.trust_domain) {
            return Err(Trouble::Foreign(id.clone()));
        }
        info!(spiffe.id = %id, svid.serial = first.svid.leaf().serial_decimal(), "Have an X509-SVID for the upstream server");
        let own = Identity {
            svid: first.svid,
            bundle: Arc::new(first.bundle),
        };
        self.known.send_replace(Known::This(Arc::new(own)));
        Ok(())
    }

    fn tell(&self, trouble: &Trouble, pause: Duration, failures: u32) {
        let (endpoint, reason) = (&self.endpoint, trouble.reason());
        let error = report::chain(trouble);
        if failures <= TOLD_FAILURES {
            warn!(endpoint.socket = %endpoint, error, error.reason = reason, retry.pause = ?pause, "The Workload API gives no X509-SVID for the upstream server");
        } else {
            debug!(endpoint.socket = %endpoint, error, error.reason = reason, retry.pause = ?pause, "The Workload API gives no X509-SVID for the upstream server");
        }
        self.known.send_if_modified(|known| match known {
            Known::Nothing(why) => {
                *why = error;
                true
            }
            Known::This(_) => false,
        });
    }
}
