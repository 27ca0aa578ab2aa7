//! A trust domain on this machine: a server and its agents as real processes, ours or SPIRE's.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::{Ended, Process, eventually, run};
use crate::programs::Make;

/// What a domain is made of. The defaults are SPIRE's.
#[derive(Clone, Debug)]
pub struct Plan {
    pub trust_domain: String,
    pub server: Make,
    /// Lines for the block `server`, such as `ca_ttl = "1h"`.
    pub server_keys: String,
    /// Further variables in the environment of the server.
    pub server_variables: Vec<(String, String)>,
    /// Whether agents look at the programs of their callers, and not at their ids alone.
    pub discover_workload_path: bool,
    /// Further plugins of the server.
    pub server_plugins: String,
    /// Lines for our own block `signet` of the server's file.
    pub ours: String,
    /// The port on which the server shows its metrics, if it does.
    pub metrics_port: Option<u16>,
}

impl Plan {
    pub fn new(server: Make) -> Self {
        Self {
            trust_domain: "example.org".to_owned(),
            server,
            server_keys: String::new(),
            server_variables: Vec::new(),
            discover_workload_path: true,
            server_plugins: String::new(),
            ours: String::new(),
            metrics_port: None,
        }
    }

    /// Lets the server show its metrics.
    pub fn metrics(mut self) -> Self {
        self.metrics_port = Some(free_port());
        self
    }

    /// Lets agents look at the ids of their callers alone, as they do by default.
    pub fn ids_alone(mut self) -> Self {
        self.discover_workload_path = false;
        self
    }

    pub fn trust_domain(mut self, name: &str) -> Self {
        name.clone_into(&mut self.trust_domain);
        self
    }

    /// Adds a line to the block `server`.
    pub fn key(mut self, line: &str) -> Self {
        self.server_keys.push_str(line);
        self.server_keys.push('\n');
        self
    }

    /// Sets a variable in the environment of the server.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.server_variables
            .push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a plugin to the server.
    pub fn plugin(mut self, block: &str) -> Self {
        self.server_plugins.push_str(block);
        self.server_plugins.push('\n');
        self
    }

    /// Adds a line to our own block of the server's file.
    pub fn ours(mut self, line: &str) -> Self {
        self.ours.push_str(line);
        self.ours.push('\n');
        self
    }

    pub fn start(self) -> Domain {
        let domain = self.launch();
        domain.wait_for_server();
        domain
    }

    /// Starts the server, and does not wait for anything.
    pub fn launch(self) -> Domain {
        Domain::launch(self)
    }
}

/// A running server in a folder of its own. Everything ends with it.
#[derive(Debug)]
pub struct Domain {
    pub plan: Plan,
    pub port: u16,
    pub server: Process,
    folder: TempDir,
}

