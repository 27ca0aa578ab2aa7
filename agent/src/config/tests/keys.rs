//! Each key of SPIRE's agent, and what becomes of it.

use super::*;
use crate::rebootstrap::{Mode, Rebootstrap};

/// What becomes of a key.
#[derive(Clone, Copy)]
enum Fate {
    /// It changes what the agent does.
    Effect,
    /// It changes nothing, as the operator is told.
    Warned,
    /// The agent does not start.
    Refused,
}

use Fate::{Effect, Refused, Warned};

/// The keys of SPIRE 1.15's section `agent`, those that it documents and those that it does not, each
/// with a value that is not its default.
const KEYS: [(&str, &str, Fate); 39] = [
    ("admin_socket_path", r#""/run/admin/admin.sock""#, Effect),
    ("allow_unauthenticated_verifiers", "true", Effect),
    ("allowed_foreign_jwt_claims", r#"["x"]"#, Effect),
    (
        "authorized_delegates",
        r#"["spiffe://example.org/delegate"]"#,
        Effect,
    ),
    ("availability_target", r#""24h""#, Effect),
    ("data_dir", r#""other""#, Effect),
    ("disable_sds_api", "true", Effect),
    ("disable_workload_api", "true", Effect),
    ("insecure_bootstrap", "true", Effect),
    ("join_token", r#""t""#, Effect),
    ("join_token_file", r#""t""#, Effect),
    ("jwt_svid_cache_max_size", "7", Effect),
    ("log_file", r#""log""#, Effect),
    ("log_format", r#""json""#, Effect),
    ("log_level", r#""DEBUG""#, Effect),
    ("log_selectors", r#"["unix"]"#, Effect),
    ("log_source_location", "true", Effect),
    ("profiling_enabled", "true", Warned),
    ("profiling_freq", "1", Warned),
    ("profiling_names", r#"["x"]"#, Warned),
    ("profiling_port", "1", Warned),
    ("rebootstrap_delay", r#""1m""#, Effect),
    ("rebootstrap_mode", r#""auto""#, Effect),
    ("server_address", r#""other""#, Effect),
    ("server_port", "9", Effect),
    ("socket_path", r#""/run/x/api.sock""#, Effect),
    ("trust_bundle_format", r#""spiffe""#, Effect),
    ("trust_bundle_path", r#""x""#, Effect),
    ("trust_bundle_spiffe_workload_api", r#""unix:///x""#, Effect),
    ("trust_bundle_unix_socket", r#""/x""#, Effect),
    ("trust_bundle_url", r#""https://example.org""#, Effect),
    ("trust_domain", r#""other.org""#, Effect),
    ("workload_x509_svid_key_type", r#""ec-p384""#, Effect),
    ("x509_svid_cache_max_size", "7", Effect),
    ("sds.default_all_bundles_name", r#""x""#, Effect),
    ("sds.default_bundle_name", r#""x""#, Effect),
    ("sds.default_svid_name", r#""x""#, Effect),
    ("sds.disable_spiffe_cert_validation", "true", Effect),
    ("experimental", "{}", Warned),
];

/// Those of its block `experimental`.
const EXPERIMENTAL: [(&str, &str, Fate); 9] = [
    ("admin_named_pipe_name", r#""x""#, Refused),
    ("broker", "{}", Refused),
    ("feature_flags", r#"["x"]"#, Refused),
    ("jwt_svid_cache_hit_timeout", r#""10s""#, Effect),
    ("named_pipe_name", r#""x""#, Refused),
    ("ratelimit", "{ fetch_x509_svid = 1 }", Refused),
    ("require_pq_kem", "true", Effect),
    ("sync_interval", r#""1m""#, Effect),
    ("use_sync_authorized_entries", "false", Refused),
];

/// A file in which the key is set; for the places of the trust bundle, in place of the usual one.
fn file(key: &str, value: &str) -> String {
    let setting = match key.split_once('.') {
        Some((block, key)) => format!("{block} {{ {key} = {value} }}"),
        None if value.starts_with('{') => format!("{key} {value}"),
        None => format!("{key} = {value}"),
    };
    let (mut kept, mut more) = (vec!["trust_bundle_path = \"bundle\""], "");
    match key {
        "insecure_bootstrap"
        | "trust_bundle_path"
        | "trust_bundle_url"
        | "trust_bundle_spiffe_workload_api" => kept.clear(),
        "trust_bundle_unix_socket" => {
            kept.clear();
            more = r#"trust_bundle_url = "http://here/""#;
        }
        _ => {}
    }
    let usual = AGENT
        .lines()
        .filter(|line| !line.contains("insecure_bootstrap") && *line != "}")
        .filter(|line| !line.trim().starts_with(&format!("{key} =")));
    let lines: Vec<_> = usual
        .chain(kept)
        .chain([setting.as_str(), more, "}"])
        .collect();
    lines.join("\n") + PLUGINS
}

fn judge(path: &str, text: &str, fate: Fate) {
    let (usual, _) = load(&file("experimental", "{}")).unwrap();
    match (load(text), fate) {
        (Ok((config, _)), Effect) => {
            assert_ne!(format!("{config:?}"), format!("{usual:?}"), "{path}");
        }
        (Ok((config, warnings)), Warned) => {
            assert_eq!(format!("{config:?}"), format!("{usual:?}"), "{path}");
            let told: Vec<_> = warnings.iter().map(ToString::to_string).collect();
            let named = path.split('_').next().unwrap();
            assert!(
                path.ends_with("experimental") || told.iter().any(|told| told.contains(named)),
                "{path}: {told:?}"
            );
        }
        (Err(error), Refused) => {
            assert!(error.to_string().contains(&format!("`{path}`")), "{error}");
        }
        (result, _) => panic!("{path}: {result:?}"),
    }
}

#[test]
fn each_key_of_spires_agent_has_an_effect_or_a_warning_or_is_refused_by_name() {
    for (key, value, fate) in KEYS {
        judge(&format!("agent.{key}"), &file(key, value), fate);
    }
    for (key, value, fate) in EXPERIMENTAL {
        let setting = if value.starts_with('{') {
            format!("{{ {key} {value} }}")
        } else {
            format!("{{ {key} = {value} }}")
        };
        let path = format!("agent.experimental.{key}");
        judge(&path, &file("experimental", &setting), fate);
    }
}

#[test]
fn each_key_of_spires_agent_stands_in_the_table_of_operations() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, table) = text.split_once("## Configuration of the agent").unwrap();
    let (table, _) = table.split_once("### `WorkloadAttestor").unwrap();
    let experimental = EXPERIMENTAL.iter().map(|(key, ..)| *key);
    for key in KEYS.iter().map(|(key, ..)| *key).chain(experimental) {
        let name = key.rsplit('.').next().unwrap();
        let is_told = table.contains(name)
            || (name.starts_with("profiling") && table.contains("profiling_*"))
            || (name.ends_with("named_pipe_name") && table.contains("named pipes"));
        assert!(is_told, "{name}");
    }
}

#[test]
fn rebootstrapping_has_spires_modes_and_delay() {
    let of = |lines: &str| {
        let text = with(lines).replace("insecure_bootstrap = true", r#"trust_bundle_path = "x""#);
        load(&text).map(|(config, _)| config.rebootstrap)
    };
    let usual = Rebootstrap {
        mode: Mode::Never,
        delay: Duration::from_secs(600),
    };
    assert_eq!(of("").unwrap(), usual);
    for (mode, read) in [
        ("never", Mode::Never),
        ("auto", Mode::Auto),
        ("always", Mode::Always),
    ] {
        assert_eq!(
            of(&format!("rebootstrap_mode = {mode:?}")).unwrap().mode,
            read
        );
    }
    assert_eq!(
        of(r#"rebootstrap_delay = "90s""#).unwrap().delay,
        Duration::from_secs(90)
    );
    let error = of(r#"rebootstrap_mode = "sometimes""#)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("unknown rebootstrap mode specified: sometimes"),
        "{error}"
    );
    let error = refusal(&with(r#"rebootstrap_mode = "auto""#));
    assert!(
        error.contains("insecure_bootstrap option can not be used with rebootstrapping"),
        "{error}"
    );
}

#[test]
fn the_first_bundle_comes_from_exactly_one_place() {
    for (lines, words) in [
        (
            r#"trust_bundle_unix_socket = "/x""#,
            "if trust_bundle_unix_socket is specified, so must be trust_bundle_url",
        ),
        (
            r#"trust_bundle_unix_socket = "/x" trust_bundle_url = "https://here/""#,
            "must start with http://",
        ),
        (
            r#"trust_bundle_spiffe_workload_api = "unix:///x" trust_bundle_path = "y""#,
            "only one of",
        ),
        (
            r#"trust_bundle_spiffe_workload_api = "unix:///x" trust_bundle_unix_socket = "/x""#,
            "can not be used with trust_bundle_spiffe_workload_api",
        ),
        (
            r#"trust_bundle_spiffe_workload_api = "here""#,
            "`agent.trust_bundle_spiffe_workload_api`",
        ),
        (
            r#"trust_bundle_url = "http://here/""#,
            "must start with https://",
        ),
    ] {
        let error = refusal(&with(lines).replace("insecure_bootstrap = true", ""));
        assert!(error.contains(words), "{words} is not in:\n{error}");
    }
}
