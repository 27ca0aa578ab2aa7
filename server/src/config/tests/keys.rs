//! Each key of SPIRE's server, and what becomes of it.

use std::path::Path;

use super::*;

/// What becomes of a key.
#[derive(Clone, Copy)]
enum Fate {
    /// It changes what the server does.
    Effect,
    /// It changes nothing, as the operator is told.
    Warned,
    /// The server does not start.
    Refused,
}

use Fate::{Effect, Refused, Warned};

/// The keys of SPIRE 1.15's file below their blocks, those that it documents and those that it does not, each
/// with a value that is not its default. Those of `plugins` have tests of their own.
const KEYS: [(&str, &str, &str, Fate); 63] = [
    (
        "server",
        "admin_ids",
        r#"= ["spiffe://example.org/admin"]"#,
        Effect,
    ),
    ("server", "agent_ttl", r#"= "10m""#, Effect),
    ("server", "audit_log_enabled", "= false", Effect),
    ("server", "bind_address", r#"= "127.0.0.2""#, Effect),
    ("server", "bind_port", "= 9", Effect),
    ("server", "ca_key_type", r#"= "rsa-2048""#, Effect),
    ("server", "ca_subject", r#"{ common_name = "x" }"#, Effect),
    ("server", "ca_ttl", r#"= "48h""#, Effect),
    ("server", "data_dir", r#"= "other""#, Effect),
    ("server", "default_jwt_svid_ttl", r#"= "1m""#, Effect),
    ("server", "default_x509_svid_ttl", r#"= "2h""#, Effect),
    ("server", "disable_jwt_svids", "= true", Effect),
    ("server", "jwt_issuer", r#"= "https://example.org""#, Effect),
    ("server", "jwt_key_type", r#"= "ec-p384""#, Effect),
    ("server", "log_file", r#"= "log""#, Effect),
    ("server", "log_format", r#"= "json""#, Effect),
    ("server", "log_level", r#"= "DEBUG""#, Effect),
    ("server", "log_source_location", "= true", Effect),
    (
        "server",
        "max_attested_node_info_staleness",
        r#"= "1s""#,
        Warned,
    ),
    ("server", "profiling_enabled", "= true", Refused),
    ("server", "profiling_freq", "= 1", Warned),
    ("server", "profiling_names", r#"= ["x"]"#, Warned),
    ("server", "profiling_port", "= 1", Warned),
    (
        "server",
        "proxy_protocol_trusted_cidrs",
        r#"= ["10.0.0.0/8"]"#,
        Refused,
    ),
    (
        "server",
        "prune_attested_nodes_batch_size",
        r#"= 7 prune_attested_nodes_expired_for = "1h""#,
        Effect,
    ),
    (
        "server",
        "prune_attested_nodes_expired_for",
        r#"= "1h""#,
        Effect,
    ),
    (
        "server",
        "prune_tofu_nodes",
        r#"= true prune_attested_nodes_expired_for = "1h""#,
        Effect,
    ),
    ("server.ratelimit", "attestation", "= false", Effect),
    ("server.ratelimit", "signing", "= false", Effect),
    ("server", "socket_path", r#"= "/run/x/api.sock""#, Effect),
    ("server", "trust_domain", r#"= "other.org""#, Effect),
    (
        "server.experimental",
        "agent_spiffe_id_as_selector",
        "= true",
        Effect,
    ),
    (
        "server.experimental",
        "auth_opa_policy_engine",
        r#"{ local { rego_path = "x" } }"#,
        Refused,
    ),
    (
        "server.experimental",
        "cache_reload_interval",
        r#"= "1s""#,
        Warned,
    ),
    ("server.experimental", "event_timeout", r#"= "1s""#, Warned),
    (
        "server.experimental",
        "events_based_cache",
        "= true",
        Warned,
    ),
    (
        "server.experimental",
        "feature_flags",
        r#"= ["x"]"#,
        Refused,
    ),
    (
        "server.experimental",
        "full_cache_reload_interval",
        r#"= "1s""#,
        Warned,
    ),
    (
        "server.experimental",
        "named_pipe_name",
        r#"= "x""#,
        Refused,
    ),
    (
        "server.experimental",
        "prune_events_older_than",
        r#"= "1s""#,
        Warned,
    ),
    ("server.experimental", "require_pq_kem", "= true", Refused),
    (
        "server.experimental",
        "sql_transaction_timeout",
        r#"= "1s""#,
        Warned,
    ),
    ("server.experimental", "wit_issuer", r#"= "x""#, Refused),
    (
        "server.experimental",
        "wit_key_type",
        r#"= "ec-p256""#,
        Refused,
    ),
    (
        "server.federation",
        "bundle_endpoint",
        r#"{ port = 9 profile "https_spiffe" {} }"#,
        Effect,
    ),
    (
        "server.federation",
        "federates_with",
        r#""b.test" { bundle_endpoint_url = "https://b.test" bundle_endpoint_profile "https_web" {} }"#,
        Effect,
    ),
    ("health_checks", "listener_enabled", "= true", Effect),
    (
        "health_checks",
        "bind_address",
        r#"= "127.0.0.2" listener_enabled = true"#,
        Effect,
    ),
    (
        "health_checks",
        "bind_port",
        r#"= "9" listener_enabled = true"#,
        Effect,
    ),
    (
        "health_checks",
        "live_path",
        r#"= "/x" listener_enabled = true"#,
        Effect,
    ),
    (
        "health_checks",
        "ready_path",
        r#"= "/x" listener_enabled = true"#,
        Effect,
    ),
    ("telemetry", "AllowedLabels", r#"= ["x"]"#, Warned),
    ("telemetry", "AllowedPrefixes", r#"= ["x"]"#, Warned),
    ("telemetry", "BlockedLabels", r#"= ["x"]"#, Warned),
    ("telemetry", "BlockedPrefixes", r#"= ["x"]"#, Warned),
    (
        "telemetry",
        "DogStatsd",
        r#"= [{ address = "x" }]"#,
        Refused,
    ),
    ("telemetry", "EnableHostnameLabel", "= true", Warned),
    ("telemetry", "EnableTrustDomainLabel", "= true", Warned),
    ("telemetry", "InMem", "{}", Warned),
    (
        "telemetry",
        "M3",
        r#"= [{ address = "x" env = "y" }]"#,
        Refused,
    ),
    ("telemetry", "MetricPrefix", r#"= "x""#, Warned),
    ("telemetry", "Prometheus", "{ port = 9 }", Effect),
    ("telemetry", "Statsd", r#"= [{ address = "x" }]"#, Refused),
];

/// A file in which a key is set, in place of the usual value if it has one.
fn file(blocks: &str, key: &str, value: &str) -> String {
    let usual = [r#"trust_domain = "example.org""#, r#"data_dir = "data""#];
    let usual = usual.into_iter().filter(|line| !line.starts_with(key));
    let usual: Vec<&str> = usual.collect();
    let usual = usual.join(" ");
    let set = format!("{key} {value}");
    let nested = blocks
        .split('.')
        .rev()
        .fold(set, |inner, block| match block {
            "server" => format!("server {{ {usual} {inner} }}"),
            block => format!("{block} {{ {inner} }}"),
        });
    let server = match blocks.starts_with("server") {
        true => String::new(),
        false => format!("server {{ {usual} }}"),
    };
    format!("{server} {nested} {PLUGINS}")
}

/// Plugins that no warning is told of.
const PLUGINS: &str = r#"plugins { KeyManager "memory" {} NodeAttestor "join_token" {} }"#;

#[test]
fn each_key_of_spires_server_has_an_effect_or_a_warning_or_is_refused_by_name() {
    let usual = file("server", "experimental", "{}");
    let (usual, told) = load(&usual).unwrap();
    assert!(told.is_empty(), "{told:?}");
    for (blocks, key, value, fate) in KEYS {
        let path = format!("{blocks}.{key}");
        match (load(&file(blocks, key, value)), fate) {
            (Ok((config, _)), Effect) => {
                assert_ne!(format!("{config:?}"), format!("{usual:?}"), "{path}");
            }
            (Ok((config, warnings)), Warned) => {
                assert_eq!(format!("{config:?}"), format!("{usual:?}"), "{path}");
                let told: Vec<_> = warnings.iter().map(ToString::to_string).collect();
                assert!(told.iter().any(|told| told.contains(&path)), "{told:?}");
            }
            (Err(error), Refused) => {
                let error = error.to_string();
                assert!(error.contains(&format!("`{path}`")), "{error}");
            }
            (result, _) => panic!("{path}: {result:?}"),
        }
    }
}

#[test]
fn each_key_of_spires_server_stands_in_the_tables_of_operations() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, told) = text.split_once("## Configuration of the server").unwrap();
    let (told, _) = told.split_once("## Configuration of the agent").unwrap();
    for (_, key, ..) in KEYS {
        let is_told =
            told.contains(key) || (key.starts_with("profiling") && told.contains("profiling_*"));
        assert!(is_told, "{key}");
    }
}
