//! The section `telemetry`.

use serde::Deserialize;

use super::{Body, HostPort, Problems};

/// The port of SPIRE's examples, which fleets scrape.
const DEFAULT_PORT: i64 = 9988;

/// The section `telemetry` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Telemetry {
    prometheus: Option<Prometheus>,
    // Known, and not built.
    dog_statsd: Option<Body>,
    statsd: Option<Body>,
    m3: Option<Body>,
    // What shapes SPIRE's names and labels does not fit ours.
    in_mem: Option<Body>,
    metric_prefix: Option<Body>,
    enable_trust_domain_label: Option<Body>,
    enable_hostname_label: Option<Body>,
    allowed_prefixes: Option<Body>,
    blocked_prefixes: Option<Body>,
    allowed_labels: Option<Body>,
    blocked_labels: Option<Body>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Prometheus {
    host: Option<String>,
    port: Option<i64>,
    tls: Option<Body>,
}

impl Telemetry {
    /// Where metrics are shown, if anywhere.
    pub fn read(self, problems: &mut Problems) -> Option<HostPort> {
        for (key, sink) in [
            ("DogStatsd", self.dog_statsd),
            ("Statsd", self.statsd),
            ("M3", self.m3),
        ] {
            let path = format!("telemetry.{key}");
            problems.add_if(sink.is_some(), &path, "not built; use Prometheus");
        }
        for (key, shape) in [
            ("InMem", self.in_mem),
            ("MetricPrefix", self.metric_prefix),
            ("EnableTrustDomainLabel", self.enable_trust_domain_label),
            ("EnableHostnameLabel", self.enable_hostname_label),
            ("AllowedPrefixes", self.allowed_prefixes),
            ("BlockedPrefixes", self.blocked_prefixes),
            ("AllowedLabels", self.allowed_labels),
            ("BlockedLabels", self.blocked_labels),
        ] {
            let text = format!("telemetry.{key} has no effect: it shapes SPIRE's metrics");
            problems.warn_if(shape.is_some(), text);
        }
        let prometheus = self.prometheus?;
        problems.add_if(
            prometheus.tls.is_some(),
            "telemetry.Prometheus.tls",
            "not built: TLS for the metrics",
        );
        HostPort::read(
            "telemetry.Prometheus.port",
            prometheus.host.as_deref(),
            prometheus.port.unwrap_or(DEFAULT_PORT),
            problems,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::{decode, parse};
    use super::*;

    #[test]
    fn sinks_are_refused_shapes_are_told_and_prometheus_has_spires_port() {
        let read = |text: &str| {
            let mut problems = Problems::new(false);
            let (telemetry, unknown): (Telemetry, _) = decode(&parse(text).unwrap()).unwrap();
            problems.unknown(unknown);
            let address = telemetry.read(&mut problems);
            problems.finish(Some(address))
        };
        let (address, warnings) =
            read("Prometheus { host = \"[::1]\" }\nMetricPrefix = \"x\"").unwrap();
        let address = address.unwrap();
        assert_eq!((address.host.as_str(), address.port), ("::1", 9988));
        assert!(
            warnings[0]
                .to_string()
                .starts_with("telemetry.MetricPrefix")
        );
        let refused = read("M3 = []\nPrometheus { port = -1 tls {} }").unwrap_err();
        let paths: Vec<_> = refused.problems().iter().map(|p| p.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "telemetry.M3",
                "telemetry.Prometheus.tls",
                "telemetry.Prometheus.port"
            ]
        );
    }
}
