//! Configuration files of SPIRE, and what is wrong with others.

mod keys;

use attestors::node::k8s_psat::{AgentIdBy, KubeConfig};
use attestors::node::x509pop::Trust;

use workload_api::client::Endpoint;

use super::*;
use crate::authority::SpireConfig;
use crate::publish::{ConfigMapRef, Format, Place};

const SPIRE: &str = r#"
server {
    bind_address = "127.0.0.1"
    bind_port = "8081"
    socket_path = "/tmp/s/api.sock"
    trust_domain = "example.org"
    data_dir = "/tmp/s/data"
    LOG_LEVEL = "DEBUG"
    ca_ttl = "12h"
    default_x509_svid_ttl = "30m"
    ca_subject { country = ["DE"], organization = ["Example"], common_name = "CA" }
    admin_ids = ["spiffe://example.org/admin"]
    audit_log_enabled = true
}
plugins {
    DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "/tmp/x" } }
    KeyManager "disk" { plugin_data { keys_path = "/tmp/s/keys.json" } }
    NodeAttestor "join_token" { plugin_data {} }
}
health_checks { listener_enabled = true bind_port = "8080" }
telemetry { Prometheus { port = 9988 } }
"#;

fn load(text: &str) -> Result<(Config, Vec<Warning>), LoadError> {
    Config::load(&runtime::config::parse(text).unwrap(), Overrides::default())
}

fn refused(text: &str) -> String {
    load(text).unwrap_err().to_string()
}

#[test]
fn reads_a_file_of_spire() {
    let (config, warnings) = load(SPIRE).unwrap();
    assert_eq!(config.trust_domain.name(), "example.org");
    assert_eq!(
        config.bind,
        HostPort {
            host: "127.0.0.1".to_owned(),
            port: 8081
        }
    );
    assert_eq!(config.store, StoreConfig::Embedded);
    assert_eq!(
        config.keys,
        KeysConfig::Disk {
            path: "/tmp/s/keys.json".into()
        }
    );
    assert_eq!(config.authority.ca_ttl, Duration::from_secs(12 * 60 * 60));
    assert_eq!(
        config.authority.ca_subject.organization.as_deref(),
        Some("Example")
    );
    assert_eq!(config.default_x509_svid_ttl, Duration::from_secs(30 * 60));
    assert_eq!(config.agent_ttl, config.default_x509_svid_ttl);
    assert_eq!(config.log.level, runtime::log::Level::Debug);
    assert_eq!(config.health.unwrap().address.port, 8080);
    assert_eq!(config.prometheus.unwrap().port, 9988);
    assert_eq!(config.admin_ids.len(), 1);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0]
            .to_string()
            .contains("SPIRE's database is not read"),
        "{warnings:?}"
    );
}

#[test]
fn the_command_line_wins_over_the_file() {
    let overrides = Overrides {
        trust_domain: Some("other.org".to_owned()),
        server_port: Some(9),
        ..Overrides::default()
    };
    let (config, _) = Config::load(&runtime::config::parse(SPIRE).unwrap(), overrides).unwrap();
    assert_eq!(config.trust_domain.name(), "other.org");
    assert_eq!(config.bind.port, 9);
}

#[test]
fn tells_everything_that_is_wrong_at_once() {
    let text = refused(
        r#"
        server { bind_port = 99999 ca_ttl = "0s" admin_ids = ["x"] no_such_key = 1 log_level = "loud" }
        plugins { KeyManager "dusk" {} UpstreamAuthority "vault" {} DataStore "sql" { plugin_data { database_type = "postgres" } } }
        "#,
    );
    for part in [
        "trust_domain must be configured",
        "data_dir must be configured",
        "`server.bind_port`: 99999 is not a port",
        "`server.ca_ttl`: must be longer than nothing",
        "could not parse admin ID \"x\": scheme is missing or invalid",
        "no_such_key",
        "unknown log level `loud`",
        "no built-in plugin \"dusk\" for type \"KeyManager\"",
        "the plugin UpstreamAuthority `vault` is not built",
        "`postgres` is not built",
        "plugins.KeyManager",
    ] {
        assert!(text.contains(part), "{part:?} is missing from:\n{text}");
    }
}

