//! `entry create|update|show|delete|count`.

mod described;
mod print;

use proto::spire::server::entry::entry_client::EntryClient;
use proto::spire::server::entry::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, CountEntriesRequest,
    GetEntryRequest, ListEntriesRequest, ListEntriesResponse, count_entries_request,
    list_entries_request,
};
use tonic::transport::Channel;

use super::{connect, entry_file, filter, plural, spiffe_id};
use crate::console::say;
use crate::failure::Failure;
use crate::flags::{Output, Values};
use crate::session::Session;
use crate::{json, rpc};

/// Entries asked for at once, as SPIRE's program does.
const PAGE: i32 = 500;

pub(super) async fn create(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let entries = match values.given("data") {
        Some(path) => entry_file::entries(path)?,
        None => vec![described::created(values)?],
    };
    let mut answer = client(session, values)
        .await?
        .batch_create_entry(BatchCreateEntryRequest {
            entries: entries.clone(),
            output_mask: None,
        })
        .await
        .map_err(|status| rpc::failed(&status))?
        .into_inner();
    // The answer leaves out what failed, so it is shown as it was asked for.
    for (result, asked) in answer.results.iter_mut().zip(entries) {
        if print::failed(result.status.as_ref()).is_some() {
            result.entry = Some(asked);
        }
    }
    if values.output() == Output::Json {
        const NAME: &str = ".spire.api.server.entry.v1.BatchCreateEntryResponse";
        say!(session.console, "{}", json::spire(NAME, &answer)?);
        return Ok(());
    }
    let results = answer.results.iter();
    print::results(
        &mut session.console,
        "create",
        results.map(|result| (result.status.as_ref(), result.entry.as_ref())),
    )
}

pub(super) async fn update(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let mut entries = match values.given("data") {
        Some(path) => entry_file::entries(path)?,
        None => vec![described::updated(values)?],
    };
    let mut client = client(session, values).await?;
    if values.given("data").is_none()
        && let Some(entry) = entries.first_mut()
        && entry.additional_attributes.is_some()
    {
        // The attributes are written as a whole, so those not named here are kept by reading first.
        let stored = client
            .get_entry(GetEntryRequest {
                id: entry.id.clone(),
                output_mask: None,
            })
            .await
            .map_err(|status| {
                rpc::failed(&status)
                    .context("failed to fetch existing entry to merge additional attributes")
            })?
            .into_inner();
        entry.additional_attributes = Some(described::attributes(
            values,
            stored.additional_attributes.unwrap_or_default(),
        ));
    }
    let mut answer = client
        .batch_update_entry(BatchUpdateEntryRequest {
            entries: entries.clone(),
            ..BatchUpdateEntryRequest::default()
        })
        .await
        .map_err(|status| rpc::failed(&status))?
        .into_inner();
    for (result, asked) in answer.results.iter_mut().zip(entries) {
        if print::failed(result.status.as_ref()).is_some() {
            result.entry = Some(asked);
        }
    }
    if values.output() == Output::Json {
        const NAME: &str = ".spire.api.server.entry.v1.BatchUpdateEntryResponse";
        say!(session.console, "{}", json::spire(NAME, &answer)?);
        return Ok(());
    }
    let results = answer.results.iter();
    print::results(
        &mut session.console,
        "update",
        results.map(|result| (result.status.as_ref(), result.entry.as_ref())),
    )
}

