//! What we ship for others to run is accepted by what we build.

use std::path::Path;
use std::process::Command;

use tests::process::run;
use tests::programs::signet;

#[test]
fn the_configurations_of_the_manifests_are_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../k8s/deploy/signet");
    for part in ["server", "agent"] {
        let mut command = Command::new(signet());
        command.args([part, "validate", "-expandEnv", "-config"]);
        command.arg(folder.join(format!("{part}.conf")));
        let ended = run(command.env("MY_NODE_ADDRESS", "10.0.0.1"));
        assert!(ended.clone().success().contains("is valid"), "{ended:?}");
    }
}
