//! Rules about packages: who may depend on whom, on what, and how manifests are written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use cargo_metadata::{Metadata, MetadataCommand, Package, TargetKind};

use crate::{licence, report, root};

/// One crate of ours: its level, and the crates of ours that it may depend on, tests included. Rows
/// stand here before their crates do.
const CRATES: &[(&str, u8, &[&str])] = &[
    ("proto", 0, &[]),
    ("runtime", 0, &[]),
    ("identity", 1, &[]),
    ("policy", 1, &["identity"]),
    ("attestors", 2, &["identity", "proto", "runtime"]),
    ("workload-api", 2, &["identity", "proto", "runtime"]),
    (
        "server",
        3,
        &["identity", "proto", "runtime", "attestors", "workload-api"],
    ),
    (
        "agent",
        3,
        &["identity", "proto", "runtime", "attestors", "workload-api"],
    ),
    ("k8s", 3, &["identity", "policy", "proto", "runtime"]),
    ("cli", 4, BELOW_THE_TOP),
    ("tests", 4, BELOW_THE_TOP),
];

const BELOW_THE_TOP: &[&str] = &[
    "proto",
    "runtime",
    "identity",
    "policy",
    "attestors",
    "workload-api",
    "server",
    "agent",
    "k8s",
];

/// One TLS library and one cryptography library, so that there is one to audit.
const BANNED: &[&str] = &["ring", "openssl", "openssl-sys", "native-tls"];

/// Two versions of these have types that look alike and do not fit.
const SINGLE: &[&str] = &["tonic", "prost", "rustls"];

/// What a pure crate may not link: I/O, async, clocks and randomness.
const IMPURE: &[&str] = &[
    "async-trait",
    "futures-util",
    "getrandom",
    "hyper",
    "nix",
    "parking_lot",
    "rand",
    "rustix",
    "tokio",
    "tonic",
    "tracing",
    "uuid",
];

const PURE: &[&str] = &["identity", "policy"];

#[test]
fn crates_depend_on_each_other_as_the_table_says() {
    let metadata = metadata();
    let members = members(&metadata);
    let mut complaints = Vec::new();
    for package in members.values() {
        let name = package.name.as_str();
        let Some((_, _, allowed)) = CRATES.iter().find(|(row, ..)| *row == name) else {
            complaints.push(format!("`{name}` has no row in the table"));
            continue;
        };
        for dependency in &package.dependencies {
            let on = dependency.name.as_str();
            if members.contains_key(on) && !allowed.contains(&on) {
                complaints.push(format!("`{name}` may not depend on `{on}`"));
            }
        }
    }
    report(
        "the dependency table of ARCHITECTURE.md is broken",
        &complaints,
    );
}

#[test]
fn dependencies_point_to_lower_levels() {
    let level = |name: &str| CRATES.iter().find(|row| row.0 == name).unwrap().1;
    for (name, own, allowed) in CRATES {
        for on in *allowed {
            let is_pure_upon_pure = *own == 1 && level(on) == 1;
            let is_leaf_below_pure = *own == 1 && level(on) == 0;
            assert!(
                level(on) < *own || is_pure_upon_pure,
                "`{name}` stands beside or below `{on}`"
            );
            assert!(!is_leaf_below_pure, "`{name}` is pure, and `{on}` is not");
        }
    }
}

#[test]
fn pure_crates_link_nothing_impure() {
    let metadata = metadata();
    let mut complaints = Vec::new();
    for (name, package) in members(&metadata) {
        let linked = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind == cargo_metadata::DependencyKind::Normal)
            .map(|dependency| dependency.name.as_str());
        for on in linked {
            if PURE.contains(&name) && IMPURE.contains(&on) {
                complaints.push(format!("`{name}` links `{on}`"));
            }
        }
    }
    report(
        "a pure crate does no I/O, and draws no randomness",
        &complaints,
    );
}

