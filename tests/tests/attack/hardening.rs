//! What a process that holds keys has given up: that others of its user look into it, core files, and
//! writing and running what it never does.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use tests::domain::{Plan, free_port};
use tests::process::{Process, eventually, run};
use tests::programs::Make::Signet;
use tests::programs::signet;
use tests::scenarios::wait_for_svid;

/// A user that has nothing else here.
const NOBODY: u32 = 65_534;

#[test]
fn a_process_of_the_same_user_cannot_look_into_a_server_and_a_crash_leaves_no_core() {
    if !geteuid().is_root() {
        return println!("skipped: it takes root to become another user");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (path, port) = (folder.path(), free_port());
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("its mode");
    // Where this program lies, that user may not get in.
    let program = path.join("signet");
    fs::copy(signet(), &program).expect("a copy");
    let home = path.join("home");
    fs::create_dir(&home).expect("a folder");
    chown(&home, Some(NOBODY), Some(NOBODY)).expect("its owner");
    fs::write(path.join("server.conf"), config(&home, port)).expect("a file");

    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "ulimit -c unlimited; exec \"$0\" server run -config ../server.conf",
        ])
        .arg(&program)
        .current_dir(&home)
        .uid(NOBODY)
        .gid(NOBODY);
    let mut server = Process::start("server", &mut command);
    server.line("Listening");
    let pid = server.pid();
    for name in ["environ", "mem", "maps", "auxv"] {
        let file = format!("/proc/{pid}/{name}");
        let mut look = Command::new("cat");
        let looked = run(look.arg(&file).uid(NOBODY).gid(NOBODY));
        assert_ne!(looked.code, 0, "{file}");
        assert!(
            looked.stderr.contains("ermission denied"),
            "{}",
            looked.stderr
        );
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("they are for all");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let core: Vec<_> = core.unwrap_or_default().split_whitespace().collect();
    assert_eq!(core.get(4..6), Some(&["0", "0"][..]), "{limits}");

    // The first one may be taken for a stack that is too deep.
    eventually("it ends", || {
        server.signal(Signal::SIGSEGV);
        !server.is_running()
    });
    let ended = server.wait();
    assert_eq!(ended.signal(), Some(Signal::SIGSEGV as i32));
    assert!(!ended.core_dumped());
    let names = fs::read_dir(&home).expect("the folder").flatten();
    let cores = names.filter(|name| name.file_name().to_string_lossy().starts_with("core"));
    assert_eq!(cores.count(), 0);
}

fn config(home: &Path, port: u16) -> String {
    let home = home.display();
    format!(
        r#"server {{
    bind_address = "127.0.0.1"
    bind_port = {port}
    socket_path = "{home}/server.sock"
    trust_domain = "example.org"
    data_dir = "{home}/data"
}}
plugins {{
    DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{home}/data/db" }} }}
    KeyManager "disk" {{ plugin_data {{ keys_path = "{home}/data/keys.json" }} }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"#
    )
}

#[test]
fn a_confined_agent_serves_takes_its_socket_back_and_opens_its_log_anew() {
    let domain = Plan::new(Signet).ids_alone().start();
    let place = domain.place("");
    let logs = place.folder().join("logs");
    fs::create_dir(&logs).expect("a folder");
    let log = logs.join("agent.log");
    place.configure(
        "log_level = \"DEBUG\"",
        &format!("log_level = \"DEBUG\"\nlog_file = \"{}\"", log.display()),
    );
    let agent = place.serve();
    domain.entry(&agent, "/web", "unix:uid:0", &[]);
    wait_for_svid(&agent, "/web");
    let logged = || fs::read_to_string(&log).unwrap_or_default();
    let text = logged();
    assert!(text.contains("Confined the agent"), "{text}");
    let status = fs::read_to_string(format!("/proc/{}/status", agent.process.pid()));
    let is_confined = text.contains("sandbox=whole") || text.contains("sandbox=partial");
    assert_eq!(
        is_confined,
        status.expect("it lives").contains("NoNewPrivs:\t1"),
        "{text}"
    );

    fs::rename(&log, logs.join("agent.log.1")).expect("it is rotated");
    agent.process.signal(Signal::SIGUSR2);
    eventually("the log is there again", || {
        logged().contains("Opened the log file anew")
    });
    fs::remove_file(agent.socket()).expect("it is removed");
    eventually("the socket is there again", || {
        logged().contains("it was taken back")
    });
    wait_for_svid(&agent, "/web");
}

#[test]
fn an_agent_is_not_confined_if_it_is_told_so_or_has_to_look_at_programs() {
    for (plan, from, to, why) in [
        (
            Plan::new(Signet),
            "plugins {",
            "plugins {",
            "programs are to be looked at",
        ),
        (
            Plan::new(Signet).ids_alone(),
            "plugins {",
            "signet { sandbox = false }\nplugins {",
            "switched off",
        ),
    ] {
        let domain = plan.start();
        let place = domain.place("");
        place.configure(from, to);
        let mut agent = place.serve();
        let line = agent.process.line("The agent is not confined");
        assert!(line.contains(why), "{line}");
    }
}

#[test]
fn only_the_program_of_a_debug_build_can_be_told_where_to_die() {
    let program = fs::read(signet()).expect("the program");
    let variable = b"SIGNET_FAILPOINT";
    let knows = program.windows(variable.len()).any(|part| part == variable);
    assert_eq!(knows, cfg!(debug_assertions));
}
