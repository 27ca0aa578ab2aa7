//! Who is behind a socket, when somebody lies about it.

use std::process::Command;

use tests::domain::Plan;
use tests::process::{Process, run};
use tests::programs::Make::Signet;
use tests::scenarios::wait_for_svid;

const HOSTILE: &str = env!("CARGO_BIN_EXE_hostile");

#[test]
fn a_recycled_pid_gets_nobody_elses_identity() {
    let rounds = super::rounds(300);
    let mut command = Command::new("unshare");
    command.args([
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        HOSTILE,
        "reuse",
    ]);
    let printed = run(command.arg(rounds.to_string())).success();
    println!("{printed}");
    assert!(printed.contains(&format!("reused={rounds} ")), "{printed}");
    assert!(
        printed.contains(&format!("refused={rounds} wrong=0")),
        "{printed}"
    );
}

#[test]
fn a_stream_ends_with_the_process_that_opened_it_and_not_with_the_connection() {
    let domain = Plan::new(Signet).start();
    let agent = domain.agent(Signet);
    domain.entry(&agent, "/web", "unix:uid:0", &[]);
    wait_for_svid(&agent, "/web");
    let mut hostile = Process::start(
        "hostile",
        Command::new(HOSTILE).arg("pass-on").arg(agent.socket()),
    );
    hostile.line("stream of spiffe://example.org/web");
    hostile.line("passed on to ");
    // The child holds the connection open; only the agent can have closed it.
    hostile.line("the stream ended: true");
    assert!(hostile.wait().success());
}
