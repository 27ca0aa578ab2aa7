//! Performs what [`State`] decides.
//!
//! The state stands under one lock that is never held across an await: a subscriber whose SVIDs are
//! there is answered in the same call, and no queue stands between an event and its effect.

mod jwt;
mod kept;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::bundle::Bundle;
use identity::entry::{Entry, EntryId};
use identity::key::{KeyAlgorithm, PrivateKey};
use identity::selector::Selectors;
use identity::trust_domain::TrustDomain;
use identity::validity::{Schedule, Validity};
use identity::x509::{Certificate, X509Svid};
use parking_lot::Mutex;
use runtime::clock::{Clock, StepWatch};
use runtime::random;
use runtime::report;
use runtime::shutdown::Shutdown;
use runtime::tasks::TaskGroup;
use tokio::sync::{Notify, mpsc, watch};
use tracing::{debug, info, warn};
use workload_api::source::{Bundles, Subscription, Update};

use super::account::Account;
use super::flights::Flights;
use super::metrics::{Outcome, SvidKind};
use super::signing::BatchId;
use super::{Action, Capacity, Census, Event, Metrics, Refused, Signed, State};
use crate::explain;
use crate::keys::{self, WorkloadKey};
use crate::rotation::Strategy;
use crate::sealed::SealedCache;
use crate::upstream::{Denial, EntrySet, Refusal, SigningRequest, Upstream, UpstreamError};

/// Up to how many elliptic-curve keys are made without leaving the runtime's thread.
const KEYS_INLINE: usize = 8;
/// Subscribers are swept when they are this many more than twice those left by the last sweep.
const SWEEP_MARGIN: usize = 64;
/// The part of a lifetime after the start in which SVIDs are ones that a whole fleet may get at once.
const START_PART: u32 = 10;
/// How often somebody looks whether the clock was set.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(30);
/// How many of the server's refusals are remembered.
const REFUSALS: usize = 256;
/// Up to how much later than its backoff a failed request is repeated.
const SPREAD: Duration = Duration::from_secs(1);

/// The bundles of the agent's own trust domain, and of those that its entries federate with.
pub type AllBundles = (Arc<Bundle>, BTreeMap<TrustDomain, Arc<Bundle>>);

/// How the cache behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub capacity: Capacity,
    /// The algorithm of workloads' X.509 keys.
    pub key_algorithm: KeyAlgorithm,
    pub rotation: Strategy,
    /// How long a caller waits for a fresh JWT-SVID while a valid one is cached.
    pub jwt_hit_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            capacity: Capacity::default(),
            key_algorithm: KeyAlgorithm::EcP256,
            rotation: Strategy::default(),
            // SPIRE waits 30 s, longer than most clients do.
            jwt_hit_timeout: Duration::from_secs(2),
        }
    }
}

/// What the cache works with.
#[derive(Debug)]
pub struct Deps<U> {
    pub upstream: Arc<U>,
    pub clock: Clock,
    pub tasks: TaskGroup,
    pub metrics: Metrics,
    /// Where denials of this agent go: whoever owns its life cycle acts on them.
    pub denials: mpsc::Sender<Denial>,
    /// Where what is served is kept over a restart.
    pub sealed: SealedCache,
}

/// The cache at work.
#[derive(Debug)]
pub struct Driver<U> {
    deps: Deps<U>,
    options: Options,
    started: SystemTime,
    inner: Mutex<Inner>,
    flights: Flights,
    alarm: watch::Sender<Option<SystemTime>>,
    own_bundle: watch::Sender<Arc<Bundle>>,
    bundles_version: watch::Sender<u64>,
    sync_wanted: Notify,
}

#[derive(Debug)]
struct Inner {
    state: State,
    streams: BTreeMap<Selectors, watch::Sender<Option<Arc<Update>>>>,
    // How many streams the last sweep left.
    swept: usize,
    ended: bool,
    // The server's last words against entries, the newest last, and against this agent.
    refusals: VecDeque<explain::Refusal>,
    denial: Option<(Denial, SystemTime)>,
}

