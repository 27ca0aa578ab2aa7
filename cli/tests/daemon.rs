//! `server run|validate|backup|restore` and `agent validate` of the built program.

mod support;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use support::running::{Running, free_port, server_file};
use support::{Program, Run, text};

fn server(args: &[&str]) -> Run {
    Program::called("spire-server").run(args)
}

#[test]
fn a_good_file_is_valid_and_a_bad_one_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let good = server_file(folder.path(), 8081, "");
    let run = server(&["validate", "-config", &good]);
    assert_eq!(
        (run.out.as_str(), run.code),
        ("SPIRE server configuration file is valid.\n", Some(0)),
        "{}",
        run.err
    );

    let bad = folder.path().join("bad.conf");
    for (content, words) in [
        ("server {", "unable to decode configuration at "),
        (
            "server { data_dir = \"d\" }",
            "trust_domain must be configured",
        ),
        (
            "server { trust_domain = \"Exa mple\" data_dir = \"d\" }",
            "trust domain characters are limited to",
        ),
        (
            "server { trust_domain = \"a.b\" data_dir = \"d\" bind_prot = 1 }",
            "bind_prot",
        ),
    ] {
        std::fs::write(&bad, content).unwrap();
        for verb in ["validate", "run"] {
            let run = server(&[verb, "-config", text(&bad)]);
            assert_eq!(run.code, Some(1), "{content}");
            assert!(run.err.contains(words), "{content}: {}", run.err);
            let named = run
                .err
                .starts_with("SPIRE server configuration file is invalid: ");
            assert_eq!(named, verb == "validate", "{}", run.err);
        }
    }
    let run = server(&["run", "-config", "/nonexistent"]);
    assert_eq!(
        run.err,
        "could not find config file /nonexistent: please use the -config flag\n"
    );
    assert_eq!(run.code, Some(1));
}

#[test]
fn flags_win_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = server_file(folder.path(), 8081, "");
    let run = server(&["validate", "-config", &file, "-trustDomain", "no/domain"]);
    assert_eq!(run.code, Some(1));
    assert!(run.err.contains("no/domain"), "{}", run.err);
}

#[test]
fn a_server_ends_gracefully_on_sigterm_and_sigint() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let folder = tempfile::tempdir().unwrap();
        let file = server_file(folder.path(), free_port(), "");
        let running = Running::start(&file, folder.path());
        assert_eq!(running.end(signal), Some(0));
    }
}

#[test]
fn a_port_in_use_is_told_and_ends_with_1() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let file = server_file(folder.path(), port, "");
    let run = server(&["run", "-config", &file]);
    assert_eq!(run.code, Some(1));
    assert!(
        run.err.contains(&format!("127.0.0.1:{port}")),
        "{}",
        run.err
    );
}

#[test]
fn a_backup_makes_the_same_entries_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = server_file(folder.path(), free_port(), "");
    let socket = folder.path().join("api.sock");
    let running = Running::start(&file, folder.path());
    let created = server(&[
        "entry",
        "create",
        "-socketPath",
        text(&socket),
        "-spiffeID",
        "spiffe://example.org/a",
        "-parentID",
        "spiffe://example.org/p",
        "-selector",
        "unix:uid:1",
    ]);
    assert_eq!(created.code, Some(0), "{}", created.err);
    let shown = server(&["entry", "show", "-socketPath", text(&socket)]).out;
    let data = folder.path().join("data");
    let backup = folder.path().join("backup");
    let save = || server(&["backup", "-dataDir", text(&data), "-out", text(&backup)]);
    let locked = save();
    assert_eq!(locked.code, Some(1), "the server runs");
    assert!(locked.err.contains("-socketPath"), "{}", locked.err);
    assert!(!backup.try_exists().unwrap());
    let ask = |out: &str, more: &[&str]| {
        let out = folder.path().join(out);
        let socket = ["backup", "-socketPath", text(&socket), "-out", text(&out)];
        server(&[&socket, more].concat())
    };
    let asked = ask("live", &[]);
    assert_eq!(asked.code, Some(0), "{}", asked.err);
    assert!(asked.out.contains("the server that runs"), "{}", asked.out);
    let again = ask("live", &["-dataDir", text(&data)]);
    assert_eq!(again.code, Some(1), "a backup is not overwritten");
    assert_eq!(running.end(Signal::SIGTERM), Some(0));
    let saved = save();
    assert_eq!(saved.code, Some(0), "{}", saved.err);
    assert!(saved.out.contains("the stopped server"), "{}", saved.out);
    let gone = ask("gone", &["-dataDir", text(&data)]);
    assert_eq!(gone.code, Some(0), "{}", gone.err);
    assert!(gone.err.contains("No server answers"), "{}", gone.err);
    assert!(gone.out.contains("the stopped server"), "{}", gone.out);
    assert_eq!(save().code, Some(1), "a backup is not overwritten");

    let keys = std::fs::read(data.join("keys.json")).unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("keys.json"), keys).unwrap();
    let live = folder.path().join("live");
    let restored = server(&["restore", "-dataDir", text(&data), "-in", text(&live)]);
    assert_eq!(restored.code, Some(0), "{}", restored.err);
    let running = Running::start(&file, folder.path());
    assert_eq!(
        server(&["entry", "show", "-socketPath", text(&socket)]).out,
        shown
    );
    assert_eq!(running.end(Signal::SIGTERM), Some(0));
}

