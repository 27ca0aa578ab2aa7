//! Programs that are killed at random moments.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use proto::spire::server::entry::entry_client::EntryClient;
use proto::spire::server::entry::{BatchCreateEntryRequest, ListEntriesRequest};
use proto::spire::types::{Entry, Selector, Spiffeid};
use tests::api::admin_channel;
use tests::domain::{Domain, Plan};
use tests::process::eventually;
use tests::programs::Make::Signet;

const WRITERS: usize = 8;
const ENTRIES: usize = 2_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_has_every_acknowledged_entry_and_no_half_one() {
    let seed = SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(1, |now| now.subsec_nanos());
    println!("seed {seed}");
    let mut random = u64::from(seed) | 1;
    let mut domain = Plan::new(Signet).start();
    let bundle = domain.cli(&["bundle", "show"]).success();
    let mut acknowledged = BTreeSet::new();
    for round in 0..super::rounds(20).min(200) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let kill_after = usize::try_from(random % ENTRIES as u64).unwrap_or(0);
        acknowledged.extend(write_until_killed(&mut domain, round, kill_after).await);
        assert_eq!(
            domain.cli(&["bundle", "show"]).success(),
            bundle,
            "round {round}: another authority"
        );
        let stored = stored(&domain).await;
        let lost: Vec<_> = acknowledged.difference(&stored).take(5).collect();
        assert!(
            lost.is_empty(),
            "round {round}, killed after {kill_after}: lost {lost:?}"
        );
    }
    assert!(!acknowledged.is_empty());
}

/// Writes entries from several tasks, kills the server after `kill_after` acknowledgements, starts it
/// again, and returns the ids that were acknowledged.
async fn write_until_killed(domain: &mut Domain, round: u32, kill_after: usize) -> Vec<String> {
    let socket = domain.server_socket();
    let (acks, killed) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (socket, acks, killed) = (socket.clone(), Arc::clone(&acks), Arc::clone(&killed));
            #[expect(clippy::disallowed_methods, reason = "joined below")]
            tokio::spawn(async move {
                let mut client = EntryClient::new(admin_channel(&socket).await);
                let mut ids = Vec::new();
                for number in (writer..ENTRIES).step_by(WRITERS) {
                    let entries = vec![entry(round, number)];
                    let request = BatchCreateEntryRequest {
                        entries,
                        output_mask: None,
                    };
                    let Ok(answer) = client.batch_create_entry(request).await else {
                        break;
                    };
                    for result in answer.into_inner().results {
                        assert_eq!(result.status.map(|status| status.code), Some(0));
                        ids.extend(result.entry.map(|entry| entry.id));
                    }
                    acks.fetch_add(1, Ordering::SeqCst);
                    if killed.load(Ordering::SeqCst) {
                        break;
                    }
                }
                ids
            })
        })
        .collect();
    let pid = domain.server.pid();
    let watched = Arc::clone(&acks);
    tokio::task::spawn_blocking(move || {
        eventually("enough entries", || {
            watched.load(Ordering::SeqCst) > kill_after.min(ENTRIES - WRITERS)
        });
    })
    .await
    .expect("the wait ends");
    assert_eq!(pid, domain.server.pid());
    domain.server.kill();
    killed.store(true, Ordering::SeqCst);
    let mut ids = Vec::new();
    for writer in writers {
        ids.extend(writer.await.expect("a writer ends"));
    }
    domain.restart_server();
    ids
}

fn entry(round: u32, number: usize) -> Entry {
    let id = |path: String| {
        Some(Spiffeid {
            trust_domain: "example.org".to_owned(),
            path,
        })
    };
    Entry {
        spiffe_id: id(format!("/round-{round}/workload-{number}")),
        parent_id: id("/spire/agent/join_token/node".to_owned()),
        selectors: vec![Selector {
            r#type: "unix".to_owned(),
            value: format!("uid:{number}"),
        }],
        hint: format!("{round}-{number}"),
        ..Entry::default()
    }
}

/// The ids of all stored entries, each of which is whole.
async fn stored(domain: &Domain) -> BTreeSet<String> {
    let mut client = EntryClient::new(admin_channel(&domain.server_socket()).await);
    let (mut ids, mut page_token) = (BTreeSet::new(), String::new());
    loop {
        let request = ListEntriesRequest {
            page_size: 500,
            page_token,
            ..ListEntriesRequest::default()
        };
        let answer = client
            .list_entries(request)
            .await
            .expect("the entries are listed")
            .into_inner();
        for found in answer.entries {
            let (round, number) = found.hint.split_once('-').expect("a whole hint");
            let whole = entry(
                round.parse().expect("a round"),
                number.parse().expect("a number"),
            );
            assert_eq!(
                (&found.spiffe_id, &found.selectors),
                (&whole.spiffe_id, &whole.selectors)
            );
            ids.insert(found.id);
        }
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return ids;
        }
    }
}
