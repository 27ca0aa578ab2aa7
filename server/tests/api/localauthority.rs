//! Facts about the replacement of a signing key by an operator.

use identity::x509::Certificate;
use proto::signet::agent::feed_client::FeedClient;
use proto::signet::agent::follow_response::Message as Content;
use proto::signet::agent::{FollowRequest, FollowResponse};
use proto::spire::server::bundle::GetBundleRequest;
use proto::spire::server::localauthority::local_authority_client::LocalAuthorityClient;
use proto::spire::server::localauthority::{
    ActivateJwtAuthorityRequest, ActivateX509AuthorityRequest, GetJwtAuthorityStateRequest,
    GetX509AuthorityStateRequest, GetX509AuthorityStateResponse, PrepareJwtAuthorityRequest,
    PrepareX509AuthorityRequest, RevokeJwtAuthorityRequest, RevokeX509AuthorityRequest,
    TaintJwtAuthorityRequest, TaintX509AuthorityRequest, TaintX509UpstreamAuthorityRequest,
};
use proto::spire::types;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::support::{Server, call, durable, start};

type Client = LocalAuthorityClient<Channel>;

fn client(server: &Server) -> Client {
    LocalAuthorityClient::new(server.admin.clone())
}

async fn x509(client: &mut Client) -> GetX509AuthorityStateResponse {
    let request = GetX509AuthorityStateRequest {};
    client
        .get_x509_authority_state(request)
        .await
        .unwrap()
        .into_inner()
}

async fn prepare(client: &mut Client) -> String {
    let request = PrepareX509AuthorityRequest {};
    let prepared = client.prepare_x509_authority(request).await.unwrap();
    prepared
        .into_inner()
        .prepared_authority
        .unwrap()
        .authority_id
}

async fn activate(client: &mut Client, id: &str) -> Result<(), Status> {
    let authority_id = id.to_owned();
    let request = ActivateX509AuthorityRequest { authority_id };
    client.activate_x509_authority(request).await.map(|_| ())
}

async fn taint(client: &mut Client, id: &str) -> Result<(), Status> {
    let authority_id = id.to_owned();
    let request = TaintX509AuthorityRequest { authority_id };
    client.taint_x509_authority(request).await.map(|_| ())
}

async fn revoke(client: &mut Client, id: &str) -> Result<(), Status> {
    let authority_id = id.to_owned();
    let request = RevokeX509AuthorityRequest { authority_id };
    client.revoke_x509_authority(request).await.map(|_| ())
}

fn said(outcome: Result<(), Status>) -> (Code, String) {
    let status = outcome.unwrap_err();
    (status.code(), status.message().to_owned())
}

async fn bundle(server: &Server) -> types::Bundle {
    let request = GetBundleRequest::default();
    server
        .bundles()
        .get_bundle(request)
        .await
        .unwrap()
        .into_inner()
}

/// The authorities of a bundle, and which are tainted.
fn authorities(bundle: &types::Bundle) -> Vec<(String, bool)> {
    let authority = |authority: &types::X509Certificate| {
        let certificate = Certificate::parse(&authority.asn1).unwrap();
        (certificate.subject_key_id().unwrap(), authority.tainted)
    };
    bundle.x509_authorities.iter().map(authority).collect()
}

