//! What the server does unasked: it removes what expired, and looks after its own health.

use std::time::Duration;

use identity::spiffe_id::SpiffeId;
use runtime::clock::Clock;
use runtime::readiness::Health;
use runtime::shutdown::Shutdown;
use tracing::{info, warn};

use crate::api::Probe;
use crate::audit::{Audit, Event, SERVER};
use crate::config::PruneConfig;
use crate::index::Snapshot;
use crate::store::{Expect, Key, Txn};
use crate::writes::agents::evict_into;
use crate::writes::entries::EntryWrites;
use crate::writes::{Plan, WriteError, Writer};

/// SPIRE's interval for entries.
const ENTRIES: Duration = Duration::from_secs(5 * 60);
/// SPIRE's interval for agents.
const AGENTS: Duration = Duration::from_secs(60 * 60);
/// How often the server looks after itself.
const HEALTH: Duration = Duration::from_secs(10);
/// What is removed in one commit.
const BATCH: usize = 500;

/// Removes what expired.
#[derive(Debug)]
pub(crate) struct Pruner {
    pub(crate) writer: Writer,
    pub(crate) clock: Clock,
    pub(crate) audit: Audit,
    pub(crate) agents: Option<PruneConfig>,
}

impl Pruner {
    /// Removes expired entries and tokens until shutdown.
    pub(crate) async fn prune_entries(&self, shutdown: &Shutdown) {
        while pause(&self.clock, ENTRIES, shutdown).await {
            if let Err(error) = self.remove_expired().await {
                complain(&error, "Could not remove what expired");
            }
        }
    }

    /// Removes the records of agents that are long gone, if the operator wants that.
    pub(crate) async fn prune_agents(&self, shutdown: &Shutdown) {
        let Some(config) = self.agents else { return };
        while pause(&self.clock, AGENTS, shutdown).await {
            if let Err(error) = self.remove_agents(config).await {
                complain(&error, "Could not remove expired agents");
            }
        }
    }

    /// Removes the entries and tokens that have expired by now.
    pub(crate) async fn remove_expired(&self) -> Result<(), WriteError> {
        let now = self.clock.now();
        loop {
            let removed = self
                .writer
                .write(|snapshot| {
                    let mut txn = Txn::new();
                    let mut tokens = 0_usize;
                    for (hash, revision) in snapshot.tokens.expired(now).take(BATCH) {
                        let key = Key::token(hash);
                        txn = txn.expect(key.clone(), Expect::At(revision)).delete(key);
                        tokens += 1;
                    }
                    let mut writes = EntryWrites::new(snapshot);
                    let expired = snapshot.entries.expired(now).take(BATCH);
                    let removed: Vec<_> = expired
                        .filter_map(|entry| writes.delete(&entry.value.id).ok())
                        .collect();
                    if removed.is_empty() && tokens == 0 {
                        return Plan::Nothing((removed, tokens));
                    }
                    Plan::Commit(writes.add_to(txn), (removed, tokens))
                })
                .await?;
            let (entries, tokens) = removed;
            for entry in &entries {
                self.audit.record(&SERVER, Event::EntryExpired(entry));
            }
            if entries.len() < BATCH && tokens < BATCH {
                return Ok(());
            }
        }
    }

    async fn remove_agents(&self, config: PruneConfig) -> Result<(), WriteError> {
        let Some(before) = self.clock.now().checked_sub(config.expired_for) else {
            return Ok(());
        };
        let plan = |snapshot: &Snapshot| {
            let gone = snapshot.agents.iter().filter(|agent| {
                let agent = &agent.value;
                let may = agent.can_reattest || config.non_reattestable;
                // The record of a banned agent is what keeps it out.
                agent.expires_at < before && may && !agent.is_banned()
            });
            let gone: Vec<_> = gone.take(config.batch).collect();
            if gone.is_empty() {
                return Plan::Nothing(Vec::new());
            }
            let mut writes = EntryWrites::new(snapshot);
            let mut txn = Txn::new();
            for agent in &gone {
                txn = evict_into(txn, &mut writes, snapshot, agent);
            }
            let ids: Vec<SpiffeId> = gone.iter().map(|agent| agent.value.id.clone()).collect();
            Plan::Commit(writes.add_to(txn), ids)
        };
        let removed = self.writer.write(plan).await?;
        for id in &removed {
            self.audit.record(&SERVER, Event::AgentEvicted(id));
        }
        if !removed.is_empty() {
            info!(agents = removed.len(), "Removed agents that expired");
        }
        Ok(())
    }
}

/// Tells readiness what the probe finds, until shutdown.
pub(crate) async fn watch_health(probe: Probe, health: Health, clock: Clock, shutdown: Shutdown) {
    loop {
        match probe.complaint().await {
            None => health.ready(),
            Some(reason) => health.not_ready(reason),
        }
        if !pause(&clock, HEALTH, &shutdown).await {
            return;
        }
    }
}

/// Waits; tells whether to go on.
async fn pause(clock: &Clock, length: Duration, shutdown: &Shutdown) -> bool {
    tokio::select! {
        () = clock.sleep(length) => true,
        () = shutdown.requested() => false,
    }
}

fn complain(error: &WriteError, message: &'static str) {
    warn!(
        error = runtime::report::chain(error),
        error.reason = error.reason(),
        operation = message,
        "Housekeeping failed"
    );
}
