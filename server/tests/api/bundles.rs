//! Facts about the bundles that an operator writes.

use std::collections::BTreeSet;

use identity::key::PublicKey;
use proto::spire::server::bundle::batch_delete_federated_bundle_request::Mode;
use proto::spire::server::bundle::{
    AppendBundleRequest, BatchCreateFederatedBundleRequest, BatchDeleteFederatedBundleRequest,
    BatchSetFederatedBundleRequest, BatchUpdateFederatedBundleRequest, CountBundlesRequest,
    GetBundleRequest, GetFederatedBundleRequest,
};
use proto::spire::server::entry::ListEntriesRequest;
use proto::spire::types;
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use tonic::{Code, Status};

use super::support::{DOMAIN, Server, agent_id, entry, start};

pub(crate) fn x509() -> types::X509Certificate {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap();
    types::X509Certificate {
        asn1: certificate.der().to_vec().into(),
        tainted: false,
    }
}

pub(crate) fn jwt(key_id: &str, expires_at: i64) -> types::JwtKey {
    let key = KeyPair::generate().unwrap();
    let public_key = PublicKey::from_spki_der(&key.subject_public_key_info()).unwrap();
    types::JwtKey {
        public_key: public_key.spki_der().to_vec().into(),
        key_id: key_id.to_owned(),
        expires_at,
        tainted: false,
    }
}

pub(crate) fn bundle(trust_domain: &str) -> types::Bundle {
    types::Bundle {
        trust_domain: trust_domain.to_owned(),
        x509_authorities: vec![x509()],
        jwt_authorities: vec![jwt("one", 0)],
        refresh_hint: 60,
        sequence_number: 7,
        ..Default::default()
    }
}

pub(crate) type Item = (Code, String);

fn item(status: Option<types::Status>) -> Item {
    let status = status.unwrap();
    (Code::from(status.code), status.message)
}

fn refused(code: Code, message: &str) -> Item {
    (code, message.to_owned())
}

fn ok() -> Item {
    refused(Code::Ok, "OK")
}

impl Server {
    pub(crate) async fn create_bundles(&self, bundle: Vec<types::Bundle>) -> Vec<Item> {
        let request = BatchCreateFederatedBundleRequest {
            bundle,
            output_mask: None,
        };
        let answer = self.bundles().batch_create_federated_bundle(request).await;
        let results = answer.unwrap().into_inner().results;
        results.into_iter().map(|r| item(r.status)).collect()
    }

    pub(crate) async fn delete_bundles(&self, names: &[&str], mode: Mode) -> Vec<Item> {
        let request = BatchDeleteFederatedBundleRequest {
            trust_domains: names.iter().map(|name| (*name).to_owned()).collect(),
            mode: mode.into(),
        };
        let answer = self.bundles().batch_delete_federated_bundle(request).await;
        let results = answer.unwrap().into_inner().results;
        let told = results.iter().map(|result| result.trust_domain.as_str());
        assert!(told.eq(names.iter().copied()), "{results:?}");
        results.into_iter().map(|r| item(r.status)).collect()
    }

    async fn bundle_of(&self, trust_domain: &str) -> Result<types::Bundle, Status> {
        let request = GetFederatedBundleRequest {
            trust_domain: trust_domain.to_owned(),
            output_mask: None,
        };
        let answer = self.bundles().get_federated_bundle(request).await?;
        Ok(answer.into_inner())
    }

    async fn own_bundle(&self) -> types::Bundle {
        let request = GetBundleRequest::default();
        self.bundles()
            .get_bundle(request)
            .await
            .unwrap()
            .into_inner()
    }

    async fn count_bundles(&self) -> i32 {
        let answer = self.bundles().count_bundles(CountBundlesRequest {}).await;
        answer.unwrap().into_inner().count
    }

    /// Makes an entry that federates with these trust domains.
    async fn federated_entry(&self, path: &str, with: &[&str]) -> types::Entry {
        let mut wanted = entry(&agent_id("x"), path);
        wanted.federates_with = with.iter().map(|name| (*name).to_owned()).collect();
        let result = self.create(vec![wanted]).await.remove(0);
        assert_eq!(result.status.unwrap().code, 0);
        result.entry.unwrap()
    }

