//! `signet.server.v1.Import`: what is taken over from another server of our trust domain, on the admin
//! socket alone.
//!
//! A plan and what is done come of the same functions. Each batch is one commit.

mod read;

use std::sync::Arc;

use identity::entry::{Entry, EntryId};
use proto::signet::server::import_server::Import;
use proto::signet::server::{
    BatchImportAgentRequest, BatchImportAgentResponse, BatchImportEntryRequest,
    BatchImportEntryResponse, ImportBundleRequest, ImportBundleResponse, ImportResult, Outcome,
};
use tonic::{Request, Response, Status};

use super::Services;
use super::caller::Caller;
use super::convert::bundle::to_proto;
use super::status;
use crate::audit::{BundleTurn, Event};
use crate::bundles::merge_plan;
use crate::index::Snapshot;
use crate::records::agents::Agent;
use crate::store::Txn;
use crate::writes::agents::import_into;
use crate::writes::entries::EntryWrites;
use crate::writes::{Plan, Takeover};

/// The most entries or agents of one request.
const MAX_BATCH: usize = 1000;
/// The most entries that one request deletes. Their ids leave room for others in a request.
const MAX_GONE: usize = 20_000;

/// An item that was read, or why it is refused.
type Item<T> = Result<T, Status>;

#[derive(Debug)]
pub(super) struct Service {
    services: Arc<Services>,
}

impl Service {
    pub(super) fn new(services: Arc<Services>) -> Self {
        Self { services }
    }

    /// Makes what is planned, or only tells of it.
    async fn carry_out<T>(
        &self,
        plan_only: bool,
        what: &str,
        plan: impl Fn(&Snapshot) -> Plan<T>,
    ) -> Result<T, Status> {
        if plan_only {
            return Ok(plan(&self.services.index.snapshot()).into_answer());
        }
        let outcome = self.services.writer.write(plan).await;
        outcome.map_err(|error| status::write(what, &error))
    }
}

#[tonic::async_trait]
impl Import for Service {
    async fn import_bundle(
        &self,
        request: Request<ImportBundleRequest>,
    ) -> Result<Response<ImportBundleResponse>, Status> {
        let what = "failed to import bundle";
        let caller = Caller::of(&request)?;
        let own = &self.services.trust_domain;
        let ImportBundleRequest { plan_only, bundle } = request.into_inner();
        let theirs = read::bundle(own, bundle)?;
        let merged = self.carry_out(plan_only, what, |snapshot| merge_plan(snapshot, &theirs));
        let (takeover, bundle) = merged
            .await?
            .map_err(|refused| status::not_appended(what, &refused))?;
        if takeover == Takeover::Updated && !plan_only {
            let event = Event::Bundle(BundleTurn::Merged, own);
            self.services.audit.record(&caller, event);
        }
        Ok(Response::new(ImportBundleResponse {
            outcome: outcome(takeover).into(),
            bundle: Some(to_proto(&bundle, None)),
        }))
    }

    async fn batch_import_entry(
        &self,
        request: Request<BatchImportEntryRequest>,
    ) -> Result<Response<BatchImportEntryResponse>, Status> {
        let caller = Caller::of(&request)?;
        let BatchImportEntryRequest {
            plan_only,
            entries,
            gone_ids,
        } = request.into_inner();
        bounded(entries.len(), MAX_BATCH)?;
        bounded(gone_ids.len(), MAX_GONE)?;
        let gone = read::ids(&gone_ids)?;
        let entries: Vec<Item<Entry>> = entries
            .iter()
            .map(|entry| read::entry(&self.services.trust_domain, entry))
            .collect();
        let plan = |snapshot: &Snapshot| plan_entries(snapshot, &gone, &entries, plan_only);
        let what = "failed to import entries";
        let (deleted, outcomes) = self.carry_out(plan_only, what, plan).await?;
        if !plan_only {
            let audit = &self.services.audit;
            for entry in &deleted {
                audit.record(&caller, Event::EntryDeleted(entry));
            }
            for entry in written(&entries, &outcomes) {
                audit.record(&caller, Event::EntryImported(entry));
            }
        }
        let results = outcomes.into_iter().map(result).collect();
        Ok(Response::new(BatchImportEntryResponse { results }))
    }

