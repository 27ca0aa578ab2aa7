//! The program as its callers meet it, without a server.

mod support;

use std::io::Read;
use std::process::Stdio;

use support::{Program, text};

#[test]
fn the_version_stands_on_standard_error() {
    for name in ["signet", "spire-server", "spire-agent"] {
        for flag in ["-version", "--version", "-v"] {
            let run = Program::called(name).run(&[flag]);
            assert_eq!(run.err, format!("{}\n", env!("CARGO_PKG_VERSION")));
            assert_eq!((run.out.as_str(), run.code), ("", Some(0)));
        }
    }
}

#[test]
fn help_lists_the_commands_and_an_unknown_one_ends_with_127() {
    let program = Program::called("signet");
    let help = program.run(&["--help"]);
    assert_eq!(help.code, Some(0));
    assert!(
        help.err
            .starts_with("Usage: signet [--version] [--help] <command> [<args>]\n")
    );
    for command in ["agent", "dev", "server"] {
        assert!(
            help.err.contains(&format!("\n    {command}")),
            "{}",
            help.err
        );
    }
    let unknown = program.run(&["bogus"]);
    assert_eq!((unknown.err, unknown.code), (help.err, Some(127)));
    assert_eq!(program.run(&[""; 0]).code, Some(127));
    assert_eq!(program.run(&["server", "bogus"]).code, Some(127));
}

#[test]
fn a_pipe_that_is_closed_early_is_no_panic() {
    let program = Program::called("spire-server");
    let mut child = program
        .command()
        .args(["healthcheck", "-verbose", "-socketPath", "/nonexistent"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(!err.contains("panicked"), "{err}");
    assert!(err.ends_with("Error: server is unhealthy: unable to determine health\n"));
}

#[test]
fn an_instance_is_looked_up_in_the_template_of_the_environment() {
    let program = Program::called("spire-server");
    let output = program
        .command()
        .env(
            "SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE",
            "/nonexistent/%i.sock",
        )
        .args(["entry", "count", "-instance", "blue"])
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(
        err.contains("dial unix ///nonexistent/blue.sock: connect: no such file"),
        "{err}"
    );
    let run = program.run(&["entry", "count", "-instance", "blue"]);
    assert_eq!(
        run.err,
        "Error: you must define SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE to use the instance flag\n"
    );
}

#[test]
fn files_of_entries_are_refused_in_spires_words() {
    let program = Program::called("spire-server");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("e.json");
    for (content, refusal) in [
        (
            "{\"entries\":[{}]}",
            "Error: invalid SPIFFE ID: cannot be empty\n",
        ),
        (
            "{\"entries\":[null]}",
            "Error: missing registration entry\n",
        ),
    ] {
        std::fs::write(&file, content).unwrap();
        let run = program.run(&["entry", "create", "-data", text(&file)]);
        assert_eq!((run.err.as_str(), run.code), (refusal, Some(1)));
    }
    std::fs::write(&file, "no").unwrap();
    for args in [
        ["entry", "create", "-data"],
        ["entry", "update", "-data"],
        ["entry", "delete", "-file"],
    ] {
        let [group, verb, flag] = args;
        let run = program.run(&[group, verb, flag, text(&file)]);
        assert_eq!((run.out.as_str(), run.code), ("", Some(1)));
        assert!(run.err.starts_with("Error: "), "{}", run.err);
    }
}
