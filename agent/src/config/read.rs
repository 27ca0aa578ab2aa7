//! From what is written to what is meant.

use std::collections::BTreeSet;
use std::path::PathBuf;

use attestors::node::join_token::Token;
use identity::key::KeyAlgorithm;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use runtime::config::{ConfigErrors, Problems, UnknownKey, Warning, duration, given, overrule};
use runtime::log::LogConfig;

use super::plugins::{self, Plugins};
use super::{
    CacheConfig, Config, DEFAULT_CACHE_SIZE, DEFAULT_DATA_DIR, DEFAULT_SYNC_INTERVAL, HealthConfig,
    HostPort, Overrides, ServerAddress, Shares, TokenSource, Variables, raw, sockets, trust,
    unbuilt,
};
use crate::rebootstrap::{DEFAULT_DELAY, Mode, Rebootstrap};

/// More would leave none of them time to answer.
const MAX_SERVERS: usize = 4;

pub(super) fn read(
    file: raw::File,
    unknown: Vec<UnknownKey>,
    overrides: Overrides,
    variables: Variables<'_>,
) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    let mut problems = Problems::new(overrides.allow_unknown_config);
    problems.unknown(unknown);
    let Some(mut agent) = file.agent else {
        problems.add("", "agent section must be configured");
        return problems.finish(None);
    };
    let rest = Rest {
        plugins: plugins::read(file.plugins.as_ref(), variables, &mut problems),
        log: agent
            .log()
            .overruled(overrides.log.clone())
            .read("agent", &mut problems),
        health: file.health_checks.read(&mut problems),
        prometheus: file.telemetry.read(&mut problems),
        aliases: file.signet.socket_aliases,
        more_servers: file.signet.server_addresses,
        sealed_cache: file.signet.sealed_cache,
        shares: file.signet.limits.read(&mut problems),
        sandbox: file.signet.sandbox,
    };
    apply(&mut agent, overrides);
    unbuilt::refuse(&agent, &mut problems);
    let config = assemble(agent, rest, &mut problems);
    problems.finish(config)
}

/// What is read by others.
struct Rest {
    plugins: Plugins,
    log: LogConfig,
    health: Option<HealthConfig>,
    prometheus: Option<HostPort>,
    aliases: Vec<String>,
    more_servers: Vec<String>,
    sealed_cache: Option<bool>,
    shares: Shares,
    sandbox: Option<bool>,
}

fn assemble(agent: raw::Agent, rest: Rest, problems: &mut Problems) -> Option<Config> {
    let trust_domain = trust_domain(agent.trust_domain.as_deref(), problems);
    let server = server(agent.server_address.as_deref(), agent.server_port, problems);
    let more_servers = more_servers(&rest.more_servers, server.as_ref(), problems);
    let trust_source = trust::source(&agent, problems);
    let rebootstrap = rebootstrap(&agent, problems);
    let join_token = join_token(
        agent.join_token.as_deref(),
        agent.join_token_file.as_ref(),
        problems,
    );
    let cache = cache(&agent, problems);
    let delegates = delegates(&agent.authorized_delegates, trust_domain.as_ref(), problems);
    let sync_interval = problems.length(
        "agent.experimental.sync_interval",
        agent.experimental.sync_interval.as_deref(),
    );
    Some(Config {
        trust_domain: trust_domain?,
        server: server?,
        more_servers,
        demands_pq: agent.experimental.require_pq_kem == Some(true),
        data_dir: agent
            .data_dir
            .clone()
            .unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR)),
        custody: rest.plugins.custody?,
        trust_source: trust_source?,
        rebootstrap,
        node_attestor: rest.plugins.node_attestor?,
        join_token: join_token?,
        workload_attestors: rest.plugins.workload_attestors,
        cache: cache?,
        sealed_cache: rest.sealed_cache.unwrap_or(true),
        sandbox: rest.sandbox.unwrap_or(true),
        sync_interval: sync_interval.unwrap_or(DEFAULT_SYNC_INTERVAL),
        log_selectors: agent.log_selectors.clone(),
        log: rest.log,
        health: rest.health,
        prometheus: rest.prometheus,
        delegates,
        admin_socket: sockets::admin(&agent, problems),
        socket: sockets::workload(agent, rest.aliases, rest.shares, problems),
    })
}

