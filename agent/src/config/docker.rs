//! The settings of the workload attestors `docker` and `systemd`.

use attestors::workload::cgroup::pattern::Patterns;
use attestors::workload::docker::{self, ApiVersion, OptionsError, UserSockets, socket_path};
use attestors::workload::systemd::{self, bus_path};
use runtime::config::{Body, Nothing, Plugin, Problems, given};
use serde::Deserialize;

use super::Variables;

/// The variable that names the system bus, for every program that speaks to it.
const BUS_ADDRESS: &str = "DBUS_SYSTEM_BUS_ADDRESS";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    docker_socket_path: Option<String>,
    docker_version: Option<String>,
    podman_socket_path: Option<String>,
    podman_socket_path_template: Option<String>,
    container_id_cgroup_matchers: Vec<String>,
    use_new_container_locator: Option<bool>,
    verbose_container_locator_logs: bool,
    docker_host: Option<String>,
    sigstore: Option<Body>,
}

pub(super) fn read(plugin: &Plugin, problems: &mut Problems) -> docker::Options {
    let said: Said = plugin.settings(problems);
    for (refused, key, what) in [
        (
            said.sigstore.is_some(),
            "sigstore",
            "verifying the signatures of images is not built",
        ),
        (
            said.docker_host.is_some(),
            "docker_host",
            "it is a key of Windows; the key here is `docker_socket_path`",
        ),
    ] {
        problems.add_if(refused, &plugin.key(key), what);
    }
    problems.warn_if(
        said.verbose_container_locator_logs,
        "`verbose_container_locator_logs` has no effect: a caller that cannot be placed is logged with its reason",
    );
    let patterns = patterns(&said, plugin, problems);
    let mut tell = |key: &str, error: &OptionsError| {
        problems.add(&plugin.key(key), error.to_string());
    };
    let mut options = docker::Options {
        patterns,
        ..docker::Options::default()
    };
    for (key, said, socket) in [
        (
            "docker_socket_path",
            given(said.docker_socket_path),
            &mut options.docker_socket,
        ),
        (
            "podman_socket_path",
            given(said.podman_socket_path),
            &mut options.podman_socket,
        ),
    ] {
        match said.map(|address| socket_path(&address)) {
            Some(Ok(path)) => *socket = path,
            Some(Err(error)) => tell(key, &error),
            None => {}
        }
    }
    match given(said.docker_version).map(|version| ApiVersion::parse(&version)) {
        Some(Ok(version)) => options.docker_version = Some(version),
        Some(Err(error)) => tell("docker_version", &error),
        None => {}
    }
    let template = given(said.podman_socket_path_template);
    match template.map(|template| UserSockets::parse(&template)) {
        Some(Ok(sockets)) => options.user_sockets = Some(sockets),
        Some(Err(error)) => tell("podman_socket_path_template", &error),
        None => {}
    }
    options
}

fn patterns(said: &Said, plugin: &Plugin, problems: &mut Problems) -> Option<Patterns> {
    if said.container_id_cgroup_matchers.is_empty() {
        problems.warn_if(
            said.use_new_container_locator == Some(false),
            "`use_new_container_locator` has no effect without `container_id_cgroup_matchers`",
        );
        return None;
    }
    let key = plugin.key("container_id_cgroup_matchers");
    if said.use_new_container_locator != Some(false) {
        let what = "the new container locator and custom cgroup matchers cannot both be used; \
                    to use the matchers set `use_new_container_locator = false`";
        problems.add(&key, what);
        return None;
    }
    let read = Patterns::parse(&said.container_id_cgroup_matchers);
    read.map_err(|error| problems.add(&key, error.to_string()))
        .ok()
}

pub(super) fn systemd(
    plugin: &Plugin,
    variables: Variables<'_>,
    problems: &mut Problems,
) -> systemd::Options {
    let Nothing {} = plugin.settings(problems);
    let mut options = systemd::Options::default();
    match given(variables(BUS_ADDRESS)).map(|address| bus_path(&address)) {
        Some(Ok(path)) => options.bus = path,
        Some(Err(error)) => problems.add(BUS_ADDRESS, error.to_string()),
        None => {}
    }
    options
}
