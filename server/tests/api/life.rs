//! Facts about starting, stopping and starting again.

use std::time::Duration;

use identity::trust_domain::TrustDomain;
use proto::spire::server::agent::agent_client::AgentClient;
use proto::spire::server::agent::{GetAgentRequest, PostStatusRequest};
use proto::spire::server::bundle::GetBundleRequest;
use proto::spire::server::entry::GetEntryRequest;
use runtime::config::{HealthConfig, HostPort};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::support::{Server, config, durable, id, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_authority_the_entries_and_the_agents() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(durable(&folder)).await.unwrap();
    let bundle = server
        .bundles()
        .get_bundle(GetBundleRequest::default())
        .await
        .unwrap();
    let (agent, identity, _) = server.agent().await;
    let entry = server.entry(&agent, "/w").await;
    let unused = server.token().await;
    server.stop().await;

    let server = Server::start(durable(&folder)).await.unwrap();
    let again = server
        .bundles()
        .get_bundle(GetBundleRequest::default())
        .await
        .unwrap();
    assert_eq!(again.into_inner(), bundle.into_inner());
    let request = GetEntryRequest {
        id: entry,
        output_mask: None,
    };
    server.entries().get_entry(request).await.unwrap();
    let request = GetAgentRequest {
        id: id(&agent),
        output_mask: None,
    };
    server.agents().get_agent(request).await.unwrap();
    // The agent needs no new token, and the token that nobody used still counts, once.
    let channel = server.connect(Some(&identity)).await.unwrap();
    AgentClient::new(channel)
        .post_status(PostStatusRequest::default())
        .await
        .unwrap();
    server.attest(&unused).await.unwrap();
    assert!(server.attest(&unused).await.is_err());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_port_leaves_no_trace() {
    let server = start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut second = durable(&folder);
    second.bind.port = server.addr().port();
    let Err(error) = Server::start(second.clone()).await else {
        panic!("two on one port")
    };
    assert!(
        error.to_string().contains(&second.bind.port.to_string()),
        "{error}"
    );
    assert!(!second.data_dir.try_exists().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_of_another_trust_domain_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    Server::start(durable(&folder)).await.unwrap().stop().await;
    let mut other = durable(&folder);
    other.trust_domain = TrustDomain::parse("other.org").unwrap();
    let Err(error) = Server::start(other).await else {
        panic!("took foreign data")
    };
    let text = error.to_string();
    assert!(
        text.contains("example.org") && text.contains("other.org"),
        "{text}"
    );
    Server::start(durable(&folder)).await.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tells_its_health_on_the_admin_socket_and_by_http() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    let any_port = HostPort {
        host: "127.0.0.1".to_owned(),
        port: 0,
    };
    config.health = Some(HealthConfig {
        address: any_port.clone(),
        live_path: "/live".to_owned(),
        ready_path: "/ready".to_owned(),
    });
    config.prometheus = Some(any_port);
    let server = Server::start(config).await.unwrap();
    let mut health = HealthClient::new(server.admin.clone());
    let answer = health
        .check(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.status, 1);
    let named = HealthCheckRequest {
        service: "x".to_owned(),
    };
    let status = health.check(named.clone()).await.unwrap_err();
    assert_eq!(status.message(), "per-service health is not supported");
    assert!(health.watch(named).await.is_err());
    let watch = health.watch(HealthCheckRequest::default()).await;
    let mut watch = watch.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);

    let handle = server.handle.as_ref().unwrap();
    let live = get(handle.health_addr.unwrap(), "/live").await;
    assert!(live.starts_with("HTTP/1.1 200"), "{live}");
    let metrics = get(handle.metrics_addr.unwrap(), "/").await;
    assert!(metrics.contains("signet_rpc_total{"), "{metrics}");
    server.stop().await;
    assert_eq!(watch.message().await.unwrap().unwrap().status, 2);
    assert!(watch.message().await.unwrap().is_none());
}

async fn get(addr: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .unwrap()
        .unwrap();
    answer
}
