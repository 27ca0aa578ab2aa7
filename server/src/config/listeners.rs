//! The addresses that a server listens on.

use runtime::config::{Body, Problems};

use super::{HealthConfig, HostPort, raw};

/// SPIRE's port for health checks.
const DEFAULT_HEALTH_PORT: u16 = 80;
/// SPIRE's port for Prometheus.
const DEFAULT_PROMETHEUS_PORT: u16 = 9988;

pub(super) fn health(health: raw::HealthChecks, problems: &mut Problems) -> Option<HealthConfig> {
    if health.listener_enabled != Some(true) {
        return None;
    }
    let host = health
        .bind_address
        .unwrap_or_else(|| "localhost".to_owned());
    let port = match health.bind_port.as_deref() {
        None | Some("") => Ok(i64::from(DEFAULT_HEALTH_PORT)),
        Some(port) => port.parse::<i64>(),
    };
    let port = problems.take("health_checks.bind_port", port)?;
    Some(HealthConfig {
        address: host_port("health_checks.bind_port", &host, port, problems)?,
        live_path: health.live_path.unwrap_or_else(|| "/live".to_owned()),
        ready_path: health.ready_path.unwrap_or_else(|| "/ready".to_owned()),
    })
}

pub(super) fn prometheus(telemetry: &raw::Telemetry, problems: &mut Problems) -> Option<HostPort> {
    let some = |body: &Option<Body>| body.as_ref().is_some_and(|body| !body.is_empty());
    for (key, asked) in [
        ("DogStatsd", some(&telemetry.dog_statsd)),
        ("Statsd", some(&telemetry.statsd)),
        ("M3", some(&telemetry.m3)),
    ] {
        if asked {
            problems.add(&format!("telemetry.{key}"), "not built; use Prometheus");
        }
    }
    for (key, set) in [
        ("MetricPrefix", some(&telemetry.metric_prefix)),
        (
            "EnableTrustDomainLabel",
            some(&telemetry.enable_trust_domain_label),
        ),
        (
            "EnableHostnameLabel",
            some(&telemetry.enable_hostname_label),
        ),
        ("AllowedPrefixes", some(&telemetry.allowed_prefixes)),
        ("BlockedPrefixes", some(&telemetry.blocked_prefixes)),
        ("AllowedLabels", some(&telemetry.allowed_labels)),
        ("BlockedLabels", some(&telemetry.blocked_labels)),
        ("InMem", some(&telemetry.in_mem)),
    ] {
        if set {
            problems.warn(format!(
                "telemetry.{key} has no effect: it shapes SPIRE's metrics"
            ));
        }
    }
    let prometheus = telemetry.prometheus.as_ref()?;
    if prometheus.tls.is_some() {
        problems.add("telemetry.Prometheus.tls", "not built: TLS for the metrics");
    }
    let host = prometheus
        .host
        .as_deref()
        .filter(|host| !host.is_empty())
        .unwrap_or("localhost");
    let port = prometheus
        .port
        .unwrap_or_else(|| DEFAULT_PROMETHEUS_PORT.into());
    host_port("telemetry.Prometheus.port", host, port, problems)
}

pub(super) fn host_port(
    path: &str,
    host: &str,
    port: i64,
    problems: &mut Problems,
) -> Option<HostPort> {
    match u16::try_from(port) {
        Ok(port) => Some(HostPort {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
        }),
        Err(_) => {
            problems.add(path, format!("{port} is not a port"));
            None
        }
    }
}
