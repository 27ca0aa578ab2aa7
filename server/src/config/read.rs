//! From what is written to what is meant.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use runtime::config::{ConfigErrors, Problems, UnknownKey, Warning, given, overrule};
use runtime::log::LogConfig;

use super::federation;
use super::oidc::{self, OidcDiscovery};
use super::plugins::{self, Plugins};
use super::{
    AuthorityConfig, Config, DEFAULT_BIND_ADDRESS, DEFAULT_BIND_PORT, DEFAULT_CA_TTL,
    DEFAULT_FEED_KEEPALIVE, DEFAULT_JWT_SVID_TTL, DEFAULT_PRUNE_BATCH, DEFAULT_SOCKET_PATH,
    DEFAULT_X509_SVID_TTL, HealthConfig, HostPort, Overrides, PruneConfig, RateLimits, StoreConfig,
    raw,
};
use crate::authority::CaSubject;
use crate::keys::KeyType;

/// SVIDs are not planned to outlive this, whatever the authority's lifetime.
const MAX_SVID_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

pub(super) fn read(
    file: raw::File,
    unknown: Vec<UnknownKey>,
    overrides: Overrides,
) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    let mut problems = Problems::new(overrides.allow_unknown_config);
    problems.unknown(unknown);
    let Some(mut server) = file.server else {
        problems.add("", "server section must be configured");
        return problems.finish(None);
    };
    let mut rest = Rest {
        plugins: plugins::read(file.plugins.as_ref(), &file.signet, &mut problems),
        log: server
            .log()
            .overruled(overrides.log.clone())
            .read("server", &mut problems),
        health: file.health_checks.read(&mut problems),
        prometheus: file.telemetry.read(&mut problems),
        web_roots: overrides.web_roots.clone(),
        oidc: file.signet.oidc_discovery,
    };
    apply(&mut server, overrides);
    refuse_unbuilt(&server, &mut problems);
    warn_without_effect(&server, &mut problems);
    warn_of_profiler(&server, &mut problems);
    match file.signet.store.as_deref() {
        None => {}
        Some("embedded") => rest.plugins.store = Some(StoreConfig::Embedded),
        Some("memory") => rest.plugins.store = Some(StoreConfig::Memory),
        Some(other) => {
            problems.add(
                "signet.store",
                format!("there is no store `{other}`; use `embedded` or `memory`"),
            );
        }
    }
    let config = assemble(&server, rest, &mut problems);
    problems.finish(config)
}

/// What is read by others.
struct Rest {
    plugins: Plugins,
    log: LogConfig,
    health: Option<HealthConfig>,
    prometheus: Option<HostPort>,
    web_roots: Option<PathBuf>,
    oidc: Option<OidcDiscovery>,
}

fn assemble(server: &raw::Server, rest: Rest, problems: &mut Problems) -> Option<Config> {
    let trust_domain = trust_domain(server.trust_domain.as_deref(), problems);
    let data_dir = given(server.data_dir.clone());
    problems.add_if(data_dir.is_none(), "", "data_dir must be configured");
    let bind = bind(server, problems);
    let authority = authority(server, problems);
    let ttls = ttls(server, authority.ca_ttl, problems);
    let admin_ids = admin_ids(&server.admin_ids, problems);
    let prune_agents = prune(server, problems);
    let mut federation =
        federation::read(server.federation.as_ref(), trust_domain.as_ref(), problems);
    federation.web_roots = rest.web_roots;
    let issuer = authority.jwt_issuer.as_deref();
    let oidc = rest
        .oidc
        .and_then(|said| oidc::read(&said, issuer, problems));
    Some(Config {
        trust_domain: trust_domain?,
        data_dir: data_dir?,
        bind: bind?,
        socket_path: server
            .socket_path
            .clone()
            .unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET_PATH)),
        store: rest.plugins.store.unwrap_or(StoreConfig::Embedded),
        keys: rest.plugins.keys?,
        authority: AuthorityConfig {
            upstream: rest.plugins.upstream,
            composer: rest.plugins.composer,
            ..authority
        },
        default_x509_svid_ttl: ttls.x509,
        default_jwt_svid_ttl: ttls.jwt,
        agent_ttl: ttls.agent,
        disable_jwt_svids: server.disable_jwt_svids == Some(true),
        admin_ids,
        audit_log_enabled: server.audit_log_enabled != Some(false),
        rate_limits: rate_limits(server.ratelimit.as_ref()),
        agent_id_as_selector: server.experimental.agent_spiffe_id_as_selector == Some(true),
        k8s_clusters: rest.plugins.k8s_clusters,
        x509pop: rest.plugins.x509pop,
        sshpop: rest.plugins.sshpop,
        http_challenge: rest.plugins.http_challenge,
        prune_agents,
        feed_keepalive: DEFAULT_FEED_KEEPALIVE,
        log: rest.log,
        health: rest.health,
        prometheus: rest.prometheus,
        publish: rest.plugins.publish,
        federation,
        oidc,
    })
}

