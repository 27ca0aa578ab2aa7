//! `federation create|update|show|list|delete|refresh`.

mod described;
mod print;

use proto::spire::server::trustdomain::trust_domain_client::TrustDomainClient;
use proto::spire::server::trustdomain::{
    BatchCreateFederationRelationshipRequest, BatchDeleteFederationRelationshipRequest,
    BatchUpdateFederationRelationshipRequest, GetFederationRelationshipRequest,
    ListFederationRelationshipsRequest, RefreshBundleRequest,
};
use proto::spire::types::Status;
use tonic::Code;
use tonic::transport::Channel;

use super::{connect, plural};
use crate::console::say;
use crate::failure::Failure;
use crate::flags::{Output, Values};
use crate::session::Session;
use crate::{json, rpc};

pub(super) async fn create(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let asked = described::relationships(values)?;
    let answer = client(session, values)
        .await
        .map_err(|failure| failure.context("request failed"))?
        .batch_create_federation_relationship(BatchCreateFederationRelationshipRequest {
            federation_relationships: asked.clone(),
            output_mask: None,
        })
        .await
        .map_err(|status| rpc::failed(&status).context("request failed"))?
        .into_inner();
    if values.output() == Output::Json {
        const NAME: &str =
            ".spire.api.server.trustdomain.v1.BatchCreateFederationRelationshipResponse";
        say!(session.console, "{}", json::spire(NAME, &answer)?);
        return Ok(());
    }
    let results = answer.results.into_iter();
    let results = results.map(|result| (result.status, result.federation_relationship));
    print::results(&mut session.console, "create", results.zip(asked))
}

pub(super) async fn update(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let asked = described::relationships(values)?;
    let answer = client(session, values)
        .await
        .map_err(|failure| failure.context("request failed"))?
        .batch_update_federation_relationship(BatchUpdateFederationRelationshipRequest {
            federation_relationships: asked.clone(),
            ..BatchUpdateFederationRelationshipRequest::default()
        })
        .await
        .map_err(|status| rpc::failed(&status).context("request failed"))?
        .into_inner();
    if values.output() == Output::Json {
        const NAME: &str =
            ".spire.api.server.trustdomain.v1.BatchUpdateFederationRelationshipResponse";
        say!(session.console, "{}", json::spire(NAME, &answer)?);
        return Ok(());
    }
    let results = answer.results.into_iter();
    let results = results.map(|result| (result.status, result.federation_relationship));
    print::results(&mut session.console, "update", results.zip(asked))
}

pub(super) async fn show(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let name = values
        .given("trustDomain")
        .ok_or_else(|| Failure::new("a trust domain name is required"))?;
    let tried = "error showing federation relationship";
    let answer = client(session, values)
        .await
        .map_err(|failure| failure.context(tried))?
        .get_federation_relationship(GetFederationRelationshipRequest {
            trust_domain: name.to_owned(),
            output_mask: None,
        })
        .await
        .map_err(|status| rpc::failed(&status).context(tried))?
        .into_inner();
    let console = &mut session.console;
    if values.output() == Output::Json {
        const NAME: &str = ".spire.api.types.FederationRelationship";
        say!(console, "{}", json::spire(NAME, &answer)?);
        return Ok(());
    }
    say!(
        console,
        "Found a federation relationship with trust domain {name}:\n"
    );
    console.out(format_args!("{}", print::relationship(&answer)));
    Ok(())
}

pub(super) async fn list(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let tried = "error listing federation relationship";
    let answer = client(session, values)
        .await
        .map_err(|failure| failure.context(tried))?
        .list_federation_relationships(ListFederationRelationshipsRequest::default())
        .await
        .map_err(|status| rpc::failed(&status).context(tried))?
        .into_inner();
    let console = &mut session.console;
    if values.output() == Output::Json {
        const NAME: &str = ".spire.api.server.trustdomain.v1.ListFederationRelationshipsResponse";
        say!(console, "{}", json::spire(NAME, &answer)?);
        return Ok(());
    }
    let count = answer.federation_relationships.len();
    let noun = plural(count, "federation relationship", "federation relationships");
    say!(console, "Found {count} {noun}");
    for relationship in &answer.federation_relationships {
        console.out(format_args!("\n{}", print::relationship(relationship)));
    }
    Ok(())
}

pub(super) async fn delete(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let id = id(values)?;
    let tried = "failed to delete federation relationship";
    let answer = client(session, values)
        .await
        .map_err(|failure| failure.context(tried))?
        .batch_delete_federation_relationship(BatchDeleteFederationRelationshipRequest {
            trust_domains: vec![id.to_owned()],
        })
        .await
        .map_err(|status| rpc::failed(&status).context(tried))?
        .into_inner();
    if values.output() == Output::Json {
        const NAME: &str =
            ".spire.api.server.trustdomain.v1.BatchDeleteFederationRelationshipResponse";
        say!(session.console, "{}", json::spire(NAME, &answer)?);
        return Ok(());
    }
    let result = answer.results.into_iter().next().unwrap_or_default();
    match result.status.filter(|status| status.code != 0) {
        None => {
            say!(session.console, "federation relationship deleted.");
            Ok(())
        }
        Some(status) => Err(Failure::new(format!(
            "failed to delete federation relationship {:?}: {}",
            result.trust_domain, status.message
        ))),
    }
}

pub(super) async fn refresh(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let id = id(values)?;
    let tried = "failed to refresh bundle";
    client(session, values)
        .await
        .map_err(|failure| failure.context(tried))?
        .refresh_bundle(RefreshBundleRequest {
            trust_domain: id.to_owned(),
        })
        .await
        .map_err(|status| match status.code() {
            Code::NotFound => Failure::new(format!(
                "there is no federation relationship with trust domain {id:?}"
            )),
            _ => rpc::failed(&status).context(tried),
        })?;
    if values.output() == Output::Json {
        let done = Status {
            code: 0,
            message: "OK".to_owned(),
        };
        say!(
            session.console,
            "{}",
            json::spire(".spire.api.types.Status", &done)?
        );
        return Ok(());
    }
    say!(session.console, "Bundle refreshed");
    Ok(())
}

fn id(values: &Values) -> Result<&str, Failure> {
    let given = values.given("id");
    given.ok_or_else(|| Failure::new("id is required"))
}

async fn client(session: &Session, values: &Values) -> Result<TrustDomainClient<Channel>, Failure> {
    let channel = connect(session, values).await?;
    Ok(TrustDomainClient::new(channel).max_decoding_message_size(rpc::MAX_ANSWER))
}
