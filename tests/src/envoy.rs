//! Envoy as a workload: it takes its certificate and its trust from the agent's socket, over SDS.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::domain::{Agent, free_port};
use crate::process::{Process, eventually};

/// A running Envoy: plain HTTP in, or mutual TLS in, and mutual TLS out.
#[derive(Debug)]
pub struct Envoy {
    pub process: Process,
    pub port: u16,
    admin: u16,
}

/// Which way an Envoy faces.
#[derive(Clone, Copy, Debug)]
pub enum Facing {
    /// Takes mutual TLS and answers `hello`.
    Server,
    /// Takes plain HTTP and forwards it by mutual TLS to this port.
    Client { to: u16, validates: bool },
}

/// How an Envoy asks the agent for its secrets.
#[derive(Clone, Debug)]
pub struct Sds {
    pub dialect: Dialect,
    /// The name of its trust.
    pub bundle: &'static str,
    /// The one SPIFFE ID that it accepts: the static part of a combined validation context.
    pub accepts: Option<&'static str>,
    /// The names of further secrets, each for a cluster that is never called, in both dialects.
    pub more: Vec<String>,
}

/// What Envoy calls the two ways to ask.
#[derive(Clone, Copy, Debug)]
pub enum Dialect {
    World,
    Delta,
}

impl Default for Sds {
    fn default() -> Self {
        Self {
            dialect: Dialect::World,
            bundle: "ROOTCA",
            accepts: None,
            more: Vec::new(),
        }
    }
}

impl Envoy {
    /// Starts Envoy as the user `uid`, with its secrets from the agent.
    pub fn start(binary: &Path, agent: &Agent, uid: u32, facing: Facing) -> Self {
        Self::start_with(binary, agent, uid, facing, &Sds::default())
    }

    /// The same, asking in this way.
    pub fn start_with(binary: &Path, agent: &Agent, uid: u32, facing: Facing, sds: &Sds) -> Self {
        let (port, admin) = (free_port(), free_port());
        let folder = agent.folder();
        let config = folder.join(format!("envoy-{port}.json"));
        let text = config_of(agent, (port, admin), facing, sds).to_string();
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(binary);
        command.arg("-c").arg(&config);
        command.args([
            "--log-level",
            "warning",
            "--concurrency",
            "1",
            "--disable-hot-restart",
        ]);
        command.uid(uid).gid(uid).current_dir("/");
        let process = Process::start("envoy", &mut command);
        let envoy = Self {
            process,
            port,
            admin,
        };
        eventually("Envoy is ready", || envoy.admin("/ready").contains("LIVE"));
        envoy
    }

    /// The answer of the admin interface; empty if there is none yet.
    pub fn admin(&self, path: &str) -> String {
        get(self.admin, path).unwrap_or_default()
    }

    /// The serial number of the certificate that Envoy presents now.
    pub fn serial(&self) -> Option<String> {
        let answer = self.admin("/certs");
        let body = answer.split("\r\n\r\n").nth(1)?;
        let body: Value =
            serde_json::from_str(body.get(body.find('{')?..=body.rfind('}')?)?).ok()?;
        let chain = body.pointer("/certificates")?.as_array()?;
        chain.iter().find_map(|pair| {
            Some(
                pair.pointer("/cert_chain/0/serial_number")?
                    .as_str()?
                    .to_owned(),
            )
        })
    }

    /// The counters whose name contains `text`, by name.
    pub fn counters(&self, text: &str) -> BTreeMap<String, u64> {
        let answer = self.admin("/stats?usedonly&type=Counters");
        let lines = answer.lines().filter(|line| line.contains(text));
        lines
            .filter_map(|line| {
                let (name, count) = line.rsplit_once(": ")?;
                Some((name.to_owned(), count.trim().parse().ok()?))
            })
            .collect()
    }

    /// Sends one request and returns the status code; `None` if the connection failed.
    pub fn request(&self) -> Option<u16> {
        get(self.port, "/")?.split(' ').nth(1)?.parse().ok()
    }
}

