//! Which rooms may speak of which library.
//!
//! A library that is named in one room can be replaced there, and wire types that stop at the edge
//! do not become the model. Tests may name what they like.

use std::collections::BTreeSet;

use crate::report;
use crate::rust::{Source, code, is_word, line, sources, without_tests, words};

/// The modules that speak gRPC. Protobuf types stop there, the record codecs apart.
const EDGES: &[&str] = &[
    "proto",
    "runtime/src/listen",
    "workload-api",
    "server/src/api",
    "server/src/authority/upstream",
    "agent/src/upstream",
    "agent/src/api",
    "attestors/src/workload/k8s",
    "k8s",
    "cli",
];

/// The modules that write and read stored records.
const RECORDS: &[&str] = &[
    "proto",
    "server/src/records",
    "server/src/store",
    "server/src/authority/journal",
    "agent/src/state",
    "agent/src/sealed",
];

/// Paths, and the rooms where code may begin one with them. A room is a folder, or a module with all
/// that lies below it.
const CONFINED: &[(&[&str], &[&str])] = &[
    (
        &[
            "tonic",
            "tonic_health",
            "tonic_reflection",
            "tonic_types",
            "tonic_prost",
        ],
        EDGES,
    ),
    (
        &[
            "proto::spire",
            "proto::workload",
            "proto::csi",
            "proto::pluginregistration",
            "proto::pod",
            "proto::pods",
            "proto::signet",
        ],
        EDGES,
    ),
    (&["proto::records"], RECORDS),
    (&["envoy_types"], &["workload-api/src/sds"]),
    (&["hcl"], &["runtime/src/config"]),
    (&["redb"], &["server/src/store"]),
    (&["sled"], &["agent/src/sealed"]),
    (
        &["postgres", "tokio_postgres", "rusqlite", "sqlx"],
        &["server/src/store/postgres"],
    ),
    (
        &["kube", "k8s_openapi"],
        &["k8s", "attestors/src/node/k8s_psat", "server/src/publish"],
    ),
    (&["x509_parser", "webpki"], &["identity"]),
    (&["regex_lite"], &["attestors/src/node/http_challenge"]),
    (&["ssh_key", "num_bigint"], &["attestors/src/node/sshpop"]),
    (
        &["rcgen"],
        // The agent signs requests alone: for its workloads, and for itself.
        &[
            "server/src/authority",
            "agent/src/keys",
            "agent/src/custody",
        ],
    ),
    (
        &["jsonwebtoken"],
        &["identity/src/jwt", "server/src/authority"],
    ),
    (&["anyhow"], &["cli/src/main"]),
    (
        &["env::var", "env::vars", "env::var_os", "env::vars_os"],
        &["cli/src/main"],
    ),
];

/// Words that are not paths.
const CONFINED_WORDS: &[(&[&str], &[&str])] = &[(&["unsafe"], &["runtime"])];

/// What would make a pure crate impure, or its order depend on a hash.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "SystemRandom",
    "HashMap",
    "HashSet",
];

const PURE: &[&str] = &["identity", "policy"];

#[test]
fn libraries_stay_in_their_rooms() {
    let mut complaints = Vec::new();
    for source in production() {
        for (paths, rooms) in CONFINED {
            let stays =
                |path: &&&str| !is_in(&source.path, rooms) && !is_member(&source.path, path);
            for path in paths.iter().filter(stays) {
                for at in path_roots(&source.text, path) {
                    complaints.push(at_line(&source, at, path, rooms));
                }
            }
        }
        for (names, rooms) in CONFINED_WORDS {
            for name in names.iter().filter(|_| !is_in(&source.path, rooms)) {
                for at in words(&source.text, name) {
                    complaints.push(at_line(&source, at, name, rooms));
                }
            }
        }
    }
    report("a library is named outside of its rooms", &complaints);
}

#[test]
fn pure_crates_name_nothing_impure() {
    let mut complaints = Vec::new();
    for source in production().filter(|source| is_in(&source.path, PURE)) {
        for name in IMPURE {
            for at in words(&source.text, name) {
                complaints.push(at_line(&source, at, name, &["no pure crate"]));
            }
        }
    }
    report("a pure crate takes what it needs as arguments", &complaints);
}

