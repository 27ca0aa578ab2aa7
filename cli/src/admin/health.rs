//! `healthcheck` of the server.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::connect;
use crate::console::{say, tell};
use crate::failure::Failure;
use crate::flags::Values;
use crate::rpc;
use crate::session::Session;
use crate::socket::SERVER;

pub(super) async fn check(session: &mut Session, values: &Values) -> Result<(), Failure> {
    // Which socket is meant is no question of health.
    SERVER.path(values, &session.environment)?;
    let verbose = values.switch("verbose");
    if verbose {
        say!(session.console, "Checking server health...");
    }
    let status = match ask(session, values).await {
        Ok(status) => status,
        Err(failure) => {
            if verbose {
                tell!(session.console, "Failed to check health: {failure}");
            }
            return Err(unhealthy("unable to determine health"));
        }
    };
    if status != ServingStatus::Serving {
        return Err(unhealthy(&format!(
            "server returned status {:?}",
            status.as_str_name()
        )));
    }
    say!(session.console, "Server is healthy.");
    Ok(())
}

async fn ask(session: &Session, values: &Values) -> Result<ServingStatus, Failure> {
    let answer = HealthClient::new(connect(session, values).await?)
        .check(HealthCheckRequest::default())
        .await
        .map_err(|status| rpc::failed(&status))?;
    Ok(answer.into_inner().status())
}

fn unhealthy(why: &str) -> Failure {
    Failure::new(format!("server is unhealthy: {why}"))
}