#[test]
fn an_agent_attests_opens_its_socket_to_all_users_and_ends_on_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&folder.path().join(name)).to_owned();
    let port = free_port();
    let file = server_file(folder.path(), port, "");
    let running = Running::start(&file, folder.path());
    let socket = path("api.sock");
    let ask = |args: &[&str]| server(&[args, &["-socketPath", &socket]].concat()).out;
    std::fs::write(path("boot.pem"), ask(&["bundle", "show"])).unwrap();
    let token = ask(&[
        "token",
        "generate",
        "-spiffeID",
        "spiffe://example.org/host",
    ]);
    let token = token.trim().strip_prefix("Token: ").unwrap();
    let config = format!(
        "agent {{ server_address = \"127.0.0.1\" server_port = \"{port}\" trust_domain = \"example.org\"\n\
         data_dir = \"{}\" socket_path = \"{}\" trust_bundle_path = \"{}\" }}\n\
         plugins {{ KeyManager \"disk\" {{ plugin_data {{ directory = \"{}\" }} }} NodeAttestor \"join_token\" {{ plugin_data {{}} }}\n\
         WorkloadAttestor \"unix\" {{ plugin_data {{}} }} }}\n",
        path("agent"),
        path("public/agent.sock"),
        path("boot.pem"),
        path("agent"),
    );
    std::fs::write(path("agent.conf"), config).unwrap();
    let workload = folder.path().join("public/agent.sock");
    let agent = Running::program(
        "spire-agent",
        &path("agent.conf"),
        &workload,
        &["-joinToken", token],
    );
    let mode = std::fs::metadata(path("public"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o755);
    let fetch =
        Program::called("spire-agent").run(&["api", "fetch", "-socketPath", text(&workload)]);
    assert_eq!(
        fetch.err,
        "rpc error: code = PermissionDenied desc = no identity issued\n"
    );
    assert_eq!(agent.end(Signal::SIGTERM), Some(0));

    // It comes back without a token, as who it was.
    let agent = Running::program("spire-agent", &path("agent.conf"), &workload, &[]);
    assert_eq!(ask(&["agent", "count"]), "1 attested agent\n");
    assert_eq!(agent.end(Signal::SIGTERM), Some(0));
    assert_eq!(running.end(Signal::SIGTERM), Some(0));
}

#[test]
fn an_agents_file_is_validated() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.conf");
    let agent = |content: &str| {
        std::fs::write(&file, content).unwrap();
        Program::called("spire-agent").run(&["validate", "-config", text(&file)])
    };
    let plugins = "plugins { KeyManager \"memory\" { plugin_data {} } NodeAttestor \"join_token\" { plugin_data {} } WorkloadAttestor \"unix\" { plugin_data {} } }";
    let good = agent(&format!(
        "agent {{ server_address = \"localhost\" server_port = 8081 trust_domain = \"example.org\" insecure_bootstrap = true }} {plugins}"
    ));
    assert_eq!(
        (good.out.as_str(), good.code),
        ("SPIRE agent configuration file is valid.\n", Some(0)),
        "{}",
        good.err
    );
    let bad = agent(&format!(
        "agent {{ server_address = \"localhost\" trust_domain = \"example.org\" insecure_bootstrap = true }} {plugins}"
    ));
    assert_eq!(
        (bad.err.as_str(), bad.code),
        (
            "SPIRE agent configuration file is invalid: server_port must be configured\n",
            Some(1)
        )
    );
}
