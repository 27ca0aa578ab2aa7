//! Facts about who may call what, over real connections.

use prost::Message;
use prost_types::FileDescriptorSet;
use proto::spire::server::entry::GetAuthorizedEntriesRequest;
use proto::spire::server::entry::entry_client::EntryClient;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls_pki_types::CertificateDer;
use tonic::Code;
use tonic::transport::Channel;

use super::support::{Identity, call, entry, start, trust_domain};

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
        let identity = super::svids::issue(&channel, entry_id).await.unwrap();
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
