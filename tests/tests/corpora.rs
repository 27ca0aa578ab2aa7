//! Replays the stored inputs of every fuzz target on the stable toolchain.

#[path = "../fuzz/bodies.rs"]
#[expect(clippy::expect_used, reason = "the fuzz targets fail by panics")]
#[expect(unreachable_pub, reason = "a library of the fuzz targets")]
mod bodies;

use std::path::Path;

type Body = fn(&[u8]);

const TARGETS: &[(&str, Body)] = &[
    ("spiffe_id", bodies::spiffe_id),
    ("bundle_json", bodies::bundle_json),
    ("jwt", bodies::jwt),
    ("csr", bodies::csr),
    ("x509_leaf", bodies::x509_leaf),
    ("hcl", bodies::hcl),
    ("attestation_payload", bodies::attestation_payload),
    ("k8s_psat", bodies::k8s_psat),
    ("kubeconfig_file", bodies::kubeconfig_file),
    ("kubelet_list", bodies::kubelet_list),
    ("kubelet_pod", bodies::kubelet_pod),
    ("container_description", bodies::container_description),
    ("dbus_message", bodies::dbus_message),
    ("proc_texts", bodies::proc_texts),
    ("authority_filter", bodies::authority_filter),
    ("cgroup", bodies::cgroup),
    ("sds_requests", bodies::sds_requests),
    ("delta_requests", bodies::delta_requests),
    ("endpoint", bodies::endpoint),
    ("endpoint_url", bodies::endpoint_url),
    ("agent_state", bodies::agent_state),
    ("backup", bodies::backup),
    ("sealed_record", bodies::sealed_record),
    ("csi_target", bodies::csi_target),
    ("csi_volume", bodies::csi_volume),
    ("volume_report", bodies::volume_report),
];

#[test]
fn every_stored_input_passes_its_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, body) in TARGETS {
        let inputs =
            std::fs::read_dir(corpus.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut count = 0;
        for input in inputs {
            let path = input.unwrap().path();
            println!("{}", path.display());
            body(&std::fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 0, "the corpus of {name} is empty");
    }
}

#[test]
fn every_target_is_replayed() {
    let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/targets");
    for target in std::fs::read_dir(targets).unwrap() {
        let path = target.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(
            TARGETS.iter().any(|(known, _)| *known == name),
            "{name} is not replayed"
        );
    }
}
