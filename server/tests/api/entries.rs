//! Facts about registration entries.

use std::collections::BTreeSet;

use proto::spire::server::bundle::bundle_client::BundleClient;
use proto::spire::server::bundle::{
    BatchSetFederatedBundleRequest, GetBundleRequest, GetFederatedBundleRequest,
    ListFederatedBundlesRequest,
};
use proto::spire::server::entry::entry_client::EntryClient;
use proto::spire::server::entry::{
    BatchDeleteEntryRequest, BatchUpdateEntryRequest, CountEntriesRequest, GetEntryRequest,
    ListEntriesRequest, SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse,
    batch_update_entry_response, list_entries_request,
};
use proto::spire::types;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use super::support::{Server, agent_id, entry, own, selector, start};

fn status(status: Option<&types::Status>) -> (Code, String) {
    let status = status.unwrap();
    (Code::from(status.code), status.message.clone())
}

async fn update(
    server: &Server,
    entry: types::Entry,
    input_mask: Option<types::EntryMask>,
) -> batch_update_entry_response::Result {
    let request = BatchUpdateEntryRequest {
        entries: vec![entry],
        input_mask,
        output_mask: None,
    };
    let mut answer = server
        .entries()
        .batch_update_entry(request)
        .await
        .unwrap()
        .into_inner();
    answer.results.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_bad_entries_one_by_one_and_keeps_the_good() {
    let server = start().await;
    let parent = agent_id("t");
    let with = |change: fn(&mut types::Entry)| {
        let mut changed = entry(&parent, "/x");
        change(&mut changed);
        changed
    };
    let foreign = || {
        Some(types::Spiffeid {
            trust_domain: "other.org".into(),
            path: "/x".into(),
        })
    };
    let convert = "failed to convert entry: ";
    let cases: Vec<(types::Entry, Code, String)> = vec![
        (with(|_| {}), Code::Ok, "OK".into()),
        (with(|_| {}), Code::AlreadyExists, "similar entry already exists".into()),
        (with(|e| e.selectors.clear()), Code::InvalidArgument, format!("{convert}selector list is empty")),
        (with(|e| e.selectors[0].r#type.clear()), Code::InvalidArgument, format!("{convert}missing selector type")),
        (with(|e| e.selectors[0].value.clear()), Code::InvalidArgument, format!("{convert}missing selector value")),
        (with(|e| e.selectors[0].r#type = "a:b".into()), Code::InvalidArgument, format!("{convert}selector type contains ':'")),
        (types::Entry { spiffe_id: foreign(), ..with(|_| {}) }, Code::InvalidArgument, format!("{convert}invalid spiffe ID: \"spiffe://other.org/x\" is not a member of trust domain \"example.org\"")),
        (types::Entry { parent_id: foreign(), ..with(|_| {}) }, Code::InvalidArgument, format!("{convert}invalid parent ID: \"spiffe://other.org/x\" is not a member of trust domain \"example.org\"")),
        (with(|e| e.spiffe_id = own("/spire/foo")), Code::InvalidArgument, format!("{convert}invalid spiffe ID: \"spiffe://example.org/spire/foo\" is not a workload in trust domain \"example.org\"; path is in the reserved namespace")),
        (with(|e| e.spiffe_id = own("")), Code::InvalidArgument, format!("{convert}invalid spiffe ID: \"spiffe://example.org\" is not a workload in trust domain \"example.org\"; path is empty")),
        (with(|e| e.parent_id = own("")), Code::InvalidArgument, format!("{convert}invalid parent ID: \"spiffe://example.org\" is not a member of trust domain \"example.org\"; path is empty")),
        (with(|e| e.spiffe_id = None), Code::InvalidArgument, format!("{convert}invalid spiffe ID: request must specify SPIFFE ID")),
        (with(|e| e.dns_names = vec!["-bad-".into()]), Code::InvalidArgument, format!("{convert}invalid DNS name")),
        (with(|e| e.hint = "x".repeat(1025)), Code::InvalidArgument, format!("{convert}hint is too long, max length is 1024 characters")),
        (with(|e| e.x509_svid_ttl = -1), Code::InvalidArgument, "failed to create entry: datastore-validation: invalid registration entry: X509SvidTtl".into()),
        (with(|e| e.id = "a/b".into()), Code::InvalidArgument, "failed to create entry: datastore-validation: invalid registration entry: entry ID contains invalid characters".into()),
        (with(|e| e.id = "x".repeat(256)), Code::InvalidArgument, "failed to create entry: datastore-validation: invalid registration entry: entry ID too long".into()),
        (with(|e| e.expires_at = -5), Code::InvalidArgument, "failed to create entry: datastore-validation: ".into()),
        (with(|e| { e.spiffe_id = own("/f"); e.federates_with = vec!["unknown.org".into()]; }), Code::Internal, "failed to create entry: unable to find federated bundle \"spiffe://unknown.org\"".into()),
        (with(|e| { e.spiffe_id = own("/y"); e.id = "mine".into(); }), Code::Ok, "OK".into()),
        (with(|e| { e.spiffe_id = own("/z"); e.id = "mine".into(); }), Code::AlreadyExists, "failed to create entry: ".into()),
    ];
    let results = server
        .create(cases.iter().map(|case| case.0.clone()).collect())
        .await;
    assert_eq!(results.len(), cases.len());
    for (result, (asked, code, message)) in results.iter().zip(&cases) {
        let (found, text) = status(result.status.as_ref());
        assert_eq!(found, *code, "{asked:?}: {text}");
        assert!(text.starts_with(message), "{text:?} is not {message:?}");
    }
    // A similar entry comes back with its status.
    assert_eq!(
        results[1].entry.as_ref().unwrap().id,
        results[0].entry.as_ref().unwrap().id
    );
    let count = server
        .entries()
        .count_entries(CountEntriesRequest::default())
        .await
        .unwrap();
    assert_eq!(count.into_inner().count, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_parallel_creations_of_one_entry_one_wins() {
    let server = start().await;
    let parent = agent_id("t");
    let attempts = (0..32).map(|_| server.create(vec![entry(&parent, "/x")]));
    let results = futures_util::future::join_all(attempts).await;
    let codes: Vec<_> = results
        .iter()
        .map(|results| status(results[0].status.as_ref()).0)
        .collect();
    assert_eq!(
        codes.iter().filter(|code| **code == Code::Ok).count(),
        1,
        "{codes:?}"
    );
    assert_eq!(
        codes
            .iter()
            .filter(|code| **code == Code::AlreadyExists)
            .count(),
        31
    );
    let ids: BTreeSet<_> = results
        .iter()
        .map(|results| results[0].entry.as_ref().unwrap().id.clone())
        .collect();
    assert_eq!(ids.len(), 1, "all are told of the same entry");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_what_its_mask_names_and_raises_the_revision() {
    let server = start().await;
    let parent = agent_id("t");
    let mut first = entry(&parent, "/x");
    first.hint = "old".into();
    first.x509_svid_ttl = 60;
    let created = server.create(vec![first]).await.remove(0).entry.unwrap();
    assert_eq!((created.revision_number, created.x509_svid_ttl), (0, 60));
    let mask = types::EntryMask {
        hint: true,
        ..Default::default()
    };
    let patch = types::Entry {
        id: created.id.clone(),
        hint: "new".into(),
        ..Default::default()
    };
    let updated = update(&server, patch, Some(mask)).await.entry.unwrap();
    assert_eq!(updated.revision_number, 1);
    assert_eq!((updated.hint.as_str(), updated.x509_svid_ttl), ("new", 60));
    assert_eq!(updated.spiffe_id, created.spiffe_id);
    assert_eq!(updated.created_at, created.created_at);
    // Without a mask, all fields are set.
    let mut whole = entry(&parent, "/moved");
    whole.id = created.id.clone();
    let updated = update(&server, whole.clone(), None).await.entry.unwrap();
    assert_eq!(
        (
            updated.revision_number,
            updated.hint.as_str(),
            updated.x509_svid_ttl
        ),
        (2, "", 0)
    );
    // The old guard is gone with the move: the old place is free again.
    let again = server.create(vec![entry(&parent, "/x")]).await.remove(0);
    assert_eq!(status(again.status.as_ref()).0, Code::Ok);
    whole.spiffe_id = own("/x");
    let taken = update(&server, whole.clone(), None).await;
    assert_eq!(status(taken.status.as_ref()).0, Code::AlreadyExists);
    whole.id = "nope".into();
    let missing = update(&server, whole, None).await;
    let expected = (Code::NotFound, "failed to update entry".to_owned());
    assert_eq!(status(missing.status.as_ref()), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_entry_is_gone_and_can_be_made_again() {
    let server = start().await;
    let parent = agent_id("t");
    let id = server.entry(&parent, "/x").await;
    let ids = vec![id.clone(), id.clone(), "nope".to_owned(), String::new()];
    let request = BatchDeleteEntryRequest { ids };
    let results = server
        .entries()
        .batch_delete_entry(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    let statuses: Vec<_> = results
        .iter()
        .map(|result| status(result.status.as_ref()))
        .collect();
    let not_found = (Code::NotFound, "entry not found".to_owned());
    let missing = (Code::InvalidArgument, "missing entry ID".to_owned());
    assert_eq!(
        statuses,
        [
            (Code::Ok, "OK".to_owned()),
            not_found.clone(),
            not_found,
            missing
        ]
    );
    let got = server
        .entries()
        .get_entry(GetEntryRequest {
            id,
            output_mask: None,
        })
        .await;
    assert_eq!(got.unwrap_err().message(), "entry not found");
    server.entry(&parent, "/x").await;
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "most of it is a table")]
async fn filters_masks_and_pages_entries() {
    let server = start().await;
    let (one, two) = (agent_id("one"), agent_id("two"));
    let mut entries = vec![entry(&one, "/a"), entry(&one, "/b"), entry(&two, "/c")];
    entries[0].selectors = vec![selector("uid:1"), selector("gid:1")];
    entries[1].hint = "h".into();
    entries[2].downstream = true;
    server.create(entries).await;
    let filter = |change: &dyn Fn(&mut list_entries_request::Filter)| {
        let mut filter = list_entries_request::Filter::default();
        change(&mut filter);
        Some(filter)
    };
    let by = |r#match: i32, values: &[&str]| {
        let selectors = values.iter().map(|value| selector(value)).collect();
        Some(types::SelectorMatch { selectors, r#match })
    };
    let (exact, subset, superset, any) = (0, 1, 2, 3);
    let cases = [
        (None, vec!["/a", "/b", "/c"]),
        (filter(&|f| f.by_spiffe_id = own("/b")), vec!["/b"]),
        (
            filter(&|f| f.by_parent_id = own("/spire/agent/join_token/one")),
            vec!["/a", "/b"],
        ),
        (filter(&|f| f.by_hint = Some("h".into())), vec!["/b"]),
        (
            filter(&|f| f.by_hint = Some(String::new())),
            vec!["/a", "/b", "/c"],
        ),
        (filter(&|f| f.by_downstream = Some(true)), vec!["/c"]),
        // SPIRE's command always sends it.
        (
            filter(&|f| f.by_downstream = Some(false)),
            vec!["/a", "/b", "/c"],
        ),
        (
            filter(&|f| f.by_selectors = by(exact, &["uid:1", "gid:1"])),
            vec!["/a"],
        ),
        (filter(&|f| f.by_selectors = by(exact, &["uid:1"])), vec![]),
        (
            filter(&|f| f.by_selectors = by(subset, &["uid:1", "gid:1", "uid:1000"])),
            vec!["/a", "/b", "/c"],
        ),
        (
            filter(&|f| f.by_selectors = by(superset, &["uid:1"])),
            vec!["/a"],
        ),
        (
            filter(&|f| f.by_selectors = by(any, &["gid:1", "gid:2"])),
            vec!["/a"],
        ),
    ];
    for (filter, expected) in cases {
        let request = ListEntriesRequest {
            filter: filter.clone(),
            ..Default::default()
        };
        let listed = server
            .entries()
            .list_entries(request)
            .await
            .unwrap()
            .into_inner()
            .entries;
        let mut paths: Vec<_> = listed
            .into_iter()
            .map(|entry| entry.spiffe_id.unwrap().path)
            .collect();
        paths.sort();
        assert_eq!(paths, expected, "{filter:?}");
    }
    let request = ListEntriesRequest {
        filter: filter(&|f| f.by_selectors = by(exact, &[])),
        ..Default::default()
    };
    let empty = server.entries().list_entries(request).await.unwrap_err();
    assert_eq!(
        empty.message(),
        "malformed selectors filter: empty selector set"
    );

    let mask = types::EntryMask {
        hint: true,
        ..Default::default()
    };
    let mut seen = BTreeSet::new();
    let mut token = String::new();
    loop {
        let request = ListEntriesRequest {
            page_size: 1,
            page_token: token,
            output_mask: Some(mask),
            ..Default::default()
        };
        let page = server
            .entries()
            .list_entries(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(page.entries.len(), 1);
        assert_eq!(page.entries[0].spiffe_id, None, "masked");
        assert!(
            seen.insert(page.entries[0].id.clone()),
            "an entry came twice"
        );
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), 3);
}

/// Both ends of a synchronization.
struct Sync {
    requests: mpsc::Sender<SyncAuthorizedEntriesRequest>,
    answers: Streaming<SyncAuthorizedEntriesResponse>,
}

impl Sync {
    async fn start(
        channel: &Channel,
        first: SyncAuthorizedEntriesRequest,
    ) -> Result<Self, tonic::Status> {
        let (requests, stream) = mpsc::channel(8);
        requests.send(first).await.unwrap();
        let mut client = EntryClient::new(channel.clone());
        let answers = client
            .sync_authorized_entries(ReceiverStream::new(stream))
            .await?;
        Ok(Self {
            requests,
            answers: answers.into_inner(),
        })
    }

    async fn next(&mut self) -> Option<SyncAuthorizedEntriesResponse> {
        self.answers.message().await.unwrap()
    }
}

fn mask() -> types::EntryMask {
    types::EntryMask {
        spiffe_id: true,
        selectors: true,
        revision_number: true,
        created_at: true,
        ..Default::default()
    }
}

fn first() -> SyncAuthorizedEntriesRequest {
    SyncAuthorizedEntriesRequest {
        output_mask: Some(mask()),
        ids: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_list_is_synchronized_whole_and_the_stream_ends() {
    let server = start().await;
    let (agent, _, channel) = server.agent().await;
    let mut none = Sync::start(&channel, first()).await.unwrap();
    assert_eq!(
        none.next().await.unwrap(),
        SyncAuthorizedEntriesResponse::default()
    );
    assert_eq!(none.next().await, None);
    let entries = (0..500).map(|n| entry(&agent, &format!("/w{n}"))).collect();
    server.create(entries).await;
    let mut sync = Sync::start(&channel, first()).await.unwrap();
    let whole = sync.next().await.unwrap();
    assert_eq!(
        (whole.entries.len(), whole.entry_revisions.len(), whole.more),
        (500, 0, false)
    );
    assert_eq!(whole.entries[0].parent_id, None, "masked");
    assert_eq!(sync.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_1200_entries_is_synchronized_sparsely() {
    let server = start().await;
    let (agent, _, channel) = server.agent().await;
    let entries = (0..1200)
        .map(|n| entry(&agent, &format!("/w{n}")))
        .collect();
    server.create(entries).await;
    let mut sync = Sync::start(&channel, first()).await.unwrap();
    let mut ids = Vec::new();
    let mut pages = Vec::new();
    loop {
        let page = sync.next().await.unwrap();
        assert!(
            page.entries.is_empty(),
            "revisions and entries in one message"
        );
        pages.push(page.entry_revisions.len());
        ids.extend(page.entry_revisions.into_iter().map(|revision| revision.id));
        if !page.more {
            break;
        }
    }
    assert_eq!(pages, [500, 500, 200]);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 1200);
    let mut asked: Vec<_> = ids.iter().take(500).cloned().collect();
    asked.push("nobody-has-this".to_owned());
    sync.requests
        .send(SyncAuthorizedEntriesRequest {
            output_mask: None,
            ids: asked,
        })
        .await
        .unwrap();
    let answer = sync.next().await.unwrap();
    assert_eq!((answer.entries.len(), answer.more), (500, false));
    assert!(answer.entry_revisions.is_empty());
    assert!(
        answer.entries.iter().all(|entry| entry.parent_id.is_none()),
        "the first mask holds"
    );
    // More than a page is asked for: it comes in pages.
    sync.requests
        .send(SyncAuthorizedEntriesRequest {
            output_mask: None,
            ids,
        })
        .await
        .unwrap();
    let mut pages = Vec::new();
    loop {
        let page = sync.next().await.unwrap();
        pages.push(page.entries.len());
        if !page.more {
            break;
        }
    }
    assert_eq!(pages, [500, 500, 200]);
    drop(sync.requests);
    assert_eq!(sync.answers.message().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_too_long_in_bytes_is_synchronized_sparsely_too() {
    let server = start().await;
    let (agent, _, channel) = server.agent().await;
    let long = "x".repeat(8_000);
    let entries = (0..300).map(|n| {
        let mut entry = entry(&agent, &format!("/w{n}"));
        entry.selectors = vec![selector(&long)];
        entry
    });
    server.create(entries.collect()).await;
    let mut sync = Sync::start(&channel, first()).await.unwrap();
    let page = sync.next().await.unwrap();
    assert_eq!((page.entry_revisions.len(), page.more), (300, false));
    let ids = page
        .entry_revisions
        .into_iter()
        .map(|revision| revision.id)
        .collect();
    sync.requests
        .send(SyncAuthorizedEntriesRequest {
            output_mask: None,
            ids,
        })
        .await
        .unwrap();
    let mut entries = 0;
    loop {
        use prost::Message;
        let page = sync.next().await.unwrap();
        assert!(
            page.encoded_len() <= (1 << 20) + 16,
            "{}",
            page.encoded_len()
        );
        entries += page.entries.len();
        if !page.more {
            break;
        }
    }
    assert_eq!(entries, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronization_begins_without_ids_and_with_revisions() {
    let server = start().await;
    let (_, _, channel) = server.agent().await;
    let with_ids = SyncAuthorizedEntriesRequest {
        output_mask: None,
        ids: vec!["x".into()],
    };
    let without = types::EntryMask {
        spiffe_id: true,
        ..Default::default()
    };
    let masked = SyncAuthorizedEntriesRequest {
        output_mask: Some(without),
        ids: Vec::new(),
    };
    for (first, message) in [
        (
            with_ids,
            "specifying IDs on initial request is not supported",
        ),
        (masked, "revision number cannot be masked"),
    ] {
        let Err(status) = Sync::start(&channel, first).await else {
            panic!("{message}")
        };
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, message)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "most of it is a table")]
async fn an_entry_federates_with_whom_there_is_a_bundle_of() {
    let server = start().await;
    let own_bundle = server
        .bundles()
        .get_bundle(GetBundleRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(own_bundle.trust_domain, "example.org");
    assert_eq!(
        (
            own_bundle.x509_authorities.len(),
            own_bundle.jwt_authorities.len()
        ),
        (1, 1)
    );
    let mut foreign = own_bundle.clone();
    foreign.trust_domain = "fed.org".into();
    let mut broken = foreign.clone();
    broken.trust_domain = "broken.org".into();
    broken.x509_authorities[0].asn1 = b"nonsense".to_vec().into();
    let mut bad = foreign.clone();
    bad.trust_domain = "Bad Name".into();
    let request = BatchSetFederatedBundleRequest {
        bundle: vec![foreign, own_bundle, broken, bad],
        output_mask: None,
    };
    let answer = server
        .bundles()
        .batch_set_federated_bundle(request)
        .await
        .unwrap();
    let results = answer.into_inner().results;
    let statuses: Vec<_> = results
        .iter()
        .map(|result| status(result.status.as_ref()))
        .collect();
    assert_eq!(statuses[0], (Code::Ok, "OK".to_owned()));
    let own_refused = "setting a federated bundle for the server's own trust domain is not allowed";
    assert_eq!(statuses[1], (Code::InvalidArgument, own_refused.to_owned()));
    assert!(
        statuses[2]
            .1
            .starts_with("failed to convert bundle: unable to parse X.509 authority"),
        "{statuses:?}"
    );
    assert!(
        statuses[3]
            .1
            .starts_with("trust domain argument is not valid: "),
        "{statuses:?}"
    );

    let request = ListFederatedBundlesRequest::default();
    let listed = server
        .bundles()
        .list_federated_bundles(request)
        .await
        .unwrap();
    assert_eq!(listed.into_inner().bundles.len(), 1);
    let (agent, _, channel) = server.agent().await;
    let mut federated = entry(&agent, "/f");
    federated.federates_with = vec!["fed.org".into()];
    assert_eq!(
        status(server.create(vec![federated]).await[0].status.as_ref()).0,
        Code::Ok
    );
    let bundles = BundleClient::new(channel);
    let get = |name: &str| {
        let request = GetFederatedBundleRequest {
            trust_domain: name.into(),
            output_mask: None,
        };
        let mut bundles = bundles.clone();
        async move { bundles.get_federated_bundle(request).await }
    };
    assert_eq!(
        get("fed.org").await.unwrap().into_inner().trust_domain,
        "fed.org"
    );
    assert_eq!(
        get("none.org").await.unwrap_err().message(),
        "bundle not found"
    );
    let own_asked = "getting a federated bundle for the server's own trust domain is not allowed";
    assert_eq!(get("example.org").await.unwrap_err().message(), own_asked);
}
