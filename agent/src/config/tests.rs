//! SPIRE's configuration files, and every error in them told at once.

use super::*;

const PLUGINS: &str = r#"
plugins {
    KeyManager "disk" { plugin_data { directory = "keys" } }
    NodeAttestor "join_token" { plugin_data {} }
    WorkloadAttestor "unix" { plugin_data { discover_workload_path = true } }
}
"#;

const AGENT: &str = r#"
agent {
    data_dir = "data"
    trust_domain = "example.org"
    server_address = "127.0.0.1"
    server_port = "8081"
    insecure_bootstrap = true
}
"#;

fn load(text: &str) -> Result<(Config, Vec<Warning>), LoadError> {
    load_with(text, Overrides::default())
}

fn load_with(text: &str, overrides: Overrides) -> Result<(Config, Vec<Warning>), LoadError> {
    Config::load(&runtime::config::parse(text).unwrap(), overrides)
}

fn refusal(text: &str) -> String {
    load(text).unwrap_err().to_string()
}

/// The example with one more line in the section `agent`.
fn with(line: &str) -> String {
    AGENT.replace("trust_domain =", &format!("{line}\ntrust_domain =")) + PLUGINS
}

#[test]
fn a_short_file_gets_spires_defaults() {
    let (config, warnings) = load(&(AGENT.to_owned() + PLUGINS)).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(
        config.server,
        ServerAddress {
            host: "127.0.0.1".to_owned(),
            port: 8081
        }
    );
    assert_eq!(
        config.custody,
        CustodyConfig::Disk {
            directory: "keys".into()
        }
    );
    assert_eq!(config.sync_interval, Duration::from_secs(5));
    assert_eq!(config.cache.x509_svids, 1000);
    assert_eq!(config.cache.key_algorithm, KeyAlgorithm::EcP256);
    assert_eq!(config.health, None);
    let socket = config.socket.unwrap();
    assert_eq!(
        socket.path,
        PathBuf::from("/tmp/spire-agent/public/api.sock")
    );
    assert_eq!(socket.sds.unwrap().default_bundle_name, "ROOTCA");
    let [WorkloadAttestorConfig::Unix(unix)] = config.workload_attestors.as_slice() else {
        panic!("one attestor")
    };
    assert!(unix.discover_workload_path);
}

