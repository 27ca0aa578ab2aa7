//! A folder with the configurations of a server and an agent, and what stands in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tests::domain::free_port;
use tests::process::{Ended, Process, eventually, run};
use tests::programs::Make::Signet;

pub(crate) struct Place {
    folder: TempDir,
    pub(crate) port: u16,
}

/// Every file below a folder, with its content.
pub(crate) type Content = BTreeMap<PathBuf, Vec<u8>>;

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self {
            folder: tempfile::Builder::new()
                .prefix("signet-")
                .tempdir()
                .unwrap(),
            port: free_port(),
        };
        let (folder, port) = (place.folder.path().display(), place.port);
        let server = format!(
            r#"server {{
    bind_address = "127.0.0.1"
    bind_port = "{port}"
    socket_path = "{folder}/server.sock"
    trust_domain = "example.org"
    data_dir = "{folder}/server"
    agent_ttl = "1h"
}}
plugins {{
    DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{folder}/server/db" }} }}
    KeyManager "disk" {{ plugin_data {{ keys_path = "{folder}/server/keys.json" }} }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"#
        );
        let agent = format!(
            r#"agent {{
    server_address = "127.0.0.1"
    server_port = "{port}"
    socket_path = "{folder}/agent.sock"
    trust_domain = "example.org"
    trust_bundle_path = "{folder}/bundle.pem"
    data_dir = "{folder}/agent"
}}
plugins {{
    KeyManager "disk" {{ plugin_data {{ directory = "{folder}/agent" }} }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"#
        );
        std::fs::write(place.path("server.conf"), server).unwrap();
        std::fs::write(place.path("agent.conf"), agent).unwrap();
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Changes a text of `server.conf` or `agent.conf`.
    pub(crate) fn change(&self, part: &str, from: &str, to: &str) {
        let path = self.path(&format!("{part}.conf"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "no `{from}` in {text}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
    }

    /// The command that runs the server or the agent.
    pub(crate) fn command(&self, part: &str) -> Command {
        let mut command = match part {
            "server" => Signet.server(),
            _ => Signet.agent(),
        };
        command
            .args(["run", "-config"])
            .arg(self.path(&format!("{part}.conf")));
        command
    }

    /// Runs the server or the agent, which must refuse to start; returns what it says.
    pub(crate) fn refused(&self, part: &str, flags: &[&str]) -> String {
        let mut process = Process::start(part, self.command(part).args(flags));
        let status = process.wait();
        // The last lines may come after the end.
        eventually("all is said", || process.has_said_all());
        let text = process.text();
        assert_eq!(status.code(), Some(1), "{text}");
        assert!(!text.contains("panicked"), "{text}");
        text
    }

    /// A server that is healthy, and its bundle beside it.
    pub(crate) fn server(&self) -> Process {
        self.start_server(&mut self.command("server"))
    }

    pub(crate) fn start_server(&self, command: &mut Command) -> Process {
        let mut process = Process::start("server", command);
        eventually("the server is healthy", || {
            assert!(process.is_running(), "{}", process.text());
            self.cli(&["healthcheck"]).code == 0
        });
        let bundle = self.cli(&["bundle", "show"]).success();
        std::fs::write(self.path("bundle.pem"), bundle).unwrap();
        process
    }

    /// An agent that serves.
    pub(crate) fn agent(&self, flags: &[&str]) -> Process {
        self.start_agent(self.command("agent").args(flags))
    }

    pub(crate) fn start_agent(&self, command: &mut Command) -> Process {
        let mut process = Process::start("agent", command);
        eventually("the agent is healthy", || {
            assert!(process.is_running(), "{}", process.text());
            let mut probe = Signet.agent();
            probe
                .args(["healthcheck", "-socketPath"])
                .arg(self.path("agent.sock"));
            run(&mut probe).code == 0
        });
        process
    }

    /// A server command against the socket.
    pub(crate) fn cli(&self, words: &[&str]) -> Ended {
        let flags = words.iter().position(|word| word.starts_with('-'));
        let (names, flags) = words.split_at(flags.unwrap_or(words.len()));
        let mut command = Signet.server();
        command
            .args(names)
            .arg("-socketPath")
            .arg(self.path("server.sock"))
            .args(flags);
        run(&mut command)
    }

    pub(crate) fn token(&self) -> String {
        let printed = self.cli(&["token", "generate"]).success();
        let line = printed.lines().next().unwrap_or_default();
        line.strip_prefix("Token: ").unwrap().to_owned()
    }

    pub(crate) fn create_entry(&self, name: &str) -> Ended {
        self.create(name, &["unix:uid:0".to_owned()])
    }

    /// An entry of about 60 KiB.
    pub(crate) fn create_long_entry(&self, name: &str) -> Ended {
        let long = "x".repeat(600);
        let selectors: Vec<_> = (0..100).map(|n| format!("unix:path:/{long}/{n}")).collect();
        self.create(name, &selectors)
    }

    fn create(&self, name: &str, selectors: &[String]) -> Ended {
        let id = format!("spiffe://example.org/{name}");
        let parent = "spiffe://example.org/node";
        let mut words = vec!["entry", "create", "-parentID", parent, "-spiffeID", &id];
        for selector in selectors {
            words.extend(["-selector", selector]);
        }
        self.cli(&words)
    }

    /// What the state folder of the server or the agent holds.
    pub(crate) fn content(&self, part: &str) -> Content {
        content(&self.path(part))
    }
}

pub(crate) fn content(folder: &Path) -> Content {
    let files = std::fs::read_dir(folder).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    paths
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
        .collect()
}
