//! Facts about a backup of a server that goes on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use futures_util::future::{join, join_all};
use parking_lot::Mutex;
use proto::signet::server::SnapshotRequest;
use proto::signet::server::backup_client::BackupClient;
use proto::spire::server::bundle::GetBundleRequest;
use proto::spire::server::entry::ListEntriesRequest;
use proto::spire::types;
use server::store::Backup;
use tokio::sync::watch;
use tonic::Code;

use super::support::{Server, durable, entry, selector};

const WRITERS: usize = 4;
/// Entries written before a backup begins, and after it.
const WRITES: usize = 40;

/// Entries by their names.
type Entries = BTreeMap<String, types::Entry>;

fn named(entries: impl IntoIterator<Item = types::Entry>) -> Entries {
    let entries = entries.into_iter();
    entries.map(|entry| (entry.id.clone(), entry)).collect()
}

async fn snapshot(server: &Server) -> Backup {
    let mut client = BackupClient::new(server.admin.clone());
    let answer = client.snapshot(SnapshotRequest {}).await.unwrap();
    let mut chunks = answer.into_inner();
    let mut bytes = BytesMut::new();
    while let Some(message) = chunks.message().await.unwrap() {
        assert!(message.chunk.len() <= 1 << 20);
        bytes.extend_from_slice(&message.chunk);
    }
    Backup::decode(&bytes.freeze()).unwrap()
}

async fn authorities(server: &Server) -> Vec<types::X509Certificate> {
    let mut bundles = server.bundles();
    let bundle = bundles.get_bundle(GetBundleRequest::default()).await;
    bundle.unwrap().into_inner().x509_authorities
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_amid_writes_has_all_that_was_acknowledged_before_it_and_nothing_half() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(durable(&folder)).await.unwrap();
    let (agent, _, _) = server.agent().await;
    let acknowledged = Mutex::new(Vec::new());
    let count = watch::Sender::new(0);
    let done = AtomicBool::new(false);

    let writers = join_all((0..WRITERS).map(|writer| {
        let (server, agent, acknowledged, count, done) =
            (&server, &agent, &acknowledged, &count, &done);
        async move {
            for n in 0.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let mut wanted = entry(agent, &format!("/{writer}/{n}"));
                wanted.selectors.push(selector("gid:1000"));
                wanted.dns_names = vec!["a.example.org".to_owned()];
                let created = server.create(vec![wanted]).await.remove(0);
                acknowledged.lock().push(created.entry.unwrap());
                count.send_modify(|count| *count += 1);
            }
        }
    }));
    let operator = async {
        let mut taken = Vec::new();
        let mut written = count.subscribe();
        for _ in 0..3 {
            let seen = *written.borrow_and_update() + WRITES;
            written.wait_for(|count| *count >= seen).await.unwrap();
            let before = named(acknowledged.lock().clone());
            taken.push((before, snapshot(&server).await));
        }
        let seen = *written.borrow_and_update() + WRITES;
        written.wait_for(|count| *count >= seen).await.unwrap();
        done.store(true, Ordering::Relaxed);
        taken
    };
    let (_, taken) = join(writers, operator).await;
    let written = named(acknowledged.into_inner());
    let authorities_before = authorities(&server).await;
    server.stop().await;

    for (before, backup) in taken {
        let elsewhere = tempfile::tempdir().unwrap();
        let config = durable(&elsewhere);
        backup.restore(&config.data_dir).unwrap();
        let keys = "keys.json";
        std::fs::copy(folder.path().join(keys), elsewhere.path().join(keys)).unwrap();
        let server = Server::start(config).await.unwrap();
        assert_eq!(authorities(&server).await, authorities_before);
        let mut entries = server.entries();
        let listed = entries.list_entries(ListEntriesRequest::default()).await;
        let restored = named(listed.unwrap().into_inner().entries);
        for (id, entry) in &before {
            assert_eq!(restored.get(id), Some(entry), "acknowledged before");
        }
        for (id, entry) in &restored {
            assert_eq!(written.get(id), Some(entry), "whole");
        }
        assert!(restored.len() < written.len(), "written afterwards");
        // An entry that is not there has left nothing that would forbid it.
        let again: Vec<_> = written.values().cloned().collect();
        for (result, id) in server.create(again).await.iter().zip(written.keys()) {
            let code = Code::from(result.status.as_ref().unwrap().code);
            let there = restored.contains_key(id);
            assert_eq!(code, if there { Code::AlreadyExists } else { Code::Ok });
        }
        server.stop().await;
    }
}