    async fn all_entries(&self) -> Vec<types::Entry> {
        let request = ListEntriesRequest::default();
        let answer = self.entries().list_entries(request).await;
        answer.unwrap().into_inner().entries
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_created_once_and_each_item_has_its_own_status() {
    let server = start().await;
    let bad = types::Bundle {
        jwt_authorities: vec![types::JwtKey {
            key_id: String::new(),
            ..jwt("x", 0)
        }],
        ..bundle("bad.org")
    };
    let items = vec![
        bundle("a.org"),
        bundle("b.org"),
        bundle("a.org"),
        bundle(DOMAIN),
        bundle("not a name"),
        bad,
    ];
    let first = items[0].clone();
    let outcomes = server.create_bundles(items).await;
    assert_eq!(outcomes[..2], [ok(), ok()]);
    assert_eq!(
        outcomes[2],
        refused(Code::AlreadyExists, "bundle already exists")
    );
    assert_eq!(
        outcomes[3],
        refused(
            Code::InvalidArgument,
            "creating a federated bundle for the server's own trust domain is not allowed"
        )
    );
    assert!(
        outcomes[4]
            .1
            .starts_with("trust domain argument is not valid: ")
    );
    assert_eq!(
        outcomes[5],
        refused(
            Code::InvalidArgument,
            "failed to convert bundle: unable to parse JWT authority: missing key ID"
        )
    );
    assert_eq!(server.bundle_of("a.org").await.unwrap(), first);
    assert_eq!(
        server.bundle_of("bad.org").await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(server.count_bundles().await, 3, "our own counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_what_its_mask_names_and_answers_with_the_whole() {
    let server = start().await;
    let stored = bundle("a.org");
    server.create_bundles(vec![stored.clone()]).await;
    let newer = types::Bundle {
        refresh_hint: 120,
        sequence_number: 8,
        ..bundle("a.org")
    };
    let update = async |bundle: types::Bundle, input_mask| {
        let request = BatchUpdateFederatedBundleRequest {
            bundle: vec![bundle],
            input_mask,
            output_mask: None,
        };
        let mut client = server.bundles();
        let answer = client.batch_update_federated_bundle(request).await;
        let mut results = answer.unwrap().into_inner().results;
        let result = results.remove(0);
        (item(result.status), result.bundle)
    };
    let mask = types::BundleMask {
        jwt_authorities: true,
        sequence_number: true,
        ..Default::default()
    };
    let (status, answered) = update(newer.clone(), Some(mask)).await;
    assert_eq!(status, ok());
    let expected = types::Bundle {
        jwt_authorities: newer.jwt_authorities.clone(),
        sequence_number: 8,
        ..stored
    };
    assert_eq!(answered.as_ref(), Some(&expected));
    assert_eq!(server.bundle_of("a.org").await.unwrap(), expected);

    let (status, _) = update(newer.clone(), Some(types::BundleMask::default())).await;
    assert_eq!(status, ok());
    assert_eq!(server.bundle_of("a.org").await.unwrap(), expected);

    let (status, _) = update(newer.clone(), None).await;
    assert_eq!(status, ok());
    assert_eq!(server.bundle_of("a.org").await.unwrap(), newer);

    let (status, none) = update(bundle("b.org"), None).await;
    assert_eq!(status, refused(Code::NotFound, "bundle not found"));
    assert_eq!(none, None);
    let (status, _) = update(bundle(DOMAIN), None).await;
    assert_eq!(status.0, Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_entries_federate_with_is_not_deleted_in_mode_restrict() {
    let server = start().await;
    server
        .create_bundles(vec![bundle("a.org"), bundle("b.org")])
        .await;
    server.federated_entry("/one", &["a.org"]).await;
    server.federated_entry("/two", &["a.org", "b.org"]).await;
    let before = server.all_entries().await;
    let outcomes = server
        .delete_bundles(
            &["a.org", "c.org", DOMAIN, "not a name", "b.org"],
            Mode::Restrict,
        )
        .await;
    let in_use = |count| {
        format!(
            "failed to delete federated bundle: datastore-sql: cannot delete bundle; \
             federated with {count} registration entries"
        )
    };
    assert_eq!(outcomes[0], (Code::FailedPrecondition, in_use(2)));
    assert_eq!(outcomes[1], refused(Code::NotFound, "bundle not found"));
    assert_eq!(
        outcomes[2],
        refused(
            Code::InvalidArgument,
            "removing the bundle for the server trust domain is not allowed"
        )
    );
    assert_eq!(outcomes[3].0, Code::InvalidArgument);
    assert_eq!(outcomes[4], (Code::FailedPrecondition, in_use(1)));
    assert_eq!(server.all_entries().await, before);
    assert_eq!(server.count_bundles().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn dissociated_entries_stay_with_a_new_revision() {
    let server = start().await;
    server
        .create_bundles(vec![bundle("a.org"), bundle("b.org")])
        .await;
    let both = server.federated_entry("/both", &["a.org", "b.org"]).await;
    let other = server.federated_entry("/other", &["b.org"]).await;
    let outcomes = server
        .delete_bundles(&["a.org", "a.org"], Mode::Dissociate)
        .await;
    assert_eq!(
        outcomes,
        [ok(), refused(Code::NotFound, "bundle not found")]
    );
    let entries = server.all_entries().await;
    let of = |id: &str| entries.iter().find(|entry| entry.id == id).unwrap();
    let expected = types::Entry {
        federates_with: vec!["b.org".to_owned()],
        revision_number: both.revision_number + 1,
        ..both.clone()
    };
    assert_eq!(of(&both.id), &expected);
    assert_eq!(of(&other.id), &other, "not concerned");
    assert_eq!(
        server.bundle_of("a.org").await.unwrap_err().code(),
        Code::NotFound
    );
    // Both at once: an entry changed twice is written once.
    server.create_bundles(vec![bundle("a.org")]).await;
    let third = server.federated_entry("/third", &["a.org", "b.org"]).await;
    let outcomes = server
        .delete_bundles(&["a.org", "b.org"], Mode::Dissociate)
        .await;
    assert_eq!(outcomes, [ok(), ok()]);
    let entries = server.all_entries().await;
    let third = entries.iter().find(|entry| entry.id == third.id).unwrap();
    assert!(third.federates_with.is_empty());
    assert_eq!(third.revision_number, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_go_with_their_bundle_in_mode_delete() {
    let server = start().await;
    server
        .create_bundles(vec![bundle("a.org"), bundle("b.org")])
        .await;
    server.federated_entry("/gone", &["a.org", "b.org"]).await;
    let stays = server.federated_entry("/stays", &["b.org"]).await;
    let outcomes = server.delete_bundles(&["a.org"], Mode::Delete).await;
    assert_eq!(outcomes, [ok()]);
    assert_eq!(server.all_entries().await, [stays]);
    // The guard of uniqueness went with the entry.
    server.federated_entry("/gone", &["b.org"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_mode_of_deletion_deletes_nothing() {
    let server = start().await;
    server.create_bundles(vec![bundle("a.org")]).await;
    let request = BatchDeleteFederatedBundleRequest {
        trust_domains: vec!["a.org".to_owned()],
        mode: 9,
    };
    let mut client = server.bundles();
    let answer = client.batch_delete_federated_bundle(request).await;
    assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
    assert!(server.bundle_of("a.org").await.is_ok());
}

/// Whoever comes first: an entry never federates with a trust domain whose bundle is gone.
#[tokio::test(flavor = "multi_thread")]
async fn adv_no_entry_is_left_with_a_bundle_that_was_deleted_while_it_was_made() {
    let server = start().await;
    for round in 0..20 {
        server.create_bundles(vec![bundle("a.org")]).await;
        let creating = (0..8).map(|n| {
            let mut wanted = entry(&agent_id("x"), &format!("/{round}/{n}"));
            wanted.federates_with = vec!["a.org".to_owned()];
            server.create(vec![wanted])
        });
        let creating = futures_util::future::join_all(creating);
        let deleting = async {
            loop {
                let outcome = server.delete_bundles(&["a.org"], Mode::Restrict).await;
                if outcome[0].0 == Code::Ok {
                    return;
                }
                assert_eq!(outcome[0].0, Code::FailedPrecondition, "{outcome:?}");
                let outcome = server.delete_bundles(&["a.org"], Mode::Dissociate).await;
                if outcome[0].0 == Code::Ok {
                    return;
                }
            }
        };
        let (created, ()) = tokio::join!(creating, deleting);
        let codes: BTreeSet<i32> = created
            .iter()
            .map(|results| results[0].status.as_ref().unwrap().code)
            .collect();
        assert!(
            codes.is_subset(&[0, Code::Internal as i32].into()),
            "{codes:?}"
        );
        for entry in server.all_entries().await {
            assert!(entry.federates_with.is_empty(), "round {round}: {entry:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_are_appended_once_and_each_change_raises_the_sequence() {
    let server = start().await;
    let before = server.own_bundle().await;
    let (certificate, key) = (x509(), jwt("appended", 4_000_000_000));
    let request = AppendBundleRequest {
        x509_authorities: vec![certificate.clone()],
        jwt_authorities: vec![key.clone()],
        ..Default::default()
    };
    for _ in 0..2 {
        let answer = server.bundles().append_bundle(request.clone()).await;
        let bundle = answer.unwrap().into_inner();
        assert_eq!(bundle.sequence_number, before.sequence_number + 1);
        assert_eq!(bundle.x509_authorities.last(), Some(&certificate));
        assert_eq!(bundle.jwt_authorities.last(), Some(&key));
        assert_eq!(
            bundle.jwt_authorities.len(),
            before.jwt_authorities.len() + 1
        );
        assert_eq!(server.own_bundle().await, bundle);
    }
    let request = AppendBundleRequest::default();
    let nothing = server.bundles().append_bundle(request).await.unwrap_err();
    assert_eq!(
        (nothing.code(), nothing.message()),
        (Code::InvalidArgument, "no authorities to append")
    );
    let broken = AppendBundleRequest {
        x509_authorities: vec![types::X509Certificate {
            asn1: b"nonsense".to_vec().into(),
            tainted: false,
        }],
        ..Default::default()
    };
    let broken = server.bundles().append_bundle(broken).await.unwrap_err();
    assert_eq!(broken.code(), Code::InvalidArgument);
    assert!(
        broken
            .message()
            .starts_with("failed to convert X.509 authority: ")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn adv_no_operator_appends_a_second_key_under_a_key_id_that_is_there() {
    let server = start().await;
    let before = server.own_bundle().await;
    let active = before.jwt_authorities[0].key_id.clone();
    let request = AppendBundleRequest {
        jwt_authorities: vec![jwt(&active, 4_000_000_000)],
        x509_authorities: vec![x509()],
        ..Default::default()
    };
    let refused = server.bundles().append_bundle(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert_eq!(server.own_bundle().await, before, "nothing of it was taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_bundles_set_at_once_the_later_stays() {
    let server = start().await;
    let (one, two) = (bundle("a.org"), bundle("a.org"));
    let request = BatchSetFederatedBundleRequest {
        bundle: vec![one, two.clone(), bundle(DOMAIN)],
        output_mask: None,
    };
    let answer = server.bundles().batch_set_federated_bundle(request).await;
    let results = answer.unwrap().into_inner().results;
    let codes: Vec<_> = results.into_iter().map(|r| item(r.status).0).collect();
    assert_eq!(codes, [Code::Ok, Code::Ok, Code::InvalidArgument]);
    assert_eq!(server.bundle_of("a.org").await.unwrap(), two);
}

/// An entry of some 15 KiB.
fn large_entry(path: &str, with: &str) -> types::Entry {
    let label = "a".repeat(62);
    let name = |n: usize| format!("n{n:03}.{label}.{label}.{label}.example");
    types::Entry {
        federates_with: vec![with.to_owned()],
        dns_names: (0..75).map(name).collect(),
        ..entry(&agent_id("x"), path)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_goes_also_when_more_entries_federate_with_it_than_fit_into_one_commit() {
    let server = start().await;
    for mode in [Mode::Dissociate, Mode::Delete] {
        assert_eq!(
            server.create_bundles(vec![bundle("other.org")]).await,
            [ok()]
        );
        // 18 MiB; a commit takes 16.
        for batch in 0..6 {
            let path = |n: usize| format!("/{}-{batch}-{n}", mode.as_str_name());
            let entries = (0..200)
                .map(|n| large_entry(&path(n), "other.org"))
                .collect();
            let results = server.create(entries).await;
            assert!(
                results
                    .iter()
                    .all(|result| result.status.as_ref().unwrap().code == 0)
            );
        }
        assert_eq!(server.delete_bundles(&["other.org"], mode).await, [ok()]);
        assert!(server.bundle_of("other.org").await.is_err());
    }
    // Of each what it federates with alone: whole, they are more than one answer holds.
    let request = ListEntriesRequest {
        output_mask: Some(types::EntryMask {
            federates_with: true,
            ..Default::default()
        }),
        ..Default::default()
    };
    let left = server.entries().list_entries(request).await.unwrap();
    let left = left.into_inner().entries;
    assert_eq!(left.len(), 1_200, "those that were dissociated");
    assert!(left.iter().all(|entry| entry.federates_with.is_empty()));
}
