//! From what is written to what is meant.

use std::path::PathBuf;

use attestors::node::join_token::Token;
use identity::key::KeyAlgorithm;
use identity::trust_domain::TrustDomain;
use runtime::config::{ConfigErrors, Problems, Warning};
use runtime::config::{UnknownKey, duration};
use runtime::log::{Format, Level, LogConfig};

use super::plugins::{self, Plugins};
use super::{
    CacheConfig, Config, DEFAULT_CACHE_SIZE, DEFAULT_DATA_DIR, DEFAULT_SOCKET_PATH,
    DEFAULT_SYNC_INTERVAL, HealthConfig, HostPort, Overrides, SdsConfig, ServerAddress,
    SocketConfig, TokenSource, raw, unbuilt,
};
use crate::bootstrap::{BundleFormat, TrustSource, Url};

pub(super) fn read(
    file: raw::File,
    unknown: Vec<UnknownKey>,
    overrides: Overrides,
) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    let mut problems = Problems::new(overrides.allow_unknown_config);
    problems.unknown(unknown);
    let Some(mut agent) = file.agent else {
        problems.add("", "agent section must be configured");
        return problems.finish(None);
    };
    apply(&mut agent, overrides);
    unbuilt::refuse(&agent, &mut problems);
    let plugins = file
        .plugins
        .as_ref()
        .map(|body| plugins::read(body, &mut problems));
    if plugins.is_none() {
        problems.add("", "plugins section must be configured");
    }
    let health = health(file.health_checks, &mut problems);
    let prometheus = prometheus(file.telemetry, &mut problems);
    let config = assemble(
        agent,
        plugins.unwrap_or_default(),
        health,
        prometheus,
        &mut problems,
    );
    problems.finish(config)
}

fn assemble(
    agent: raw::Agent,
    plugins: Plugins,
    health: Option<HealthConfig>,
    prometheus: Option<HostPort>,
    problems: &mut Problems,
) -> Option<Config> {
    let trust_domain = trust_domain(agent.trust_domain.as_deref(), problems);
    let server = server(agent.server_address.as_deref(), agent.server_port, problems);
    let trust_source = trust_source(&agent, problems);
    let join_token = join_token(
        agent.join_token.as_deref(),
        agent.join_token_file.as_ref(),
        problems,
    );
    let cache = cache(&agent, problems);
    let sync_interval = agent.experimental.sync_interval.as_deref().map(|text| {
        let interval = problems.take("agent.experimental.sync_interval", duration::parse(text));
        if interval.is_some_and(|interval| interval.is_zero()) {
            problems.add(
                "agent.experimental.sync_interval",
                "must be longer than nothing",
            );
        }
        interval.unwrap_or(DEFAULT_SYNC_INTERVAL)
    });
    let level = agent
        .log_level
        .as_deref()
        .filter(|level| !level.is_empty())
        .and_then(|level| problems.take("agent.log_level", Level::parse(level)));
    let format = agent
        .log_format
        .as_deref()
        .and_then(|format| problems.take("agent.log_format", Format::parse(format)));
    let log = LogConfig {
        level: level.unwrap_or_default(),
        format: format.unwrap_or_default(),
        file: agent
            .log_file
            .clone()
            .filter(|file| !file.as_os_str().is_empty()),
        source_location: agent.log_source_location == Some(true),
    };
    Some(Config {
        trust_domain: trust_domain?,
        server: server?,
        data_dir: agent
            .data_dir
            .clone()
            .unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR)),
        custody: plugins.custody?,
        trust_source: trust_source?,
        node_attestor: plugins.node_attestor?,
        join_token: join_token?,
        workload_attestors: plugins.workload_attestors,
        cache: cache?,
        sync_interval: sync_interval.unwrap_or(DEFAULT_SYNC_INTERVAL),
        log_selectors: agent.log_selectors.clone(),
        log,
        health,
        prometheus,
        socket: socket(agent, problems),
    })
}

