//! Where the agent has its first trust bundle from, as the file says.

use runtime::config::{Problems, given};
use workload_api::client::Endpoint;

use super::raw;
use crate::bootstrap::{BundleFormat, SocketUrl, TrustSource, Url};

/// Exactly one place, as SPIRE demands.
pub(super) fn source(agent: &raw::Agent, problems: &mut Problems) -> Option<TrustSource> {
    let format = format(agent.trust_bundle_format.as_deref(), problems);
    let path = given(agent.trust_bundle_path.as_ref());
    let url = given(agent.trust_bundle_url.as_deref());
    let api = given(agent.trust_bundle_spiffe_workload_api.as_deref());
    let socket = given(agent.trust_bundle_unix_socket.as_ref());
    problems.add_if(
        socket.is_some() && api.is_some(),
        "agent.trust_bundle_unix_socket",
        "trust_bundle_unix_socket can not be used with trust_bundle_spiffe_workload_api",
    );
    problems.add_if(
        socket.is_some() && url.is_none(),
        "agent.trust_bundle_unix_socket",
        "if trust_bundle_unix_socket is specified, so must be trust_bundle_url",
    );
    let is_insecure = agent.insecure_bootstrap == Some(true);
    match (path, url, api, is_insecure) {
        (Some(path), None, None, false) => Some(TrustSource::File {
            path: path.clone(),
            format,
        }),
        (None, Some(url), None, false) => {
            let key = "agent.trust_bundle_url";
            Some(match socket {
                Some(socket) => TrustSource::Socket {
                    socket: socket.clone(),
                    url: problems.take(key, SocketUrl::parse(url))?,
                    format,
                },
                None => TrustSource::Url {
                    url: problems.take(key, Url::parse(url))?,
                    format,
                },
            })
        }
        (None, None, Some(api), false) => {
            let key = "agent.trust_bundle_spiffe_workload_api";
            let endpoint = problems.take(key, Endpoint::parse(api))?;
            Some(TrustSource::WorkloadApi(endpoint))
        }
        (None, None, None, true) => Some(TrustSource::Insecure),
        (None, None, None, false) => {
            problems.add(
                "agent",
                "trust_bundle_path, trust_bundle_url, or trust_bundle_spiffe_workload_api must be configured unless insecure_bootstrap is set",
            );
            None
        }
        _ => {
            problems.add(
                "agent",
                "only one of insecure_bootstrap, trust_bundle_url, trust_bundle_path, or trust_bundle_spiffe_workload_api can be specified",
            );
            None
        }
    }
}

fn format(said: Option<&str>, problems: &mut Problems) -> BundleFormat {
    match said {
        None | Some("" | "pem") => BundleFormat::Pem,
        Some("spiffe") => BundleFormat::Spiffe,
        Some(other) => {
            problems.add(
                "agent.trust_bundle_format",
                format!("`{other}` is unknown; write `pem` or `spiffe`"),
            );
            BundleFormat::Pem
        }
    }
}
