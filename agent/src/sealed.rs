//! What the agent serves, kept on disk: after a restart it serves the same SVIDs again, with its server or
//! without it.
//!
//! It is a cache: whatever happens to it costs a signature and no more. So damage is answered by setting it
//! aside and starting empty, a failed write by throwing it away, and the end of the agent's identity by
//! destroying its key before anything else.
//!
//! Two ways lead into it. What is about to be shown to a workload is written first, and shown when the
//! system has the bytes; that is what a killed process needs. Everything else is level-triggered: a moment
//! after a change the whole is compared with what lies there, so no event has to be told twice.

mod engine;
mod key;
mod ledger;
mod place;
mod records;
mod seal;
#[cfg(test)]
mod tests;
mod vault;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::spiffe_id::SpiffeId;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use runtime::report;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{error, info, warn};

use self::place::Place;
use self::vault::Vault;

pub use self::records::{CodecError, Item, Revision};

/// How long a workload's SVID waits for the disk. Usually it takes less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long after a failure the cache is begun anew.
const PAUSE: Duration = Duration::from_secs(30);

/// The cache on disk, shared by all who write to it. The default is none: nothing is kept.
#[derive(Clone, Debug, Default)]
pub struct SealedCache(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    place: Place,
    door: Mutex<Door>,
    stamps: Mutex<Stamps>,
    changed: Notify,
    metrics: Metrics,
}

/// Whether anything is written.
#[derive(Debug)]
enum Door {
    Open(Box<Vault>, SpiffeId),
    /// It failed and was thrown away. Begun anew for this agent at this time.
    Failed(SpiffeId, SystemTime),
    /// The agent has no identity that it may be kept for. No later process can read what lies there, and the
    /// disk is still to be waited for.
    Revoked,
    /// The same, and nothing lies there.
    Wiped,
}

/// Which names were written ahead of the state that is compared later, and when.
#[derive(Debug, Default)]
struct Stamps {
    last: u64,
    // How many writers are under way, and the count of the last that came to its end.
    by_name: BTreeMap<Vec<u8>, (usize, u64)>,
}

/// What the cache counts.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    bytes: Gauge,
    failures: Counter,
    late: Counter,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "agent_sealed_cache_bytes",
            "Size of the sealed cache on disk",
            metrics.bytes.clone(),
        );
        registry.register(
            "agent_sealed_cache_failures",
            "Failures of the sealed cache, each of which emptied it",
            metrics.failures.clone(),
        );
        registry.register(
            "agent_sealed_cache_late",
            "SVIDs that were shown to workloads before the disk had them",
            metrics.late.clone(),
        );
        metrics
    }
}

/// Whether what lies there may be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trust {
    /// The agent is still who it was.
    Restored,
    /// It has a new identity: what another was entitled to is not its own.
    New,
}

impl SealedCache {
    /// Opens the cache below `data_dir`, and reads it. Whatever is wrong with it is logged; an agent starts
    /// without.
    pub fn open(
        data_dir: &Path,
        agent: &SpiffeId,
        trust: Trust,
        now: SystemTime,
        metrics: Metrics,
    ) -> (Self, Vec<Item>) {
        let place = Place::below(data_dir);
        match place.unfit() {
            Ok(None) => {}
            Ok(Some(filesystem)) => {
                warn!(
                    filesystem,
                    "The file system does not suit the sealed cache: nothing is kept for a restart"
                );
                remove(data_dir);
                return (Self::default(), Vec::new());
            }
            Err(error) => warn!(%error, "Could not tell the file system of the sealed cache"),
        }
        if trust == Trust::New {
            remove(data_dir);
        }
        let (door, items) = open(&place, agent, now, &metrics);
        let inner = Inner {
            place,
            door: Mutex::new(door),
            stamps: Mutex::default(),
            changed: Notify::default(),
            metrics,
        };
        (Self(Some(Arc::new(inner))), items)
    }

    /// Writes what is about to be shown to workloads, and returns when a killed process would find it
    /// again, or a slow disk has been waited for long enough. The ticket is to be held until the state
    /// has it.
    pub async fn keep(&self, items: Vec<Item>) -> Ticket {
        let Some(inner) = &self.0 else {
            return Ticket(None);
        };
        let names: Vec<_> = items.iter().map(Item::name).collect();
        inner.stamps.lock().begin(&names);
        let ticket = Ticket(Some((Arc::clone(inner), names)));
        let writer = Arc::clone(inner);
        let written = spawn_blocking(move || writer.write(|vault| vault.put(items)));
        if timeout(PATIENCE, written).await.is_err() {
            inner.metrics.late.inc();
        }
        ticket
    }

