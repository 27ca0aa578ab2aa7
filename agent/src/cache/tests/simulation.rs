//! Thirty days in the life of an agent, from one seed: its server goes away and comes back, entries
//! come and go, authorities rotate, are tainted and revoked, clocks jump, machines sleep, and the
//! agent restarts.
//!
//! What must hold at every step is asked at every step; that nothing is signed more often than the
//! faults explain is asked at the end. Another run with the same seed draws the same faults.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::Ordering;

use identity::selector::Selectors;
use identity::x509::{Purpose, verify_peer};
use parking_lot::Mutex;
use runtime::clock::{Clock, ClockSteps};
use runtime::random;
use runtime::readiness::Readiness;
use runtime::shutdown::{Reason, Shutdown};
use runtime::tasks::TaskGroup;
use tokio::sync::mpsc;

use super::super::driver::{Deps, Driver, Options};
use super::*;
use crate::sync::{self, Sync};
use crate::upstream::fake::{FakeServer, FeedKind, Mood, entry, selectors};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAYS: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long an SVID lives.
const LIFE: Duration = Duration::from_secs(8 * 3600);
/// As SPIRE's server does.
const BACKDATE: Duration = Duration::from_secs(10);
/// How often the agent asks its server. SPIRE's five seconds would be half a million calls.
const INTERVAL: Duration = Duration::from_secs(120);
/// How long everything may take once the server answers again: the agent's longest pauses before it
/// asks, and before it repeats what was refused, and some time to work.
const RECOVERY: Duration = Duration::from_secs(480 + 240 + 60);
const CALLERS: usize = 4;
const ENTRIES: usize = 6;

/// Seeds that found something, and found nothing once it was mended.
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cache/tests/seeds.txt");

/// Twenty lives that are the same in each run, or as many new ones as `SIGNET_SEEDS` says.
#[test]
fn thirty_days_of_faults_break_no_handshake_and_serve_nothing_expired() {
    let kept = std::fs::read_to_string(KEPT).unwrap_or_default();
    let kept = kept.lines().filter_map(|line| line.parse().ok());
    let seeds: Vec<u64> = kept.chain(seeds()).collect();
    let failed = Mutex::new(Vec::new());
    let next = Mutex::new(seeds.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(seed) = next.lock().next() else {
                        return;
                    };
                    if let Err(found) = live(seed) {
                        failed.lock().push((seed, found));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    for (seed, _) in &failed {
        keep(Path::new(KEPT), *seed);
    }
    assert!(
        failed.is_empty(),
        "the seeds are kept in {KEPT}: {failed:#?}"
    );
}

#[expect(
    clippy::disallowed_methods,
    reason = "the length of a test is not configuration"
)]
fn seeds() -> Vec<u64> {
    let asked = std::env::var("SIGNET_SEEDS").ok();
    match asked.and_then(|asked| asked.parse::<u64>().ok()) {
        Some(count) => {
            let fresh = u64::from_ne_bytes(random::bytes());
            (0..count).map(|n| fresh.wrapping_add(n)).collect()
        }
        None => (0..20).collect(),
    }
}

fn keep(path: &Path, seed: u64) {
    let mut text = std::fs::read_to_string(path).unwrap_or_default();
    let line = seed.to_string();
    if !text.lines().any(|kept| kept == line) {
        writeln!(text, "{line}").unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// One life. What was found is told with what had happened until then.
fn live(seed: u64) -> Result<(), String> {
    random::replayed::from_seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new().await;
        world.pass(RECOVERY).await?;
        while world.told < DAYS {
            let lived = async {
                world.fault().await?;
                world.pass(draw(3 * HOUR)).await
            };
            if let Err(found) = lived.await {
                let told = world.diary.split_off(world.diary.len().saturating_sub(12));
                return Err(format!("{found}; before it: {told:#?}"));
            }
        }
        world.count_signatures()
    })
}

fn draw(most: Duration) -> Duration {
    random::jitter(most)
}

/// A whole number below `most`.
fn pick(most: usize) -> usize {
    let nanos = random::jitter(Duration::from_nanos(most as u64)).as_nanos();
    usize::try_from(nanos).unwrap()
}

/// The agent's process.
struct Agent {
    driver: Arc<Driver<FakeServer>>,
    tasks: TaskGroup,
    _denials: mpsc::Receiver<crate::upstream::Denial>,
    /// What each caller's stream shows.
    shown: Vec<Arc<Mutex<Option<Arc<Update>>>>>,
}