impl Domain {
    fn launch(plan: Plan) -> Self {
        let folder = open_folder(tempfile::Builder::new().prefix("signet-").tempdir());
        let port = free_port();
        write_server_config(&plan, folder.path(), port);
        let server = start_server(&plan, folder.path());
        Self {
            plan,
            port,
            server,
            folder,
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn server_socket(&self) -> PathBuf {
        self.folder().join("server.sock")
    }

    /// Ends the server as a crash would, and starts it again on the same state.
    pub fn crash_and_restart_server(&mut self) {
        self.server.kill();
        self.restart_server();
    }

    /// Starts the server again, after it has ended.
    pub fn restart_server(&mut self) {
        self.relaunch_server();
        self.wait_for_server();
    }

    /// Starts the server again at another port, after it has ended.
    pub fn restart_server_at(&mut self, port: u16) {
        write_server_config(&self.plan, self.folder.path(), port);
        self.port = port;
        self.restart_server();
    }

    /// Starts the server again, and does not wait for anything.
    pub fn relaunch_server(&mut self) {
        self.server = start_server(&self.plan, self.folder.path());
    }

    fn wait_for_server(&self) {
        eventually("the server is healthy", || {
            self.cli(&["healthcheck"]).code == 0
        });
    }

    /// Runs a command of the server's program against its socket.
    pub fn cli(&self, words: &[&str]) -> Ended {
        self.cli_of(self.plan.server, words)
    }

    /// Runs a command of either server program against this domain's socket.
    pub fn cli_of(&self, make: Make, words: &[&str]) -> Ended {
        let mut command = make.server();
        let flags = words
            .iter()
            .position(|word| word.starts_with('-'))
            .unwrap_or(words.len());
        let (names, flags) = words.split_at(flags);
        command
            .args(names)
            .arg("-socketPath")
            .arg(self.server_socket())
            .args(flags);
        run(&mut command)
    }

    /// The server's metrics, by name and labels as they are written. Their server shows them.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let port = self.plan.metrics_port.expect("the plan shows metrics");
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let samples = text.lines().filter(|line| line.starts_with("signet_"));
        let samples = samples.filter_map(|line| line.rsplit_once(' '));
        samples
            .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
            .collect()
    }

    /// Makes a join token.
    pub fn token(&self) -> String {
        let printed = self.cli(&["token", "generate", "-ttl", "600"]).success();
        let line = printed.lines().next().unwrap_or_default();
        line.strip_prefix("Token: ")
            .unwrap_or_else(|| panic!("no token in {printed}"))
            .to_owned()
    }

    /// Makes an entry below an agent and returns its id. `more` are further flags.
    pub fn entry(&self, agent: &Agent, path: &str, selector: &str, more: &[&str]) -> String {
        self.entry_below(&agent.id, path, selector, more)
    }

    /// Makes an entry and returns its id.
    pub fn entry_below(&self, parent: &str, path: &str, selector: &str, more: &[&str]) -> String {
        let id = format!("spiffe://{}{path}", self.plan.trust_domain);
        let mut words = vec![
            "entry",
            "create",
            "-parentID",
            parent,
            "-spiffeID",
            &id,
            "-selector",
            selector,
        ];
        words.extend(more);
        let printed = self.cli(&words).success();
        let line = printed
            .lines()
            .find(|line| line.starts_with("Entry ID"))
            .unwrap_or_default();
        line.split(':').nth(1).unwrap_or_default().trim().to_owned()
    }

    /// Starts an agent of the given make with a fresh join token.
    pub fn agent(&self, make: Make) -> Agent {
        self.agent_with(make, "")
    }

    /// The same with further lines for its block `agent`.
    pub fn agent_with(&self, make: Make, keys: &str) -> Agent {
        let Place { id, token, folder } = self.place(keys);
        Agent::start(make, id, folder, Some(&token))
    }

    /// A folder with the configuration of an agent, and a token for it. Nothing runs there yet.
    pub fn place(&self, keys: &str) -> Place {
        let token = self.token();
        let id = format!(
            "spiffe://{}/spire/agent/join_token/{token}",
            self.plan.trust_domain
        );
        let join_token = r#"NodeAttestor "join_token" { plugin_data {} }"#;
        let folder = self.agent_folder(join_token, keys);
        Place { id, token, folder }
    }

    /// Starts an agent that proves itself by another node attestor, and is to get this SPIFFE ID.
    pub fn agent_by(&self, make: Make, id: &str, node_attestor: &str) -> Agent {
        let folder = self.agent_folder(node_attestor, "");
        Agent::start(make, id.to_owned(), folder, None)
    }

    fn agent_folder(&self, node_attestor: &str, keys: &str) -> TempDir {
        let agents = tempfile::Builder::new()
            .prefix("agent-")
            .tempdir_in(self.folder());
        let folder = open_folder(agents);
        let bundle = self.folder().join("bundle.pem");
        std::fs::write(&bundle, self.cli(&["bundle", "show"]).success()).unwrap();
        let blocks = AgentBlocks {
            node_attestor,
            keys,
        };
        write_agent_config(&self.plan, self.port, &bundle, folder.path(), &blocks);
        folder
    }
}

/// What an agent of ours needs to be started.
#[derive(Debug)]
pub struct Place {
    /// The SPIFFE ID that it will have.
    pub id: String,
    pub token: String,
    folder: TempDir,
}

impl Place {
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts the agent with its token, and does not wait for anything.
    pub fn start(&self) -> Process {
        start_agent(Make::Signet, self.folder.path(), Some(&self.token))
    }

