//! Facts about configuration files.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;

use super::tree::MAX_DEPTH;
use super::*;

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct File {
    server: Server,
    plugins: BTreeMap<String, BTreeMap<String, Plugin>>,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Server {
    trust_domain: String,
    bind_port: u16,
    audit: Option<bool>,
    ratio: f64,
    admin_ids: Vec<String>,
    ca_subject: Subject,
    level: Level,
    sinks: Vec<Sink>,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Subject {
    country: Vec<String>,
    common_name: String,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Plugin {
    enabled: Option<bool>,
    plugin_data: Body,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Sink {
    address: String,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Level {
    #[default]
    Info,
    Debug,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Data {
    directory: String,
}

fn decoded(text: &str) -> (File, Vec<String>) {
    let (file, unknown) = decode::<File>(&parse(text).unwrap()).unwrap();
    (file, unknown.iter().map(ToString::to_string).collect())
}

fn refusal(text: &str) -> String {
    let refused = parse(text).and_then(|document| decode::<File>(&document));
    refused.unwrap_err().to_string()
}

const EXAMPLE: &str = r#"
# A file as operators write them.
Server {
    trust_domain = "example.org" // the name
    BIND_PORT    = "8081"
    audit = true, ratio = 1.5e1
    admin_ids = ["spiffe://example.org/a", "b",]
    ca_subject {
        country = ["US"]
        "common_name" = "x\t\"y\""
    }
    level = "debug"
    sinks = [{ address = "one" }, { address = "two" }]
}
/* Plugins come once
   or repeated. */
plugins {
    KeyManager "disk" { plugin_data { directory = "./data" } }
    NodeAttestor "join_token" { plugin_data {} }
}
plugins "NodeAttestor" "x509pop" {
    enabled = false
    plugin_data = { ca = "${unchanged "quotes"}" }
}
"#;

#[test]
fn reads_the_habits_of_hcls_first_version() {
    let (file, unknown) = decoded(EXAMPLE);
    assert_eq!(unknown, [""; 0]);
    assert_eq!(file.server.trust_domain, "example.org");
    assert_eq!(file.server.bind_port, 8081);
    assert_eq!(file.server.audit, Some(true));
    assert!((file.server.ratio - 15.0).abs() < f64::EPSILON);
    assert_eq!(file.server.admin_ids, ["spiffe://example.org/a", "b"]);
    assert_eq!(file.server.ca_subject.country, ["US"]);
    assert_eq!(file.server.ca_subject.common_name, "x\t\"y\"");
    assert_eq!(file.server.level, Level::Debug);
    assert_eq!(file.server.sinks.len(), 2);
    assert_eq!(file.plugins["NodeAttestor"].len(), 2);
    assert_eq!(file.plugins["NodeAttestor"]["x509pop"].enabled, Some(false));
}

#[test]
fn a_plugins_section_is_decoded_later_by_its_owner() {
    let (file, _) = decoded(EXAMPLE);
    let body = &file.plugins["KeyManager"]["disk"].plugin_data;
    assert_eq!(body.path(), "plugins.KeyManager.disk.plugin_data");
    let (data, unknown) = body.decode::<Data>().unwrap();
    assert_eq!(
        data,
        Data {
            directory: "./data".into()
        }
    );
    assert_eq!(unknown, []);
    let other = &file.plugins["NodeAttestor"]["x509pop"].plugin_data;
    let error = other.decode::<Data>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "`plugins.NodeAttestor.x509pop.plugin_data` (line 23): missing field `directory`"
    );
    assert!(
        file.plugins["NodeAttestor"]["join_token"]
            .plugin_data
            .is_empty()
    );
}

#[test]
fn entries_keep_the_order_of_the_file() {
    let document = parse("b \"2\" {}\na { x = 1 }\nb \"1\" {}").unwrap();
    let keys: Vec<_> = document
        .body()
        .entries()
        .map(|(key, _)| key.to_owned())
        .collect();
    assert_eq!(keys, ["b", "a", "b"]);
    let (_, second) = document.body().entries().nth(1).unwrap();
    assert_eq!(second.entries().next().unwrap().1.path(), "a.x");
}

#[test]
fn json_says_the_same() {
    let (file, unknown) = decoded(
        r#" {"server": {"trust_domain": "example.org", "bind_port": "8081", "audit": null,
             "sinks": [{"address": "one"}, {"address": "two"}]},
             "plugins": {"NodeAttestor": [{"join_token": {"plugin_data": {}}}, {"x509pop": {}}]}}"#,
    );
    assert_eq!(unknown, [""; 0]);
    assert_eq!(file.server.bind_port, 8081);
    assert_eq!(file.server.audit, None);
    assert_eq!(file.server.sinks.len(), 2);
    assert_eq!(file.plugins["NodeAttestor"].len(), 2);
}

#[test]
fn tells_every_unknown_key_with_its_place() {
    let (_, unknown) =
        decoded("server {\n bind_prot = 1\n ca_subject { city = \"x\" }\n}\nsever {}");
    assert_eq!(
        unknown,
        [
            "`server.bind_prot` (line 2)",
            "`server.ca_subject.city` (line 3)",
            "`sever` (line 5)"
        ]
    );
}

#[test]
fn refuses_what_hcls_first_version_refuses() {
    let table = [
        (
            "server { audit = \"true\" }",
            "`server.audit` (line 1): expected true or false, found a string",
        ),
        (
            "server { trust_domain = true }",
            "`server.trust_domain` (line 1): expected a string, found a bool",
        ),
        (
            "server { admin_ids = \"one\" }",
            "`server.admin_ids` (line 1): expected a list, found a string",
        ),
        (
            "server { bind_port = \"x\" }",
            "`server.bind_port` (line 1): `x` is not an integer",
        ),
        (
            "server { bind_port = 70000 }",
            "`server.bind_port` (line 1): invalid value: integer `70000`, expected u16",
        ),
        (
            "server { bind_port = 1.5 }",
            "`server.bind_port` (line 1): expected an integer, found a number with a fraction",
        ),
        (
            "server { sinks = [{}, {address=1}] }",
            "`server.sinks[0]` (line 1): missing field `address`",
        ),
        (
            "server = [1]",
            "`server` (line 1): expected a block, found a list",
        ),
        (
            "server { level = \"loud\" }",
            "`server.level` (line 1): unknown variant `loud`, expected `info` or `debug`",
        ),
    ];
    for (text, told) in table {
        assert_eq!(refusal(text), told, "{text}");
    }
}

#[test]
fn tells_where_the_text_is_no_hcl() {
    let table = [
        ("a =", "line 1: expected a value, found the end of the file"),
        ("a {\n", "line 2: expected a key, found the end of the file"),
        ("a = b", "line 1: `b` is no value: write a string in quotes"),
        ("\na = \"x\n", "line 2: string does not end on its line"),
        ("a = [1 2]", "line 1: expected `,` or `]`, found `2`"),
        ("a \"b\" = 1", "line 1: a key with a label needs a block"),
        ("/* x", "line 1: comment does not end"),
        ("a = \"\\q\"", "line 1: unknown escape in a string"),
        ("a = <<EOF\nx\n", "line 1: heredoc does not end"),
        ("a = ?", "line 1: unexpected character `?`"),
        ("= 1", "line 1: expected a key, found `=`"),
    ];
    for (text, told) in table {
        assert_eq!(parse(text).unwrap_err().to_string(), told, "{text}");
    }
}

#[test]
fn of_repeated_values_the_last_counts_and_lists_add_up() {
    let (file, _) = decoded(
        "server { bind_port = 1\n admin_ids = [\"a\"]\n ca_subject { common_name = \"x\" } }
         server { bind_port = 2\n admin_ids = [\"b\"]\n ca_subject { country = [\"US\"] } }",
    );
    assert_eq!(file.server.bind_port, 2);
    assert_eq!(file.server.admin_ids, ["a", "b"]);
    assert_eq!(file.server.ca_subject.common_name, "x");
    assert_eq!(file.server.ca_subject.country, ["US"]);
}

#[test]
fn reads_heredocs_and_integers_of_every_base() {
    #[derive(Deserialize)]
    struct Values {
        text: String,
        indented: String,
        numbers: Vec<i64>,
        number_as_text: String,
    }
    let text = "text = <<EOF\n one\ntwo\nEOF\nindented = <<-END\n    a\n      b\n    END
                numbers = [0x1F, -7, 010, \"0b11\", 0]\nnumber_as_text = 0x1F";
    let (values, _) = decode::<Values>(&parse(text).unwrap()).unwrap();
    assert_eq!(values.text, " one\ntwo\n");
    assert_eq!(values.indented, "a\n  b\n");
    assert_eq!(values.numbers, [31, -7, 8, 3, 0]);
    assert_eq!(values.number_as_text, "0x1F");
}

#[test]
fn expands_the_environment_as_go_does() {
    let environment = |name: &str| match name {
        "HOME" => Some("/root".to_owned()),
        "A" => Some("$HOME".to_owned()),
        _ => None,
    };
    let table = [
        ("x = \"$HOME/y\"", "x = \"/root/y\""),
        ("${HOME}${NONE}.$A", "/root.$HOME"),
        ("$$HOME 5$ $\"", "$HOME 5$ $\""),
        ("a${}b${HOME", "abHOME"),
    ];
    for (text, expanded) in table {
        assert_eq!(
            expand::expand(text, &environment, 1000).as_deref(),
            Some(expanded),
            "{text}"
        );
    }
    assert_eq!(expand::expand("$HOME$HOME", &environment, 9), None);
}

#[test]
fn expands_only_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.conf");
    std::fs::write(&path, "server { trust_domain = \"${TD}\" }").unwrap();
    let plain = decode::<File>(&load(&path, None).unwrap()).unwrap().0;
    assert_eq!(plain.server.trust_domain, "${TD}");
    let environment = |_: &str| Some("example.org".to_owned());
    let expanded = decode::<File>(&load(&path, Some(&environment)).unwrap())
        .unwrap()
        .0;
    assert_eq!(expanded.server.trust_domain, "example.org");
}

#[test]
fn refuses_files_that_are_missing_too_large_or_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.conf");
    assert_eq!(load(&path, None).unwrap_err().reason(), "config_read");
    std::fs::write(&path, vec![b' '; MAX_BYTES + 1]).unwrap();
    assert_eq!(load(&path, None).unwrap_err().reason(), "config_too_large");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert_eq!(load(&path, None).unwrap_err().reason(), "config_not_text");
}

#[test]
fn refuses_what_nests_too_deep_in_every_way() {
    let deep = MAX_DEPTH + 1;
    for text in [
        format!("a = {}{}", "[".repeat(deep), "]".repeat(deep)),
        "a {".repeat(100_000),
        format!("a {} {{}}", "\"b\" ".repeat(deep)),
        format!("{{\"a\": {}{}}}", "[".repeat(deep), "]".repeat(deep)),
        "{\"a\":".repeat(100_000),
    ] {
        assert!(parse(&text).is_err());
    }
    let fits = format!(
        "a = {}{}",
        "[".repeat(MAX_DEPTH - 1),
        "]".repeat(MAX_DEPTH - 1)
    );
    assert!(parse(&fits).is_ok());
}

#[test]
fn the_deepest_body_passes_through_serde() {
    let deep = "a {".repeat(MAX_DEPTH) + &"}".repeat(MAX_DEPTH);
    let (whole, _) = decode::<BTreeMap<String, Body>>(&parse(&deep).unwrap()).unwrap();
    assert!(!whole["a"].is_empty());
}

#[test]
fn many_keys_take_no_quadratic_time() {
    let text: String = (0..60_000).map(|key| format!("k{key} = 1\n")).collect();
    let (_, unknown) = decoded(&text);
    assert_eq!(unknown.len(), 60_000);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = parse(&text).map(|document| decode::<File>(&document).is_ok());
    }

    #[test]
    fn no_likely_text_makes_it_panic(
        words in proptest::collection::vec(
            prop_oneof![
                Just("server"), Just("plugins"), Just("{"), Just("}"), Just("="), Just("["), Just("]"),
                Just(","), Just("\"x\""), Just("\"${"), Just("\""), Just("\\"), Just("<<E\n"), Just("E\n"),
                Just("<<-"), Just("0x"), Just("1e"), Just("-"), Just("."), Just("true"), Just("\n"),
                Just("/*"), Just("*/"), Just("#"), Just(" "), Just("é"), Just("bind_port"), Just("1"),
            ],
            0..40,
        ),
    ) {
        let _ = parse(&words.concat()).map(|document| decode::<File>(&document).is_ok());
    }

    #[test]
    fn any_string_survives_quoting(value in "[^$]*") {
        let quoted = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\r', "\\r");
        let document = parse(&format!("server {{ trust_domain = \"{quoted}\" }}")).unwrap();
        prop_assert_eq!(decode::<File>(&document).unwrap().0.server.trust_domain, value);
    }

    #[test]
    fn expansion_never_panics(text in any::<String>()) {
        let _ = expand::expand(&text, &|name| Some(name.to_owned()), 100);
    }
}
