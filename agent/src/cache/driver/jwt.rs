//! JWT-SVIDs on demand.

use std::sync::Arc;
use std::time::Duration;

use identity::entry::Entry;
use identity::jwt::JwtSvid;
use identity::validity::Validity;
use runtime::report;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};
use workload_api::source::JwtFetchError;

use super::Driver;
use crate::cache::flights::{Boarding, Landing};
use crate::cache::jwt::{Found, JwtKey};
use crate::cache::metrics::{Outcome, SvidKind};
use crate::rotation::Strategy;
use crate::upstream::{Upstream, UpstreamError};

/// How long a caller waits for a JWT-SVID when none is cached; also SPIRE's bound.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long after a failure the server is asked again.
const PAUSE: Duration = Duration::from_secs(1);

const OTHER_IDENTITY: UpstreamError = UpstreamError::Protocol {
    what: "the JWT-SVID is for another SPIFFE ID",
    source: None,
};

impl<U: Upstream> Driver<U> {
    /// Obtains a JWT-SVID for exactly this audience.
    pub async fn jwt_svid(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        audience: &[String],
    ) -> Result<JwtSvid, JwtFetchError> {
        if entry.jwt_svid_include_jti {
            // Each of these tokens is for one use.
            return timeout(PATIENCE, self.ask_until_answered(entry, audience, PATIENCE))
                .await
                .unwrap_or_else(|_| Err(Arc::new(overdue())))
                .map_err(upstream);
        }
        let key = JwtKey::new(entry.id.clone(), audience.to_vec());
        match self.find(&key) {
            Found::Fresh(svid) => Ok(svid),
            Found::Stale(_) => {
                let landing = self.board(key.clone(), entry, audience, Duration::ZERO);
                let landed = timeout(self.options.jwt_hit_timeout, landed(landing, entry)).await;
                match (landed, self.find(&key)) {
                    (Ok(Ok(fresh)), _) => Ok(fresh),
                    // The server is gone or slow, and the token still valid. Looked up again, for
                    // the answer may have been that this agent is banned.
                    (_, Found::Fresh(svid) | Found::Stale(svid)) => Ok(svid),
                    (Ok(Err(error)), Found::Nothing) => Err(error),
                    (Err(_), Found::Nothing) => Err(JwtFetchError::Deadline),
                }
            }
            Found::Nothing => {
                let landing = self.board(key, entry, audience, PATIENCE);
                let landed = timeout(PATIENCE, landed(landing, entry)).await;
                landed.unwrap_or(Err(JwtFetchError::Deadline))
            }
        }
    }

    fn find(&self, key: &JwtKey) -> Found {
        let now = self.deps.clock.now();
        self.inner.lock().state.jwt().find(key, now)
    }

    /// Joins the request for this token, or makes it. It goes on when the caller goes away, for
    /// others may have joined it.
    fn board(
        self: &Arc<Self>,
        key: JwtKey,
        entry: &Arc<Entry>,
        audience: &[String],
        patience: Duration,
    ) -> Option<watch::Receiver<Landing>> {
        match self.flights.board(&key) {
            Boarding::Joined(landing) => Some(landing),
            Boarding::Full => None,
            Boarding::Started(sender) => {
                let landing = sender.subscribe();
                let (driver, entry, audience) =
                    (Arc::clone(self), Arc::clone(entry), audience.to_vec());
                self.deps.tasks.spawn("agent.jwt", async move {
                    let outcome = driver.ask_until_answered(&entry, &audience, patience).await;
                    if let Ok(svid) = &outcome {
                        let _kept = driver.keep_token(&entry, svid).await;
                        driver.keep(&key, &entry, svid);
                    }
                    driver.flights.land(&key, &sender, outcome);
                });
                Some(landing)
            }
        }
    }