    /// Waits until something has changed since the last comparison.
    pub async fn changed(&self) {
        match &self.0 {
            Some(inner) => inner.changed.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Says that something has changed.
    pub fn touch(&self) {
        if let Some(inner) = &self.0 {
            inner.changed.notify_one();
        }
    }

    /// Makes what lies on disk what `look` finds; `None` leaves it as it is.
    pub async fn reconcile(
        &self,
        look: impl FnOnce() -> Option<Vec<Item>> + Send + 'static,
        now: SystemTime,
    ) {
        let Some(inner) = self.0.clone() else {
            return;
        };
        let written = spawn_blocking(move || {
            inner.begin_anew(now);
            // Taken before the look: what is written after it is newer than what is seen.
            let seen = inner.stamps.lock().last;
            let Some(items) = look() else { return };
            inner.write(|vault| {
                vault.reconcile(items, |name| inner.stamps.lock().is_newer(name, seen))
            });
            inner.stamps.lock().forget(seen);
        });
        // A panic is fenced below, and shutdown needs no answer.
        let _ = written.await;
    }

    /// Makes everything useless to a process that starts after a kill, without waiting for the disk: from now on
    /// the agent may tell of what it has lost. [`SealedCache::settle`] is to follow.
    pub fn revoke(&self) {
        let Some(inner) = &self.0 else { return };
        let mut door = inner.door.lock();
        match *door {
            Door::Revoked | Door::Wiped => {}
            // Closed under the lock: a writer that waits makes no other key.
            Door::Open(..) | Door::Failed(..) => match inner.place.void() {
                Ok(()) => *door = Door::Revoked,
                Err(_) => inner.wipe(&mut door),
            },
        }
    }

    /// Destroys what was revoked, durably. It waits for the disk.
    pub fn settle(&self) {
        let Some(inner) = &self.0 else { return };
        let mut door = inner.door.lock();
        // What the agent keeps for a new identity is not meant.
        if matches!(*door, Door::Revoked) {
            inner.wipe(&mut door);
        }
    }

    /// Destroys everything, durably: the agent is not who it was, and no later start may serve any of it.
    pub fn wipe(&self) {
        let Some(inner) = &self.0 else { return };
        let mut door = inner.door.lock();
        if !matches!(*door, Door::Wiped) {
            inner.wipe(&mut door);
        }
    }

    /// Keeps again, for the identity that the agent has now.
    pub fn resume(&self, agent: &SpiffeId, now: SystemTime) {
        let Some(inner) = &self.0 else { return };
        let is_kept_for = match &*inner.door.lock() {
            Door::Open(_, owner) | Door::Failed(owner, _) => owner == agent,
            Door::Revoked | Door::Wiped => false,
        };
        if !is_kept_for {
            self.wipe();
            *inner.door.lock() = Door::Failed(agent.clone(), now);
            inner.changed.notify_one();
        }
    }
}

/// What was written ahead stays until the state has it, and this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Ticket(Option<(Arc<Inner>, Vec<Vec<u8>>)>);

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some((inner, names)) = &self.0 {
            inner.stamps.lock().end(names);
            inner.changed.notify_one();
        }
    }
}

impl Inner {
    fn write(&self, change: impl FnOnce(&mut Vault) -> Result<(), vault::VaultError>) {
        let mut door = self.door.lock();
        let Door::Open(vault, agent) = &mut *door else {
            return;
        };
        match change(vault) {
            Ok(()) => {
                let bytes = i64::try_from(vault.size()).unwrap_or(i64::MAX);
                self.metrics.bytes.set(bytes);
            }
            Err(error) => {
                self.metrics.failures.inc();
                warn!(
                    error.reason = error.reason(), error = %report::chain(&error), retry.pause = ?PAUSE,
                    "Could not write the sealed cache: it is emptied, and begun anew later"
                );
                // What lies there would become older and older, and be taken for the truth at a restart.
                let agent = agent.clone();
                *door = Door::Failed(agent, SystemTime::UNIX_EPOCH);
                self.throw_away();
            }
        }
    }