impl<U: Upstream> Driver<U> {
    /// Sets the cache up; [`Driver::run`] keeps its time.
    pub fn new(own: Arc<Bundle>, options: Options, deps: Deps<U>) -> Arc<Self> {
        let inner = Inner {
            state: State::new(Arc::clone(&own), options.capacity),
            streams: BTreeMap::new(),
            swept: 0,
            ended: false,
            refusals: VecDeque::new(),
            denial: None,
        };
        Arc::new(Self {
            started: deps.clock.now(),
            deps,
            options,
            inner: Mutex::new(inner),
            flights: Flights::default(),
            alarm: watch::Sender::new(None),
            own_bundle: watch::Sender::new(own),
            bundles_version: watch::Sender::new(0),
            sync_wanted: Notify::default(),
        })
    }

    /// Renews and withdraws SVIDs at their times, until shutdown; then ends every stream.
    pub async fn run(self: Arc<Self>, shutdown: Shutdown) {
        let mut alarm = self.alarm.subscribe();
        let mut steps = StepWatch::new(&self.deps.clock);
        loop {
            let next = *alarm.borrow_and_update();
            let rings = async {
                match next {
                    Some(at) => self.deps.clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.requested() => break,
                // The sender lives in `self`.
                _ = alarm.changed() => {}
                () = rings => self.apply(Event::TimePassed),
                () = self.deps.clock.sleep(LOOK_AT_CLOCK) => {}
            }
            if steps.stepped(&self.deps.clock) {
                warn!("The clock was set, or the machine slept");
                self.apply(Event::ClockSet);
            }
        }
        let mut inner = self.inner.lock();
        inner.ended = true;
        inner.streams.clear();
    }

    /// Follows what callers with these selectors may have.
    pub fn subscribe(self: &Arc<Self>, selectors: &Selectors) -> Subscription {
        let mut inner = self.inner.lock();
        if inner.streams.len() > 2 * inner.swept + SWEEP_MARGIN {
            self.sweep_locked(&mut inner);
        }
        if inner.ended {
            return Subscription::new(watch::channel(None).1);
        }
        let stream = inner
            .streams
            .entry(selectors.clone())
            .or_insert_with(|| watch::Sender::new(None));
        let updates = stream.subscribe();
        self.apply_locked(&mut inner, Event::Joined(selectors.clone()));
        Subscription::new(updates)
    }

    /// The bundles that callers with these selectors may see now.
    pub fn bundles_of(&self, selectors: &Selectors) -> Arc<Bundles> {
        self.inner.lock().state.bundles_of(selectors)
    }

    /// The entries that callers with these selectors match.
    pub fn entries_of(&self, selectors: &Selectors) -> Vec<Arc<Entry>> {
        self.inner.lock().state.entries_of(selectors)
    }

    /// Callers that have at least these selectors are about to come: has their SVIDs signed, and if the
    /// server has told of none, asks it again, since their entries may be as new as they are.
    pub fn expect(self: &Arc<Self>, selectors: Selectors) {
        let mut inner = self.inner.lock();
        if inner.state.entries_of(&selectors).is_empty() {
            self.sync_now();
        } else {
            self.apply_locked(&mut inner, Event::Expected(selectors));
        }
    }

    /// Whether there is an entry whose selectors are such. It walks all entries.
    pub fn any_entry(&self, such: impl Fn(&Selectors) -> bool) -> bool {
        self.inner.lock().state.any_entry(such)
    }

    /// Takes what a synchronization brought. The bundles come first, so that no SVID is served
    /// whose authority the workload has not seen.
    pub fn synced(self: &Arc<Self>, bundles: AllBundles, entries: EntrySet) {
        let mut inner = self.inner.lock();
        self.take_bundles(&mut inner, bundles);
        self.apply_locked(&mut inner, Event::Synced(entries));
        self.sweep_locked(&mut inner);
    }

    /// Takes what changed since [`Driver::synced`]. Bundles that changed come first, as there.
    pub fn changed(
        self: &Arc<Self>,
        bundles: Option<AllBundles>,
        entries: Vec<Arc<Entry>>,
        removed: Vec<EntryId>,
    ) {
        let mut inner = self.inner.lock();
        if let Some(bundles) = bundles {
            self.take_bundles(&mut inner, bundles);
        }
        self.apply_locked(&mut inner, Event::Changed { entries, removed });
    }

    /// The server answers, and has nothing new to say.
    pub fn reached(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        self.apply_locked(&mut inner, Event::Reached);
        self.sweep_locked(&mut inner);
    }

    /// Whether an SVID waits for a bundle that has its authority.
    pub fn lacks_bundle(&self) -> bool {
        self.inner.lock().state.lacks_bundle()
    }

    /// Follows the bundle of the agent's own trust domain.
    pub fn own_bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.own_bundle.subscribe()
    }