fn apply(agent: &mut raw::Agent, said: Overrides) {
    overrule(&mut agent.data_dir, said.data_dir);
    // A token on the command line is in place of whatever the file says about tokens.
    if said.join_token.is_some() || said.join_token_file.is_some() {
        agent.join_token = said.join_token;
        agent.join_token_file = said.join_token_file;
    }
    overrule(&mut agent.server_address, said.server_address);
    overrule(&mut agent.server_port, said.server_port);
    overrule(&mut agent.socket_path, said.socket_path);
    overrule(&mut agent.trust_domain, said.trust_domain);
    overrule(&mut agent.trust_bundle_path, said.trust_bundle_path);
    overrule(&mut agent.trust_bundle_url, said.trust_bundle_url);
    overrule(&mut agent.trust_bundle_format, said.trust_bundle_format);
    overrule(&mut agent.insecure_bootstrap, said.insecure_bootstrap);
    overrule(&mut agent.rebootstrap_mode, said.rebootstrap_mode);
    overrule(&mut agent.rebootstrap_delay, said.rebootstrap_delay);
    overrule(
        &mut agent.allow_unauthenticated_verifiers,
        said.allow_unauthenticated_verifiers,
    );
    overrule(&mut agent.disable_workload_api, said.disable_workload_api);
    overrule(&mut agent.disable_sds_api, said.disable_sds_api);
}

fn trust_domain(name: Option<&str>, problems: &mut Problems) -> Option<TrustDomain> {
    match name {
        None | Some("") => {
            problems.add("", "trust_domain must be configured");
            None
        }
        Some(name) => problems.take("agent.trust_domain", TrustDomain::parse(name)),
    }
}

/// Delegates are members of the agent's own trust domain.
fn delegates(
    named: &[String],
    trust_domain: Option<&TrustDomain>,
    problems: &mut Problems,
) -> BTreeSet<SpiffeId> {
    let mut delegates = BTreeSet::new();
    for name in named {
        let path = "agent.authorized_delegates";
        let Some(id) = problems.take(path, SpiffeId::parse(name)) else {
            continue;
        };
        let is_foreign = trust_domain.is_some_and(|own| id.trust_domain() != own);
        problems.add_if(
            is_foreign || id.path().is_empty(),
            path,
            format!("`{id}` is not a member of the agent's trust domain"),
        );
        delegates.insert(id);
    }
    delegates
}

fn server(host: Option<&str>, port: Option<i64>, problems: &mut Problems) -> Option<ServerAddress> {
    let host = given(host.map(|host| host.trim_matches(['[', ']'])));
    if host.is_none() {
        problems.add("", "server_address must be configured");
    }
    let port = match port {
        None | Some(0) => {
            problems.add("", "server_port must be configured");
            None
        }
        Some(port) => problems.port("agent.server_port", port),
    };
    Some(ServerAddress {
        host: host?.to_owned(),
        port: port?,
    })
}

/// Further servers: `host`, `host:port` or `[address]:port`, with the port of the first if they name none.
fn more_servers(
    written: &[String],
    first: Option<&ServerAddress>,
    problems: &mut Problems,
) -> Vec<ServerAddress> {
    let path = "signet.server_addresses";
    if written.len() > MAX_SERVERS {
        problems.add(path, format!("more than {MAX_SERVERS} servers"));
    }
    let usual = first.map_or(0, |first| first.port);
    let mut servers = Vec::new();
    for text in written.iter().take(MAX_SERVERS) {
        let (host, port) = match text.rsplit_once(':') {
            // An IPv6 address alone has colons of its own.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().ok().filter(|port| *port != 0))
            }
            _ => (text.as_str(), Some(usual)),
        };
        let host = host.trim_matches(['[', ']']);
        match port {
            Some(port) if !host.is_empty() => servers.push(ServerAddress {
                host: host.to_owned(),
                port,
            }),
            _ => problems.add(path, format!("`{text}` is not `host` or `host:port`")),
        }
    }
    servers
}

