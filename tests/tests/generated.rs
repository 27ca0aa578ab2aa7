//! The Rust and the descriptors under `proto/src/generated/` are what `proto/protos/` says.
//!
//! This is also the generator: with `UPDATE_GENERATED=1` it rewrites the folder instead of comparing
//! it. A build script would make every clean build pay for a Protobuf compiler.
#![expect(
    clippy::unwrap_used,
    reason = "a test tells of a broken set-up by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;
use prost_types::FileDescriptorSet;

const COMMAND: &str = "UPDATE_GENERATED=1 cargo test -p tests --test generated";

const SERVER_PROTOS: &[&str] = &[
    "signet/agent/v1/feed.proto",
    "signet/server/v1/backup.proto",
    "signet/server/v1/import.proto",
    "spire/server/agent.proto",
    "spire/server/bundle.proto",
    "spire/server/debug.proto",
    "spire/server/entry.proto",
    "spire/server/localauthority.proto",
    "spire/server/logger.proto",
    "spire/server/svid.proto",
    "spire/server/trustdomain.proto",
];

/// What is served on an agent's admin socket.
const AGENT_PROTOS: &[&str] = &[
    "signet/node/v1/explain.proto",
    "signet/node/v1/node.proto",
    "spire/agent/debug.proto",
    "spire/agent/delegatedidentity.proto",
    "spire/agent/logger.proto",
];

/// Messages whose `Debug` is written by hand in `proto/src/redacted.rs`.
const SECRETS: &[&str] = &[
    ".X509SVID",
    ".JWTSVID",
    ".WITSVID",
    ".ValidateJWTSVIDRequest",
    ".spire.api.agent.delegatedidentity.v1.X509SVIDWithKey",
    ".spire.api.types.JWTSVID",
    ".spire.api.types.WITSVID",
    ".spire.api.types.JoinToken",
    ".spire.api.types.AttestationData",
    ".spire.api.server.agent.v1.CreateJoinTokenRequest",
    ".csi.v1.NodePublishVolumeRequest",
    ".signet.records.v1.SealedX509Svid",
    ".signet.records.v1.SealedJwtSvid",
];

#[test]
fn committed_code_is_what_the_protos_generate() {
    let committed = proto_crate().join("src/generated");
    let fresh = generate();

    if update_is_asked_for() {
        fs::remove_dir_all(&committed).unwrap();
        fs::create_dir_all(&committed).unwrap();
        for (name, content) in &fresh {
            fs::write(committed.join(name), content).unwrap();
        }
    }

    let found = files(&committed);
    let differing: BTreeSet<&String> = fresh
        .keys()
        .chain(found.keys())
        .filter(|name| fresh.get(*name) != found.get(*name))
        .collect();
    assert!(
        differing.is_empty(),
        "proto/src/generated differs from proto/protos in {differing:?}; update it with `{COMMAND}`"
    );
}

#[test]
fn every_proto_file_is_compiled() {
    let root = proto_crate().join("protos");
    let mut expected: Vec<String> = SERVER_PROTOS.iter().map(|&p| p.to_owned()).collect();
    expected.extend(AGENT_PROTOS.iter().map(|&p| p.to_owned()));
    expected.extend(
        [
            "csi/csi.proto",
            "kubelet/pluginregistration.proto",
            "kubelet/pod.proto",
            "kubelet/pods.proto",
            "signet/records/v1/records.proto",
            "signet/records/v1/sealed.proto",
            "spire/types.proto",
            "workload.proto",
        ]
        .map(str::to_owned),
    );
    expected.sort();

    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(&root).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    assert_eq!(found, expected);
}

/// All generated files, by name.
fn generate() -> BTreeMap<String, Vec<u8>> {
    let out = tempfile::tempdir().unwrap();
    let types = "crate::spire::types";

    rust(&["workload.proto"], None, out.path());
    let records = [
        "signet/records/v1/records.proto",
        "signet/records/v1/sealed.proto",
    ];
    rust(&records, None, out.path());
    rust(&["csi/csi.proto"], None, out.path());
    rust(&["kubelet/pluginregistration.proto"], None, out.path());
    rust(&["kubelet/pod.proto"], None, out.path());
    rust(&["kubelet/pods.proto"], None, out.path());
    rust(&["spire/types.proto"], None, out.path());
    rust(SERVER_PROTOS, Some(types), out.path());
    rust(AGENT_PROTOS, Some(types), out.path());

    let mut generated = files(out.path());
    generated
        .values_mut()
        .for_each(|code| *code = erase_messages(code));
    generated.insert("agent.bin".to_owned(), descriptors(AGENT_PROTOS));
    generated.insert("server.bin".to_owned(), descriptors(SERVER_PROTOS));
    generated.insert("workload.bin".to_owned(), descriptors(&["workload.proto"]));
    generated
}

/// Generates the Rust of `protos`. `types` is where that of `spire.api.types` is found, if not here.
fn rust(protos: &[&str], types: Option<&str>, out: &Path) {
    let mut config = tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .skip_debug(SECRETS)
        .emit_rerun_if_changed(false)
        .out_dir(out);
    if let Some(types) = types {
        config = config.extern_path(".spire.api.types", types);
    }
    let mut prost = tonic_prost_build::Config::new();
    prost.default_package_filename("workload");
    config
        .compile_fds_with_config(compile(protos, true), prost)
        .unwrap();
}

/// Has a generated client's calls of one answer made by `proto/src/erased.rs`: what tonic does for a call is made
/// anew for each pair of messages otherwise, and the program has some seventy.
fn erase_messages(code: &[u8]) -> Vec<u8> {
    const CODEC: &str = "\n            let codec = tonic_prost::ProstCodec::default();";
    const CALL: &str = "self.inner.unary(req, path, codec).await";
    let code = std::str::from_utf8(code).unwrap();
    let mut calls = code.split(CODEC);
    let mut erased = calls.next().unwrap().to_owned();
    for call in calls {
        let (this, others) = call.split_at(call.find("\n        }").unwrap());
        if this.contains(CALL) {
            let ours = "crate::erased::unary(&mut self.inner, req, path).await";
            erased += &this.replace(CALL, ours);
        } else {
            erased = erased + CODEC + this;
        }
        erased += others;
    }
    erased.into_bytes()
}

/// The descriptors of `protos` and their imports, without comments.
fn descriptors(protos: &[&str]) -> Vec<u8> {
    compile(protos, false).encode_to_vec()
}

fn compile(protos: &[&str], comments: bool) -> FileDescriptorSet {
    let root = proto_crate().join("protos");
    let mut compiler = protox::Compiler::new([&root]).unwrap();
    compiler.include_source_info(comments).include_imports(true);
    compiler
        .open_files(protos.iter().map(|proto| root.join(proto)))
        .unwrap();
    compiler.file_descriptor_set()
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                fs::read(entry.path()).unwrap(),
            )
        })
        .collect()
}

fn proto_crate() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("proto")
}

#[expect(
    clippy::disallowed_methods,
    reason = "the switch of a developer's tool"
)]
fn update_is_asked_for() -> bool {
    std::env::var("UPDATE_GENERATED").is_ok_and(|value| value == "1")
}
