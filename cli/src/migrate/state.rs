//! What a server tells of itself by SPIRE's own API, on either side of the move.

use proto::spire::server::agent::ListAgentsRequest;
use proto::spire::server::agent::agent_client::AgentClient;
use proto::spire::server::bundle::bundle_client::BundleClient;
use proto::spire::server::bundle::{GetBundleRequest, ListFederatedBundlesRequest};
use proto::spire::server::entry::ListEntriesRequest;
use proto::spire::server::entry::entry_client::EntryClient;
use proto::spire::server::localauthority::local_authority_client::LocalAuthorityClient;
use proto::spire::server::localauthority::{
    AuthorityState, GetJwtAuthorityStateRequest, GetX509AuthorityStateRequest,
};
use proto::spire::server::trustdomain::ListFederationRelationshipsRequest;
use proto::spire::server::trustdomain::trust_domain_client::TrustDomainClient;
use proto::spire::types::{
    Agent, Bundle, Entry, FederationRelationship, FederationRelationshipMask,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::failure::Failure;
use crate::rpc::{self, MAX_ANSWER};

/// Items asked for at once, as SPIRE's program does.
const PAGE: i32 = 500;

/// All that can be taken over from a server.
#[derive(Debug)]
pub(super) struct State {
    pub(super) bundle: Bundle,
    pub(super) authorities: Authorities,
    pub(super) bundles: Vec<Bundle>,
    pub(super) relationships: Vec<FederationRelationship>,
    pub(super) entries: Vec<Entry>,
    pub(super) agents: Vec<Agent>,
}

impl State {
    pub(super) async fn read(channel: &Channel) -> Result<Self, Failure> {
        // Entries before agents and authorities after both: what is signed meanwhile is then not missed.
        Ok(Self {
            bundles: bundles(channel).await?,
            relationships: relationships(channel).await?,
            entries: entries(channel).await?,
            agents: agents(channel).await?,
            bundle: bundle(channel).await?,
            authorities: Authorities::read(channel).await?,
        })
    }
}

/// What a server signs with, by name: what it did sign with, does, and will.
#[derive(Debug)]
pub(super) struct Authorities {
    /// With those above them, if there are any.
    pub(super) x509: Vec<String>,
    pub(super) jwt: Vec<String>,
    /// The X.509 authorities alone that sign SVIDs.
    pub(super) signing: Vec<String>,
}

impl Authorities {
    async fn read(channel: &Channel) -> Result<Self, Failure> {
        let mut client = LocalAuthorityClient::new(channel.clone());
        let x509 = client
            .get_x509_authority_state(GetX509AuthorityStateRequest {})
            .await;
        let x509 = x509.map_err(|status| old("LocalAuthority", &status))?;
        let x509 = x509.into_inner();
        let x509: Vec<_> = [x509.active, x509.prepared, x509.old]
            .into_iter()
            .flatten()
            .collect();
        let jwt = client
            .get_jwt_authority_state(GetJwtAuthorityStateRequest {})
            .await;
        let jwt = match jwt {
            Ok(states) => {
                let states = states.into_inner();
                vec![states.active, states.prepared, states.old]
            }
            // It issues no JWT-SVIDs.
            Err(status) if status.code() == Code::Unimplemented => Vec::new(),
            Err(status) => return Err(rpc::failed(&status).context("JWT authorities")),
        };
        let signing: Vec<String> = x509
            .iter()
            .map(|state| state.authority_id.clone())
            .collect();
        let above = x509
            .iter()
            .map(|state: &AuthorityState| state.upstream_authority_subject_key_id.clone())
            .filter(|id| !id.is_empty());
        Ok(Self {
            x509: signing.iter().cloned().chain(above).collect(),
            jwt: jwt
                .into_iter()
                .flatten()
                .map(|state| state.authority_id)
                .collect(),
            signing,
        })
    }
}

pub(super) async fn bundle(channel: &Channel) -> Result<Bundle, Failure> {
    let mut client = BundleClient::new(channel.clone());
    let bundle = client.get_bundle(GetBundleRequest::default()).await;
    let bundle = bundle.map_err(|status| rpc::failed(&status).context("bundle"))?;
    Ok(bundle.into_inner())
}

pub(super) async fn entries(channel: &Channel) -> Result<Vec<Entry>, Failure> {
    let client = EntryClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    let pages = pages(async |page_token| {
        let request = ListEntriesRequest {
            page_size: PAGE,
            page_token,
            ..ListEntriesRequest::default()
        };
        let page = client.clone().list_entries(request).await?.into_inner();
        Ok((page.entries, page.next_page_token))
    });
    pages
        .await
        .map_err(|status| rpc::failed(&status).context("entries"))
}

pub(super) async fn agents(channel: &Channel) -> Result<Vec<Agent>, Failure> {
    let client = AgentClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    let pages = pages(async |page_token| {
        let request = ListAgentsRequest {
            page_size: PAGE,
            page_token,
            ..ListAgentsRequest::default()
        };
        let page = client.clone().list_agents(request).await?.into_inner();
        Ok((page.agents, page.next_page_token))
    });
    pages
        .await
        .map_err(|status| rpc::failed(&status).context("agents"))
}

async fn bundles(channel: &Channel) -> Result<Vec<Bundle>, Failure> {
    let client = BundleClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    let pages = pages(async |page_token| {
        let request = ListFederatedBundlesRequest {
            page_size: PAGE,
            page_token,
            output_mask: None,
        };
        let page = client.clone().list_federated_bundles(request).await?;
        let page = page.into_inner();
        Ok((page.bundles, page.next_page_token))
    });
    pages
        .await
        .map_err(|status| rpc::failed(&status).context("federated bundles"))
}

async fn relationships(channel: &Channel) -> Result<Vec<FederationRelationship>, Failure> {
    let client = TrustDomainClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    let pages = pages(async |page_token| {
        let request = ListFederationRelationshipsRequest {
            output_mask: Some(FederationRelationshipMask {
                bundle_endpoint_url: true,
                bundle_endpoint_profile: true,
                // It is among the bundles.
                trust_domain_bundle: false,
            }),
            page_size: PAGE,
            page_token,
        };
        let page = client
            .clone()
            .list_federation_relationships(request)
            .await?;
        let page = page.into_inner();
        Ok((page.federation_relationships, page.next_page_token))
    });
    pages
        .await
        .map_err(|status| rpc::failed(&status).context("federation relationships"))
}

/// Reads all pages of a list.
async fn pages<T>(
    page: impl AsyncFn(String) -> Result<(Vec<T>, String), Status>,
) -> Result<Vec<T>, Status> {
    let mut all = Vec::new();
    let mut token = String::new();
    loop {
        let (items, next) = page(token).await?;
        all.extend(items);
        if next.is_empty() {
            return Ok(all);
        }
        token = next;
    }
}

/// The failure of a call that older servers have not.
fn old(service: &str, status: &Status) -> Failure {
    let failure = rpc::failed(status);
    match status.code() {
        Code::Unimplemented => failure.context(format!(
            "the server has no service {service}, which SPIRE has since 1.11; upgrade it first"
        )),
        _ => failure.context(service),
    }
}