/// SPIRE limits both where nothing is said.
fn rate_limits(said: Option<&raw::RateLimit>) -> RateLimits {
    let is_on = |flag: fn(&raw::RateLimit) -> Option<bool>| said.and_then(flag) != Some(false);
    RateLimits {
        attestation: is_on(|limits| limits.attestation),
        signing: is_on(|limits| limits.signing),
    }
}

/// How long what the server signs lives.
struct Ttls {
    x509: Duration,
    jwt: Duration,
    agent: Duration,
}

fn ttls(server: &raw::Server, ca_ttl: Duration, problems: &mut Problems) -> Ttls {
    let ttl = |key: &str, text: &Option<String>, default, problems: &mut Problems| {
        problems
            .length(&format!("server.{key}"), text.as_deref())
            .unwrap_or(default)
    };
    let x509 = ttl(
        "default_x509_svid_ttl",
        &server.default_x509_svid_ttl,
        DEFAULT_X509_SVID_TTL,
        problems,
    );
    let jwt = ttl(
        "default_jwt_svid_ttl",
        &server.default_jwt_svid_ttl,
        DEFAULT_JWT_SVID_TTL,
        problems,
    );
    let agent = ttl("agent_ttl", &server.agent_ttl, x509, problems);
    for (key, ttl) in [
        ("default_x509_svid_ttl", x509),
        ("default_jwt_svid_ttl", jwt),
        ("agent_ttl", agent),
    ] {
        warn_about_ttl(key, ttl, ca_ttl, problems);
    }
    Ttls { x509, jwt, agent }
}

fn apply(server: &mut raw::Server, said: Overrides) {
    overrule(&mut server.bind_address, said.bind_address);
    overrule(&mut server.bind_port, said.server_port);
    overrule(&mut server.data_dir, said.data_dir);
    overrule(&mut server.socket_path, said.socket_path);
    overrule(&mut server.trust_domain, said.trust_domain);
}

/// Refuses what SPIRE has and we have not.
fn refuse_unbuilt(server: &raw::Server, problems: &mut Problems) {
    let experimental = &server.experimental;
    let set = |text: &Option<String>| given(text.as_deref()).is_some();
    for (key, asked, what) in [
        (
            "proxy_protocol_trusted_cidrs",
            !server.proxy_protocol_trusted_cidrs.is_empty(),
            "the PROXY protocol",
        ),
        (
            "profiling_enabled",
            server.profiling_enabled == Some(true),
            "the profiler",
        ),
        (
            "experimental.auth_opa_policy_engine",
            experimental.auth_opa_policy_engine.is_some(),
            "a policy engine for the server's API",
        ),
        (
            "experimental.require_pq_kem",
            experimental.require_pq_kem == Some(true),
            "post-quantum key exchange",
        ),
        (
            "experimental.wit_key_type",
            set(&experimental.wit_key_type),
            "WIT-SVIDs",
        ),
        (
            "experimental.wit_issuer",
            set(&experimental.wit_issuer),
            "WIT-SVIDs",
        ),
        (
            "experimental.feature_flags",
            !experimental.feature_flags.is_empty(),
            "feature flags of SPIRE",
        ),
        (
            "experimental.named_pipe_name",
            set(&experimental.named_pipe_name),
            "Windows",
        ),
    ] {
        problems.add_if(
            asked,
            &format!("server.{key}"),
            format!("not built: {what}"),
        );
    }
}

/// Tells what is accepted and changes nothing.
fn warn_without_effect(server: &raw::Server, problems: &mut Problems) {
    let experimental = &server.experimental;
    for (key, set) in [
        (
            "max_attested_node_info_staleness",
            server.max_attested_node_info_staleness.is_some(),
        ),
        (
            "experimental.cache_reload_interval",
            experimental.cache_reload_interval.is_some(),
        ),
        (
            "experimental.full_cache_reload_interval",
            experimental.full_cache_reload_interval.is_some(),
        ),
        (
            "experimental.events_based_cache",
            experimental.events_based_cache.is_some(),
        ),
        (
            "experimental.prune_events_older_than",
            experimental.prune_events_older_than.is_some(),
        ),
        (
            "experimental.event_timeout",
            experimental.event_timeout.is_some(),
        ),
        (
            "experimental.sql_transaction_timeout",
            experimental.sql_transaction_timeout.is_some(),
        ),
    ] {
        let text = format!("server.{key} has no effect: every commit is seen at once");
        problems.warn_if(set, text);
    }
}