    /// The same with variables in its environment.
    pub fn start_with(&self, variables: &[(&str, &str)]) -> Process {
        let mut command = agent_command(Make::Signet, self.folder.path(), Some(&self.token));
        command.envs(variables.iter().copied());
        Process::start("agent", &mut command)
    }

    /// Starts the agent with its token, and waits until it serves.
    pub fn serve(self) -> Agent {
        Agent::start(Make::Signet, self.id, self.folder, Some(&self.token))
    }

    /// Starts it by another command line, which has the words of its own as `"$@"` of a shell, and waits
    /// until it serves.
    pub fn serve_by(self, shell: &str) -> Agent {
        let own = agent_command(Make::Signet, self.folder.path(), Some(&self.token));
        let mut command = Command::new("sh");
        command.args(["-c", shell]).arg(own.get_program());
        command.arg(own.get_program()).args(own.get_args());
        let agent = Agent {
            id: self.id,
            make: Make::Signet,
            process: Process::start("agent", &mut command),
            folder: self.folder,
        };
        agent.wait();
        agent
    }

    /// Starts the agent without a token, and waits until it serves.
    pub fn start_again(self) -> Agent {
        Agent::start(Make::Signet, self.id, self.folder, None)
    }

    /// Changes the text of its configuration.
    pub fn configure(&self, from: &str, to: &str) {
        let path = self.folder.path().join("agent.conf");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "no `{from}` in {text}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
    }

    /// Waits until the agent serves.
    pub fn wait(&self) {
        wait_for_agent(Make::Signet, &self.folder.path().join("agent.sock"));
    }
}

/// A running agent in a folder of its own.
#[derive(Debug)]
pub struct Agent {
    /// Its SPIFFE ID.
    pub id: String,
    pub make: Make,
    pub process: Process,
    folder: TempDir,
}

impl Agent {
    fn start(make: Make, id: String, folder: TempDir, token: Option<&str>) -> Self {
        let process = start_agent(make, folder.path(), token);
        let agent = Self {
            id,
            make,
            process,
            folder,
        };
        agent.wait();
        agent
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder().join("data")
    }

    pub fn socket(&self) -> PathBuf {
        self.folder().join("agent.sock")
    }

    /// The address of the Workload API, as programs take it.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Starts it again on the same state, without a token.
    pub fn restart(&mut self) {
        self.restart_as(self.make);
    }

    /// The same with the program of the other make: it takes over the folder.
    pub fn restart_as(&mut self, make: Make) {
        self.process.kill();
        self.make = make;
        self.process = start_agent(make, self.folder.path(), None);
        self.wait();
    }

    /// Starts it again on the same state, and does not wait for anything.
    pub fn start_alone(&self) -> Process {
        start_agent(self.make, self.folder.path(), None)
    }

    /// Waits until the agent serves its socket.
    pub fn wait(&self) {
        wait_for_agent(self.make, &self.socket());
    }

    /// Runs `api …` of either agent program against this agent's socket.
    pub fn api(&self, make: Make, words: &[&str]) -> Ended {
        run(self.api_command(make, words).args([] as [&str; 0]))
    }