#[test]
fn the_server_knows_only_the_client_of_the_workload_api() {
    let mut complaints = Vec::new();
    for source in production().filter(|source| is_in(&source.path, &["server"])) {
        for at in path_roots(&source.text, "workload_api") {
            if !source.text[at..].starts_with("workload_api::client") {
                complaints.push(at_line(
                    &source,
                    at,
                    "workload_api",
                    &["`workload_api::client`"],
                ));
            }
        }
    }
    report("the sockets belong to the agent", &complaints);
}

fn at_line(source: &Source, at: usize, name: &str, rooms: &[&str]) -> String {
    let line = line(&source.text, at);
    format!(
        "{}:{line}: `{name}` belongs to {}",
        source.path,
        rooms.join(", ")
    )
}

/// The code of all files but those of tests, blanked down to what is compiled into the program.
pub(crate) fn production() -> impl Iterator<Item = Source> {
    let mut stripped = Vec::new();
    let mut test_modules = BTreeSet::new();
    for source in sources() {
        let (text, modules) = without_tests(&code(&source.text));
        let folder = module_folder(&source.path);
        test_modules.extend(
            modules
                .into_iter()
                .map(|module| format!("{folder}/{module}")),
        );
        stripped.push(Source {
            path: source.path,
            text,
        });
    }
    stripped.into_iter().filter(move |source| {
        let is_test_crate = source
            .path
            .split('/')
            .any(|part| part == "tests" || part == "benches");
        let mut test_modules = test_modules.iter().map(String::as_str);
        !is_test_crate && !test_modules.any(|module| is_in(&source.path, &[module]))
    })
}

/// The folder where the submodules of the module in the file `path` lie.
fn module_folder(path: &str) -> &str {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    match stem.rsplit_once('/') {
        Some((folder, "lib" | "main" | "mod")) => folder,
        _ => stem,
    }
}

/// Whether the file `path` lies in one of the `rooms`.
fn is_in(path: &str, rooms: &[&str]) -> bool {
    rooms.iter().any(|room| {
        let rest = path.strip_prefix(room);
        rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    })
}

/// Whether the confined path is the crate that the file belongs to.
fn is_member(file: &str, path: &str) -> bool {
    file.split('/').next() == Some(path)
}

/// Where `path` begins a path of the code: `tonic::Status`, `use tonic;`, but neither `crate::tonic`
/// nor a variable of that name.
fn path_roots<'a>(code: &'a str, path: &'a str) -> impl Iterator<Item = usize> + 'a {
    words(code, path).filter(move |&at| {
        let before = code[..at].trim_end();
        let after = code[at + path.len()..].trim_start();
        let is_inner = before
            .strip_suffix("::")
            .is_some_and(|outer| outer.ends_with(is_word) && !path.contains("env::"));
        let outer = before.strip_suffix("::").unwrap_or(before).trim_end();
        let is_imported = outer.ends_with("use") || outer.ends_with("extern crate");
        !is_inner && (after.starts_with("::") || is_imported || path.contains("::"))
    })
}

#[test]
fn a_path_root_is_no_inner_path_and_no_variable() {
    let found = |code: &str| path_roots(code, "hcl").count();
    assert_eq!(
        found("use hcl::Body; use ::hcl as h; let x = hcl :: eval();"),
        3
    );
    assert_eq!(
        found("use crate::hcl::Body; let hcl = 1; hclx::y(); x.hcl"),
        0
    );
    assert_eq!(path_roots("std::env::var(x)", "env::var").count(), 1);
}

#[test]
fn a_room_is_a_module_with_its_submodules() {
    for inside in ["a/src/api.rs", "a/src/api/x.rs"] {
        assert!(is_in(inside, &["a/src/api"]), "{inside}");
    }
    assert!(!is_in("a/src/apis.rs", &["a/src/api"]));
    assert_eq!(module_folder("a/src/lib.rs"), "a/src");
    assert_eq!(module_folder("a/src/b.rs"), "a/src/b");
}
