//! `spire.api.server.agent.v1.Agent`.

mod attest;
mod filter;
mod renew;
mod token;

use std::sync::Arc;

use identity::namespace::Role;
use identity::spiffe_id::SpiffeId;
use proto::spire::server::agent::agent_server::Agent;
use proto::spire::server::agent::{
    AttestAgentRequest, BanAgentRequest, CountAgentsRequest, CountAgentsResponse,
    CreateJoinTokenRequest, DeleteAgentRequest, GetAgentRequest, ListAgentsRequest,
    ListAgentsResponse, PostStatusRequest, PostStatusResponse, RenewAgentRequest,
    RenewAgentResponse,
};
use proto::spire::types;
use tonic::{Request, Response, Status, Streaming};

use super::Services;
use super::caller::Caller;
use super::convert::{agent_to_proto, count, id_in_role, page};
use super::status;
use crate::audit::Event;
use crate::index::Snapshot;
use crate::index::agents::StoredAgent;
use crate::records::agents::{Agent as Record, Standing, encode};
use crate::store::{Expect, Key, Txn};
use crate::writes::agents::evict_into;
use crate::writes::entries::EntryWrites;
use crate::writes::{Plan, WriteError, Writer};

/// The longest version that an agent may report.
const MAX_VERSION_BYTES: usize = 255;

#[derive(Debug)]
pub(super) struct Service {
    services: Arc<Services>,
}

impl Service {
    pub(super) fn new(services: Arc<Services>) -> Self {
        Self { services }
    }

    fn agent_id(&self, id: Option<&types::Spiffeid>) -> Result<SpiffeId, Status> {
        let id = id_in_role(id, Role::Agent, &self.services.trust_domain);
        id.map_err(|error| status::invalid("invalid agent ID", &error))
    }
}

#[tonic::async_trait]
impl Agent for Service {
    type AttestAgentStream = attest::Answers;

    async fn attest_agent(
        &self,
        request: Request<Streaming<AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        let caller = Caller::of(&request)?;
        let answers = attest::attest(&self.services, caller, request.into_inner());
        Ok(Response::new(answers.await?))
    }

    async fn renew_agent(
        &self,
        request: Request<RenewAgentRequest>,
    ) -> Result<Response<RenewAgentResponse>, Status> {
        let agent = Caller::agent_of(&request)?;
        let renewed = renew::renew(&self.services, agent.id(), request.into_inner()).await?;
        Ok(Response::new(renewed))
    }

    async fn post_status(
        &self,
        request: Request<PostStatusRequest>,
    ) -> Result<Response<PostStatusResponse>, Status> {
        let agent = Caller::agent_of(&request)?;
        let version = request.into_inner().agent_version;
        if version.len() > MAX_VERSION_BYTES {
            let message = "agent version is too long (max 255 characters)";
            return Err(Status::invalid_argument(message));
        }
        if version.is_empty() {
            return Ok(Response::new(PostStatusResponse {}));
        }
        let snapshot = self.services.index.snapshot();
        let stored = snapshot.agents.get(agent.id());
        let is_news = stored.is_some_and(|stored| stored.value.version != version);
        let known = change(&self.services.writer, agent.id(), |agent| {
            let known = agent.version == version && agent.joined_with.is_none();
            (!known).then(|| Record {
                version: version.clone(),
                joined_with: None,
                ..agent.clone()
            })
        });
        found(known.await, "failed to update agent")?;
        if is_news {
            let event = Event::AgentVersionReported {
                id: agent.id(),
                version: &version,
            };
            self.services.audit.record(agent.id(), event);
        }
        Ok(Response::new(PostStatusResponse {}))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        let caller = Caller::of(&request)?;
        let token = token::create(&self.services, &caller, request.into_inner()).await?;
        Ok(Response::new(token))
    }

