//! Facts about what an operator asks a running server on its own machine.

use proto::spire::server::debug::GetInfoRequest;
use proto::spire::server::debug::debug_client::DebugClient;
use proto::spire::server::logger::logger_client::LoggerClient;
use proto::spire::server::logger::{GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest};
use proto::spire::types::{LogLevel, Logger};
use tonic::{Code, Response};

use super::support::{own, start};

#[tokio::test(flavor = "multi_thread")]
async fn the_log_level_is_set_and_set_back() {
    let server = start().await;
    let mut client = LoggerClient::new(server.admin.clone());
    let levels = |logger: Response<Logger>| {
        let logger = logger.into_inner();
        (logger.current_level(), logger.launch_level())
    };
    let info = LogLevel::Info;
    let got = client.get_logger(GetLoggerRequest {}).await.unwrap();
    assert_eq!(levels(got), (info, info));
    let set = |new_level: i32| SetLogLevelRequest { new_level };
    for (asked, becomes) in [
        (LogLevel::Debug, LogLevel::Debug),
        (LogLevel::Trace, LogLevel::Trace),
        (LogLevel::Warn, LogLevel::Warn),
        // Nothing is logged above `error`.
        (LogLevel::Panic, LogLevel::Error),
        (LogLevel::Fatal, LogLevel::Error),
    ] {
        let got = client.set_log_level(set(asked.into())).await.unwrap();
        assert_eq!(levels(got), (becomes, info));
    }
    for (number, message) in [
        (0, "newLevel value cannot be LogLevel_UNSPECIFIED"),
        (99, "unsupported log level"),
    ] {
        let refused = client.set_log_level(set(number)).await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::InvalidArgument, message)
        );
    }
    let request = ResetLogLevelRequest {};
    let got = client.reset_log_level(request).await.unwrap();
    assert_eq!(levels(got), (info, info));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_the_server_shows_its_chain_and_what_it_knows() {
    let server = start().await;
    let (agent, _, _) = server.agent().await;
    server.entry(&agent, "/a").await;
    let mut client = DebugClient::new(server.admin.clone());
    let info = client.get_info(GetInfoRequest {}).await.unwrap();
    let info = info.into_inner();
    assert_eq!((info.agents_count, info.entries_count), (1, 1));
    assert_eq!(info.federated_bundles_count, 1, "our own counts");
    let ids: Vec<_> = info.svid_chain.iter().map(|cert| cert.id.clone()).collect();
    assert_eq!(ids, [own("/spire/server"), own("")]);
    assert_eq!(info.svid_chain[0].subject, "O=SPIRE,C=US");
    assert!(info.svid_chain[1].subject.ends_with(",O=SPIFFE,C=US"));
    assert!(info.svid_chain[0].expires_at <= info.svid_chain[1].expires_at);
}