fn apply(agent: &mut raw::Agent, overrides: Overrides) {
    fn set<T>(target: &mut Option<T>, value: Option<T>) {
        if value.is_some() {
            *target = value;
        }
    }
    set(&mut agent.data_dir, overrides.data_dir);
    // A token on the command line is in place of whatever the file says about tokens.
    if overrides.join_token.is_some() || overrides.join_token_file.is_some() {
        agent.join_token = overrides.join_token;
        agent.join_token_file = overrides.join_token_file;
    }
    set(&mut agent.log_file, overrides.log_file);
    set(&mut agent.log_format, overrides.log_format);
    set(&mut agent.log_level, overrides.log_level);
    set(
        &mut agent.log_source_location,
        overrides.log_source_location,
    );
    set(&mut agent.server_address, overrides.server_address);
    set(&mut agent.server_port, overrides.server_port);
    set(&mut agent.socket_path, overrides.socket_path);
    set(&mut agent.trust_domain, overrides.trust_domain);
    set(&mut agent.trust_bundle_path, overrides.trust_bundle_path);
    set(&mut agent.trust_bundle_url, overrides.trust_bundle_url);
    set(
        &mut agent.trust_bundle_format,
        overrides.trust_bundle_format,
    );
    set(&mut agent.insecure_bootstrap, overrides.insecure_bootstrap);
    set(&mut agent.rebootstrap_mode, overrides.rebootstrap_mode);
    set(&mut agent.rebootstrap_delay, overrides.rebootstrap_delay);
    set(
        &mut agent.allow_unauthenticated_verifiers,
        overrides.allow_unauthenticated_verifiers,
    );
    set(
        &mut agent.disable_workload_api,
        overrides.disable_workload_api,
    );
    set(&mut agent.disable_sds_api, overrides.disable_sds_api);
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

fn server(host: Option<&str>, port: Option<i64>, problems: &mut Problems) -> Option<ServerAddress> {
    let host = host
        .map(|host| host.trim_start_matches('[').trim_end_matches(']'))
        .filter(|host| !host.is_empty());
    if host.is_none() {
        problems.add("", "server_address must be configured");
    }
    let port = match port {
        None | Some(0) => {
            problems.add("", "server_port must be configured");
            None
        }
        Some(port) => port_number("agent.server_port", port, problems),
    };
    Some(ServerAddress {
        host: host?.to_owned(),
        port: port?,
    })
}

fn port_number(path: &str, port: i64, problems: &mut Problems) -> Option<u16> {
    problems.take(
        path,
        u16::try_from(port).map_err(|_range| format!("{port} is not a port; ports are 1 to 65535")),
    )
}

fn trust_source(agent: &raw::Agent, problems: &mut Problems) -> Option<TrustSource> {
    let format = match agent.trust_bundle_format.as_deref() {
        None | Some("" | "pem") => BundleFormat::Pem,
        Some("spiffe") => BundleFormat::Spiffe,
        Some(other) => {
            problems.add(
                "agent.trust_bundle_format",
                format!("`{other}` is unknown; write `pem` or `spiffe`"),
            );
            BundleFormat::Pem
        }
    };
    let path = agent
        .trust_bundle_path
        .as_ref()
        .filter(|path| !path.as_os_str().is_empty());
    let url = agent
        .trust_bundle_url
        .as_deref()
        .filter(|url| !url.is_empty());
    match (path, url, agent.insecure_bootstrap == Some(true)) {
        (Some(path), None, false) => Some(TrustSource::File {
            path: path.clone(),
            format,
        }),
        (None, Some(url), false) => {
            let url = problems.take("agent.trust_bundle_url", Url::parse(url))?;
            Some(TrustSource::Url { url, format })
        }
        (None, None, true) => Some(TrustSource::Insecure),
        (None, None, false) => {
            problems.add(
                "agent",
                "trust_bundle_path or trust_bundle_url must be configured unless insecure_bootstrap is set",
            );
            None
        }
        _ => {
            problems.add(
                "agent",
                "only one of insecure_bootstrap, trust_bundle_url, or trust_bundle_path can be specified",
            );
            None
        }
    }
}

fn join_token(
    value: Option<&str>,
    file: Option<&PathBuf>,
    problems: &mut Problems,
) -> Option<Option<TokenSource>> {
    let value = value.filter(|value| !value.is_empty());
    let file = file.filter(|file| !file.as_os_str().is_empty());
    match (value, file) {
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
    let mut length = |path: &str, text: Option<&str>| {
        text.filter(|text| !text.is_empty())
            .and_then(|text| problems.take(path, duration::parse(text)))
    };
    let target = length(
        "agent.availability_target",
        agent.availability_target.as_deref(),
    );
    let path = "agent.experimental.jwt_svid_cache_hit_timeout";
    let hit = length(
        path,
        agent.experimental.jwt_svid_cache_hit_timeout.as_deref(),
    );
    if target.is_some_and(|target| target.as_secs() < 24 * 3600) {
        problems.add("agent.availability_target", "must be at least 24h");
    }
    if hit.is_some_and(|hit| !(5..30).contains(&hit.as_secs())) {
        problems.add(path, "must be at least 5s and less than 30s");
    }
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

fn socket(agent: raw::Agent, problems: &mut Problems) -> Option<SocketConfig> {
    let workload_api = agent.disable_workload_api != Some(true);
    let sds = (agent.disable_sds_api != Some(true)).then(|| sds(agent.sds, problems));
    (workload_api || sds.is_some()).then(|| SocketConfig {
        path: agent
            .socket_path
            .unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET_PATH)),
        workload_api,
        sds,
        allow_unauthenticated_verifiers: agent.allow_unauthenticated_verifiers == Some(true),
        allowed_foreign_jwt_claims: agent.allowed_foreign_jwt_claims.into_iter().collect(),
    })
}

fn sds(sds: raw::Sds, problems: &mut Problems) -> SdsConfig {
    let name = |name: Option<String>, default: &str| {
        name.filter(|name| !name.is_empty())
            .unwrap_or_else(|| default.to_owned())
    };
    let config = SdsConfig {
        default_svid_name: name(sds.default_svid_name, "default"),
        default_bundle_name: name(sds.default_bundle_name, "ROOTCA"),
        default_all_bundles_name: name(sds.default_all_bundles_name, "ALL"),
        disable_spiffe_cert_validation: sds.disable_spiffe_cert_validation == Some(true),
    };
    if config.default_bundle_name == config.default_all_bundles_name {
        problems.warn(
            "`agent.sds.default_bundle_name` and `agent.sds.default_all_bundles_name` are the same; the latter is passed over",
        );
    }
    config
}

fn health(checks: raw::HealthChecks, problems: &mut Problems) -> Option<HealthConfig> {
    let path = |path: Option<String>, default: &str| {
        path.filter(|path| !path.is_empty())
            .unwrap_or_else(|| default.to_owned())
    };
    let port = match checks.bind_port.as_deref() {
        None | Some("") => Some(80),
        Some(port) => problems.take(
            "health_checks.bind_port",
            port.parse()
                .map_err(|_number| format!("`{port}` is not a port")),
        ),
    };
    let health = HealthConfig {
        address: HostPort {
            host: host(checks.bind_address.as_deref()),
            port: port?,
        },
        live_path: path(checks.live_path, "/live"),
        ready_path: path(checks.ready_path, "/ready"),
    };
    (checks.listener_enabled == Some(true)).then_some(health)
}

fn prometheus(telemetry: raw::Telemetry, problems: &mut Problems) -> Option<HostPort> {
    for (name, sink) in [
        ("DogStatsd", &telemetry.dog_statsd),
        ("Statsd", &telemetry.statsd),
        ("M3", &telemetry.m3),
    ] {
        if sink.is_some() {
            problems.add(
                &format!("telemetry.{name}"),
                "is not built; use `Prometheus`",
            );
        }
    }
    for (name, said) in [
        ("InMem", &telemetry.in_mem),
        ("MetricPrefix", &telemetry.metric_prefix),
        (
            "EnableTrustDomainLabel",
            &telemetry.enable_trust_domain_label,
        ),
        ("EnableHostnameLabel", &telemetry.enable_hostname_label),
        ("AllowedPrefixes", &telemetry.allowed_prefixes),
        ("BlockedPrefixes", &telemetry.blocked_prefixes),
        ("AllowedLabels", &telemetry.allowed_labels),
        ("BlockedLabels", &telemetry.blocked_labels),
    ] {
        if said.is_some() {
            problems.warn(format!("`telemetry.{name}` has no effect"));
        }
    }
    let prometheus = telemetry.prometheus?;
    if prometheus.tls.is_some() {
        problems.add("telemetry.Prometheus.tls", "TLS for metrics is not built");
    }
    let port = port_number(
        "telemetry.Prometheus.port",
        prometheus.port.unwrap_or_default(),
        problems,
    )?;
    Some(HostPort {
        host: host(prometheus.host.as_deref()),
        port,
    })
}

fn host(host: Option<&str>) -> String {
    match host.map(|host| host.trim_matches(['[', ']'])) {
        None | Some("") => "localhost".to_owned(),
        Some(host) => host.to_owned(),
    }
}