/// Envoy's program, where another user can run it.
pub fn program_for_others(folder: &Path) -> Option<PathBuf> {
    let there = folder.join("envoy");
    std::fs::copy(crate::peers::envoy()?, &there).unwrap();
    Some(there)
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

fn config_of(agent: &Agent, (port, admin): (u16, u16), facing: Facing, sds: &Sds) -> Value {
    let mut listener = json!({
        "name": "in",
        "address": address(port),
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": http_manager(facing),
        }]}],
    });
    let mut clusters = vec![sds_cluster(agent)];
    for (number, name) in sds.more.iter().enumerate() {
        for dialect in [Dialect::World, Dialect::Delta] {
            clusters.push(idle_cluster(number, name, dialect));
        }
    }
    match facing {
        Facing::Server => listener["filter_chains"][0]["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "require_client_certificate": true,
                "common_tls_context": tls(true, sds),
            },
        }),
        Facing::Client { to, validates } => clusters.push(json!({
            "name": "peer",
            "connect_timeout": "5s",
            // Each request makes a connection of its own, so that it meets the newest certificates.
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": { "http_protocol_options": {} },
                    "common_http_protocol_options": { "max_requests_per_connection": 1 },
                },
            },
            "load_assignment": { "cluster_name": "peer", "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(to) } }] }] },
            "transport_socket": {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                    "common_tls_context": tls(validates, sds),
                },
            },
        })),
    }
    json!({
        "node": { "id": "test", "cluster": "test" },
        "admin": { "address": address(admin) },
        "static_resources": { "listeners": [listener], "clusters": clusters },
    })
}

fn http_manager(facing: Facing) -> Value {
    let route = match facing {
        Facing::Server => {
            json!({ "match": { "prefix": "/" }, "direct_response": { "status": 200, "body": { "inline_string": "hello" } } })
        }
        Facing::Client { .. } => {
            json!({ "match": { "prefix": "/" }, "route": { "cluster": "peer" } })
        }
    };
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "access_log": [{
            "name": "envoy.access_loggers.stdout",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
                "log_format": { "text_format_source": { "inline_string":
                    "request %RESPONSE_CODE% from=%DOWNSTREAM_PEER_URI_SAN% to=%UPSTREAM_PEER_URI_SAN%\n" } },
            },
        }],
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
        }],
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] },
    })
}

fn tls(validates: bool, sds: &Sds) -> Value {
    let mut context =
        json!({ "tls_certificate_sds_secret_configs": [secret("default", sds.dialect)] });
    if !validates {
        return context;
    }
    let bundle = secret(sds.bundle, sds.dialect);
    if let Some(id) = sds.accepts {
        context["combined_validation_context"] = json!({
            "default_validation_context": {
                "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": id } }],
            },
            "validation_context_sds_secret_config": bundle,
        });
    } else {
        context["validation_context_sds_secret_config"] = bundle;
    }
    context
}

fn secret(name: &str, dialect: Dialect) -> Value {
    json!({
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "api_config_source": {
                "api_type": match dialect {
                    Dialect::World => "GRPC",
                    Dialect::Delta => "DELTA_GRPC",
                },
                "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "agent" } }],
            },
        },
    })
}

/// A cluster that nothing is sent to. Its Envoy starts without the secret if there is none.
fn idle_cluster(number: usize, name: &str, dialect: Dialect) -> Value {
    let cluster = format!("idle-{number}-{dialect:?}");
    let mut certificate = secret(name, dialect);
    certificate["sds_config"]["initial_fetch_timeout"] = json!("2s");
    json!({
        "name": cluster,
        "load_assignment": { "cluster_name": cluster, "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(9) } }] }] },
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": { "tls_certificate_sds_secret_configs": [certificate] },
            },
        },
    })
}

fn sds_cluster(agent: &Agent) -> Value {
    json!({
        "name": "agent",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        },
        "load_assignment": { "cluster_name": "agent", "endpoints": [{ "lb_endpoints": [{ "endpoint": {
            "address": { "pipe": { "path": agent.socket() } } } }] }] },
    })
}

fn address(port: u16) -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } })
}