    /// Asks the server, and again for a while if it cannot be reached.
    async fn ask_until_answered(
        self: &Arc<Self>,
        entry: &Entry,
        audience: &[String],
        patience: Duration,
    ) -> Result<JwtSvid, Arc<UpstreamError>> {
        let shutdown = self.deps.tasks.shutdown();
        let started = tokio::time::Instant::now();
        loop {
            let error = match self.ask(entry, audience).await {
                Ok(svid) => return Ok(svid),
                Err(error) => error,
            };
            if !error.is_transient()
                || started.elapsed() + PAUSE >= patience
                || shutdown.is_requested()
            {
                self.deps.metrics.count(SvidKind::Jwt, Outcome::Failed, 1);
                warn!(
                    spiffe.id = %entry.spiffe_id,
                    entry.id = %entry.id,
                    error.reason = error.reason(),
                    error = %report::chain(&error),
                    "Could not obtain JWT-SVID"
                );
                return Err(Arc::new(error));
            }
            tokio::select! {
                () = self.deps.clock.sleep(PAUSE) => {}
                () = shutdown.requested() => {}
            }
        }
    }

    async fn ask(
        self: &Arc<Self>,
        entry: &Entry,
        audience: &[String],
    ) -> Result<JwtSvid, UpstreamError> {
        let svid = self
            .deps
            .upstream
            .sign_jwt(&entry.id, audience)
            .await
            .inspect_err(|error| {
                if let UpstreamError::Denied(denial) = error {
                    self.denied(*denial);
                }
            })?;
        // A token for somebody else, or for more than was asked, is handed to nobody.
        if *svid.id() != entry.spiffe_id {
            return Err(OTHER_IDENTITY);
        }
        if !JwtKey::new(entry.id.clone(), audience.to_vec()).is_audience_of(&svid) {
            return Err(UpstreamError::Protocol {
                what: "the JWT-SVID is for another audience",
                source: None,
            });
        }
        self.deps.metrics.count(SvidKind::Jwt, Outcome::Issued, 1);
        info!(spiffe.id = %svid.id(), entry.id = %entry.id, svid.kind = "jwt", "Obtained JWT-SVID");
        Ok(svid)
    }

    fn keep(&self, key: &JwtKey, entry: &Entry, svid: &JwtSvid) {
        let now = self.deps.clock.now();
        let Ok(validity) = Validity::new(svid.issued_at().unwrap_or(now), svid.expires_at()) else {
            return;
        };
        // An availability target is for X509-SVIDs: a JWT-SVID never outlives a few of its uses.
        let schedule = Strategy::default().plan(validity, runtime::random::jitter);
        let mut inner = self.inner.lock();
        inner
            .state
            .keep_jwt(key.clone(), entry, svid.clone(), schedule);
        self.deps.metrics.show(inner.state.census());
    }
}

async fn landed(
    landing: Option<watch::Receiver<Landing>>,
    entry: &Entry,
) -> Result<JwtSvid, JwtFetchError> {
    let Some(mut landing) = landing else {
        let message = "too many different JWT-SVIDs are being requested".to_owned();
        return Err(upstream(Arc::new(UpstreamError::Overloaded { message })));
    };
    // The sender is dropped without a word only when its task was: at shutdown.
    let Ok(landed) = landing.wait_for(Option::is_some).await else {
        return Err(JwtFetchError::ShuttingDown);
    };
    match landed.as_ref() {
        Some(Ok(svid)) if *svid.id() == entry.spiffe_id => Ok(svid.clone()),
        // The request that was joined is older than the entry, which was renamed since.
        Some(Ok(_)) => Err(upstream(Arc::new(OTHER_IDENTITY))),
        Some(Err(error)) => Err(upstream(Arc::clone(error))),
        None => Err(JwtFetchError::ShuttingDown),
    }
}

fn upstream(error: Arc<UpstreamError>) -> JwtFetchError {
    JwtFetchError::Upstream(Box::new(error))
}

fn overdue() -> UpstreamError {
    UpstreamError::Unavailable("the server did not answer in time".into())
}
