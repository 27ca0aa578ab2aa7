//! The files that the tables name.

use std::path::Path;

/// Writes all of them into the folder of a run.
pub(crate) fn write(work: &Path) {
    for (name, text) in FILES {
        std::fs::write(work.join(name), text).unwrap();
    }
}

/// Each by its name. The configurations are of a server unless their names say otherwise.
const FILES: &[(&str, &str)] = &[
    (
        "b.pem",
        include_str!("../../../../cli/src/admin/bundles/recorded.pem"),
    ),
    (
        "b.spiffe",
        include_str!("../../../../cli/src/admin/bundles/recorded.json"),
    ),
    (
        "entries.json",
        r#"{"entries":[
        {"spiffe_id":"spiffe://example.org/file1","parent_id":"spiffe://example.org/p","selectors":[{"type":"unix","value":"uid:2000"}],"x509_svid_ttl":200,"admin":true},
        {"spiffe_id":"spiffe://bad.org/file2","parent_id":"spiffe://example.org/p","selectors":[{"type":"unix","value":"uid:2001"}]}
    ]}"#,
    ),
    (
        "updates.json",
        r#"{"entries":[
        {"entry_id":"my-id","spiffe_id":"spiffe://example.org/d","parent_id":"spiffe://example.org/p","selectors":[{"type":"unix","value":"uid:2002"}],"hint":"updated","dns_names":["d.example"]}
    ]}"#,
    ),
    ("no-entries.json", r#"{"entries":[]}"#),
    ("no.json", "not JSON"),
    ("ids.json", r#"{"ids":["my-id","nope2"]}"#),
    (
        "relationships.json",
        r#"{"federationRelationships":[
        {"trustDomain":"fj1.org","bundleEndpointURL":"https://127.0.0.1:9/fj1/b","bundleEndpointProfile":"https_web"},
        {"trustDomain":"example.org","bundleEndpointURL":"https://127.0.0.1:9/fj2/b","bundleEndpointProfile":"https_web"}
    ]}"#,
    ),
    (
        "good.conf",
        r#"server { trust_domain = "example.org" data_dir = "/nonexistent/data" }
        plugins { DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "/nonexistent/x" } } KeyManager "memory" {} NodeAttestor "join_token" {} }"#,
    ),
    (
        "no-trust-domain.conf",
        r#"server { data_dir = "x" }
        plugins { DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "x" } } KeyManager "memory" {} NodeAttestor "join_token" {} }"#,
    ),
    (
        "bad-trust-domain.conf",
        r#"server { data_dir = "x" trust_domain = "Exa mple" }
        plugins { DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "x" } } KeyManager "memory" {} NodeAttestor "join_token" {} }"#,
    ),
    (
        "no-plugin-of-that-name.conf",
        r#"server { trust_domain = "example.org" data_dir = "x" }
        plugins { DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "x" } } KeyManager "dusk" {} NodeAttestor "join_token" {} }"#,
    ),
    (
        "server-of-variables.conf",
        r#"server { trust_domain = "${SIGNET_TEST}" data_dir = "$$x" log_format = "$SIGNET_NO_SUCH_VARIABLE" }
        plugins { DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "x" } } KeyManager "memory" {} NodeAttestor "join_token" {} }"#,
    ),
    (
        "agent-of-variables.conf",
        r#"agent { trust_domain = "${SIGNET_TEST}" server_address = "localhost" server_port = 8081 insecure_bootstrap = true data_dir = "$$x" log_format = "$SIGNET_NO_SUCH_VARIABLE" }
        plugins { KeyManager "memory" {} NodeAttestor "join_token" {} WorkloadAttestor "unix" {} }"#,
    ),
    ("unclosed.conf", "server {"),
    (
        "unknown-key.conf",
        r#"server { trust_domain = "example.org" data_dir = "x" bind_prot = 1 }
        plugins { DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "x" } } KeyManager "memory" {} NodeAttestor "join_token" {} }"#,
    ),
    (
        "unknown-key-agent.conf",
        r#"agent { trust_domain = "example.org" server_address = "localhost" server_prot = 1 server_port = 8081 insecure_bootstrap = true data_dir = "x" }
        plugins { KeyManager "memory" {} NodeAttestor "join_token" {} WorkloadAttestor "unix" {} }"#,
    ),
    (
        "agent.conf",
        r#"agent { trust_domain = "example.org" server_address = "localhost" server_port = 8081 insecure_bootstrap = true data_dir = "/nonexistent/data" }
        plugins { KeyManager "memory" {} NodeAttestor "join_token" {} WorkloadAttestor "unix" {} }"#,
    ),
    (
        "no-server-port.conf",
        r#"agent { trust_domain = "example.org" server_address = "localhost" insecure_bootstrap = true data_dir = "x" }
        plugins { KeyManager "memory" {} NodeAttestor "join_token" {} WorkloadAttestor "unix" {} }"#,
    ),
];
