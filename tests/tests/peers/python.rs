//! py-spiffe, unmodified, over grpcio: it sends the percent-encoded path as `:authority`.

use std::process::Command;

use tests::domain::{Agent, Domain, Plan};
use tests::process::{Process, run};
use tests::programs::Make::Signet;
use tests::scenarios::wait_for_svid;

fn script(name: &str, agent: &Agent) -> Option<Command> {
    let mut command = tests::peers::python()?;
    command.arg(format!(
        "{}/peers/python/{name}.py",
        env!("CARGO_MANIFEST_DIR")
    ));
    command.arg(agent.endpoint());
    Some(command)
}

fn start(keys: &str) -> (Domain, Agent) {
    let domain = Plan::new(Signet).key(keys).start();
    let agent = domain.agent(Signet);
    domain.entry(&agent, "/first", "unix:uid:0", &["-hint", "internal"]);
    wait_for_svid(&agent, "/first");
    (domain, agent)
}

#[test]
fn py_spiffe_fetches_and_validates_everything() {
    let (_domain, agent) = start("");
    let Some(mut fetch) = script("fetch", &agent) else {
        return;
    };
    let printed = run(&mut fetch).success();
    for expected in [
        "x509 spiffe://example.org/first",
        "x509 bundle example.org 1",
        "jwt spiffe://example.org/first",
        "jwt valid spiffe://example.org/first",
        "jwt refused for another audience",
        "jwt bundle example.org",
    ] {
        assert!(printed.contains(expected), "no `{expected}` in:\n{printed}");
    }
}

#[test]
fn py_spiffe_watches_a_rotation() {
    let (_domain, agent) = start(r#"default_x509_svid_ttl = "20s""#);
    let Some(mut watch) = script("watch", &agent) else {
        return;
    };
    let mut watch = Process::start("py-spiffe", &mut watch);
    let (first, after) = watch.line_after(0, "serial ");
    let (second, after) = watch.line_after(after, "serial ");
    let (third, _) = watch.line_after(after, "serial ");
    assert_ne!(first, second);
    assert_ne!(second, third);
}