    /// Follows all bundles that the agent has: tells when they are others.
    pub fn bundles_version(&self) -> watch::Receiver<u64> {
        self.bundles_version.subscribe()
    }

    /// Every bundle that the agent has.
    pub fn all_bundles(&self) -> Vec<Arc<Bundle>> {
        self.inner.lock().state.all_bundles()
    }

    /// Whether the server has told the entries.
    pub fn knows_entries(&self) -> bool {
        self.inner.lock().state.knows_entries()
    }

    /// Asks for a synchronization now: after the agent has attested again, say.
    pub fn sync_now(&self) {
        self.sync_wanted.notify_one();
    }

    /// Waits until a synchronization is wanted before its time.
    pub async fn sync_wanted(&self) {
        self.sync_wanted.notified().await;
    }

    /// How much the cache holds.
    pub fn census(&self) -> Census {
        self.inner.lock().state.census()
    }

    /// What there is to say of callers with these selectors, and what the server last said of their
    /// entries. It walks all entries.
    pub fn account(&self, selectors: &Selectors) -> (Account, Vec<explain::Refusal>) {
        let now = self.deps.clock.now();
        let inner = self.inner.lock();
        let account = inner.state.account(selectors, now);
        let concerns = |refusal: &&explain::Refusal| {
            let mut matching = account.matching.iter();
            matching.any(|found| found.entry.id == refusal.entry_id)
        };
        let refusals = inner.refusals.iter().filter(concerns).cloned().collect();
        (account, refusals)
    }

    /// What the server last said against this agent.
    pub fn last_denial(&self) -> Option<(Denial, SystemTime)> {
        self.inner.lock().denial
    }

    fn remember(&self, entry_id: &EntryId, refusal: &Refusal) {
        let (at, text) = (self.deps.clock.now(), refusal.to_string().into());
        let mut inner = self.inner.lock();
        inner.refusals.retain(|known| known.entry_id != *entry_id);
        if inner.refusals.len() >= REFUSALS {
            inner.refusals.pop_front();
        }
        let entry_id = entry_id.clone();
        inner
            .refusals
            .push_back(explain::Refusal { entry_id, at, text });
    }

    /// Lets the owner of the life cycle know what the server said about this agent.
    ///
    /// A ban takes effect here at once: whatever becomes of the process, nothing is served any more. First no
    /// later process can read what is kept, then the streams end, and the disk, which may take its time, is
    /// waited for before the life cycle acts. So whoever has seen the agent obey a ban can kill it, and it will
    /// not come back to what it served; a power cut undoes no more of it than it did when the disk came first,
    /// for until the disk has answered it can undo either.
    pub fn denied(self: &Arc<Self>, denial: Denial) {
        if denial.ends_identity() {
            self.deps.sealed.revoke();
        }
        warn!(error.reason = denial.reason(), "Server denied this agent");
        self.inner.lock().denial = Some((denial, self.deps.clock.now()));
        if denial == Denial::Banned {
            self.apply(Event::Banned);
        }
        let driver = Arc::clone(self);
        self.deps.tasks.spawn("agent.denied", async move {
            driver.forget_kept(denial).await;
            // A full queue means that the owner already has something to act on.
            let _ = driver.deps.denials.try_send(denial);
        });
    }