/// The next bundle of our own that an agent is told.
async fn told(stream: &mut Streaming<FollowResponse>) -> types::Bundle {
    loop {
        if let Some(Content::Change(change)) = stream.message().await.unwrap().unwrap().message
            && let Some(bundle) = change.bundles.into_iter().next()
        {
            return bundle;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_replaced_tainted_and_revoked_and_agents_hear_of_each_step() {
    let server = start().await;
    let (_, _, channel) = server.agent().await;
    let mut follower = FeedClient::new(channel);
    let stream = follower.follow(FollowRequest { held: None }).await;
    let mut stream = stream.unwrap().into_inner();
    let first = told(&mut stream).await;
    let mut client = client(&server);
    let states = x509(&mut client).await;
    let leaked = states.active.unwrap().authority_id;
    assert!(states.prepared.is_none() && states.old.is_none());
    assert_eq!(authorities(&first), [(leaked.clone(), false)]);

    let next = prepare(&mut client).await;
    let both = [(leaked.clone(), false), (next.clone(), false)];
    assert_eq!(authorities(&told(&mut stream).await), both);
    activate(&mut client, &next).await.unwrap();
    let states = x509(&mut client).await;
    assert_eq!(states.active.unwrap().authority_id, next);
    assert_eq!(states.old.unwrap().authority_id, leaked);

    taint(&mut client, &leaked).await.unwrap();
    let both = [(leaked.clone(), true), (next.clone(), false)];
    assert_eq!(authorities(&told(&mut stream).await), both);
    // The server's own SVID is of the new authority by now: who knows that one alone gets through.
    revoke(&mut client, &leaked).await.unwrap();
    let left = [(next, false)];
    assert_eq!(authorities(&told(&mut stream).await), left);
    assert_eq!(authorities(&bundle(&server).await), left);
    let anonymous = server.connect(None).await.unwrap();
    call(&anonymous, "/spire.api.server.bundle.v1.Bundle/GetBundle")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_for_another_authority_is_refused_in_the_words_of_spire() {
    let server = start().await;
    let mut client = client(&server);
    let active = x509(&mut client).await.active.unwrap().authority_id;
    let bad = |message: &str| (Code::InvalidArgument, message.to_owned());
    assert_eq!(
        said(activate(&mut client, "").await),
        bad("no authority ID provided")
    );
    assert_eq!(
        said(taint(&mut client, "").await),
        bad("no authority ID provided")
    );
    assert_eq!(
        said(revoke(&mut client, "").await),
        bad("invalid authority ID: no authority ID provided")
    );
    assert_eq!(
        said(activate(&mut client, "x").await),
        bad("unexpected authority ID")
    );
    assert_eq!(
        said(taint(&mut client, "x").await),
        bad("unexpected authority ID")
    );
    assert_eq!(
        said(taint(&mut client, &active).await),
        bad("unable to taint current local authority")
    );
    assert_eq!(
        said(revoke(&mut client, &active).await),
        bad("invalid authority ID: unable to use current authority")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_goes_from_prepared_to_revoked_and_no_other_way() {
    let server = start().await;
    let mut client = client(&server);
    let active = x509(&mut client).await.active.unwrap().authority_id;
    let bad = |message: &str| (Code::InvalidArgument, message.to_owned());
    let internal = |message: &str| (Code::Internal, message.to_owned());
    let next = prepare(&mut client).await;
    assert_eq!(
        said(taint(&mut client, &next).await),
        bad(
            "only Old local authorities can be tainted: unsupported local authority status: PREPARED"
        )
    );
    assert_eq!(
        said(revoke(&mut client, &next).await),
        bad("invalid authority ID: only Old local authority can be revoked")
    );
    activate(&mut client, &next).await.unwrap();
    assert_eq!(
        said(activate(&mut client, &active).await),
        internal(
            "only Prepared authorities can be activated: unsupported local authority status: OLD"
        )
    );
    assert_eq!(
        said(revoke(&mut client, &active).await),
        internal(
            "failed to revoke X.509 authority: it is not possible to revoke an untainted root CA"
        )
    );
    taint(&mut client, &active).await.unwrap();
    assert_eq!(
        said(taint(&mut client, &active).await),
        internal("failed to taint X.509 authority: root CA is already tainted")
    );
    revoke(&mut client, &active).await.unwrap();
    assert_eq!(
        said(revoke(&mut client, &active).await),
        internal("failed to revoke X.509 authority: no root CA found with provided subject key ID")
    );
    assert_eq!(
        said(activate(&mut client, &next).await),
        bad("unexpected authority ID")
    );
    let request = TaintX509UpstreamAuthorityRequest {
        subject_key_id: active,
    };
    let refused = client
        .taint_x509_upstream_authority(request)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.message(), "upstream authority is not configured");
    let wit = "/spire.api.server.localauthority.v1.LocalAuthority/PrepareWITAuthority";
    let refused = call(&server.admin, wit).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jwt_key_goes_the_same_way() {
    let server = start().await;
    let mut client = client(&server);
    let request = GetJwtAuthorityStateRequest {};
    let states = client.get_jwt_authority_state(request).await.unwrap();
    let leaked = states.into_inner().active.unwrap().authority_id;
    let prepared = client
        .prepare_jwt_authority(PrepareJwtAuthorityRequest {})
        .await
        .unwrap();
    let next = prepared
        .into_inner()
        .prepared_authority
        .unwrap()
        .authority_id;
    let request = ActivateJwtAuthorityRequest {
        authority_id: next.clone(),
    };
    client.activate_jwt_authority(request).await.unwrap();
    let request = TaintJwtAuthorityRequest {
        authority_id: leaked.clone(),
    };
    let tainted = client
        .taint_jwt_authority(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(tainted.tainted_authority.unwrap().authority_id, leaked);
    let keys = bundle(&server).await.jwt_authorities;
    let mut keys: Vec<_> = keys
        .iter()
        .map(|key| (key.key_id.as_str(), key.tainted))
        .collect();
    keys.sort_by_key(|(_, is_tainted)| *is_tainted);
    assert_eq!(keys, [(next.as_str(), false), (leaked.as_str(), true)]);
    let request = RevokeJwtAuthorityRequest {
        authority_id: leaked,
    };
    client.revoke_jwt_authority(request).await.unwrap();
    let keys = bundle(&server).await.jwt_authorities;
    assert_eq!(
        keys.iter().map(|key| &key.key_id).collect::<Vec<_>>(),
        [&next]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_outlives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(durable(&folder)).await.unwrap();
    let first = x509(&mut client(&server))
        .await
        .active
        .unwrap()
        .authority_id;
    let next = prepare(&mut client(&server)).await;
    for step in 0..4 {
        server.stop().await;
        server = Server::start(durable(&folder)).await.unwrap();
        let mut client = client(&server);
        let states = x509(&mut client).await;
        let bundle = authorities(&bundle(&server).await);
        let id = |state: Option<_>| {
            state.map(|s: proto::spire::server::localauthority::AuthorityState| s.authority_id)
        };
        let (active, prepared, old) = (id(states.active), id(states.prepared), id(states.old));
        let (first_id, next_id) = (Some(first.clone()), Some(next.clone()));
        match step {
            0 => {
                assert_eq!((active, prepared, old), (first_id, next_id, None));
                activate(&mut client, &next).await.unwrap();
            }
            1 => {
                assert_eq!((active, prepared, old), (next_id, None, first_id));
                taint(&mut client, &first).await.unwrap();
            }
            2 => {
                assert_eq!(bundle, [(first.clone(), true), (next.clone(), false)]);
                revoke(&mut client, &first).await.unwrap();
            }
            _ => {
                assert_eq!((active, prepared, old), (next_id, None, None));
                assert_eq!(bundle, [(next.clone(), false)]);
            }
        }
    }
    server.stop().await;
}