#[test]
fn no_crate_is_published_or_has_a_build_script_or_versions_of_its_own() {
    let metadata = metadata();
    let mut complaints = Vec::new();
    for (name, package) in members(&metadata) {
        if package.publish != Some(Vec::new()) {
            complaints.push(format!("`{name}` lacks `publish.workspace = true`"));
        }
        let is_script = |kind: &TargetKind| *kind == TargetKind::CustomBuild;
        if package.targets.iter().any(|t| t.kind.iter().any(is_script)) {
            complaints.push(format!("`{name}` has a build script"));
        }
        let manifest = fs::read_to_string(&package.manifest_path).unwrap();
        complaints.extend(own_versions(name, &manifest));
        if !manifest.contains("[lints]\nworkspace = true\n") {
            complaints.push(format!("`{name}` does not take the workspace's lints"));
        }
    }
    report("manifests are all written in one way", &complaints);
}

/// Dependencies of a manifest that do not take their version from the workspace.
fn own_versions(name: &str, manifest: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut in_dependencies = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            in_dependencies = section.contains("dependencies");
        } else if in_dependencies && line.contains('=') && !line.contains("workspace = true") {
            complaints.push(format!("`{name}`: `{line}` names a version of its own"));
        }
    }
    complaints
}

#[test]
fn no_banned_library_is_built() {
    let complaints: Vec<String> = built()
        .into_iter()
        .filter(|package| BANNED.contains(&package.name.as_str()))
        .map(|package| {
            let name = package.name;
            format!("`{name}` is built: see `cargo tree -i {name}`")
        })
        .collect();
    report("one TLS and one cryptography library", &complaints);
}

#[test]
fn no_core_library_is_built_twice() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in built() {
        let known = versions.entry(package.name).or_default();
        known.insert(package.version);
    }
    let complaints: Vec<String> = SINGLE
        .iter()
        .filter_map(|name| {
            let found = versions.get(*name).map_or(0, BTreeSet::len);
            (found != 1).then(|| format!("`{name}` is built in {found} versions"))
        })
        .collect();
    report("types of two versions do not fit together", &complaints);
}

#[test]
fn every_package_has_an_allowed_licence() {
    let built = built();
    assert!(built.len() > 100, "`cargo tree` told of too few packages");
    let complaints: Vec<String> = built
        .into_iter()
        .filter(|package| !licence::allows(&package.licence))
        .map(|package| format!("`{}` has the licence `{}`", package.name, package.licence))
        .collect();
    report(
        "a licence is not on the list of `tidy/licence.rs`",
        &complaints,
    );
}

fn metadata() -> Metadata {
    let mut command = MetadataCommand::new();
    command
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .other_options(["--locked".to_owned()]);
    command.exec().unwrap()
}

fn members(metadata: &Metadata) -> BTreeMap<&str, &Package> {
    metadata
        .workspace_packages()
        .into_iter()
        .map(|package| (package.name.as_str(), package))
        .collect()
}

#[derive(Eq, Ord, PartialEq, PartialOrd)]
struct Built {
    name: String,
    version: String,
    licence: String,
}

/// The packages that a build for this machine compiles. `Cargo.lock` and `cargo metadata` also name
/// optional ones that no feature turns on.
fn built() -> BTreeSet<Built> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--locked", "--all-features"])
        .args(["--edges", "all", "--prefix", "none", "--format", "{p}|{l}|"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(built_package).collect()
}

/// Reads `NAME vVERSION (WHERE)|LICENCE| (*)`. Lines about features are none of our business.
fn built_package(line: &str) -> Option<Built> {
    let mut parts = line.split('|');
    let mut words = parts.next()?.split_whitespace();
    let name = words.next()?;
    let version = words.next()?.strip_prefix('v')?;
    Some(Built {
        name: name.to_owned(),
        version: version.to_owned(),
        licence: parts.next()?.to_owned(),
    })
}