    fn apply(self: &Arc<Self>, event: Event) {
        self.apply_locked(&mut self.inner.lock(), event);
    }

    fn apply_locked(self: &Arc<Self>, inner: &mut Inner, event: Event) {
        let now = self.deps.clock.now();
        if !matches!(
            event,
            Event::Joined(_) | Event::Left(_) | Event::Expected(_)
        ) {
            self.deps.sealed.touch();
        }
        for action in inner.state.apply(event, now) {
            self.perform(inner, action);
        }
        let alarm = inner.state.alarm(now);
        self.alarm
            .send_if_modified(|current| std::mem::replace(current, alarm) != alarm);
        let version = inner.state.bundles_version();
        self.bundles_version
            .send_if_modified(|current| std::mem::replace(current, version) != version);
        self.deps.metrics.show(inner.state.census());
    }

    fn take_bundles(self: &Arc<Self>, inner: &mut Inner, (own, federated): AllBundles) {
        self.apply_locked(inner, Event::Bundles { own, federated });
        let own = inner.state.own_bundle();
        self.own_bundle.send_if_modified(|known| {
            let changed = **known != **own;
            if changed {
                known.clone_from(own);
            }
            changed
        });
    }

    fn perform(self: &Arc<Self>, inner: &Inner, action: Action) {
        match action {
            Action::Sign { batch, entries } => {
                self.deps
                    .tasks
                    .spawn("agent.sign", Arc::clone(self).sign(batch, entries));
            }
            Action::Publish { subscriber, update } => {
                if let Some(stream) = inner.streams.get(&subscriber) {
                    stream.send_replace(Some(update));
                }
            }
            Action::Withdraw { subscriber } => {
                if let Some(stream) = inner.streams.get(&subscriber) {
                    stream.send_replace(None);
                }
            }
            Action::FetchBundles => self.sync_now(),
            Action::Expired {
                entry_id,
                spiffe_id,
            } => {
                self.deps.metrics.count_expired();
                warn!(spiffe.id = %spiffe_id, entry.id = %entry_id, "X509-SVID expired before it was renewed");
            }
        }
    }

    /// Forgets the subscribers whose streams have all ended.
    fn sweep_locked(self: &Arc<Self>, inner: &mut Inner) {
        let idle = |(selectors, stream): (&Selectors, &watch::Sender<_>)| {
            (stream.receiver_count() == 0).then(|| selectors.clone())
        };
        let left: Vec<_> = inner.streams.iter().filter_map(idle).collect();
        for selectors in left {
            inner.streams.remove(&selectors);
            self.apply_locked(inner, Event::Left(selectors));
        }
        inner.swept = inner.streams.len();
    }

    async fn sign(self: Arc<Self>, batch: BatchId, entries: Vec<Arc<Entry>>) {
        let count = entries.len();
        debug!(count, "Requesting X509-SVIDs");
        let asked = self.new_keys(entries).await;
        if asked.is_empty() {
            let answers = BTreeMap::new();
            return self.apply(Event::Answered { batch, answers });
        }
        let requests = asked.iter().map(Asked::request).collect();
        let entries: Vec<_> = asked.iter().map(|asked| Arc::clone(&asked.entry)).collect();
        match self.deps.upstream.sign_x509(requests).await {
            Ok(answers) => {
                let answers = asked
                    .into_iter()
                    .zip(answers)
                    .map(|(asked, answer)| (asked.entry.id.clone(), self.judge(asked, answer)))
                    .collect();
                let _kept = self.keep_signed(&entries, &answers).await;
                self.apply(Event::Answered { batch, answers });
            }
            Err(error) => {
                let issued = &self.deps.metrics;
                issued.count(SvidKind::X509, Outcome::Failed, count);
                let chain = report::chain(&error);
                warn!(error.reason = error.reason(), error = %chain, count, "Could not request X509-SVIDs");
                let spread = random::jitter(SPREAD);
                self.apply(Event::Unanswered { batch, spread });
                if let UpstreamError::Denied(denial) = error {
                    self.denied(denial);
                }
            }
        }
    }