    pub fn api_command(&self, make: Make, words: &[&str]) -> Command {
        let mut command = make.agent();
        let flags = words
            .iter()
            .position(|word| word.starts_with('-'))
            .unwrap_or(words.len());
        let (names, flags) = words.split_at(flags);
        command
            .arg("api")
            .args(names)
            .arg("-socketPath")
            .arg(self.socket())
            .args(flags);
        command
    }
}

/// A port that is free now. Another process may take it; the server then says so and the test fails.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

// Workloads of other users have to reach the sockets.
fn open_folder(made: std::io::Result<TempDir>) -> TempDir {
    let folder = made.unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    folder
}

fn start_server(plan: &Plan, folder: &Path) -> Process {
    let mut command = plan.server.server();
    let variables = plan.server_variables.iter();
    command
        .envs(variables.map(|(name, value)| (name, value)))
        .args(["run", "-config"])
        .arg(folder.join("server.conf"));
    Process::start("server", &mut command)
}

fn start_agent(make: Make, folder: &Path, token: Option<&str>) -> Process {
    Process::start("agent", &mut agent_command(make, folder, token))
}

fn agent_command(make: Make, folder: &Path, token: Option<&str>) -> Command {
    let mut command = make.agent();
    command
        .args(["run", "-config"])
        .arg(folder.join("agent.conf"));
    if let Some(token) = token {
        command.args(["-joinToken", token]);
    }
    command
}

fn wait_for_agent(make: Make, socket: &Path) {
    eventually("the agent is healthy", || {
        let mut command = make.agent();
        command.args(["healthcheck", "-socketPath"]).arg(socket);
        run(&mut command).code == 0
    });
}

fn write_server_config(plan: &Plan, folder: &Path, port: u16) {
    let folder_name = folder.display();
    let Plan {
        trust_domain,
        server_keys,
        server_plugins,
        ours,
        metrics_port,
        ..
    } = plan;
    let telemetry = metrics_port.map_or_else(String::new, |port| {
        format!(r#"telemetry {{ Prometheus {{ host = "127.0.0.1" port = {port} }} }}"#)
    });
    let ours = match ours.as_str() {
        "" => String::new(),
        lines => format!("signet {{ {lines} }}"),
    };
    let text = format!(
        r#"{telemetry}
{ours}
server {{
    bind_address = "127.0.0.1"
    bind_port = "{port}"
    socket_path = "{folder_name}/server.sock"
    trust_domain = "{trust_domain}"
    data_dir = "{folder_name}/server"
    log_level = "DEBUG"
    {server_keys}
}}
plugins {{
    DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{folder_name}/server/datastore.sqlite3" }} }}
    KeyManager "disk" {{ plugin_data {{ keys_path = "{folder_name}/server/keys.json" }} }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    {server_plugins}
}}
"#
    );
    std::fs::create_dir_all(folder.join("server")).unwrap();
    std::fs::write(folder.join("server.conf"), text).unwrap();
}

/// What differs between agents.
struct AgentBlocks<'a> {
    node_attestor: &'a str,
    /// Lines for the block `agent`.
    keys: &'a str,
}

fn write_agent_config(
    plan: &Plan,
    port: u16,
    bundle: &Path,
    folder: &Path,
    blocks: &AgentBlocks<'_>,
) {
    let (folder_name, bundle) = (folder.display(), bundle.display());
    let AgentBlocks {
        node_attestor,
        keys,
    } = blocks;
    let Plan {
        trust_domain,
        discover_workload_path,
        ..
    } = plan;
    let text = format!(
        r#"agent {{
    server_address = "127.0.0.1"
    server_port = "{port}"
    socket_path = "{folder_name}/agent.sock"
    trust_domain = "{trust_domain}"
    trust_bundle_path = "{bundle}"
    data_dir = "{folder_name}/data"
    log_level = "DEBUG"
    {keys}
}}
plugins {{
    KeyManager "disk" {{ plugin_data {{ directory = "{folder_name}/data" }} }}
    {node_attestor}
    WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = {discover_workload_path} }} }}
}}
"#
    );
    std::fs::create_dir_all(folder.join("data")).unwrap();
    std::fs::write(folder.join("agent.conf"), text).unwrap();
}
