//! Facts about who may call what, over real connections.

use prost::Message;
use prost_types::FileDescriptorSet;
use proto::spire::server::entry::GetAuthorizedEntriesRequest;
use proto::spire::server::entry::entry_client::EntryClient;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::Channel;

use super::downstream::workload;
use super::support::{Identity, call, entry, start, trust_domain};
use super::svids::issue;

fn every_rpc() -> Vec<String> {
    let files = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
    let services = files.file.iter().flat_map(|file| {
        file.service
            .iter()
            .map(move |service| (format!("{}.{}", file.package(), service.name()), service))
    });
    let rpcs = services.flat_map(|(name, service)| {
        service
            .method
            .iter()
            .map(move |method| format!("/{name}/{}", method.name()))
            .collect::<Vec<_>>()
    });
    rpcs.collect()
}

/// The RPCs that are not denied to a caller, by their own names. On the port, the services that are
/// not there are unknown; that is not the gate's answer.
async fn allowed(channel: &Channel) -> Vec<String> {
    let info = call(channel, "/spire.api.server.debug.v1.Debug/GetInfo").await;
    let on_port = info.is_err_and(|status| status.message().is_empty());
    let local = |path: &String| {
        let services = [".logger.v1.", ".debug.v1.", "signet.server.v1."];
        services.iter().any(|service| path.contains(service))
    };
    let mut allowed = Vec::new();
    for path in every_rpc()
        .into_iter()
        .filter(|path| !(on_port && local(path)))
    {
        let code = call(channel, &path).await.err().map(|status| status.code());
        if code != Some(Code::PermissionDenied) {
            allowed.push(path.rsplit('/').next().unwrap().to_owned());
        }
    }
    allowed.sort();
    allowed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_may_attest_and_read_our_bundle() {
    let server = start().await;
    let channel = server.connect(None).await.unwrap();
    assert_eq!(allowed(&channel).await, ["AttestAgent", "GetBundle"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_may_do_what_agents_do_and_nothing_else() {
    let server = start().await;
    let (_, _, channel) = server.agent().await;
    let allowed = allowed(&channel).await;
    assert_eq!(
        allowed,
        [
            "AttestAgent",
            "BatchNewWITSVID",
            "BatchNewX509SVID",
            "Follow",
            "GetAuthorizedEntries",
            "GetBundle",
            "GetFederatedBundle",
            "NewJWTSVID",
            "PostStatus",
            "RenewAgent",
            "SyncAuthorizedEntries",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_process_may_administer_and_not_act_for_agents() {
    let server = start().await;
    let allowed = allowed(&server.admin).await;
    for method in [
        "BatchNewWITSVID",
        "BatchNewX509SVID",
        "Follow",
        "GetAuthorizedEntries",
        "NewDownstreamX509CA",
        "NewJWTSVID",
        "PostStatus",
        "PublishJWTAuthority",
        "PublishWITAuthority",
        "RenewAgent",
        "SyncAuthorizedEntries",
    ] {
        assert!(!allowed.contains(&method.to_owned()), "{method}");
    }
    assert_eq!(allowed.len(), every_rpc().len() - 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_built_says_so_to_those_who_may_call_it() {
    let server = start().await;
    for path in [
        "/spire.api.server.localauthority.v1.LocalAuthority/GetWITAuthorityState",
        "/spire.api.server.svid.v1.SVID/MintWITSVID",
    ] {
        assert_eq!(
            call(&server.admin, path).await.unwrap_err().code(),
            Code::Unimplemented,
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_with_the_flag_admin_administers_over_the_port() {
    let server = start().await;
    let (agent, _, channel) = server.agent().await;
    let mut admin = entry(&agent, "/admin");
    admin.admin = true;
    let created = server.create(vec![admin, entry(&agent, "/plain")]).await;
    for (result, may) in created.iter().zip([true, false]) {
        let entry_id = &result.entry.as_ref().unwrap().id;
        let identity = issue(&channel, entry_id).await.unwrap();
        let caller = server.connect(Some(&identity)).await.unwrap();
        let path = "/spire.api.server.entry.v1.Entry/CountEntries";
        assert_eq!(call(&caller, path).await.is_ok(), may);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_somebody_else_does_not_connect() {
    let server = start().await;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    let id = format!(
        "spiffe://{}/spire/agent/join_token/x",
        trust_domain().name()
    );
    params
        .subject_alt_names
        .push(SanType::URI(id.try_into().unwrap()));
    let certificate = params.self_signed(&key).unwrap();
    let identity = Identity {
        key,
        chain: vec![CertificateDer::from(certificate.der().to_vec())],
    };
    // With TLS 1.3 the client learns of the refusal at its first read.
    if let Ok(channel) = server.connect(Some(&identity)).await {
        let request = GetAuthorizedEntriesRequest::default();
        let status = EntryClient::new(channel)
            .get_authorized_entries(request)
            .await
            .unwrap_err();
        assert_ne!(status.code(), Code::PermissionDenied, "{status:?}");
        assert_ne!(status.code(), Code::Ok);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_a_server_below_and_an_administrator_may_do_what_is_theirs_and_nothing_else() {
    let server = start().await;
    let anyones = ["AttestAgent", "GetBundle"];
    assert_eq!(allowed(&workload(&server, false).await).await, anyones);
    let below = [
        "NewDownstreamX509CA",
        "PublishJWTAuthority",
        "PublishWITAuthority",
    ];
    let mut theirs = [&anyones[..], &below[..]].concat();
    theirs.sort_unstable();
    assert_eq!(allowed(&workload(&server, true).await).await, theirs);

    let (agent, _, channel) = server.agent().await;
    let mut admin = entry(&agent, "/administrator");
    admin.admin = true;
    let created = server.create(vec![admin]).await.remove(0);
    let identity = issue(&channel, &created.entry.unwrap().id).await.unwrap();
    let channel = server.connect(Some(&identity)).await.unwrap();
    // What changes the machine of the server is for those who are on it.
    let on_the_machine = [
        "BatchImportAgent",
        "BatchImportEntry",
        "GetInfo",
        "GetLogger",
        "ImportBundle",
        "ResetLogLevel",
        "SetLogLevel",
        "Snapshot",
    ];
    let mut local = allowed(&server.admin).await;
    local.retain(|method| !on_the_machine.contains(&method.as_str()));
    assert_eq!(allowed(&channel).await, local);
}

#[tokio::test(flavor = "multi_thread")]
async fn adv_a_client_that_offers_tls_1_2_alone_is_answered_by_an_alert() {
    let server = start().await;
    // What follows the random: no session, two suites of TLS 1.2, no compression, and an extension that
    // names the curve P-256 and one that names ECDSA with SHA-256.
    let tail = b"\x00\x00\x04\xc0\x2b\xc0\x2f\x01\x00\x00\x10\
        \x00\x0a\x00\x04\x00\x02\x00\x17\x00\x0d\x00\x04\x00\x02\x04\x03";
    let body = [&b"\x03\x03"[..], &[7; 32], tail].concat();
    let length = u8::try_from(body.len()).unwrap();
    let hello = [&[1, 0, 0, length][..], &body].concat();
    let record = [&[22, 3, 1, 0, length + 4][..], &hello].concat();
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    stream.write_all(&record).await.unwrap();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).await.unwrap();
    // An alert that is fatal: of the version, or of nothing in common.
    assert_eq!((answer[0], answer[5]), (21, 2), "{answer:?}");
    assert!([40, 70].contains(&answer[6]), "{answer:?}");
}
