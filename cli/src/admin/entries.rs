//! `entry create|update|show|delete|count`.

mod print;

use proto::spire::server::entry::entry_client::EntryClient;
use proto::spire::server::entry::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, CountEntriesRequest,
    GetEntryRequest, ListEntriesRequest, ListEntriesResponse, count_entries_request,
    list_entries_request,
};
use proto::spire::types::entry::AdditionalAttributes;
use proto::spire::types::{Entry, Spiffeid};
use tonic::transport::Channel;

use super::{connect, entry_file, filter, int32, plural, spiffe_id};
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
        None => vec![created(values)?],
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
        None => vec![updated(values)?],
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
        entry.additional_attributes = Some(attributes(
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

/// The entry that the flags of `entry create` describe.
fn created(values: &Values) -> Result<Entry, Failure> {
    let node = values.switch("node");
    some_selector(values)?;
    if node && !values.list("federatesWith").is_empty() {
        return Err(Failure::new("node entries can not federate"));
    }
    if values.given("parentID").is_none() && !node {
        return Err(Failure::new(
            "a parent ID is required if the node flag is not set",
        ));
    }
    lifetimes_and_id(values)?;
    let spiffe_id = spiffe_id(values.text("spiffeID"))?;
    let parent_id = match node {
        // An entry for nodes hangs below the server itself.
        true => Spiffeid {
            trust_domain: spiffe_id.trust_domain.clone(),
            path: "/spire/server".to_owned(),
        },
        false => super::spiffe_id(values.text("parentID"))?,
    };
    let entry = described(values, spiffe_id, parent_id)?;
    let wanted = attributes(values, AdditionalAttributes::default());
    Ok(Entry {
        additional_attributes: Some(wanted).filter(|it| *it != AdditionalAttributes::default()),
        ..entry
    })
}

/// The entry that the flags of `entry update` describe.
fn updated(values: &Values) -> Result<Entry, Failure> {
    if values.given("entryID").is_none() {
        return Err(Failure::new("entry ID is required"));
    }
    some_selector(values)?;
    if values.given("parentID").is_none() {
        return Err(Failure::new("a parent ID is required"));
    }
    lifetimes_and_id(values)?;
    let parent_id = spiffe_id(values.text("parentID"))?;
    let spiffe_id = spiffe_id(values.text("spiffeID"))?;
    let entry = described(values, spiffe_id, parent_id)?;
    let named = values.is_set("disableX509SVIDPrefetch") || values.is_set("jwtSVIDIncludeJTI");
    Ok(Entry {
        additional_attributes: named.then(|| attributes(values, AdditionalAttributes::default())),
        ..entry
    })
}

fn some_selector(values: &Values) -> Result<(), Failure> {
    match values.list("selector") {
        [] => Err(Failure::new("at least one selector is required")),
        _ => Ok(()),
    }
}

fn lifetimes_and_id(values: &Values) -> Result<(), Failure> {
    if values.given("spiffeID").is_none() {
        return Err(Failure::new("a SPIFFE ID is required"));
    }
    if values.int("x509SVIDTTL") < 0 {
        return Err(Failure::new("a positive x509-SVID TTL is required"));
    }
    if values.int("jwtSVIDTTL") < 0 {
        return Err(Failure::new("a positive JWT-SVID TTL is required"));
    }
    Ok(())
}

fn described(values: &Values, id: Spiffeid, parent: Spiffeid) -> Result<Entry, Failure> {
    let selectors = values.list("selector").iter();
    Ok(Entry {
        id: values.text("entryID").to_owned(),
        spiffe_id: Some(id),
        parent_id: Some(parent),
        x509_svid_ttl: int32(values.int("x509SVIDTTL"), "X509 SVID TTL")?,
        jwt_svid_ttl: int32(values.int("jwtSVIDTTL"), "JWT SVID TTL")?,
        selectors: selectors
            .map(|text| filter::selector(text))
            .collect::<Result<_, _>>()?,
        federates_with: values.list("federatesWith").to_vec(),
        admin: values.switch("admin"),
        downstream: values.switch("downstream"),
        expires_at: values.int("entryExpiry"),
        dns_names: values.list("dns").to_vec(),
        store_svid: values.switch("storeSVID"),
        hint: values.text("hint").to_owned(),
        ..Entry::default()
    })
}

/// The attributes with those replaced that stand on the command line.
fn attributes(values: &Values, stored: AdditionalAttributes) -> AdditionalAttributes {
    let chosen = |flag: &str, stored| match values.is_set(flag) {
        true => values.switch(flag),
        false => stored,
    };
    AdditionalAttributes {
        disable_x509_svid_prefetch: chosen(
            "disableX509SVIDPrefetch",
            stored.disable_x509_svid_prefetch,
        ),
        jwt_svid_include_jti: chosen("jwtSVIDIncludeJTI", stored.jwt_svid_include_jti),
    }
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
