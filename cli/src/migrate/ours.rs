//! The calls to our own server that take things over. With `Doing::Plan` it only says what it would do.

use prost::Message;
use proto::signet::server::import_client::ImportClient;
use proto::signet::server::{
    BatchImportAgentRequest, BatchImportEntryRequest, ImportBundleRequest, ImportResult,
};
use proto::spire::types::{Agent, Bundle, Entry};
use tonic::Code;
use tonic::transport::Channel;

use super::pass::Doing;
use super::tally::Tally;
use crate::failure::Failure;
use crate::rpc;

/// The most items of one request.
const MAX_ITEMS: usize = 500;
/// The most bytes of the items of one request, half of what a server takes.
const MAX_BYTES: usize = 2 << 20;

/// Lets the authorities of the old server join our bundle; the answer is ours, as it is then.
pub(super) async fn bundle(
    channel: &Channel,
    theirs: &Bundle,
    doing: Doing,
    tally: &mut Tally,
) -> Result<Bundle, Failure> {
    let request = ImportBundleRequest {
        plan_only: doing == Doing::Plan,
        bundle: Some(theirs.clone()),
    };
    let answer = ImportClient::new(channel.clone())
        .import_bundle(request)
        .await;
    let answer = answer.map_err(|status| match status.code() {
        Code::Unimplemented | Code::PermissionDenied => rpc::failed(&status)
            .context("the server at -socketPath is none of Signet's that takes others over"),
        _ => rpc::failed(&status).context("bundle"),
    })?;
    let answer = answer.into_inner();
    tally.note(answer.outcome(), || theirs.trust_domain.clone());
    let ours = answer.bundle;
    ours.ok_or_else(|| Failure::new("this server does not say what its bundle is"))
}

/// Takes entries over, and deletes those that are gone.
pub(super) async fn entries(
    channel: &Channel,
    entries: &[Entry],
    gone_ids: &[String],
    doing: Doing,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let mut client = ImportClient::new(channel.clone());
    let mut batches = batches(entries);
    if batches.is_empty() && !gone_ids.is_empty() {
        batches.push(&[]);
    }
    for batch in batches {
        let request = BatchImportEntryRequest {
            plan_only: doing == Doing::Plan,
            entries: batch.to_vec(),
            // With each, since a plan leaves them where they are.
            gone_ids: gone_ids.to_vec(),
        };
        let answer = client.batch_import_entry(request).await;
        let answer = answer.map_err(|status| rpc::failed(&status).context("entries"))?;
        count(batch, &answer.into_inner().results, entry_name, tally)?;
    }
    Ok(())
}

/// Takes agents over, whose server signs with these authorities.
pub(super) async fn agents(
    channel: &Channel,
    agents: &[Agent],
    authority_ids: &[String],
    doing: Doing,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let mut client = ImportClient::new(channel.clone());
    for batch in batches(agents) {
        let request = BatchImportAgentRequest {
            plan_only: doing == Doing::Plan,
            agents: batch.to_vec(),
            authority_ids: authority_ids.to_vec(),
        };
        let answer = client.batch_import_agent(request).await;
        let answer = answer.map_err(|status| rpc::failed(&status).context("agents"))?;
        count(batch, &answer.into_inner().results, agent_name, tally)?;
    }
    Ok(())
}

pub(super) fn entry_name(entry: &Entry) -> String {
    let id = entry.spiffe_id.clone().unwrap_or_default();
    format!("{} spiffe://{}{}", entry.id, id.trust_domain, id.path)
}

pub(super) fn agent_name(agent: &Agent) -> String {
    let id = agent.id.clone().unwrap_or_default();
    format!("spiffe://{}{}", id.trust_domain, id.path)
}

fn count<T>(
    batch: &[T],
    results: &[ImportResult],
    name: fn(&T) -> String,
    tally: &mut Tally,
) -> Result<(), Failure> {
    if results.len() != batch.len() {
        return Err(Failure::new("this server does not answer for each item"));
    }
    for (item, result) in batch.iter().zip(results) {
        tally.count(|| name(item), result);
    }
    Ok(())
}

/// Cuts a list into what one request may carry.
fn batches<T: Message>(items: &[T]) -> Vec<&[T]> {
    let mut batches = Vec::new();
    let mut rest = items;
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(fitting(rest).max(1));
        batches.push(batch);
        rest = after;
    }
    batches
}

/// How many of the first items fit into a request.
fn fitting<T: Message>(items: &[T]) -> usize {
    let mut bytes = 0;
    let fits = |item: &&T| {
        bytes += item.encoded_len();
        bytes <= MAX_BYTES
    };
    items.iter().take(MAX_ITEMS).take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id_bytes: usize) -> Entry {
        Entry {
            id: "x".repeat(id_bytes),
            ..Entry::default()
        }
    }

    #[test]
    fn a_request_carries_no_more_items_and_bytes_than_a_server_takes() {
        let small = vec![entry(1); MAX_ITEMS * 2 + 1];
        let counts: Vec<_> = batches(&small).iter().map(|batch| batch.len()).collect();
        assert_eq!(counts, [MAX_ITEMS, MAX_ITEMS, 1]);
        let large = vec![entry(MAX_BYTES / 3); 5];
        let counts: Vec<_> = batches(&large).iter().map(|batch| batch.len()).collect();
        assert_eq!(counts, [2, 2, 1]);
        // One that is too large alone is for the server to refuse.
        assert_eq!(batches(&[entry(MAX_BYTES + 1)]).len(), 1);
        assert!(batches::<Entry>(&[]).is_empty());
    }
}
