//! Envoy's secret discovery over the socket: no security header, one stream, several names.

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::client::channel;
use crate::testing::Served;

const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

async fn client(served: &Served) -> SecretDiscoveryServiceClient<Channel> {
    SecretDiscoveryServiceClient::new(channel(&served.endpoint).await.unwrap())
}

fn asks(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(Node::default()),
        resource_names: names.iter().map(ToString::to_string).collect(),
        type_url: SECRET_TYPE.to_owned(),
        ..DiscoveryRequest::default()
    }
}

/// Both directions of a stream of secrets.
struct Envoy {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl Envoy {
    async fn open(served: &Served, first: DiscoveryRequest) -> Self {
        let (requests, stream) = mpsc::channel(4);
        requests.send(first).await.unwrap();
        let mut client = client(served).await;
        let answer = client.stream_secrets(ReceiverStream::new(stream)).await;
        Self {
            requests,
            responses: answer.unwrap().into_inner(),
        }
    }

    async fn next(&mut self) -> DiscoveryResponse {
        self.responses.message().await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn an_envoy_without_header_gets_its_secrets_and_their_rotation() {
    let served = Served::start();
    let pki = &served.pki;
    served
        .source
        .publish(vec![pki.identity("a", "/only", "", 1)]);
    let mut envoy = Envoy::open(&served, asks(&["default", "ROOTCA"])).await;
    let first = envoy.next().await;
    assert_eq!(first.resources.len(), 2);
    assert!(
        first
            .resources
            .iter()
            .all(|any| any.type_url == SECRET_TYPE)
    );
    let acknowledgement = DiscoveryRequest {
        version_info: first.version_info.clone(),
        response_nonce: first.nonce.clone(),
        ..asks(&["default", "ROOTCA"])
    };
    envoy.requests.send(acknowledgement).await.unwrap();
    served
        .source
        .publish(vec![pki.identity("a", "/only", "", 1)]);
    let second = envoy.next().await;
    assert_ne!(second.version_info, first.version_info);
    assert_ne!(second.resources, first.resources);
}

#[tokio::test]
async fn an_unknown_name_does_not_end_the_stream() {
    let served = Served::start();
    let pki = &served.pki;
    served.source.publish(vec![]);
    let mut envoy = Envoy::open(&served, asks(&["spiffe://example.org/later"])).await;
    served
        .source
        .publish(vec![pki.identity("a", "/later", "", 1)]);
    assert_eq!(envoy.next().await.resources.len(), 1);
}

#[tokio::test]
async fn a_stream_outlives_the_withdrawal_of_its_identity() {
    let served = Served::start();
    let pki = &served.pki;
    served
        .source
        .publish(vec![pki.identity("a", "/only", "", 1)]);
    let mut envoy = Envoy::open(&served, asks(&["default"])).await;
    let first = envoy.next().await;
    served.source.publish(vec![]);
    tokio::task::yield_now().await;
    served
        .source
        .publish(vec![pki.identity("a", "/only", "", 1)]);
    assert_ne!(envoy.next().await.resources, first.resources);
}

#[tokio::test]
async fn the_stream_ends_when_the_envoy_closes_its_side() {
    let served = Served::start();
    served
        .source
        .publish(vec![served.pki.identity("a", "/only", "", 1)]);
    let mut envoy = Envoy::open(&served, asks(&["default"])).await;
    envoy.next().await;
    let Envoy {
        requests,
        mut responses,
    } = envoy;
    drop(requests);
    assert!(responses.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_node_as_large_as_envoys_is_read() {
    let served = Served::start();
    served
        .source
        .publish(vec![served.pki.identity("a", "/only", "", 1)]);
    let mut large = asks(&["default"]);
    large.node = Some(Node {
        client_features: vec!["x".repeat(300 * 1024)],
        ..Node::default()
    });
    let mut envoy = Envoy::open(&served, large).await;
    assert_eq!(envoy.next().await.resources.len(), 1);
}

#[tokio::test]
async fn too_many_names_end_the_stream() {
    let served = Served::start();
    served.source.publish(vec![]);
    let names: Vec<_> = (0..2000).map(|index| format!("name-{index}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut envoy = Envoy::open(&served, asks(&names)).await;
    let status = envoy.responses.message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn shutdown_and_a_failed_attestation_are_unavailable() {
    let served = Served::start();
    served.source.publish(vec![]);
    let mut envoy = Envoy::open(&served, asks(&["ROOTCA"])).await;
    envoy.next().await;
    served.source.fail_attestation(true);
    let error = client(&served).await.fetch_secrets(asks(&[])).await;
    assert_eq!(error.unwrap_err().code(), Code::Unavailable);
    served.shut_down();
    let status = envoy.responses.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_single_fetch_has_no_version_and_refuses_names_that_stand_for_nothing() {
    let served = Served::start();
    served
        .source
        .publish(vec![served.pki.identity("a", "/only", "", 1)]);
    let mut client = client(&served).await;
    let answer = client.fetch_secrets(asks(&["default", "ROOTCA"])).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!((answer.version_info, answer.nonce), Default::default());
    assert_eq!(answer.resources.len(), 2);
    // What there is of the names is answered; if that is nothing, it is an error.
    let answer = client.fetch_secrets(asks(&["default", "x", "y"])).await;
    assert_eq!(answer.unwrap().into_inner().resources.len(), 1);
    let status = client.fetch_secrets(asks(&["x", "y"])).await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        status.message(),
        r#"workload is not authorized for the requested identities ["x" "y"]"#
    );
}

/// Both directions of a stream of changes.
struct Changes {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Changes {
    async fn open(served: &Served, first: DeltaDiscoveryRequest) -> Self {
        let (requests, stream) = mpsc::channel(4);
        requests.send(first).await.unwrap();
        let mut client = client(served).await;
        let answer = client.delta_secrets(ReceiverStream::new(stream)).await;
        Self {
            requests,
            responses: answer.unwrap().into_inner(),
        }
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        self.responses.message().await.unwrap().unwrap()
    }
}

fn subscribes(names: &[String]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(Node::default()),
        resource_names_subscribe: names.to_vec(),
        type_url: SECRET_TYPE.to_owned(),
        ..DeltaDiscoveryRequest::default()
    }
}

#[tokio::test]
async fn the_rotation_of_one_of_fifty_secrets_sends_one() {
    let served = Served::start();
    let identity = |number: usize| {
        let path = format!("/{number:02}");
        served.pki.identity(&number.to_string(), &path, "", 1)
    };
    let mut identities: Vec<_> = (0..50).map(identity).collect();
    served.source.publish(identities.clone());
    let names: Vec<_> = (identities.iter())
        .map(|identity| identity.svid.id().to_string())
        .collect();
    let mut proxy = Changes::open(&served, subscribes(&names)).await;
    let first = proxy.next().await;
    assert_eq!(first.resources.len(), 50);
    let acknowledgement = DeltaDiscoveryRequest {
        response_nonce: first.nonce,
        ..subscribes(&[])
    };
    proxy.requests.send(acknowledgement).await.unwrap();

    identities[7] = identity(7);
    served.source.publish(identities);
    let second = proxy.next().await;
    let [secret] = &second.resources[..] else {
        panic!("{} secrets were sent", second.resources.len());
    };
    assert_eq!(secret.name, names[7]);
    assert!(second.removed_resources.is_empty());

    // A proxy that lost its connection is sent what it missed, and nothing else.
    let has = first.resources.into_iter().map(|it| (it.name, it.version));
    let comes_back = DeltaDiscoveryRequest {
        initial_resource_versions: has.collect(),
        ..subscribes(&names)
    };
    let again = Changes::open(&served, comes_back).await.next().await;
    assert_eq!(again.resources, second.resources);
}

#[tokio::test]
async fn incremental_discovery_tells_what_there_is_not_and_sends_the_rest() {
    let served = Served::start();
    served
        .source
        .publish(vec![served.pki.identity("a", "/only", "", 1)]);
    let names = [
        "file-cert:/etc/cert.pem",
        "default",
        "spiffe://example.org/other",
    ];
    let mut proxy = Changes::open(&served, subscribes(&names.map(str::to_owned))).await;
    let answer = proxy.next().await;
    assert_eq!(answer.resources.len(), 1);
    assert_eq!(answer.removed_resources, [names[0], names[2]]);
    assert_eq!(answer.type_url, SECRET_TYPE);
    served.shut_down();
    let status = proxy.responses.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}