struct World {
    server: Arc<FakeServer>,
    server_steps: ClockSteps,
    clock: Clock,
    steps: ClockSteps,
    agent: Agent,
    entries: BTreeMap<usize, Entry>,
    revision: i64,
    /// How long it has lived.
    told: Duration,
    /// Until then, by the world's own count, something may be missing.
    excused: Duration,
    /// How far the agent's clock is ahead of the server's; behind it, if the flag says so.
    off: (Duration, bool),
    /// What may be signed: once for each entry and fault that explains it.
    explained: usize,
    /// Which serial number was verified by which bundle.
    verified: BTreeSet<(String, u64)>,
    diary: Vec<String>,
}

impl World {
    async fn new() -> Self {
        let (server_clock, server_steps) = Clock::simulated_with_steps(epoch());
        let (clock, steps) = Clock::simulated_with_steps(epoch());
        let server = FakeServer::backdating(server_clock, LIFE, BACKDATE);
        if pick(3) == 0 {
            server.set_feed(FeedKind::Pushing { chunk: 2 });
        }
        let agent = Agent::start(&server, &clock).await;
        let mut world = Self {
            server,
            server_steps,
            clock,
            steps,
            agent,
            entries: BTreeMap::new(),
            revision: 0,
            told: Duration::ZERO,
            excused: RECOVERY,
            off: (Duration::ZERO, false),
            explained: ENTRIES,
            verified: BTreeSet::new(),
            diary: Vec::new(),
        };
        for n in 0..ENTRIES {
            world.change_entry(n);
        }
        world
    }

    /// Something happens.
    async fn fault(&mut self) -> Result<(), String> {
        match pick(16) {
            0..=2 => self.outage(draw(LIFE / 3)).await?,
            3 => self.outage(draw(2 * LIFE)).await?,
            4 | 5 => self.restart().await,
            6..=8 => {
                let n = pick(ENTRIES);
                self.change_entry(n);
                self.excuse("an entry changed", RECOVERY);
            }
            9 => {
                self.server.rotate();
                self.note("rotated");
            }
            10 => self.taint().await?,
            11 => self.jump(draw(5 * MINUTE), true),
            12 => self.jump(draw(BACKDATE), false),
            13 => self.wild_jump().await?,
            14 => self.suspend(draw(12 * HOUR)),
            _ => {}
        }
        Ok(())
    }

    fn note(&mut self, what: &str) {
        let line = format!("{:?}: {what}", self.told);
        self.diary.push(line);
    }

    fn excuse(&mut self, why: &str, length: Duration) {
        self.note(why);
        self.excused = self.excused.max(self.told + length);
        self.explained += ENTRIES;
    }

    /// The server is away for some time, which passes here.
    async fn outage(&mut self, length: Duration) -> Result<(), String> {
        let mood = if pick(2) == 0 {
            Mood::Gone
        } else {
            Mood::Silent
        };
        self.server.set_mood(mood);
        self.note(&format!("{mood:?} for {length:?}"));
        // Nothing is lost before the last renewal that could have failed ends; what was not mended stays.
        if self.is_excused() || length + RECOVERY > LIFE / 2 - LIFE / 10 {
            self.excused = self.excused.max(self.told + length + RECOVERY);
        }
        self.explained += ENTRIES;
        self.pass(length).await?;
        self.server.set_mood(Mood::Serving);
        self.note("serving");
        Ok(())
    }

    async fn restart(&mut self) {
        self.agent.stop().await;
        self.agent = Agent::start(&self.server, &self.clock).await;
        self.excuse("restarted", MINUTE);
    }

    /// A change, a deletion or a new entry.
    fn change_entry(&mut self, n: usize) {
        if self.entries.len() == ENTRIES && pick(3) == 0 {
            self.entries.remove(&n);
        } else {
            self.revision += 1;
            let selectors: Vec<_> = (0..CALLERS)
                .filter(|caller| (n + caller).is_multiple_of(2) || pick(3) == 0)
                .map(|caller| format!("caller:{caller}"))
                .take(1)
                .collect();
            let texts: Vec<_> = selectors.iter().map(String::as_str).collect();
            let texts = if texts.is_empty() {
                vec!["caller:0"]
            } else {
                texts
            };
            let changed = Entry {
                revision: self.revision,
                ..entry(&format!("e{n}"), &texts)
            };
            self.entries.insert(n, changed);
        }
        self.server.set_entries(self.entries.values().cloned());
    }

