//! `healthcheck` of the agent.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::channel;
use crate::console::{say, tell};
use crate::failure::Failure;
use crate::flags::Values;
use crate::rpc;
use crate::session::Session;
use crate::socket::AGENT;

pub(super) async fn check(session: &mut Session, values: &Values) -> Result<(), Failure> {
    // Which socket is meant is no question of health.
    AGENT.path(values, &session.environment)?;
    let verbose = values.switch("verbose");
    if verbose {
        say!(session.console, "Checking agent health...");
    }
    match ask(session, values).await {
        Ok(ServingStatus::Serving) => {
            say!(session.console, "Agent is healthy.");
            Ok(())
        }
        Ok(status) => Err(Failure::new(format!(
            "agent returned status {:?}",
            status.as_str_name()
        ))),
        Err(failure) => {
            if verbose {
                tell!(session.console, "Failed to check health: {failure}");
            }
            Err(Failure::new("unable to determine health"))
        }
    }
}

async fn ask(session: &Session, values: &Values) -> Result<ServingStatus, Failure> {
    let answer = HealthClient::new(channel(session, values).await?)
        .check(HealthCheckRequest::default())
        .await
        .map_err(|status| rpc::failed(&status))?;
    Ok(answer.into_inner().status())
}