#[test]
fn all_errors_are_told_at_once_with_their_keys() {
    let error = refusal(
        r#"
        agent { server_port = 70000 trust_domain = "Bad Domain" x509_svid_cache_max_size = -1 wrong = 1 }
        plugins { KeyManager "disk" { plugin_data { path = "x" } } WorkloadAttestor "k8s" {} }
        "#,
    );
    for expected in [
        "server_address must be configured",
        "`agent.server_port`: 70000 is not a port",
        "`agent.trust_domain`",
        "`agent.x509_svid_cache_max_size`: should not be negative",
        "unknown key `agent.wrong`",
        "directory`: must be set",
        "unknown key `plugins.KeyManager.disk.plugin_data.path`",
        "the plugin WorkloadAttestor `k8s` is not built",
        "`plugins.NodeAttestor`: exactly one",
        "must be configured unless insecure_bootstrap is set",
    ] {
        assert!(error.contains(expected), "{expected} is not in:\n{error}");
    }
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    for (line, key) in [
        (
            r#"authorized_delegates = ["spiffe://example.org/d"]"#,
            "agent.authorized_delegates",
        ),
        (r#"rebootstrap_mode = "auto""#, "agent.rebootstrap_mode"),
        (
            r#"trust_bundle_unix_socket = "/tmp/x""#,
            "agent.trust_bundle_unix_socket",
        ),
        (
            r#"trust_bundle_spiffe_workload_api = "unix:///x""#,
            "agent.trust_bundle_spiffe_workload_api",
        ),
        ("experimental { broker {} }", "agent.experimental.broker"),
        (
            "experimental { require_pq_kem = true }",
            "agent.experimental.require_pq_kem",
        ),
    ] {
        let error = refusal(&with(line));
        assert!(error.contains(&format!("`{key}`")), "{error}");
    }
    for plugin in [
        r#"NodeAttestor "k8s_psat" {}"#,
        r#"WorkloadAttestor "docker" {}"#,
        r#"SVIDStore "aws_secretsmanager" {}"#,
    ] {
        let error = refusal(
            &(AGENT.to_owned() + &PLUGINS.replace("plugins {", &format!("plugins {{ {plugin}\n"))),
        );
        assert!(error.contains("is not built"), "{error}");
    }
}

#[test]
fn a_disabled_plugin_is_passed_over() {
    let plugins = PLUGINS.replace(
        "plugins {",
        "plugins { WorkloadAttestor \"k8s\" { enabled = false }\n",
    );
    assert!(load(&(AGENT.to_owned() + &plugins)).is_ok());
}

#[test]
fn there_is_one_source_of_trust() {
    let error = refusal(&with(r#"trust_bundle_path = "x""#));
    assert!(error.contains("only one of"), "{error}");
    let error = refusal(
        &with(r#"trust_bundle_url = "http://example.org""#)
            .replace("insecure_bootstrap = true", ""),
    );
    assert!(error.contains("must start with https://"), "{error}");
}

#[test]
fn the_command_line_wins_over_the_file() {
    let overrides = Overrides {
        trust_domain: Some("other.org".to_owned()),
        join_token: Some("token".to_owned()),
        ..Overrides::default()
    };
    let (config, _) = load_with(&with(r#"join_token_file = "/nowhere""#), overrides).unwrap();
    assert_eq!(config.trust_domain.name(), "other.org");
    assert!(
        matches!(config.join_token, Some(TokenSource::Value(token)) if token.reveal() == "token")
    );
}

#[test]
fn unknown_keys_can_be_allowed() {
    let overrides = Overrides {
        allow_unknown_config: true,
        ..Overrides::default()
    };
    let (_, warnings) = load_with(&with("wrong = 1"), overrides).unwrap();
    assert!(
        warnings
            .iter()
            .any(|warning| warning.to_string().contains("agent.wrong")),
        "{warnings:?}"
    );
}

#[test]
fn health_and_metrics_have_spires_keys() {
    let text = AGENT.to_owned()
        + PLUGINS
        + r#"
        health_checks { listener_enabled = true bind_port = "8080" live_path = "/l" }
        telemetry { Prometheus { port = 9988 } }
        "#;
    let (config, _) = load(&text).unwrap();
    let health = config.health.unwrap();
    assert_eq!(
        health.address,
        HostPort {
            host: "localhost".to_owned(),
            port: 8080
        }
    );
    assert_eq!(
        (health.live_path.as_str(), health.ready_path.as_str()),
        ("/l", "/ready")
    );
    assert_eq!(config.prometheus.unwrap().port, 9988);
}

#[test]
fn the_admin_socket_is_not_where_workloads_can_reach_it() {
    let (config, _) = load(&with(r#"admin_socket_path = "/run/admin/admin.sock""#)).unwrap();
    assert_eq!(config.admin_socket, Some("/run/admin/admin.sock".into()));
    let (config, _) = load(&with(r#"admin_socket_path = """#)).unwrap();
    assert_eq!(config.admin_socket, None);
    for path in [
        "/tmp/spire-agent/public/admin.sock",
        "/tmp/spire-agent/public/below/admin.sock",
        "/tmp/spire-agent/private/../public/admin.sock",
    ] {
        let error = refusal(&with(&format!("admin_socket_path = {path:?}")));
        let words = "admin socket cannot be in the same directory or a subdirectory";
        assert!(error.contains(words), "{error}");
    }
    // Where no workload is served, there is nothing to keep apart from.
    let (config, _) = load(&with(
        r#"
        disable_workload_api = true disable_sds_api = true
        admin_socket_path = "/tmp/spire-agent/public/admin.sock"
        "#,
    ))
    .unwrap();
    assert!(config.socket.is_none() && config.admin_socket.is_some());
}

#[test]
fn aliases_of_the_socket_are_names_beside_it() {
    let text = |names: &str| {
        AGENT.to_owned() + PLUGINS + &format!("signet {{ socket_aliases = [{names}] }}")
    };
    let (config, _) = load(&text(r#""socket", "spire-agent.sock""#)).unwrap();
    assert_eq!(
        config.socket.unwrap().aliases,
        ["socket", "spire-agent.sock"]
    );
    for name in ["", "../x", "a/b", "/x", ".", "..", "api.sock"] {
        let error = refusal(&text(&format!("{name:?}")));
        assert!(error.contains("`signet.socket_aliases`"), "{name}: {error}");
    }
}
