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
    let mut command = in_a_pid_namespace("reuse");
    let printed = run(command.arg(rounds.to_string())).success();
    println!("{printed}");
    assert!(printed.contains(&format!("reused={rounds} ")), "{printed}");
    assert!(
        printed.contains(&format!("refused={rounds} wrong=0")),
        "{printed}"
    );
}

#[test]
fn an_exec_after_the_connect_is_no_way_to_a_better_program() {
    let rounds = super::rounds(300);
    let printed = run(Command::new(HOSTILE).args(["exec", &rounds.to_string()])).success();
    println!("{printed}");
    assert!(printed.contains(&format!("rounds={rounds} ")), "{printed}");
    assert!(printed.contains(" wrong=0"), "{printed}");
    // Those that ran it before they were looked at; the others may have been looked at first.
    let refused = printed.split("refused=").nth(1).expect("a count");
    let refused = refused.split(' ').next().and_then(|text| text.parse().ok());
    assert!(
        refused.is_some_and(|refused: u32| refused >= rounds.div_ceil(2)),
        "{printed}"
    );
}

#[test]
fn a_connection_that_was_handed_over_ends_with_the_first_word_of_its_new_holder() {
    let domain = Plan::new(Signet).start();
    let agent = domain.agent(Signet);
    domain.entry(&agent, "/web", "unix:uid:0", &[]);
    wait_for_svid(&agent, "/web");
    for _ in 0..super::rounds(1).min(200) {
        let mut hostile = Process::start(
            "hostile",
            Command::new(HOSTILE).arg("hand-over").arg(agent.socket()),
        );
        hostile.line("stream of spiffe://example.org/web");
        hostile.line("handed over to ");
        hostile.line("the connection ended, the ping answered: false");
        // Only the agent can have closed it.
        hostile.line("the opener lives");
        assert!(hostile.wait().success());
    }
}

/// A caller with the agent's own number in its own namespace is a caller as any other: the agent's probes of
/// itself are not logged, this is.
#[test]
fn a_process_that_has_the_agents_pid_in_a_namespace_of_its_own_is_not_the_agent() {
    let domain = Plan::new(Signet).start();
    let mut agent = domain.agent(Signet);
    domain.entry(&agent, "/web", "unix:uid:4711", &[]);
    let pid = agent.process.pid().to_string();
    let mut command = in_a_pid_namespace("collide");
    let printed = run(command.arg(&pid).arg(agent.socket())).success();
    assert!(printed.contains("refused: PermissionDenied"), "{printed}");
    assert!(printed.contains("collided"), "{printed}");
    let line = agent.process.line("No identity issued");
    assert!(line.contains("peer.pid="), "{line}");
    assert!(!line.contains(&format!("peer.pid={pid} ")), "{line}");
}

#[test]
fn an_agent_apart_from_its_hosts_pids_knows_it_at_its_start_and_serves_nobody_from_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("socket");
    let mut hostile = Process::start("hostile", in_a_pid_namespace("listen").arg(&socket));
    hostile.line(r#"blindness: Some("own_pid_namespace")"#);
    hostile.line("listening");
    let _connection = std::os::unix::net::UnixStream::connect(&socket).expect("a connection");
    hostile.line(r#"peer: Some("foreign_pid_namespace")"#);
    assert!(hostile.wait().success());
    // Its `/proc` may be that of another namespace besides.
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", HOSTILE, "listen"]);
    let mut hostile = Process::start("hostile", command.arg(folder.path().join("other")));
    hostile.line(r#"blindness: Some("foreign_proc")"#);
}

/// A hostile program that is the first process of a pid namespace.
fn in_a_pid_namespace(attack: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args([
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        HOSTILE,
        attack,
    ]);
    command
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
