//! SPIRE's configuration files, and every error in them told at once.

use std::path::Path;

use attestors::node::k8s_psat::KubeConfig;
use attestors::workload::k8s::kubelet::{Authentication, Endpoint, Secure, Verification};

use super::*;

mod keys;

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
    let variables = |name: &str| (name == "MY_NODE_NAME").then(|| "n1".to_owned());
    Config::load(
        &runtime::config::parse(text).unwrap(),
        overrides,
        &variables,
    )
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
        plugins { KeyManager "disk" { plugin_data { path = "x" } } WorkloadAttestor "slurm" {} }
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
        "the plugin WorkloadAttestor `slurm` is not built",
        "`plugins.NodeAttestor`: exactly one",
        "must be configured unless insecure_bootstrap is set",
    ] {
        assert!(error.contains(expected), "{expected} is not in:\n{error}");
    }
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    for (line, key) in [
        ("experimental { broker {} }", "agent.experimental.broker"),
        (
            r#"experimental { named_pipe_name = "x" }"#,
            "agent.experimental.named_pipe_name",
        ),
    ] {
        let error = refusal(&with(line));
        assert!(error.contains(&format!("`{key}`")), "{error}");
    }
    for plugin in [
        r#"NodeAttestor "tpm_devid" {}"#,
        r#"WorkloadAttestor "slurm" {}"#,
        r#"SVIDStore "aws_secretsmanager" {}"#,
    ] {
        let error = refusal(
            &(AGENT.to_owned() + &PLUGINS.replace("plugins {", &format!("plugins {{ {plugin}\n"))),
        );
        assert!(error.contains("is not built"), "{error}");
    }
}

