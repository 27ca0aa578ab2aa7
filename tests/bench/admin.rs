//! What an operator does at the server's socket, fast enough to be measured.

use proto::spire::server::agent::BanAgentRequest;
use proto::spire::server::agent::agent_client::AgentClient;
use proto::spire::server::entry::entry_client::EntryClient;
use proto::spire::server::entry::{BatchCreateEntryRequest, BatchDeleteEntryRequest};
use proto::spire::server::localauthority::PrepareX509AuthorityRequest;
use proto::spire::server::localauthority::local_authority_client::LocalAuthorityClient;
use proto::spire::types;
use tests::api::admin_channel;
use tests::domain::Domain;
use tonic::transport::Channel;

/// The most entries that are created by one call.
const BATCH: usize = 500;

/// The server's API, as its operator has it. Each call returns when the server has acknowledged it.
pub(crate) struct Admin {
    channel: Channel,
}

/// An entry that is to be made.
pub(crate) struct NewEntry<'a> {
    /// Whose it is, or nobody's: then it is an alias.
    pub(crate) parent: &'a str,
    pub(crate) path: String,
    pub(crate) selector: (&'a str, String),
}

impl Admin {
    pub(crate) async fn of(domain: &Domain) -> Self {
        Self {
            channel: admin_channel(&domain.server_socket()).await,
        }
    }

    /// Creates an entry, and gives its id.
    pub(crate) async fn create(&self, entry: NewEntry<'_>) -> String {
        self.create_batch(vec![entry]).await.remove(0)
    }

    /// Creates entries, as many in a call as one may have.
    pub(crate) async fn create_all(&self, entries: impl Iterator<Item = NewEntry<'_>>) {
        let mut entries = entries.peekable();
        while entries.peek().is_some() {
            let batch = entries.by_ref().take(BATCH).collect();
            self.create_batch(batch).await;
        }
    }

    async fn create_batch(&self, entries: Vec<NewEntry<'_>>) -> Vec<String> {
        let request = BatchCreateEntryRequest {
            entries: entries.iter().map(NewEntry::to_proto).collect(),
            output_mask: None,
        };
        let mut client = EntryClient::new(self.channel.clone());
        let response = client.batch_create_entry(request).await.unwrap();
        let results = response.into_inner().results.into_iter();
        let ids = results.map(|result| {
            assert_eq!(result.status.unwrap().code, 0);
            result.entry.unwrap().id
        });
        ids.collect()
    }

    pub(crate) async fn delete(&self, id: String) {
        let mut client = EntryClient::new(self.channel.clone());
        let request = BatchDeleteEntryRequest { ids: vec![id] };
        let response = client.batch_delete_entry(request).await.unwrap();
        let result = response.into_inner().results.remove(0);
        assert_eq!(result.status.unwrap().code, 0);
    }

    pub(crate) async fn ban(&self, agent: &str) {
        let mut client = AgentClient::new(self.channel.clone());
        let request = BanAgentRequest {
            id: Some(spiffe_id(agent)),
        };
        client.ban_agent(request).await.unwrap();
    }

    /// Puts a new authority into the bundle, beside the one that signs.
    pub(crate) async fn prepare_x509_authority(&self) {
        let mut client = LocalAuthorityClient::new(self.channel.clone());
        let request = PrepareX509AuthorityRequest {};
        client.prepare_x509_authority(request).await.unwrap();
    }
}

impl NewEntry<'_> {
    fn to_proto(&self) -> types::Entry {
        let (kind, value) = &self.selector;
        types::Entry {
            parent_id: Some(spiffe_id(self.parent)),
            spiffe_id: Some(types::Spiffeid {
                trust_domain: "example.org".to_owned(),
                path: self.path.clone(),
            }),
            selectors: vec![types::Selector {
                r#type: (*kind).to_owned(),
                value: value.clone(),
            }],
            ..Default::default()
        }
    }
}

fn spiffe_id(id: &str) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: "example.org".to_owned(),
        path: id.trim_start_matches("spiffe://example.org").to_owned(),
    }
}