    /// An authority is replaced, tainted and revoked, each step once the one before has arrived.
    async fn taint(&mut self) -> Result<(), String> {
        self.server.rotate();
        self.note("rotated, to taint");
        self.pass(RECOVERY).await?;
        self.server.taint();
        self.note("tainted");
        self.explained += ENTRIES;
        self.pass(RECOVERY).await?;
        self.server.revoke();
        self.note("revoked");
        Ok(())
    }

    /// The clock of the agent's machine is set.
    fn jump(&mut self, by: Duration, forward: bool) {
        // Small jumps do not add up: somebody puts the clock right before the next.
        let (off, ahead) = self.off;
        match ahead {
            true => self.steps.back(off),
            false => self.steps.forward(off),
        }
        match forward {
            true => self.steps.forward(by),
            false => self.steps.back(by),
        }
        self.off = (by, forward);
        self.explained += ENTRIES;
        self.note(&format!("the clock is off by {by:?}, ahead: {forward}"));
    }

    /// The clock is far off for a while, and put right again.
    async fn wild_jump(&mut self) -> Result<(), String> {
        let by = 5 * MINUTE + draw(LIFE);
        let length = draw(HOUR);
        self.excuse("the clock is wild", length + RECOVERY);
        self.jump(by, pick(2) == 0);
        self.explained += 40 * ENTRIES;
        self.pass(length).await?;
        self.jump(Duration::ZERO, true);
        self.excuse("the clock is right again", RECOVERY);
        Ok(())
    }

    /// The machine sleeps: all clocks go on but its own count of time.
    fn suspend(&mut self, length: Duration) {
        self.steps.forward(length);
        self.server_steps.forward(length);
        self.excuse(&format!("suspended for {length:?}"), RECOVERY);
    }