#[test]
fn a_pod_attests_by_the_token_that_spires_manifests_mount() {
    let with_psat = |data: &str| {
        let psat = format!(r#"NodeAttestor "k8s_psat" {{ plugin_data {{ {data} }} }}"#);
        let join_token = r#"NodeAttestor "join_token" { plugin_data {} }"#;
        AGENT.to_owned() + &PLUGINS.replace(join_token, &psat)
    };
    for (data, path) in [
        (r#"cluster = "c""#, "/var/run/secrets/tokens/spire-agent"),
        (r#"cluster = "c" token_path = "/t""#, "/t"),
    ] {
        let (config, _) = load(&with_psat(data)).unwrap();
        let NodeAttestor::K8sPsat(prover) = config.node_attestor else {
            panic!("another attestor");
        };
        assert_eq!(prover.token_path(), Path::new(path));
    }
    let error = refusal(&with_psat(""));
    assert!(error.contains("cluster"), "{error}");
}

#[test]
fn a_provisioned_node_proves_itself_by_files_that_must_be_named() {
    let with = |data: &str| {
        let block = format!(r#"NodeAttestor "x509pop" {{ plugin_data {{ {data} }} }}"#);
        let join_token = r#"NodeAttestor "join_token" { plugin_data {} }"#;
        AGENT.to_owned() + &PLUGINS.replace(join_token, &block)
    };
    let both = r#"private_key_path = "/k" certificate_path = "/c""#;
    let (config, _) = load(&with(&format!(r#"{both} intermediates_path = "/i""#))).unwrap();
    let NodeAttestor::X509pop(prover) = config.node_attestor else {
        panic!("another attestor");
    };
    assert_eq!(prover.private_key_path, Path::new("/k"));
    assert_eq!(prover.certificate_path, Path::new("/c"));
    assert_eq!(prover.intermediates_path.as_deref(), Some(Path::new("/i")));
    for (data, words) in [
        (r#"certificate_path = "/c""#, "private_key_path is required"),
        (r#"private_key_path = "/k""#, "certificate_path is required"),
        (
            &format!(r#"{both} spiffe_endpoint_socket = "/s""#),
            "not built",
        ),
        (&format!(r#"{both} key_path = "/s""#), "unknown key"),
    ] {
        let error = refusal(&with(data));
        assert!(error.contains(words), "{data}: {error}");
    }
}

#[test]
fn a_host_proves_itself_by_its_ssh_key_where_spire_looks_for_it_unless_told() {
    let with = |data: &str| {
        let block = format!(r#"NodeAttestor "sshpop" {{ plugin_data {{ {data} }} }}"#);
        let join_token = r#"NodeAttestor "join_token" { plugin_data {} }"#;
        AGENT.to_owned() + &PLUGINS.replace(join_token, &block)
    };
    for (data, key, certificate) in [
        (
            "",
            "/etc/ssh/ssh_host_rsa_key",
            "/etc/ssh/ssh_host_rsa_key-cert.pub",
        ),
        (r#"host_key_path = "/k" host_cert_path = "/c""#, "/k", "/c"),
    ] {
        let NodeAttestor::Sshpop(prover) = load(&with(data)).unwrap().0.node_attestor else {
            panic!("another attestor");
        };
        assert_eq!(prover.host_key_path, Path::new(key));
        assert_eq!(prover.host_cert_path, Path::new(certificate));
    }
    assert!(refusal(&with("host_key = 1")).contains("unknown key"));
}

#[test]
fn a_host_is_reached_under_its_own_name_unless_told_otherwise() {
    let with = |data: &str| {
        let block = format!(r#"NodeAttestor "http_challenge" {{ plugin_data {{ {data} }} }}"#);
        let join_token = r#"NodeAttestor "join_token" { plugin_data {} }"#;
        AGENT.to_owned() + &PLUGINS.replace(join_token, &block)
    };
    let prover = |data: &str| match load(&with(data)).unwrap().0.node_attestor {
        NodeAttestor::HttpChallenge(prover) => prover,
        other => panic!("{other:?}"),
    };
    let plain = prover("");
    assert_eq!(
        (plain.hostname, plain.port, plain.advertised_port),
        (None, 0, None)
    );
    assert_eq!(plain.agent.to_string(), "default");
    let said = prover(r#"hostname = "h.x" agentname = "a" port = 80 advertised_port = 8080"#);
    assert_eq!(said.hostname.unwrap().as_str(), "h.x");
    assert_eq!((said.port, said.advertised_port), (80, Some(8080)));
    for (data, words) in [
        (r#"hostname = "a/b""#, "hostname"),
        (r#"hostname = "Host""#, "lower case"),
        (r#"agentname = "1""#, "agent name is not valid"),
        ("port = 65536", "port"),
        ("host = 1", "unknown key"),
    ] {
        let error = refusal(&with(data));
        assert!(error.contains(words), "{data}: {error}");
    }
}

fn with_attestor(block: &str) -> String {
    AGENT.to_owned() + &PLUGINS.replace("plugins {", &format!("plugins {{ {block}\n"))
}

#[test]
fn the_settings_of_docker_are_spires_and_users_podmans_are_asked_only_if_named() {
    let docker = |data: &str| {
        let block = format!(r#"WorkloadAttestor "docker" {{ plugin_data {{ {data} }} }}"#);
        let (config, _) = load(&with_attestor(&block)).unwrap();
        let found = config.workload_attestors.into_iter().find_map(|attestor| {
            let WorkloadAttestorConfig::Docker(options) = attestor else {
                return None;
            };
            Some(options)
        });
        found.unwrap()
    };
    let usual = docker("");
    assert_eq!(usual.docker_socket, Path::new("/var/run/docker.sock"));
    assert_eq!(usual.podman_socket, Path::new("/run/podman/podman.sock"));
    assert!(usual.user_sockets.is_none() && usual.docker_version.is_none());
    assert!(usual.patterns.is_none());
    let said = docker(
        r#"docker_socket_path = "unix:///d" podman_socket_path = "unix:///p" docker_version = "1.41"
        podman_socket_path_template = "unix:///u/%d" use_new_container_locator = false
        container_id_cgroup_matchers = ["/a/<id>"]"#,
    );
    assert_eq!(said.docker_socket, Path::new("/d"));
    assert_eq!(said.podman_socket, Path::new("/p"));
    assert_eq!(said.user_sockets.unwrap().of(7), Path::new("/u/7"));
    assert!(said.docker_version.is_some() && said.patterns.is_some());
    for (data, expected) in [
        (r#"docker_socket_path = "tcp://x:1""#, "docker_socket_path"),
        (r#"docker_version = "latest""#, "docker_version"),
        (
            r#"podman_socket_path_template = "unix:///x""#,
            "exactly one",
        ),
        (
            r#"container_id_cgroup_matchers = ["/a/<id>"]"#,
            "cannot both be used",
        ),
        (
            r#"use_new_container_locator = false container_id_cgroup_matchers = ["/a/*"]"#,
            "exactly once",
        ),
        ("sigstore {}", "not built"),
        (r#"docker_host = "npipe:////./pipe/x""#, "Windows"),
        (r#"socket = "x""#, "unknown key"),
    ] {
        let block = format!(r#"WorkloadAttestor "docker" {{ plugin_data {{ {data} }} }}"#);
        let error = refusal(&with_attestor(&block));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn systemd_takes_no_settings() {
    let (config, _) = load(&with_attestor(r#"WorkloadAttestor "systemd" {}"#)).unwrap();
    let is_systemd = |attestor: &WorkloadAttestorConfig| matches!(attestor, WorkloadAttestorConfig::Systemd(options) if options.bus == Path::new("/run/dbus/system_bus_socket"));
    assert!(config.workload_attestors.iter().any(is_systemd));
    let error = refusal(&with_attestor(
        r#"WorkloadAttestor "systemd" { plugin_data { bus = "x" } }"#,
    ));
    assert!(error.contains("unknown key"), "{error}");
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

#[test]
fn further_servers_have_the_port_of_the_first_unless_they_name_one() {
    let text = |names: &str| {
        AGENT.to_owned() + PLUGINS + &format!("signet {{ server_addresses = [{names}] }}")
    };
    let (config, _) = load(&text(
        r#""b.example", "10.0.0.2:9000", "[::1]:9001", "::1""#,
    ))
    .unwrap();
    let port = config.server.port;
    let found: Vec<_> = config
        .more_servers
        .iter()
        .map(|server| (server.host.as_str(), server.port))
        .collect();
    assert_eq!(
        found,
        [
            ("b.example", port),
            ("10.0.0.2", 9000),
            ("::1", 9001),
            ("::1", port)
        ]
    );
    for names in [
        r#""b:0""#,
        r#""b:x""#,
        r#""""#,
        r#""a", "b", "c", "d", "e""#,
    ] {
        let error = refusal(&text(names));
        assert!(
            error.contains("`signet.server_addresses`"),
            "{names}: {error}"
        );
    }
}

#[test]
fn what_is_served_is_kept_over_a_restart_unless_that_is_turned_off() {
    let text = |signet: &str| AGENT.to_owned() + PLUGINS + signet;
    assert!(load(&text("")).unwrap().0.sealed_cache);
    for (value, kept) in [("true", true), ("false", false)] {
        let (config, _) = load(&text(&format!("signet {{ sealed_cache = {value} }}"))).unwrap();
        assert_eq!(config.sealed_cache, kept);
    }
}

/// The example with the attestor `k8s` and these settings in place of `unix`.
fn with_k8s(settings: &str) -> String {
    let (unix, k8s) = (
        r#"WorkloadAttestor "unix" { plugin_data { discover_workload_path = true } }"#,
        format!("WorkloadAttestor \"k8s\" {{ plugin_data {{ {settings} }} }}"),
    );
    AGENT.to_owned() + &PLUGINS.replace(unix, &k8s)
}

fn k8s(settings: &str) -> K8sConfig {
    let (config, _) = load(&with_k8s(settings)).unwrap();
    match config.workload_attestors.as_slice() {
        [WorkloadAttestorConfig::K8s(k8s)] => *k8s.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_attestor_of_pods_has_spires_defaults() {
    let K8sConfig { options, kubelet } = k8s("");
    assert_eq!(options.node_name.as_deref(), Some("n1"));
    assert_eq!(options.patience, Duration::from_secs(30));
    assert!(!options.disable_container_selectors && !options.ephemeral_containers);
    assert_eq!(options.namespace_labels, None);
    assert_eq!(kubelet.poll_retry_interval, Duration::from_millis(500));
    assert_eq!(kubelet.reload_interval, Duration::from_secs(60));
    let Some(Endpoint::Secure(secure)) = kubelet.endpoint else {
        panic!("{kubelet:?}")
    };
    assert_eq!(
        (secure.port, secure.node_name.as_deref()),
        (10250, Some("n1"))
    );
    assert!(matches!(
        secure.authentication,
        Authentication::Token(path) if path == Path::new("/var/run/secrets/kubernetes.io/serviceaccount/token")
    ));
    assert!(matches!(
        secure.verification,
        Verification::Auto { ca: Some(ca), pinned } if ca == Path::new("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt") && pinned.len() == 2
    ));
    assert_eq!(
        kubelet.pods_api_socket.as_deref(),
        Some(Path::new("/var/lib/kubelet/pods-api/pods-api.sock"))
    );
}

#[test]
fn the_attestor_of_pods_has_spires_keys() {
    let K8sConfig { options, kubelet } = k8s(r#"
        kubelet_secure_port = "10251" max_poll_attempts = 4 poll_retry_interval = "250ms"
        reload_interval = "2m" disable_container_selectors = true node_name = "n2"
        skip_kubelet_verification = true certificate_path = "c.pem" private_key_path = "k.pem"
        use_new_container_locator = true node_name_env = "OTHER" enable_namespace_labels = true
        signet { ephemeral_containers = true pods_api_socket = "" kubelet_address = "10.0.0.7" }
        "#);
    assert_eq!(options.node_name.as_deref(), Some("n2"));
    assert_eq!(options.patience, Duration::from_secs(1));
    assert!(options.disable_container_selectors && options.ephemeral_containers);
    assert_eq!(options.namespace_labels, Some(KubeConfig::InCluster));
    assert_eq!(kubelet.reload_interval, Duration::from_secs(120));
    assert_eq!(kubelet.pods_api_socket, None);
    let Some(Endpoint::Secure(secure)) = kubelet.endpoint else {
        panic!("{kubelet:?}")
    };
    assert_eq!(
        (secure.port, secure.address.as_deref()),
        (10251, Some("10.0.0.7"))
    );
    assert!(matches!(secure.verification, Verification::Skip));
    assert!(matches!(
        secure.authentication,
        Authentication::Certificate { .. }
    ));
    let K8sConfig { options, kubelet } =
        k8s(r#"kubelet_read_only_port = 10255 node_name_env = "UNSET" max_poll_attempts = -1"#);
    assert_eq!(options.node_name, None);
    assert_eq!(options.patience, Duration::from_secs(30));
    assert!(matches!(
        kubelet.endpoint,
        Some(Endpoint::ReadOnly { port: 10255 })
    ));
    assert!(matches!(
        k8s("use_anonymous_authentication = true").kubelet.endpoint,
        Some(Endpoint::Secure(Secure {
            authentication: Authentication::Anonymous,
            ..
        }))
    ));
}

#[test]
fn what_the_attestor_of_pods_cannot_do_is_refused_by_name() {
    for (settings, expected) in [
        ("sigstore { ignore_tlog = true }", "plugin_data.sigstore`"),
        (
            "experimental { broker { access_policy = \"permissive\" } }",
            "experimental.broker`",
        ),
        (
            "experimental { api_server { cache { enabled = true } } }",
            "experimental.api_server`",
        ),
        ("disable_kubelet_client = true", "disable_kubelet_client`"),
        (
            "use_new_container_locator = false",
            "use_new_container_locator`",
        ),
        (
            "kubelet_read_only_port = 1 kubelet_secure_port = 2",
            "cannot use both",
        ),
        ("kubelet_secure_port = 70000", "70000 is not a port"),
        ("certificate_path = \"c\"", "private key path is required"),
        ("private_key_path = \"k\"", "certificate path is required"),
        ("poll_retry_interval = \"soon\"", "poll_retry_interval`"),
        (
            "wrong = 1",
            "unknown key `plugins.WorkloadAttestor.k8s.plugin_data.wrong`",
        ),
        ("signet { wrong = 1 }", "plugin_data.signet.wrong`"),
    ] {
        let error = refusal(&with_k8s(settings));
        assert!(error.contains(expected), "{expected} is not in:\n{error}");
    }
}

#[test]
fn what_is_said_of_shares_holds_and_the_rest_is_the_default() {
    let ours =
        "signet { limits { container { streams = 1000 calls_per_second = 0 } } sandbox = false }";
    let (config, _) = load(&(AGENT.to_owned() + PLUGINS + ours)).unwrap();
    assert!(!config.sandbox);
    let usual = Shares::default();
    let shares = config.socket.unwrap().shares;
    assert_eq!((shares.process, shares.user), (usual.process, usual.user));
    assert_eq!(shares.container.streams, 1000);
    assert_eq!(shares.container.calls.per_second, 0);
    assert_eq!(shares.container.connections, usual.container.connections);
    let (config, _) = load(&(AGENT.to_owned() + PLUGINS)).unwrap();
    assert!(config.sandbox);
    assert_eq!(config.socket.unwrap().shares, usual);
}

#[test]
fn a_share_of_nothing_is_refused_with_its_key() {
    for (line, key) in [
        (
            "process { connections = 0 }",
            "signet.limits.process.connections",
        ),
        ("user { streams = -1 }", "signet.limits.user.streams"),
        (
            "container { calls_burst = 0 }",
            "signet.limits.container.calls_burst",
        ),
        (
            "user { calls_per_second = 1000001 }",
            "signet.limits.user.calls_per_second",
        ),
    ] {
        let told = refusal(&format!("{AGENT}{PLUGINS}signet {{ limits {{ {line} }} }}"));
        assert!(told.contains(key), "{told}");
    }
}