#[test]
fn refuses_by_name_what_is_not_built() {
    let with = |key: &str| SPIRE.replacen("server {", &format!("server {{\n{key}\n"), 1);
    for (key, part) in [
        (
            "proxy_protocol_trusted_cidrs = [\"10.0.0.0/8\"]",
            "the PROXY protocol",
        ),
        (
            "experimental { require_pq_kem = true }",
            "post-quantum key exchange",
        ),
        (
            "experimental { auth_opa_policy_engine { local { rego_path = \"x\" } } }",
            "policy engine",
        ),
        ("experimental { feature_flags = [\"x\"] }", "feature flags"),
    ] {
        let text = refused(&with(key));
        assert!(text.contains(part), "{key}: {text}");
    }
}

#[test]
fn an_unknown_key_is_a_warning_when_asked_for() {
    let text = SPIRE.replacen("server {", "server { bind_prot = 1\n", 1);
    assert!(refused(&text).contains("bind_prot"));
    let overrides = Overrides {
        allow_unknown_config: true,
        ..Overrides::default()
    };
    let (_, warnings) = Config::load(&runtime::config::parse(&text).unwrap(), overrides).unwrap();
    assert!(
        warnings
            .iter()
            .any(|warning| warning.to_string().contains("bind_prot"))
    );
}

#[test]
fn the_store_in_memory_is_asked_for_in_our_own_block() {
    let (config, _) = load(&format!("{SPIRE}\nsignet {{ store = \"memory\" }}")).unwrap();
    assert_eq!(config.store, StoreConfig::Memory);
    assert!(refused(&format!("{SPIRE}\nsignet {{ store = \"tape\" }}")).contains("tape"));
}

#[test]
fn warns_about_lifetimes_that_the_authority_cannot_give() {
    let (_, warnings) = load(&SPIRE.replace("\"30m\"", "\"4h\"")).unwrap();
    assert!(
        warnings
            .iter()
            .any(|w| w.to_string().contains("default_x509_svid_ttl is too high"))
    );
}

fn with_plugin(plugin: &str) -> String {
    SPIRE.replace("plugins {", &format!("plugins {{ {plugin}"))
}

#[test]
fn reads_where_spire_publishes_its_bundle() {
    let (config, _) = load(&with_plugin(
        r#"
        BundlePublisher "k8s_configmap" { plugin_data { clusters = {
            "one" = { configmap_name = "b", configmap_key = "k", namespace = "n", format = "pem" },
            "two" = { configmap_name = "b", configmap_key = "k", namespace = "n", format = "spiffe",
                      refresh_hint = "10m", kubeconfig_path = "/two" }
        } } }
        Notifier "k8sbundle" { plugin_data { webhook_label = "spiffe.io/webhook" } }"#,
    ))
    .unwrap();
    let map = |namespace: &str, name: &str, key: &str| ConfigMapRef {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
    };
    let refresh_hint = Some(Duration::from_secs(600));
    let label = "spiffe.io/webhook".to_owned();
    let places: Vec<_> = config.publish.iter().map(|target| &target.place).collect();
    assert_eq!(
        places,
        [
            &Place::Applied(map("n", "b", "k"), Format::Pem),
            &Place::Applied(map("n", "b", "k"), Format::Spiffe { refresh_hint }),
            &Place::Patched(map("spire", "spire-bundle", "bundle.crt")),
            &Place::Webhooks { label },
        ]
    );
    let files: Vec<_> = config
        .publish
        .iter()
        .map(|target| &target.kube_config)
        .collect();
    let two = KubeConfig::File("/two".into());
    let here = &KubeConfig::InCluster;
    assert_eq!(files, [here, &two, here, here]);
}

#[test]
fn k8sbundle_with_remote_clusters_alone_leaves_its_own_cluster_out() {
    let remote = r#"Notifier "k8sbundle" { plugin_data { clusters = [ { kube_config_file_path = "/a" }, { kube_config_file_path = "/b", namespace = "x" } ] } }"#;
    let (config, _) = load(&with_plugin(remote)).unwrap();
    let clusters: Vec<_> = config
        .publish
        .iter()
        .map(|target| target.cluster.as_str())
        .collect();
    assert_eq!(clusters, ["clusters[0]", "clusters[1]"]);
    let both = remote.replace("clusters =", "namespace = \"y\"\nclusters =");
    assert_eq!(load(&with_plugin(&both)).unwrap().0.publish.len(), 3);
}

