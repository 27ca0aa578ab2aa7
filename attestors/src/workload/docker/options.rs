//! Which engine answers on which socket.

use std::path::PathBuf;
use std::time::Duration;

use super::DockerError;
use super::client::Socket;
use crate::workload::cgroup::engine::Engine;
use crate::workload::cgroup::pattern::Patterns;

/// What an operator may set. The defaults are SPIRE's, but for the Podman of users.
#[derive(Clone, Debug)]
pub struct Options {
    /// `docker_socket_path`.
    pub docker_socket: PathBuf,
    /// `docker_version`. None: the daemon takes its own.
    pub docker_version: Option<ApiVersion>,
    /// `podman_socket_path`.
    pub podman_socket: PathBuf,
    /// `podman_socket_path_template`. None: the Podman of users is not asked.
    pub user_sockets: Option<UserSockets>,
    /// `container_id_cgroup_matchers`. None: our own rules.
    pub patterns: Option<Patterns>,
    /// How long an engine may take to describe a container.
    pub request_timeout: Duration,
}

impl Options {
    /// Where docker listens.
    pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";
    /// Where the Podman of root listens.
    pub const PODMAN_SOCKET: &str = "/run/podman/podman.sock";
    /// Where the Podman of a user listens.
    pub const USER_SOCKETS: &str = "unix:///run/user/%d/podman/podman.sock";
    /// An engine answers from its memory or a small file.
    pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

    pub(super) fn socket(&self, engine: &Engine) -> Result<Socket, DockerError> {
        let (path, owner, version) = match engine {
            Engine::Docker | Engine::Kubelet => (
                self.docker_socket.clone(),
                None,
                self.docker_version.clone(),
            ),
            Engine::Podman { .. } => (self.podman_socket.clone(), None, None),
            Engine::RootlessPodman { uid } => {
                let sockets = self.user_sockets.as_ref();
                let sockets = sockets.ok_or(DockerError::UserNotAllowed(*uid))?;
                (sockets.of(*uid), Some(*uid), None)
            }
        };
        Ok(Socket {
            path,
            owner,
            version,
            timeout: self.request_timeout,
        })
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            docker_socket: PathBuf::from(Self::DOCKER_SOCKET),
            docker_version: None,
            podman_socket: PathBuf::from(Self::PODMAN_SOCKET),
            user_sockets: None,
            patterns: None,
            request_timeout: Self::REQUEST_TIMEOUT,
        }
    }
}

/// Takes the address of a socket as docker's tools have it: `unix:///run/docker.sock`.
pub fn socket_path(address: &str) -> Result<PathBuf, OptionsError> {
    match address.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') && !path.contains('\0') => Ok(PathBuf::from(path)),
        _ => Err(OptionsError::Address(address.to_owned())),
    }
}

/// A version of docker's API, such as `1.41`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ApiVersion(Box<str>);

impl ApiVersion {
    /// Takes two numbers with a point between them; a `v` may stand before them.
    pub fn parse(text: &str) -> Result<Self, OptionsError> {
        let version = text.strip_prefix('v').unwrap_or(text);
        let is_number = |part: &str| {
            (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
        };
        match version.split_once('.') {
            Some((major, minor)) if is_number(major) && is_number(minor) => {
                Ok(Self(version.into()))
            }
            _ => Err(OptionsError::Version(text.to_owned())),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where the Podman of each user listens: a path with one `%d`, which stands for the user's id.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UserSockets {
    before: Box<str>,
    after: Box<str>,
}

impl UserSockets {
    /// Reads an address with one `%d`. `%%` is a `%`.
    pub fn parse(template: &str) -> Result<Self, OptionsError> {
        let refused = || OptionsError::Template(template.to_owned());
        let path = socket_path(template)?;
        let (mut before, mut part) = (None, String::new());
        let mut characters = path.to_str().ok_or_else(refused)?.chars();
        while let Some(character) = characters.next() {
            match (character, &before) {
                ('%', _) => match (characters.next(), &before) {
                    (Some('%'), _) => part.push('%'),
                    (Some('d'), None) => before = Some(std::mem::take(&mut part)),
                    _ => return Err(refused()),
                },
                (other, _) => part.push(other),
            }
        }
        Ok(Self {
            before: before.ok_or_else(refused)?.into(),
            after: part.into(),
        })
    }

    /// The socket of a user.
    #[must_use]
    pub fn of(&self, uid: u32) -> PathBuf {
        PathBuf::from(format!("{}{uid}{}", self.before, self.after))
    }
}

/// Why an option is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OptionsError {
    /// No Unix socket.
    #[error(
        "`{0}` is not the address of a Unix socket, such as `unix:///var/run/docker.sock`; no other is built"
    )]
    Address(String),
    /// No version.
    #[error("`{0}` is not a version of docker's API, such as `1.41`")]
    Version(String),
    /// Not one user.
    #[error(
        "template `{0}` must contain exactly one %d UID placeholder, and %% for a percent sign"
    )]
    Template(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_has_one_place_for_the_user() {
        let usual = UserSockets::parse(Options::USER_SOCKETS).unwrap();
        assert_eq!(
            usual.of(1000),
            PathBuf::from("/run/user/1000/podman/podman.sock")
        );
        let odd = UserSockets::parse("unix:///a%%b/%d.sock").unwrap();
        assert_eq!(odd.of(7), PathBuf::from("/a%b/7.sock"));
        for template in [
            "unix:///run/podman.sock",
            "unix:///%d/%d",
            "unix:///%d/%",
            "unix:///%s/%d",
            "/run/user/%d/podman.sock",
            "tcp://127.0.0.1:%d",
        ] {
            assert!(UserSockets::parse(template).is_err(), "{template}");
        }
    }

    #[test]
    fn addresses_and_versions_are_as_dockers_tools_have_them() {
        let path = socket_path("unix:///var/run/docker.sock").unwrap();
        assert_eq!(path, PathBuf::from(Options::DOCKER_SOCKET));
        for address in [
            "/var/run/docker.sock",
            "unix://x",
            "tcp://localhost:1",
            "npipe:////./pipe/x",
            "",
        ] {
            assert!(socket_path(address).is_err(), "{address}");
        }
        assert_eq!(ApiVersion::parse("v1.41"), ApiVersion::parse("1.41"));
        for version in ["", "1", "1.", ".1", "1.4.1", "1.4x", "../1.4", "1.44444"] {
            assert!(ApiVersion::parse(version).is_err(), "{version}");
        }
    }
}
