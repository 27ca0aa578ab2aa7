//! Health and reflection, which need no header, and what they tell.

use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::client::channel;
use crate::options::SocketOptions;
use crate::testing::Served;

async fn reflect(served: &Served, question: MessageRequest) -> MessageResponse {
    let channel = channel(&served.endpoint).await.unwrap();
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    };
    let answer = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap();
    let answer: ServerReflectionResponse = answer.into_inner().message().await.unwrap().unwrap();
    answer.message_response.unwrap()
}

async fn services(served: &Served) -> Vec<String> {
    let question = MessageRequest::ListServices(String::new());
    let MessageResponse::ListServicesResponse(list) = reflect(served, question).await else {
        panic!("not a list");
    };
    list.service
        .into_iter()
        .map(|service| service.name)
        .collect()
}

#[tokio::test]
async fn reflection_lists_what_is_served() {
    let served = Served::start();
    assert_eq!(
        services(&served).await,
        [
            "SpiffeWorkloadAPI",
            "envoy.service.secret.v3.SecretDiscoveryService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ]
    );
    let served = Served::with(SocketOptions {
        sds: None,
        ..SocketOptions::default()
    });
    assert_eq!(services(&served).await.len(), 4);
}

#[tokio::test]
async fn reflection_describes_exactly_the_standards_service() {
    let served = Served::start();
    let question = MessageRequest::FileContainingSymbol("SpiffeWorkloadAPI".to_owned());
    let MessageResponse::FileDescriptorResponse(files) = reflect(&served, question).await else {
        panic!("not a file");
    };
    let file: prost_types::FileDescriptorProto =
        prost::Message::decode(files.file_descriptor_proto[0].as_slice()).unwrap();
    let methods: Vec<_> = file.service[0].method.iter().map(|m| m.name()).collect();
    assert_eq!(
        methods,
        [
            "FetchX509SVID",
            "FetchX509Bundles",
            "FetchJWTSVID",
            "FetchJWTBundles",
            "ValidateJWTSVID",
            "FetchWITSVID",
            "FetchWITBundles",
        ]
    );
}

#[tokio::test]
async fn the_socket_and_its_services_are_healthy_and_others_unknown() {
    let served = Served::start();
    assert!(served.client().await.is_serving().await.unwrap());
    let mut health = HealthClient::new(channel(&served.endpoint).await.unwrap());
    for (service, expected) in [
        ("SpiffeWorkloadAPI", Ok(ServingStatus::Serving)),
        ("nobody", Err(Code::NotFound)),
    ] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await;
        let status = answer.map(|answer| answer.into_inner().status());
        assert_eq!(status.map_err(|status| status.code()), expected);
    }
}

#[tokio::test]
async fn a_health_watch_tells_of_shutdown() {
    let served = Served::start();
    let mut health = HealthClient::new(channel(&served.endpoint).await.unwrap());
    let request = HealthCheckRequest::default();
    let mut watch = health.watch(request).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    served.shut_down();
    let last = watch.message().await.unwrap().unwrap();
    assert_eq!(last.status(), ServingStatus::NotServing);
    assert!(watch.message().await.unwrap().is_none());
}