pub(super) async fn show(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let mut all = listed(session, values).await?;
    for entry in &mut all.entries {
        entry
            .selectors
            .sort_by(|a, b| (&a.r#type, &a.value).cmp(&(&b.r#type, &b.value)));
    }
    all.entries
        .sort_by(|a, b| print::order(a).cmp(&print::order(b)));
    let console = &mut session.console;
    if values.output() == Output::Json {
        const NAME: &str = ".spire.api.server.entry.v1.ListEntriesResponse";
        say!(console, "{}", json::spire(NAME, &all)?);
        return Ok(());
    }
    let count = all.entries.len();
    say!(
        console,
        "Found {count} {}",
        plural(count, "entry", "entries")
    );
    for entry in &all.entries {
        console.out(format_args!("{}", print::entry(entry)));
    }
    Ok(())
}

pub(super) async fn count(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let filter = filtered(values)?;
    let answer = client(session, values)
        .await?
        .count_entries(CountEntriesRequest {
            filter: Some(count_entries_request::Filter {
                by_spiffe_id: filter.by_spiffe_id,
                by_parent_id: filter.by_parent_id,
                by_selectors: filter.by_selectors,
                by_federates_with: filter.by_federates_with,
                by_hint: filter.by_hint,
                by_downstream: filter.by_downstream,
            }),
        })
        .await
        .map_err(|status| rpc::failed(&status))?
        .into_inner();
    if values.output() == Output::Json {
        const NAME: &str = ".spire.api.server.entry.v1.CountEntriesResponse";
        say!(session.console, "{}", json::spire(NAME, &answer)?);
        return Ok(());
    }
    let count = usize::try_from(answer.count).unwrap_or_default();
    say!(
        session.console,
        "{count} registration {}",
        plural(count, "entry", "entries")
    );
    Ok(())
}

pub(super) async fn delete(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let ids = match (values.given("file"), values.given("entryID")) {
        (Some(path), _) => entry_file::ids(path)?,
        (None, Some(id)) => vec![id.to_owned()],
        (None, None) => return Err(Failure::new("an entry ID is required")),
    };
    let answer = client(session, values)
        .await?
        .batch_delete_entry(BatchDeleteEntryRequest { ids })
        .await
        .map_err(|status| rpc::failed(&status))?
        .into_inner();
    if values.output() == Output::Json {
        const NAME: &str = ".spire.api.server.entry.v1.BatchDeleteEntryResponse";
        say!(session.console, "{}", json::spire(NAME, &answer)?);
        return Ok(());
    }
    print::deletions(&mut session.console, &answer)
}

async fn client(session: &Session, values: &Values) -> Result<EntryClient<Channel>, Failure> {
    let channel = connect(session, values).await?;
    Ok(EntryClient::new(channel).max_decoding_message_size(rpc::MAX_ANSWER))
}

async fn listed(session: &Session, values: &Values) -> Result<ListEntriesResponse, Failure> {
    let mut all = ListEntriesResponse::default();
    if let Some(id) = values.given("entryID") {
        let others = values
            .given("parentID")
            .or_else(|| values.given("spiffeID"));
        if others.is_some() || !values.list("selector").is_empty() {
            return Err(Failure::new(
                "the -entryID flag can't be combined with others",
            ));
        }
        let tried = || format!("error fetching entry ID {id}");
        let found = client(session, values)
            .await
            .map_err(|failure| failure.context(tried()))?
            .get_entry(GetEntryRequest {
                id: id.to_owned(),
                output_mask: None,
            })
            .await
            .map_err(|status| rpc::failed(&status).context(tried()))?;
        all.entries.push(found.into_inner());
        return Ok(all);
    }
    let filter = filtered(values)?;
    let tried = "error fetching entries";
    let mut client = client(session, values)
        .await
        .map_err(|failure| failure.context(tried))?;
    let mut page_token = String::new();
    loop {
        let page = client
            .list_entries(ListEntriesRequest {
                filter: Some(filter.clone()),
                page_size: PAGE,
                page_token,
                output_mask: None,
            })
            .await
            .map_err(|status| rpc::failed(&status).context(tried))?
            .into_inner();
        all.entries.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

fn filtered(values: &Values) -> Result<list_entries_request::Filter, Failure> {
    let id = |flag: &str, what: &str| {
        let parse = |text: &str| {
            spiffe_id(text).map_err(|failure| {
                failure.context(format_args!("error parsing {what} ID {text:?}"))
            })
        };
        values.given(flag).map(parse).transpose()
    };
    let unknown = |word: &str| Failure::new(format!("match behavior {word:?} unknown"));
    Ok(list_entries_request::Filter {
        by_parent_id: id("parentID", "parent")?,
        by_spiffe_id: id("spiffeID", "SPIFFE")?,
        by_selectors: filter::selectors(values, unknown, |_, failure| {
            failure.context("error parsing selectors")
        })?,
        by_federates_with: filter::federates_with(values, unknown)?,
        by_hint: values.given("hint").map(str::to_owned),
        // SPIRE's program sends `false` too, which its server takes for no filter.
        by_downstream: values.switch("downstream").then_some(true),
    })
}