    /// Destroyed under the lock: a writer that waits finds the door closed.
    fn wipe(&self, door: &mut Door) {
        let wiped = self.place.wipe();
        *door = Door::Wiped;
        self.metrics.bytes.set(0);
        match wiped {
            Ok(()) => info!("Wiped the sealed cache"),
            Err(error) => error!(
                path = %self.place.folder().display(), %error,
                "Could not wipe the sealed cache; remove it"
            ),
        }
    }

    /// Opens the cache again after it failed, once enough time has passed.
    fn begin_anew(&self, now: SystemTime) {
        let mut door = self.door.lock();
        let Door::Failed(agent, at) = &mut *door else {
            return;
        };
        if *at == SystemTime::UNIX_EPOCH {
            *at = now + PAUSE;
        }
        // A clock that was set back does not put it off for longer than the pause.
        if now < *at && now + PAUSE >= *at {
            return;
        }
        let agent = agent.clone();
        self.throw_away();
        match Vault::open(&self.place, &agent) {
            Ok((vault, _)) => *door = Door::Open(Box::new(vault), agent),
            Err(_) => *door = Door::Failed(agent, now + PAUSE),
        }
    }

    fn throw_away(&self) {
        self.metrics.bytes.set(0);
        if let Err(error) = self.place.clear() {
            error!(path = %self.place.folder().display(), %error, "Could not empty the sealed cache; remove it");
        }
    }
}

impl Stamps {
    fn begin(&mut self, names: &[Vec<u8>]) {
        for name in names {
            self.by_name.entry(name.clone()).or_default().0 += 1;
        }
    }

    fn end(&mut self, names: &[Vec<u8>]) {
        self.last += 1;
        for name in names {
            if let Some((under_way, ended)) = self.by_name.get_mut(name) {
                *under_way = under_way.saturating_sub(1);
                *ended = self.last;
            }
        }
    }

    /// Whether the name was written ahead, and the state that was seen at `seen` may not have it.
    fn is_newer(&self, name: &[u8], seen: u64) -> bool {
        let stamp = self.by_name.get(name);
        stamp.is_some_and(|(under_way, ended)| *under_way > 0 || *ended > seen)
    }

    fn forget(&mut self, seen: u64) {
        self.by_name
            .retain(|_, (under_way, ended)| *under_way > 0 || *ended > seen);
    }
}

/// Opens what is there. Damage is set aside, and the cache starts empty.
fn open(place: &Place, agent: &SpiffeId, now: SystemTime, metrics: &Metrics) -> (Door, Vec<Item>) {
    let failed = |error: vault::VaultError| {
        metrics.failures.inc();
        warn!(
            error.reason = error.reason(), error = %report::chain(&error),
            "Could not open the sealed cache: nothing is kept for a restart for now"
        );
        (Door::Failed(agent.clone(), now + PAUSE), Vec::new())
    };
    let opened = |(vault, items): (Vault, Vec<Item>)| {
        let bytes = i64::try_from(vault.size()).unwrap_or(i64::MAX);
        metrics.bytes.set(bytes);
        (Door::Open(Box::new(vault), agent.clone()), items)
    };
    let was_there = place.is_there();
    let damage = match Vault::open(place, agent) {
        Ok(whole) => return opened(whole),
        Err(error) if !was_there => return failed(error),
        Err(damage) => damage,
    };
    metrics.failures.inc();
    let chain = report::chain(&damage);
    match place.set_aside(now) {
        Ok(aside) => warn!(
            error.reason = damage.reason(), error = %chain, path = %aside.display(),
            "The sealed cache cannot be used: set it aside, and start with an empty one"
        ),
        Err(error) => {
            warn!(
                error.reason = damage.reason(), error = %chain,
                "The sealed cache cannot be used, and could not be set aside: it is removed"
            );
            if place.clear().is_err() {
                return failed(vault::VaultError::Folder(error));
            }
        }
    }
    Vault::open(place, agent).map_or_else(failed, opened)
}

/// Removes what is left of a cache that is not to be used: none is kept, or it was another's.
pub fn remove(data_dir: &Path) {
    let place = Place::below(data_dir);
    if place.is_there()
        && let Err(error) = place.wipe()
    {
        error!(path = %place.folder().display(), %error, "Could not wipe the sealed cache; remove it");
    }
}
