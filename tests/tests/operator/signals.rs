//! The signals that SPIRE's programs heed besides those that end them.

use std::path::Path;

use nix::sys::signal::Signal;
use tests::domain::Plan;
use tests::process::{Process, eventually};
use tests::programs::Make::Signet;

#[test]
fn a_server_and_an_agent_open_their_log_anew_and_outlive_a_request_to_configure_plugins_anew() {
    let logs = tempfile::tempdir().unwrap();
    let [of_server, of_agent] = ["server", "agent"].map(|name| logs.path().join(name));
    let key = |log: &Path| format!("log_file = {log:?}");
    let mut domain = Plan::new(Signet).key(&key(&of_server)).start();
    let mut agent = domain.agent_with(Signet, &key(&of_agent));
    for (process, log) in [
        (&mut domain.server, &of_server),
        (&mut agent.process, &of_agent),
    ] {
        heeds_both(process, log);
    }
}

fn heeds_both(process: &mut Process, log: &Path) {
    let logged = || std::fs::read_to_string(log).unwrap_or_default();
    std::fs::rename(log, log.with_extension("old")).unwrap();
    process.signal(Signal::SIGUSR2);
    eventually("the log is there again", || {
        logged().contains("Opened the log file anew")
    });
    process.signal(Signal::SIGUSR1);
    eventually("the request is answered", || {
        logged().contains("Asked to configure plugins anew")
    });
    assert!(process.is_running());
}