    /// Makes a key for each entry. An entry without one is left out, and so counts as refused.
    async fn new_keys(&self, entries: Vec<Arc<Entry>>) -> Vec<Asked> {
        let algorithm = self.options.key_algorithm;
        let is_quick = matches!(algorithm, KeyAlgorithm::EcP256 | KeyAlgorithm::EcP384);
        let inline = is_quick && entries.len() <= KEYS_INLINE;
        let make = move || -> Vec<_> {
            let asked = entries
                .into_iter()
                .map(|entry| Asked::new(algorithm, entry));
            asked.flatten().collect()
        };
        if inline {
            make()
        } else {
            tokio::task::spawn_blocking(make).await.unwrap_or_default()
        }
    }

    fn judge(
        &self,
        asked: Asked,
        answer: Result<Vec<Certificate>, Refusal>,
    ) -> Result<Signed, Refused> {
        let Asked { entry, key, .. } = asked;
        let outcome = |outcome| self.deps.metrics.count(SvidKind::X509, outcome, 1);
        let refused = || {
            outcome(Outcome::Refused);
            let spread = random::jitter(SPREAD);
            Refused { spread }
        };
        let chain = answer.map_err(|refusal| {
            warn!(spiffe.id = %entry.spiffe_id, entry.id = %entry.id, rpc.code = %refusal.code, error = %refusal, "Server refused an X509-SVID");
            self.remember(&entry.id, &refusal);
            refused()
        })?;
        // X509-SVID 5.2, and the key must be the one made here: what fails here is served to nobody.
        let svid = X509Svid::new(chain, key).map_err(|error| {
            let chain = report::chain(&error);
            warn!(spiffe.id = %entry.spiffe_id, entry.id = %entry.id, error.reason = error.reason(), error = %chain, "Server issued a malformed X509-SVID");
            refused()
        })?;
        outcome(Outcome::Issued);
        let serial = svid.leaf().serial_decimal();
        info!(spiffe.id = %svid.id(), entry.id = %entry.id, svid.kind = "x509", svid.serial = %serial, "Obtained X509-SVID");
        let schedule = self.plan(svid.validity());
        Ok(Signed { svid, schedule })
    }

    fn plan(&self, validity: Validity) -> Schedule {
        let now = self.deps.clock.now();
        let age = now.duration_since(self.started).unwrap_or_default();
        match age < validity.lifetime() / START_PART {
            true => (self.options.rotation).plan_apart(validity, now, random::jitter),
            false => self.options.rotation.plan(validity, random::jitter),
        }
    }
}

/// A request for an X509-SVID, and the key that it is for.
struct Asked {
    entry: Arc<Entry>,
    key: Arc<PrivateKey>,
    csr: Vec<u8>,
}

impl Asked {
    fn new(algorithm: KeyAlgorithm, entry: Arc<Entry>) -> Option<Self> {
        match keys::new_workload_key(algorithm, &entry.spiffe_id) {
            Ok(WorkloadKey { key, csr }) => Some(Self { entry, key, csr }),
            Err(error) => {
                let chain = report::chain(&error);
                warn!(entry.id = %entry.id, error.reason = error.reason(), error = %chain, "Could not make a workload key");
                None
            }
        }
    }

    fn request(&self) -> SigningRequest {
        SigningRequest {
            entry_id: self.entry.id.clone(),
            csr: self.csr.clone(),
        }
    }
}