#[test]
fn a_publisher_that_lacks_a_setting_is_refused_by_its_key() {
    for (plugin, part) in [
        (
            r#"BundlePublisher "k8s_configmap" { plugin_data { clusters = { "one" = { configmap_name = "b", namespace = "n", format = "pem" } } } }"#,
            "clusters.one.configmap_key`: must be set",
        ),
        (
            r#"BundlePublisher "k8s_configmap" { plugin_data { clusters = { "one" = { configmap_name = "b", configmap_key = "k", namespace = "n", format = "der" } } } }"#,
            "unknown bundle format: \"der\"",
        ),
        (
            r#"Notifier "k8sbundle" { plugin_data { clusters = [ { namespace = "x" } ] } }"#,
            "cluster configuration is missing kube_config_file_path",
        ),
        (
            r#"Notifier "k8sbundle" { plugin_data { configmap = "x" } }"#,
            "unknown key",
        ),
    ] {
        let refused = refused(&with_plugin(plugin));
        assert!(refused.contains(part), "{plugin}: {refused}");
    }
}

fn with_psat(data: &str) -> String {
    let block = format!(r#"NodeAttestor "k8s_psat" {{ plugin_data {{ {data} }} }} KeyManager"#);
    SPIRE.replacen("KeyManager", &block, 1)
}

#[test]
fn reads_the_clusters_of_k8s_psat_as_spire_does() {
    let (config, _) = load(&with_psat(
        r#"clusters = {
            "prod" = {
                service_account_allow_list = ["spire:agent", "other:agent"]
                kube_config_file = "/etc/kube"
                audience = []
                allowed_node_label_keys = ["zone"]
                allowed_pod_label_keys = ["app"]
                use_pod_uid_for_agent_id = true
            },
            "dev" = { service_account_allow_list = ["spire:agent"] kube_config_file = "" }
        }"#,
    ))
    .unwrap();
    let clusters = config.k8s_clusters.unwrap();
    let (prod, dev) = (&clusters["prod"], &clusters["dev"]);
    assert_eq!(prod.service_accounts.len(), 2);
    assert_eq!(prod.kube_config, KubeConfig::File("/etc/kube".into()));
    assert!(prod.audiences.is_empty());
    assert!(prod.node_label_keys.contains("zone") && prod.pod_label_keys.contains("app"));
    assert_eq!(prod.agent_id_by, AgentIdBy::PodUid);
    assert_eq!(dev.kube_config, KubeConfig::InCluster);
    assert_eq!(dev.audiences, ["spire-server"]);
    assert_eq!(dev.agent_id_by, AgentIdBy::NodeUid);
    let (config, warnings) = load(&with_psat("")).unwrap();
    assert_eq!(config.k8s_clusters.unwrap().len(), 0);
    assert!(!warnings.is_empty());
    assert!(load(SPIRE).unwrap().0.k8s_clusters.is_none());
}