/// SPIRE's modes, in its words.
fn rebootstrap(agent: &raw::Agent, problems: &mut Problems) -> Rebootstrap {
    let path = "agent.rebootstrap_mode";
    let mode = match agent.rebootstrap_mode.as_deref() {
        None | Some("" | "never") => Mode::Never,
        Some("auto") => Mode::Auto,
        Some("always") => Mode::Always,
        Some(other) => {
            problems.add(path, format!("unknown rebootstrap mode specified: {other}"));
            Mode::Never
        }
    };
    problems.add_if(
        mode != Mode::Never && agent.insecure_bootstrap == Some(true),
        path,
        "insecure_bootstrap option can not be used with rebootstrapping",
    );
    let delay = given(agent.rebootstrap_delay.as_deref())
        .and_then(|delay| problems.take("agent.rebootstrap_delay", duration::parse(delay)));
    Rebootstrap {
        mode,
        delay: delay.unwrap_or(DEFAULT_DELAY),
    }
}

fn join_token(
    value: Option<&str>,
    file: Option<&PathBuf>,
    problems: &mut Problems,
) -> Option<Option<TokenSource>> {
    match (given(value), given(file)) {
        (Some(_), Some(_)) => {
            problems.add(
                "agent",
                "only one of join_token or join_token_file can be specified, not both",
            );
            None
        }
        (Some(value), None) => {
            let token = problems.take("agent.join_token", Token::parse(value.as_bytes()))?;
            Some(Some(TokenSource::Value(token)))
        }
        (None, file) => Some(file.cloned().map(TokenSource::File)),
    }
}

fn cache(agent: &raw::Agent, problems: &mut Problems) -> Option<CacheConfig> {
    let x509_svids = size(
        "agent.x509_svid_cache_max_size",
        agent.x509_svid_cache_max_size,
        problems,
    );
    let jwt_svids = size(
        "agent.jwt_svid_cache_max_size",
        agent.jwt_svid_cache_max_size,
        problems,
    );
    let key_algorithm = match agent.workload_x509_svid_key_type.as_deref() {
        None | Some("" | "ec-p256") => Some(KeyAlgorithm::EcP256),
        Some("ec-p384") => Some(KeyAlgorithm::EcP384),
        Some("rsa-2048") => Some(KeyAlgorithm::Rsa(2048)),
        Some(other) => {
            problems.add(
                "agent.workload_x509_svid_key_type",
                format!(
                    "key type {other:?} is unknown; must be one of [rsa-2048, ec-p256, ec-p384]"
                ),
            );
            None
        }
    };
    let target = problems.length(
        "agent.availability_target",
        agent.availability_target.as_deref(),
    );
    let path = "agent.experimental.jwt_svid_cache_hit_timeout";
    let hit = problems.length(
        path,
        agent.experimental.jwt_svid_cache_hit_timeout.as_deref(),
    );
    problems.add_if(
        target.is_some_and(|target| target.as_secs() < 24 * 3600),
        "agent.availability_target",
        "must be at least 24h",
    );
    problems.add_if(
        hit.is_some_and(|hit| !(5..30).contains(&hit.as_secs())),
        path,
        "must be at least 5s and less than 30s",
    );
    Some(CacheConfig {
        x509_svids: x509_svids?,
        jwt_svids: jwt_svids?,
        key_algorithm: key_algorithm?,
        availability_target: target,
        jwt_hit_timeout: hit,
    })
}

// SPIRE takes 0 for its default.
fn size(path: &str, size: Option<i64>, problems: &mut Problems) -> Option<usize> {
    match size {
        None | Some(0) => Some(DEFAULT_CACHE_SIZE),
        Some(size) => problems.take(
            path,
            usize::try_from(size).map_err(|_range| "should not be negative"),
        ),
    }
}
