//! `bundle show|list|set|count|delete`.

pub(super) mod format;

use identity::trust_domain::TrustDomain;
use proto::spire::server::bundle::batch_delete_federated_bundle_request::Mode;
use proto::spire::server::bundle::bundle_client::BundleClient;
use proto::spire::server::bundle::{
    BatchDeleteFederatedBundleRequest, BatchSetFederatedBundleRequest, CountBundlesRequest,
    GetBundleRequest, GetFederatedBundleRequest, ListFederatedBundlesRequest,
    ListFederatedBundlesResponse,
};
use proto::spire::types::Bundle;
use tonic::transport::Channel;

use self::format::Format;
use super::{connect, entry_file, plural};
use crate::console::{Console, say};
use crate::failure::Failure;
use crate::flags::{Output, Values};
use crate::session::Session;
use crate::{json, rpc};

pub(super) async fn show(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let bundle = client(session, values)
        .await?
        .get_bundle(GetBundleRequest { output_mask: None })
        .await
        .map_err(|status| rpc::failed(&status))?
        .into_inner();
    print(&mut session.console, values, &bundle)
}

pub(super) async fn list(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let mut client = client(session, values).await?;
    if let Some(id) = values.given("id") {
        let bundle = client
            .get_federated_bundle(GetFederatedBundleRequest {
                trust_domain: id.to_owned(),
                output_mask: None,
            })
            .await
            .map_err(|status| rpc::failed(&status))?
            .into_inner();
        return print(&mut session.console, values, &bundle);
    }
    let mut all = ListFederatedBundlesResponse::default();
    loop {
        let page = client
            .list_federated_bundles(ListFederatedBundlesRequest {
                page_token: std::mem::take(&mut all.next_page_token),
                ..ListFederatedBundlesRequest::default()
            })
            .await
            .map_err(|status| rpc::failed(&status))?
            .into_inner();
        all.bundles.extend(page.bundles);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            break;
        }
    }
    let console = &mut session.console;
    if values.output() == Output::Json {
        const NAME: &str = ".spire.api.server.bundle.v1.ListFederatedBundlesResponse";
        say!(console, "{}", json::spire(NAME, &all)?);
        return Ok(());
    }
    let stars = "*".repeat(40);
    for (at, bundle) in all.bundles.iter().enumerate() {
        let text = Format::parse(values.text("format"))?.text(bundle)?;
        if at > 0 {
            say!(console);
        }
        say!(console, "{stars}\n* {}\n{stars}", bundle.trust_domain);
        console.out(format_args!("{text}"));
    }
    Ok(())
}

pub(super) async fn set(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let id = values
        .given("id")
        .ok_or_else(|| Failure::new("id flag is required"))?;
    let format = Format::parse(values.text("format"))?;
    let bytes = entry_file::read_from(values.text("path"), "")
        .map_err(|failure| failure.context("unable to load bundle data"))?;
    let bundle = format.read(id, &bytes)?;
    let answer = client(session, values)
        .await
        .map_err(|failure| failure.context("failed to set federated bundle"))?
        .batch_set_federated_bundle(BatchSetFederatedBundleRequest {
            bundle: vec![bundle],
            output_mask: None,
        })
        .await
        .map_err(|status| rpc::failed(&status).context("failed to set federated bundle"))?
        .into_inner();
    if values.output() == Output::Json {
        const NAME: &str = ".spire.api.server.bundle.v1.BatchSetFederatedBundleResponse";
        say!(session.console, "{}", json::spire(NAME, &answer)?);
        return Ok(());
    }
    let status = answer
        .results
        .first()
        .and_then(|result| result.status.as_ref());
    match status.filter(|status| status.code != 0) {
        None => {
            say!(session.console, "bundle set.");
            Ok(())
        }
        Some(status) => Err(Failure::new(format!(
            "failed to set federated bundle: {}",
            status.message
        ))),
    }
}

pub(super) async fn count(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let answer = client(session, values)
        .await?
        .count_bundles(CountBundlesRequest {})
        .await
        .map_err(|status| rpc::failed(&status))?
        .into_inner();
    let console = &mut session.console;
    if values.output() == Output::Json {
        const NAME: &str = ".spire.api.server.bundle.v1.CountBundlesResponse";
        say!(console, "{}", json::spire(NAME, &answer)?);
        return Ok(());
    }
    let count = usize::try_from(answer.count).unwrap_or_default();
    say!(console, "{count} {}", plural(count, "bundle", "bundles"));
    Ok(())
}

pub(super) async fn delete(session: &mut Session, values: &Values) -> Result<(), Failure> {
    const TRIED: &str = "failed to delete federated bundle";
    let id = values.given("id");
    let id = id.ok_or_else(|| Failure::new("id is required"))?;
    let mode = match values.text("mode") {
        "" | "restrict" => Mode::Restrict,
        "dissociate" => Mode::Dissociate,
        "delete" => Mode::Delete,
        other => return Err(Failure::new(format!("unsupported mode {other:?}"))),
    };
    let answer = client(session, values)
        .await
        .map_err(|failure| failure.context(TRIED))?
        .batch_delete_federated_bundle(BatchDeleteFederatedBundleRequest {
            trust_domains: vec![id.to_owned()],
            mode: mode.into(),
        })
        .await
        .map_err(|status| rpc::failed(&status).context(TRIED))?
        .into_inner();
    if values.output() == Output::Json {
        const NAME: &str = ".spire.api.server.bundle.v1.BatchDeleteFederatedBundleResponse";
        say!(session.console, "{}", json::spire(NAME, &answer)?);
        return Ok(());
    }
    let result = answer.results.first();
    let failed = result
        .and_then(|result| result.status.as_ref())
        .filter(|status| status.code != 0);
    match failed {
        None => {
            say!(session.console, "bundle deleted.");
            Ok(())
        }
        Some(status) => Err(Failure::new(format!("{TRIED} {id:?}: {}", status.message))),
    }
}

async fn client(session: &Session, values: &Values) -> Result<BundleClient<Channel>, Failure> {
    let channel = connect(session, values).await?;
    Ok(BundleClient::new(channel).max_decoding_message_size(rpc::MAX_ANSWER))
}

fn print(console: &mut Console, values: &Values, bundle: &Bundle) -> Result<(), Failure> {
    if values.output() == Output::Json {
        say!(
            console,
            "{}",
            json::spire(".spire.api.types.Bundle", bundle)?
        );
        return Ok(());
    }
    let text = Format::parse(values.text("format"))?.text(bundle)?;
    console.out(format_args!("{text}"));
    Ok(())
}

fn trust_domain(name: &str) -> Result<TrustDomain, Failure> {
    TrustDomain::parse(name).map_err(|error| Failure::chain(&error))
}