    async fn batch_import_agent(
        &self,
        request: Request<BatchImportAgentRequest>,
    ) -> Result<Response<BatchImportAgentResponse>, Status> {
        let caller = Caller::of(&request)?;
        let BatchImportAgentRequest {
            plan_only,
            agents,
            authority_ids,
        } = request.into_inner();
        bounded(agents.len(), MAX_BATCH)?;
        let agents = read::agents(&self.services, &agents, &authority_ids)?;
        let plan = |snapshot: &Snapshot| plan_agents(snapshot, &agents);
        let what = "failed to import agents";
        let outcomes = self.carry_out(plan_only, what, plan).await?;
        if !plan_only {
            for agent in written(&agents, &outcomes) {
                let event = Event::AgentImported {
                    id: &agent.id,
                    serial: agent.serial(),
                };
                self.services.audit.record(&caller, event);
            }
        }
        let results = outcomes.into_iter().map(result).collect();
        Ok(Response::new(BatchImportAgentResponse { results }))
    }
}

/// Deletes what is gone, and applies the entries that could be read, in order. In a plan the bundles that
/// an entry federates with may be still to come.
fn plan_entries(
    snapshot: &Snapshot,
    gone: &[EntryId],
    entries: &[Item<Entry>],
    plan_only: bool,
) -> Plan<(Vec<Entry>, Vec<Item<Takeover>>)> {
    let mut writes = EntryWrites::new(snapshot);
    // One that is not here any more is gone all the same.
    let deleted = gone
        .iter()
        .filter_map(|id| writes.delete(id).ok())
        .collect();
    let mut apply = |entry: &Entry| {
        if !plan_only {
            writes.federate(entry)?;
        }
        writes.import(entry)
    };
    let outcomes = entries.iter().map(|entry| {
        let entry = entry.as_ref().map_err(Status::clone)?;
        apply(entry).map_err(|refusal| status::not_imported(&refusal))
    });
    let outcomes = outcomes.collect();
    if writes.is_empty() {
        return Plan::Nothing((deleted, outcomes));
    }
    Plan::Commit(writes.add_to(Txn::new()), (deleted, outcomes))
}

fn plan_agents(snapshot: &Snapshot, agents: &[Item<Agent>]) -> Plan<Vec<Item<Takeover>>> {
    let mut txn = Txn::new();
    let mut outcomes = Vec::with_capacity(agents.len());
    for agent in agents {
        outcomes.push(agent.as_ref().map_err(Status::clone).map(|agent| {
            let (grown, takeover) = import_into(std::mem::take(&mut txn), snapshot, agent);
            txn = grown;
            takeover
        }));
    }
    if txn.is_read_only() {
        return Plan::Nothing(outcomes);
    }
    Plan::Commit(txn, outcomes)
}

/// The items that were written.
fn written<'a, T>(
    items: &'a [Item<T>],
    outcomes: &'a [Item<Takeover>],
) -> impl Iterator<Item = &'a T> {
    let pairs = items.iter().zip(outcomes);
    pairs.filter_map(|(item, outcome)| match (item, outcome) {
        (Ok(item), Ok(Takeover::Created | Takeover::Updated)) => Some(item),
        _ => None,
    })
}

fn bounded(items: usize, most: usize) -> Result<(), Status> {
    if items > most {
        let message = format!("a request has at most {most} such items, not {items}");
        return Err(Status::invalid_argument(message));
    }
    Ok(())
}

fn outcome(takeover: Takeover) -> Outcome {
    match takeover {
        Takeover::Created => Outcome::Created,
        Takeover::Updated => Outcome::Updated,
        Takeover::Unchanged => Outcome::Unchanged,
        Takeover::Kept => Outcome::Kept,
    }
}

fn result(item: Item<Takeover>) -> ImportResult {
    match item {
        Ok(takeover) => ImportResult {
            status: Some(status::ok()),
            outcome: outcome(takeover).into(),
        },
        Err(refused) => ImportResult {
            status: Some(status::item(&refused)),
            outcome: Outcome::Unspecified.into(),
        },
    }
}