/// The settings of the profiler alone, which is refused.
fn warn_of_profiler(server: &raw::Server, problems: &mut Problems) {
    for (key, said) in [
        ("profiling_freq", &server.profiling_freq),
        ("profiling_names", &server.profiling_names),
        ("profiling_port", &server.profiling_port),
    ] {
        let text = format!("server.{key} has no effect: there is no profiler");
        problems.warn_if(said.is_some(), text);
    }
}

fn trust_domain(text: Option<&str>, problems: &mut Problems) -> Option<TrustDomain> {
    let Some(text) = given(text) else {
        problems.add("", "trust_domain must be configured");
        return None;
    };
    match TrustDomain::parse(text) {
        Ok(trust_domain) => Some(trust_domain),
        Err(error) => {
            problems.add(
                "",
                format!("could not parse trust_domain {text:?}: {error}"),
            );
            None
        }
    }
}

fn bind(server: &raw::Server, problems: &mut Problems) -> Option<HostPort> {
    let host = server
        .bind_address
        .as_deref()
        .unwrap_or(DEFAULT_BIND_ADDRESS);
    let port = server.bind_port.unwrap_or_else(|| DEFAULT_BIND_PORT.into());
    HostPort::read("server.bind_port", Some(host), port, problems)
}

fn authority(server: &raw::Server, problems: &mut Problems) -> AuthorityConfig {
    let key_type = |key: &str, text: &Option<String>, problems: &mut Problems| {
        let key_type = given(text.as_deref())?.parse::<KeyType>();
        problems.take(&format!("server.{key}"), key_type)
    };
    let ca_key_type = key_type("ca_key_type", &server.ca_key_type, problems).unwrap_or_default();
    let jwt_key_type = key_type("jwt_key_type", &server.jwt_key_type, problems);
    AuthorityConfig {
        ca_ttl: problems
            .length("server.ca_ttl", server.ca_ttl.as_deref())
            .unwrap_or(DEFAULT_CA_TTL),
        ca_key_type,
        jwt_key_type: jwt_key_type.unwrap_or(ca_key_type),
        ca_subject: ca_subject(server.ca_subject.as_ref(), problems),
        jwt_issuer: given(server.jwt_issuer.clone()),
        upstream: None,
        composer: None,
    }
}

fn ca_subject(subject: Option<&raw::CaSubject>, problems: &mut Problems) -> CaSubject {
    let Some(subject) = subject else {
        return CaSubject::default();
    };
    let mut one = |key: &str, values: &[String]| {
        if values.len() > 1 {
            problems.add(
                &format!("server.ca_subject.{key}"),
                "more than one is not built",
            );
        }
        values.first().cloned()
    };
    let read = CaSubject {
        country: one("country", &subject.country),
        organization: one("organization", &subject.organization),
        common_name: given(subject.common_name.clone()),
    };
    if read.country.is_none() && read.organization.is_none() && read.common_name.is_none() {
        problems.warn("server.ca_subject is set but empty; the default is used");
        return CaSubject::default();
    }
    read
}

fn admin_ids(ids: &[String], problems: &mut Problems) -> BTreeSet<SpiffeId> {
    let mut read = BTreeSet::new();
    for id in ids {
        match SpiffeId::parse(id) {
            Ok(id) => {
                read.insert(id);
            }
            Err(error) => {
                problems.add(
                    "server.admin_ids",
                    format!("could not parse admin ID {id:?}: {error}"),
                );
            }
        }
    }
    read
}

fn prune(server: &raw::Server, problems: &mut Problems) -> Option<PruneConfig> {
    let text = server.prune_attested_nodes_expired_for.as_deref();
    let expired_for = problems.length("server.prune_attested_nodes_expired_for", text)?;
    let batch = match server.prune_attested_nodes_batch_size {
        None | Some(0) => DEFAULT_PRUNE_BATCH,
        Some(size) => usize::try_from(size).unwrap_or_else(|_negative| {
            problems.add(
                "server.prune_attested_nodes_batch_size",
                "must not be negative",
            );
            DEFAULT_PRUNE_BATCH
        }),
    };
    Some(PruneConfig {
        expired_for,
        batch,
        non_reattestable: server.prune_tofu_nodes == Some(true),
    })
}

/// An authority signs until a sixth of its life, or seven days, is left; an SVID that lives longer
/// than that may be cut short.
fn warn_about_ttl(key: &str, ttl: Duration, ca_ttl: Duration, problems: &mut Problems) {
    let most = (ca_ttl / 6).min(MAX_SVID_TTL);
    if ttl > most {
        problems.warn(format!(
            "server.{key} is too high for the configured ca_ttl value. SVIDs with shorter \
             lifetimes may be issued. Set {key} to {} s or less, or the ca_ttl to {} s or more \
             (SVIDs live for 7 days at most), to guarantee the full lifetime",
            most.as_secs(),
            ttl.as_secs().saturating_mul(6),
        ));
    }
}