    async fn get_agent(
        &self,
        request: Request<GetAgentRequest>,
    ) -> Result<Response<types::Agent>, Status> {
        let request = request.into_inner();
        let id = self.agent_id(request.id.as_ref())?;
        let snapshot = self.services.index.snapshot();
        let agent = snapshot.agents.get(&id).ok_or_else(not_found)?;
        Ok(Response::new(agent_to_proto(
            &agent.value,
            request.output_mask.as_ref(),
        )))
    }

    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let request = request.into_inner();
        let filter = filter::of_list(request.filter)?;
        let what = "failed to list agents";
        let page = page(
            what,
            request.page_size,
            &request.page_token,
            SpiffeId::parse,
        )?;
        let listed = self.services.index.snapshot().agents.list(&filter, &page);
        let mask = request.output_mask.as_ref();
        let agents = listed
            .items
            .iter()
            .map(|agent| agent_to_proto(&agent.value, mask))
            .collect();
        let next_page_token = listed.next.map_or_else(String::new, |id| id.to_string());
        Ok(Response::new(ListAgentsResponse {
            agents,
            next_page_token,
        }))
    }

    async fn count_agents(
        &self,
        request: Request<CountAgentsRequest>,
    ) -> Result<Response<CountAgentsResponse>, Status> {
        let filter = filter::of_count(request.into_inner().filter)?;
        let number = self.services.index.snapshot().agents.count(&filter);
        Ok(Response::new(CountAgentsResponse {
            count: count(number),
        }))
    }

    async fn ban_agent(&self, request: Request<BanAgentRequest>) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let id = self.agent_id(request.into_inner().id.as_ref())?;
        let known = change(&self.services.writer, &id, |agent| {
            let banned = || Record {
                standing: Standing::Banned,
                ..agent.clone()
            };
            (!agent.is_banned()).then(banned)
        });
        found(known.await, "failed to ban agent")?;
        self.services.audit.record(&caller, Event::AgentBanned(&id));
        Ok(Response::new(()))
    }

    async fn delete_agent(
        &self,
        request: Request<DeleteAgentRequest>,
    ) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let id = self.agent_id(request.into_inner().id.as_ref())?;
        let known = self
            .services
            .writer
            .write(|snapshot| evict(snapshot, &id))
            .await;
        found(known, "failed to remove agent")?;
        self.services
            .audit
            .record(&caller, Event::AgentEvicted(&id));
        Ok(Response::new(()))
    }
}

/// Changes the record of an agent; tells whether there is one. `None` leaves it as it is.
async fn change(
    writer: &Writer,
    id: &SpiffeId,
    change: impl Fn(&Record) -> Option<Record>,
) -> Result<bool, WriteError> {
    let plan = |snapshot: &Snapshot| {
        let Some(agent) = snapshot.agents.get(id) else {
            return Plan::Nothing(false);
        };
        match change(&agent.value) {
            None => Plan::Nothing(true),
            Some(changed) => Plan::Commit(replace(agent, &changed), true),
        }
    };
    writer.write(plan).await
}

fn replace(agent: &StoredAgent, with: &Record) -> Txn {
    let key = Key::agent(&with.id);
    Txn::new()
        .expect(key.clone(), Expect::At(agent.revision))
        .put(key, encode(with))
}

fn evict(snapshot: &Snapshot, id: &SpiffeId) -> Plan<bool> {
    let Some(agent) = snapshot.agents.get(id) else {
        return Plan::Nothing(false);
    };
    let mut writes = EntryWrites::new(snapshot);
    let txn = evict_into(Txn::new(), &mut writes, snapshot, agent);
    Plan::Commit(writes.add_to(txn), true)
}

fn found(known: Result<bool, WriteError>, what: &str) -> Result<(), Status> {
    if known.map_err(|error| status::write(what, &error))? {
        Ok(())
    } else {
        Err(not_found())
    }
}

fn not_found() -> Status {
    Status::not_found("agent not found")
}
