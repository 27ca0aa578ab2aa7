//! Makes the driver known to the kubelet, which needs no sidecar for that: the kubelet watches a
//! folder, asks each socket that appears there what it is, and says what came of it.

use std::sync::Arc;

use proto::pluginregistration::registration_server::Registration;
use proto::pluginregistration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};
use runtime::readiness::{Health, State};
use tonic::{Request, Response, Status};
use tracing::{error, info};

/// What kind of plugin this is, in the kubelet's word.
const KIND: &str = "CSIPlugin";
/// The version of the Container Storage Interface. The kubelet looks at its first number alone.
const VERSION: &str = "1.0.0";

/// Answers the kubelet's questions.
#[derive(Clone, Debug)]
pub(crate) struct Registrar {
    pub(crate) plugin: Arc<str>,
    /// Where the kubelet finds the driver's socket.
    pub(crate) endpoint: Arc<str>,
    pub(crate) health: Health,
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: KIND.to_owned(),
            name: self.plugin.to_string(),
            endpoint: self.endpoint.to_string(),
            supported_versions: vec![VERSION.to_owned()],
        }))
    }

    /// A kubelet that could not register the driver tries again by itself.
    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus {
            plugin_registered,
            error: why,
        } = request.into_inner();
        if plugin_registered {
            info!(driver.name = %self.plugin, "Registered with the kubelet");
            self.health.report(State::Ready);
        } else {
            error!(driver.name = %self.plugin, error = %why, "Kubelet did not register the driver");
            let state = State::NotReady("the kubelet did not register the driver".into());
            self.health.report(state);
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
