//! Federation relationships by SPIRE's commands, with the output recorded of SPIRE. Of its words,
//! those about its database are ours.

mod support;

use support::running::{Running, free_port, server_file};
use support::{Program, text};

/// In the order of the recording; the work folder is `/W`.
const RECORDED: &str = include_str!("federation.txt");

#[test]
fn relationships_are_made_changed_shown_and_removed_with_spires_words() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    std::fs::write(
        work.join("b.pem"),
        include_str!("../src/admin/bundles/recorded.pem"),
    )
    .unwrap();
    std::fs::write(
        work.join("b.spiffe"),
        include_str!("../src/admin/bundles/recorded.json"),
    )
    .unwrap();
    let item = |name: &str, path: &str| {
        format!(
            r#"{{"trustDomain":"{name}","bundleEndpointURL":"https://127.0.0.1:9/{path}/b","bundleEndpointProfile":"https_web"}}"#
        )
    };
    let data = format!(
        r#"{{"federationRelationships":[{},{}]}}"#,
        item("fj1.org", "fj1"),
        item("example.org", "fj2")
    );
    std::fs::write(work.join("f.json"), data).unwrap();
    let file = server_file(work, free_port(), "");
    let _running = Running::start(&file, work);
    let program = Program::called("spire-server");
    let mut count = 0;
    for sample in RECORDED.split("\n\n") {
        let line = sample.lines().next().unwrap();
        let line = line
            .trim_start_matches("$ spire-server ")
            .replace("/W", text(work));
        let mut args: Vec<&str> = line.split(' ').collect();
        let socket = work.join("api.sock");
        args.extend(["-socketPath", text(&socket)]);
        let run = program.run(&args);
        assert_eq!(run.out, said(sample, "O|"), "standard output of `{line}`");
        assert_eq!(run.err, said(sample, "E|"), "standard error of `{line}`");
        let code = run.code.unwrap();
        assert!(
            sample.trim_end().ends_with(&format!("[exit {code}]")),
            "{line}: {code}"
        );
        count += 1;
    }
    assert!(count > 25, "only {count} samples");
}

fn said(sample: &str, mark: &str) -> String {
    let lines = sample.lines().filter_map(|line| line.strip_prefix(mark));
    lines.map(|line| format!("{line}\n")).collect()
}