#[test]
fn refuses_clusters_that_nobody_could_attest_in() {
    for (data, words) in [
        (r#"clusters = { "a" = {} }"#, "at least one service account"),
        (
            r#"clusters = { "a" = { service_account_allow_list = ["agent"] } }"#,
            "`agent` is not `namespace:name`",
        ),
        (
            r#"clusters = { "a/b" = { service_account_allow_list = ["x:y"] } }"#,
            "a part of agent IDs",
        ),
        (
            r#"clusters = { "a" = { service_account_allow_list = ["x:y"] audiences = ["z"] } }"#,
            "audiences",
        ),
    ] {
        let text = refused(&with_psat(data));
        assert!(text.contains(words), "{text}");
        assert!(text.contains("k8s_psat"), "{text}");
    }
}

fn with_pop(name: &str, data: &str) -> String {
    let block = format!(r#"NodeAttestor "{name}" {{ plugin_data {{ {data} }} }} KeyManager"#);
    SPIRE.replacen("KeyManager", &block, 1)
}

#[test]
fn reads_whose_certificates_prove_nodes_as_spire_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("roots.pem");
    let key = rcgen::KeyPair::generate().unwrap();
    let root = rcgen::CertificateParams::default().self_signed(&key);
    std::fs::write(&path, root.unwrap().pem().repeat(2)).unwrap();
    let roots = format!("ca_bundle_path = {path:?}");
    let options = |data: &str| load(&with_pop("x509pop", data)).unwrap().0.x509pop.unwrap();
    let plain = options(&roots);
    assert!(matches!(&plain.trust, Trust::Roots(roots) if roots.len() == 2));
    assert_eq!((plain.max_intermediates, plain.max_rsa_bits), (4, 8192));
    assert!(!plain.verify_client_ip);
    let said = options(&format!(
        "ca_bundle_paths = [{path:?}, {path:?}] max_intermediates = 2 max_rsa_key_size = 4096 \
         verify_client_ip = true agent_path_template = \"/x509pop/{{{{ .SerialNumberHex }}}}\""
    ));
    assert!(matches!(&said.trust, Trust::Roots(roots) if roots.len() == 4));
    assert_eq!((said.max_intermediates, said.max_rsa_bits), (2, 4096));
    assert!(said.verify_client_ip && said.template != plain.template);
    for (data, expected) in [
        ("", "/spire-exchange/"),
        (r#"spiffe_prefix = "/nodes""#, "/nodes/"),
        (r#"spiffe_prefix = """#, "/"),
    ] {
        let own = options(&format!(r#"mode = "spiffe" {data}"#));
        let Trust::OwnDomain { prefix } = own.trust else {
            panic!("{data}");
        };
        assert_eq!(prefix, expected);
    }
    for (data, words) in [
        (String::new(), "one of ca_bundle_path or ca_bundle_paths"),
        (format!("{roots} ca_bundle_paths = [{path:?}]"), "not both"),
        (format!(r#"{roots} mode = "spiffe""#), "in spiffe mode"),
        (format!(r#"{roots} mode = "other""#), "can only be either"),
        (
            r#"ca_bundle_path = "/nowhere""#.to_owned(),
            "no file `/nowhere`",
        ),
        (
            r#"ca_bundle_path = "/dev/null""#.to_owned(),
            "no PEM blocks",
        ),
        (format!("{roots} max_intermediates = 0"), "from 1 to 15"),
        (
            format!("{roots} max_rsa_key_size = 16384"),
            "from 1 to 8192",
        ),
        (format!(r#"{roots} svid_prefix = "/x""#), "unknown key"),
        (
            format!(r#"{roots} agent_path_template = "/{{{{ .Nothing }}}}""#),
            "no value `.Nothing`",
        ),
        (
            format!(r#"{roots} agent_path_template = "/{{{{ .PluginName | b64enc }}}}""#),
            "`b64enc` is not built",
        ),
    ] {
        let text = refused(&with_pop("x509pop", &data));
        assert!(text.contains(words), "{data}: {text}");
    }
}

#[test]
fn reads_who_certifies_hosts_as_spire_does() {
    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEAWPAsKJ/qMYUIBeH7BLMRCE/bkUvMHX+7OZhANk45S";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pub");
    std::fs::write(&path, format!("{KEY} someone\n")).unwrap();
    let list = format!("cert_authorities = [{KEY:?}]");
    let file = format!("cert_authorities_path = {path:?}");
    for data in [list.clone(), file.clone(), format!("{list} {file}")] {
        let (config, _) = load(&with_pop("sshpop", &data)).unwrap();
        let options = config.sshpop.unwrap();
        assert!(!options.authorities.is_empty() && options.canonical_domain.is_none());
    }
    let data = format!(
        r#"{list} canonical_domain = "example.org" agent_path_template = "/static/{{{{ index .ValidPrincipals 0 }}}}""#
    );
    let (config, _) = load(&with_pop("sshpop", &data)).unwrap();
    let options = config.sshpop.unwrap();
    assert_eq!(options.canonical_domain.as_deref(), Some("example.org"));
    for (data, words) in [
        ("", "missing required config value"),
        (
            r#"cert_authorities = ["ssh-ed25519 AAAA"]"#,
            "line 1 is not a public key",
        ),
        (
            r#"cert_authorities_path = "/nowhere""#,
            "no file `/nowhere`",
        ),
        (&format!("{list} certauthorities = 1"), "unknown key"),
        (
            &format!(r#"{list} agent_path_template = "static/x""#),
            "must begin with `/`",
        ),
    ] {
        let text = refused(&with_pop("sshpop", data));
        assert!(text.contains(words), "{data}: {text}");
    }
}

#[test]
fn reads_where_challenged_hosts_may_be_as_spire_does_and_internal_networks_from_our_block() {
    let options = |data: &str, ours: &str| {
        let text = with_pop("http_challenge", data) + &format!("signet {{ {ours} }}");
        load(&text).map(|(config, _)| config.http_challenge.unwrap())
    };
    let plain = options("", "").unwrap();
    assert!(plain.allow_non_root_ports && plain.tofu && plain.networks.is_empty());
    assert_eq!(
        (plain.required_port, plain.allowed_dns_patterns.len()),
        (None, 0)
    );
    let said = options(
        r#"allowed_dns_patterns = ["p[0-9].example.org", "q"] required_port = 80 tofu = false"#,
        r#"http_challenge_networks = ["10.0.0.0/8", "fd00::/8"]"#,
    )
    .unwrap();
    assert_eq!((said.required_port, said.tofu), (Some(80), false));
    assert_eq!(
        (said.allowed_dns_patterns.len(), said.networks.len()),
        (2, 2)
    );
    assert!(options("allow_non_root_ports = false tofu = false", "").is_ok());
    for data in [
        "tofu = false",
        "tofu = false allow_non_root_ports = true",
        "tofu = false required_port = 1024",
        "tofu = false allow_non_root_ports = false required_port = 8080",
    ] {
        let error = refused(&with_pop("http_challenge", data));
        assert!(
            error.contains("can not turn off trust on first use"),
            "{data}: {error}"
        );
    }
    for (data, words) in [
        (
            r#"allowed_dns_patterns = ["("]"#,
            "cannot compile allowed_dns_pattern",
        ),
        ("required_port = 65536", "required_port"),
        (r#"agent_path_template = "/x""#, "unknown key"),
    ] {
        let error = refused(&with_pop("http_challenge", data));
        assert!(error.contains(words), "{data}: {error}");
    }
    let text = with_pop("http_challenge", "");
    let error = refused(&(text + r#"signet { http_challenge_networks = ["10.0.0.0/40"] }"#));
    assert!(error.contains("`10.0.0.0/40` is not a network"), "{error}");
}

#[test]
fn reads_a_server_above_as_spire_does() {
    let spire = |settings: &str| {
        let plugin = format!("UpstreamAuthority \"spire\" {{ plugin_data {{ {settings} }} }}");
        SPIRE.replacen("plugins {", &format!("plugins {{\n{plugin}\n"), 1)
    };
    let text = spire(
        r#"server_address = "[::1]" server_port = 8081 workload_api_socket = "/run/agent.sock""#,
    );
    let (config, _) = load(&text).unwrap();
    assert_eq!(
        config.authority.upstream,
        Some(UpstreamConfig::Spire(SpireConfig {
            server: HostPort {
                host: "::1".to_owned(),
                port: 8081,
            },
            workload_api: Endpoint::Unix("/run/agent.sock".into()),
        }))
    );
    let text = refused(&spire("experimental { require_pq_kem = true }"));
    for part in [
        "server_address is required",
        "server_port is required",
        "workload_api_socket is required",
        "plugin_data.experimental`: is not built",
    ] {
        assert!(text.contains(part), "{part:?} is missing from:\n{text}");
    }
    let text = refused(&spire(
        r#"server_address = "a" server_port = "0" workload_api_socket = "/s""#,
    ));
    assert!(text.contains("`0` is not a port"), "{text}");
}

#[test]
fn reads_who_adds_to_svids_as_spire_does() {
    let plugin = "plugins {\nCredentialComposer \"uniqueid\" {}\n";
    let (config, _) = load(&SPIRE.replacen("plugins {", plugin, 1)).unwrap();
    assert_eq!(config.authority.composer, Some(Composer::UniqueId));
}