    /// Lets time pass, and looks every few minutes.
    async fn pass(&mut self, length: Duration) -> Result<(), String> {
        let mut left = length;
        while !left.is_zero() {
            let step = left.min(10 * MINUTE);
            tokio::time::sleep(step).await;
            self.told += step;
            left -= step;
            self.look().await?;
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<(), String> {
        let now = self.clock.now();
        let mut served = Vec::new();
        for caller in 0..CALLERS {
            let mut fresh = self.agent.driver.subscribe(&caller_selectors(caller));
            let fresh = futures_util::poll!(Box::pin(fresh.next()));
            if let std::task::Poll::Ready(Some(update)) = fresh {
                self.judge(caller, &update, now)?;
                served.push((caller, update));
            } else if !self.is_excused() {
                return Err(format!("caller {caller} waits for its identities"));
            }
        }
        self.shake_hands(&served)?;
        self.expect_all(&served)
    }

    fn is_excused(&self) -> bool {
        self.told < self.excused
    }

    /// What nobody may ever be served.
    fn judge(&self, caller: usize, update: &Update, now: SystemTime) -> Result<(), String> {
        let mine = caller_selectors(caller);
        for identity in update.identities() {
            let name = identity.svid.id().path();
            if identity.svid.validity().is_over(now) {
                return Err(format!("{name} is served to {caller} expired"));
            }
            let entries = self.agent.driver.entries_of(&mine);
            if !entries.iter().any(|entry| entry.id == identity.entry_id) {
                return Err(format!(
                    "{name} is served to {caller}, which has no such entry"
                ));
            }
            let signer = identity.svid.authority_key_id();
            let authorities = &update.bundles().own().x509_authorities;
            if !authorities
                .iter()
                .any(|known| Some(known.authority_id().as_str()) == signer.as_deref())
            {
                return Err(format!(
                    "{name} is served to {caller} without its authority"
                ));
            }
        }
        Ok(())
    }

    /// Every caller with every other, by the time that everybody but this machine has.
    ///
    /// A signature that was good once is not computed again: what changes by itself is the time.
    fn shake_hands(&mut self, served: &[(usize, Arc<Update>)]) -> Result<(), String> {
        if self.is_excused() {
            return Ok(());
        }
        let now = self.server.clock.now();
        for (client, theirs) in served {
            for (server, ours) in served {
                let bundle = |_: &_| Some(Arc::clone(ours.bundles().own()));
                for identity in theirs.identities() {
                    let svid = &identity.svid;
                    let pair = (
                        svid.leaf().serial_decimal().to_owned(),
                        ours.bundles().own().sequence,
                    );
                    if !svid.validity().contains(now) {
                        return Err(format!("{client} shows {server} what is not valid now"));
                    }
                    if !self.verified.insert(pair) {
                        continue;
                    }
                    verify_peer(identity.svid.chain(), Purpose::ClientAuth, bundle, now)
                        .map_err(|error| format!("{client} is refused by {server}: {error:?}"))?;
                }
            }
        }
        Ok(())
    }

    /// With a server that answers, everybody has all that is its own.
    fn expect_all(&self, served: &[(usize, Arc<Update>)]) -> Result<(), String> {
        if self.is_excused() {
            return Ok(());
        }
        for (caller, update) in served {
            let mine = caller_selectors(*caller);
            let due: Vec<_> = self
                .entries
                .values()
                .filter(|entry| entry.selectors.is_subset_of(&mine))
                .map(|entry| &entry.id)
                .collect();
            let has: Vec<_> = update
                .identities()
                .iter()
                .map(|identity| &identity.entry_id)
                .collect();
            if due != has {
                return Err(format!("caller {caller} has {has:?} of {due:?}"));
            }
            let shown = self
                .agent
                .shown
                .get(*caller)
                .and_then(|shown| shown.lock().clone());
            if !shown.is_some_and(|shown| Arc::ptr_eq(&shown, update)) {
                return Err(format!("the open stream of {caller} shows something else"));
            }
        }
        Ok(())
    }

    /// Renewal takes about two signatures in a lifetime; the rest has a reason each.
    fn count_signatures(&self) -> Result<(), String> {
        let signed = self.server.signed.load(Ordering::Relaxed);
        let lives = self.told.as_secs().div_ceil((LIFE * 2 / 5).as_secs());
        let usual = ENTRIES * usize::try_from(lives).unwrap();
        if signed > usual + self.explained {
            return Err(format!(
                "{signed} signatures, {usual} by time and {} by faults",
                self.explained
            ));
        }
        Ok(())
    }
}

fn caller_selectors(caller: usize) -> Selectors {
    selectors(&[&format!("caller:{caller}"), "unix:uid:1000"])
}

impl Agent {
    async fn start(server: &Arc<FakeServer>, clock: &Clock) -> Self {
        let trigger = Shutdown::new().0;
        let tasks = TaskGroup::new(trigger.clone());
        let (sender, denials) = mpsc::channel(4);
        let deps = Deps {
            upstream: Arc::clone(server),
            clock: clock.clone(),
            tasks: tasks.clone(),
            metrics: Metrics::default(),
            denials: sender,
            sealed: crate::sealed::SealedCache::default(),
        };
        let driver = Driver::new(Arc::new(server.own_bundle()), Options::default(), deps);
        tasks.spawn("cache", Arc::clone(&driver).run(trigger.subscribe()));
        let deps = sync::Deps {
            upstream: Arc::clone(server),
            driver: Arc::clone(&driver),
            clock: clock.clone(),
            health: Readiness::new().component("sync"),
            metrics: sync::Metrics::default(),
        };
        let sync = Sync::new(fake::trust_domain(), INTERVAL, deps);
        driver.sync_now();
        tasks.spawn("sync", sync.run(trigger.subscribe()));
        let shown = (0..CALLERS)
            .map(|caller| follow(&driver, &tasks, caller))
            .collect();
        Self {
            driver,
            tasks,
            _denials: denials,
            shown,
        }
    }

    async fn stop(&self) {
        self.tasks
            .trigger()
            .trigger(Reason::Requested("the end of the test"));
        self.tasks.drain(MINUTE).await;
    }
}

/// A workload that keeps its stream open.
fn follow(
    driver: &Arc<Driver<FakeServer>>,
    tasks: &TaskGroup,
    caller: usize,
) -> Arc<Mutex<Option<Arc<Update>>>> {
    let shown = Arc::new(Mutex::new(None));
    let mut stream = driver.subscribe(&caller_selectors(caller));
    let place = Arc::clone(&shown);
    tasks.spawn("workload", async move {
        while let Some(update) = stream.next().await {
            *place.lock() = Some(update);
        }
    });
    shown
}
