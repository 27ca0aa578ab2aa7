//! What an operator would do: a token for the agent, an entry for the user. Asked of the server over
//! its own socket, as anybody would.

use std::path::Path;

use identity::spiffe_id::SpiffeId;
use proto::spire::server::agent::agent_client::AgentClient;
use proto::spire::server::agent::{CreateJoinTokenRequest, GetAgentRequest};
use proto::spire::server::bundle::GetBundleRequest;
use proto::spire::server::bundle::bundle_client::BundleClient;
use proto::spire::server::entry::BatchCreateEntryRequest;
use proto::spire::server::entry::entry_client::EntryClient;
use proto::spire::types::{Agent, Bundle, Entry, Selector, Spiffeid};
use tonic::Code;
use tonic::transport::Channel;

use super::user::Caller;
use crate::failure::Failure;
use crate::rpc;

/// How long a join token may wait: it is used at once.
const TOKEN_SECONDS: i32 = 600;

/// The server of this process, through its socket.
#[derive(Debug)]
pub(super) struct Operator(Channel);

impl Operator {
    pub(super) async fn connect(socket: &Path) -> Result<Self, Failure> {
        let path = socket.display().to_string();
        Ok(Self(rpc::connect(socket, &path).await?))
    }

    pub(super) async fn bundle(&self) -> Result<Bundle, Failure> {
        let answer = BundleClient::new(self.0.clone())
            .get_bundle(GetBundleRequest { output_mask: None })
            .await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| rpc::failed(&status))
    }

    /// Makes a join token. An agent that attests with it is known as `alias` too.
    pub(super) async fn token(&self, alias: &SpiffeId) -> Result<String, Failure> {
        let request = CreateJoinTokenRequest {
            ttl: TOKEN_SECONDS,
            agent_id: Some(message(alias)),
            ..CreateJoinTokenRequest::default()
        };
        let answer = AgentClient::new(self.0.clone())
            .create_join_token(request)
            .await;
        answer
            .map(|answer| answer.into_inner().value)
            .map_err(|status| rpc::failed(&status).context("could not make a join token"))
    }

    /// What the server knows of an agent.
    pub(super) async fn agent(&self, id: &SpiffeId) -> Result<Option<Agent>, Failure> {
        let request = GetAgentRequest {
            id: Some(message(id)),
            output_mask: None,
        };
        match AgentClient::new(self.0.clone()).get_agent(request).await {
            Ok(answer) => Ok(Some(answer.into_inner())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(rpc::failed(&status)),
        }
    }

    /// Makes the entry for the user's processes, unless it is there.
    pub(super) async fn entry(&self, caller: &Caller, parent: &SpiffeId) -> Result<(), Failure> {
        let entry = Entry {
            spiffe_id: Some(message(&caller.spiffe_id)),
            parent_id: Some(message(parent)),
            selectors: vec![Selector {
                r#type: "unix".to_owned(),
                value: format!("uid:{}", caller.uid),
            }],
            ..Entry::default()
        };
        let request = BatchCreateEntryRequest {
            entries: vec![entry],
            output_mask: None,
        };
        let answer = EntryClient::new(self.0.clone())
            .batch_create_entry(request)
            .await
            .map_err(|status| rpc::failed(&status).context("could not make an entry"))?
            .into_inner();
        let status = answer.results.into_iter().find_map(|result| result.status);
        match status
            .filter(|status| ![Code::Ok as i32, Code::AlreadyExists as i32].contains(&status.code))
        {
            None => Ok(()),
            Some(status) => Err(Failure::new(format!(
                "could not make an entry: {}",
                status.message
            ))),
        }
    }
}

fn message(id: &SpiffeId) -> Spiffeid {
    Spiffeid {
        trust_domain: id.trust_domain().name().to_owned(),
        path: id.path().to_owned(),
    }
}
