//! Facts about issued SVIDs.

use identity::x509::Certificate;
use proto::spire::server::svid::svid_client::SvidClient;
use proto::spire::server::svid::{
    BatchNewX509svidRequest, NewJwtsvidRequest, NewX509svidParams, batch_new_x509svid_response,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, PublicKeyData, SanType};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::support::{Identity, chain, csr, entry, start, start_with};

pub(crate) async fn issue(channel: &Channel, entry_id: &str) -> Result<Identity, Status> {
    let key = KeyPair::generate().unwrap();
    let csr = csr(&key, &CertificateParams::default());
    let result = batch(channel, vec![(entry_id, csr)]).await?.remove(0);
    let status = result.status.unwrap();
    if status.code != 0 {
        return Err(Status::new(Code::from(status.code), status.message));
    }
    Ok(Identity {
        key,
        chain: chain(&result.svid.unwrap()),
    })
}

async fn batch(
    channel: &Channel,
    params: Vec<(&str, Vec<u8>)>,
) -> Result<Vec<batch_new_x509svid_response::Result>, Status> {
    let params = params
        .into_iter()
        .map(|(id, csr)| NewX509svidParams {
            entry_id: id.to_owned(),
            csr: csr.into(),
        })
        .collect();
    let request = BatchNewX509svidRequest { params };
    let mut client = SvidClient::new(channel.clone());
    Ok(client
        .batch_new_x509svid(request)
        .await?
        .into_inner()
        .results)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_gets_svids_for_its_own_entries_alone() {
    let server = start().await;
    let (agent, _, channel) = server.agent().await;
    let (other, _, _) = server.agent().await;
    let mine = server.entry(&agent, "/mine").await;
    let theirs = server.entry(&other, "/theirs").await;
    let key = KeyPair::generate().unwrap();
    let good = csr(&key, &CertificateParams::default());
    let asked = vec![
        (mine.as_str(), good.clone()),
        (theirs.as_str(), good.clone()),
        ("no-such-entry", good.clone()),
        ("not an id", good.clone()),
        ("", good.clone()),
        (mine.as_str(), Vec::new()),
        (mine.as_str(), b"nonsense".to_vec()),
        (mine.as_str(), vec![0; 20_000]),
    ];
    let results = batch(&channel, asked).await.unwrap();
    let statuses: Vec<_> = results
        .iter()
        .map(|result| result.status.clone().unwrap())
        .collect();
    let codes: Vec<_> = statuses
        .iter()
        .map(|status| Code::from(status.code))
        .collect();
    assert_eq!(
        codes,
        [
            Code::Ok,
            Code::NotFound,
            Code::NotFound,
            Code::NotFound,
            Code::InvalidArgument,
            Code::InvalidArgument,
            Code::InvalidArgument,
            Code::InvalidArgument,
        ]
    );
    assert_eq!(statuses[0].message, "OK");
    assert_eq!(statuses[1].message, "entry not found or not authorized");
    assert_eq!(
        statuses[2].message, statuses[1].message,
        "who has an entry is not told"
    );
    assert_eq!(statuses[4].message, "missing entry ID");
    assert_eq!(statuses[5].message, "missing CSR");
    assert!(statuses[6].message.starts_with("malformed CSR"));
    let leaf = Certificate::parse(&results[0].svid.as_ref().unwrap().cert_chain[0]).unwrap();
    assert_eq!(leaf.spiffe_id().unwrap().path(), "/mine");

    let empty = batch(&channel, Vec::new()).await.unwrap_err();
    assert_eq!(
        (empty.code(), empty.message()),
        (Code::InvalidArgument, "missing parameters")
    );
    let many = vec![(mine.as_str(), Vec::new()); 501];
    assert_eq!(
        batch(&channel, many).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_csr_but_its_key_reaches_the_certificate() {
    let server = start().await;
    let (agent, _, channel) = server.agent().await;
    let mut wanted = entry(&agent, "/w");
    wanted.dns_names = vec!["w.example".to_owned()];
    let id = server
        .create(vec![wanted])
        .await
        .remove(0)
        .entry
        .unwrap()
        .id;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["evil.example".to_owned()]).unwrap();
    for uri in [
        "spiffe://example.org/admin",
        "spiffe://example.org/spire/server",
    ] {
        params
            .subject_alt_names
            .push(SanType::URI(uri.try_into().unwrap()));
    }
    params
        .subject_alt_names
        .push(SanType::IpAddress([127, 0, 0, 1].into()));
    params.distinguished_name.push(DnType::CommonName, "evil");
    params
        .distinguished_name
        .push(DnType::OrganizationName, "evil");
    params.is_ca = IsCa::NoCa;
    let plain = batch(
        &channel,
        vec![(&id, csr(&key, &CertificateParams::default()))],
    )
    .await;
    let evil = batch(&channel, vec![(&id, csr(&key, &params))]).await;
    let leaf = |results: Result<Vec<batch_new_x509svid_response::Result>, Status>| {
        Certificate::parse(&results.unwrap()[0].svid.as_ref().unwrap().cert_chain[0]).unwrap()
    };
    let (plain, evil) = (leaf(plain), leaf(evil));
    for leaf in [&plain, &evil] {
        assert_eq!(leaf.spiffe_id().unwrap().as_str(), "spiffe://example.org/w");
        assert_eq!(leaf.dns_names(), ["w.example"]);
        assert!(!leaf.is_ca());
        assert_eq!(leaf.public_key().spki_der(), key.subject_public_key_info());
    }
    let text = String::from_utf8_lossy(evil.der()).into_owned();
    assert!(
        !text.contains("evil"),
        "the CSR's names are in the certificate"
    );
    // The serial number and the signature vary in length by a byte or two.
    assert!(
        plain.der().len().abs_diff(evil.der().len()) <= 6,
        "something was added"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_csr_that_asks_for_a_signing_certificate_gets_a_leaf_or_nothing() {
    let server = start().await;
    let (agent, _, channel) = server.agent().await;
    let id = server.entry(&agent, "/w").await;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // The library refuses to write some of what it cannot express in a request.
    let Ok(request) = params.serialize_request(&key) else {
        return;
    };
    let results = batch(&channel, vec![(&id, request.der().to_vec())])
        .await
        .unwrap();
    let leaf = Certificate::parse(&results[0].svid.as_ref().unwrap().cert_chain[0]).unwrap();
    assert!(!leaf.is_ca());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_batch_comes_back_in_its_order() {
    let server = start().await;
    let (agent, _, channel) = server.agent().await;
    let entries = (0..100).map(|n| entry(&agent, &format!("/w{n}"))).collect();
    let ids: Vec<_> = server
        .create(entries)
        .await
        .into_iter()
        .map(|result| result.entry.unwrap().id)
        .collect();
    let key = KeyPair::generate().unwrap();
    let csr = csr(&key, &CertificateParams::default());
    let asked = ids.iter().map(|id| (id.as_str(), csr.clone())).collect();
    let results = batch(&channel, asked).await.unwrap();
    for (n, result) in results.into_iter().enumerate() {
        assert_eq!(result.svid.unwrap().id.unwrap().path, format!("/w{n}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn issues_a_jwt_svid_for_an_own_entry() {
    let server = start().await;
    let (agent, _, channel) = server.agent().await;
    let (other, _, _) = server.agent().await;
    let mine = server.entry(&agent, "/mine").await;
    let theirs = server.entry(&other, "/theirs").await;
    let ask = |entry_id: &str, audience: &[&str]| {
        let audience = audience.iter().map(|text| (*text).to_owned()).collect();
        let request = NewJwtsvidRequest {
            entry_id: entry_id.to_owned(),
            audience,
        };
        let mut client = SvidClient::new(channel.clone());
        async move {
            client
                .new_jwtsvid(request)
                .await
                .map(|answer| answer.into_inner().svid.unwrap())
        }
    };
    let svid = ask(&mine, &["aud"]).await.unwrap();
    assert_eq!(svid.token.split('.').count(), 3);
    assert_eq!(svid.id.unwrap().path, "/mine");
    assert_eq!(svid.expires_at - svid.issued_at, 300);
    let none = ask(&mine, &[]).await.unwrap_err();
    assert_eq!(
        (none.code(), none.message()),
        (Code::InvalidArgument, "at least one audience is required")
    );
    let foreign = ask(&theirs, &["aud"]).await.unwrap_err();
    assert_eq!(
        (foreign.code(), foreign.message()),
        (Code::NotFound, "entry not found or not authorized")
    );
    let long = "x".repeat(5_000);
    assert_eq!(
        ask(&mine, &[&long]).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn jwt_svids_can_be_switched_off() {
    let server = start_with(|config| config.disable_jwt_svids = true).await;
    let (agent, _, channel) = server.agent().await;
    let mine = server.entry(&agent, "/mine").await;
    let request = NewJwtsvidRequest {
        entry_id: mine,
        audience: vec!["aud".to_owned()],
    };
    let status = SvidClient::new(channel)
        .new_jwtsvid(request)
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unimplemented, "JWT functionality is disabled")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_asks_too_often_is_told_when_to_come_again_and_no_other_is_held_up() {
    use tonic_types::StatusExt as _;
    let server = start().await;
    let (_, _, greedy) = server.agent().await;
    let (other, _, patient) = server.agent().await;
    let entry = server.entry(&other, "/other").await;
    let many = || vec![("no-such-entry", b"csr".to_vec()); 500];
    let refused = loop {
        if let Err(refused) = batch(&greedy, many()).await {
            break refused;
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("try again in"), "{refused}");
    let hint = refused.get_details_retry_info().unwrap().retry_delay;
    assert!(hint.unwrap() <= std::time::Duration::from_secs(1));
    issue(&patient, &entry).await.unwrap();
}
