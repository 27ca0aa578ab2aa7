//! `signet dev`, and the commands against the server and agent that it runs.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Program, Run, text};
use tempfile::TempDir;

/// A `signet dev` that runs.
struct Dev {
    child: Child,
    _out: BufReader<ChildStdout>,
    page: String,
    folder: TempDir,
}

impl Dev {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Program::called("signet")
            .command()
            .args(["dev", "-dir", text(folder.path())])
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut page = String::new();
        while !page.contains("\nSPIFFE_ENDPOINT_SOCKET=unix:///") || !page.ends_with('\n') {
            assert!(out.read_line(&mut page).unwrap() > 0, "it ended: {page}");
        }
        Self {
            child,
            _out: out,
            page,
            folder,
        }
    }

    fn server(&self, line: &str) -> Run {
        self.ask("spire-server", line, "server.sock")
    }

    fn agent(&self, line: &str) -> Run {
        self.ask("spire-agent", line, "agent.sock")
    }

    fn ask(&self, program: &str, line: &str, socket: &str) -> Run {
        let socket = self.folder.path().join(socket);
        let mut words: Vec<&str> = line.split(' ').collect();
        words.extend(["-socketPath", text(&socket)]);
        Program::called(program).run(&words)
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn once(folder: &Path, more: &[&str]) -> Run {
    let args = [&["dev", "-once", "-dir", text(folder)], more].concat();
    Program::called("signet").run(&args)
}

fn rows<'p>(page: &'p str, section: &str, row: &str) -> &'p str {
    let section = page
        .split("\n\n")
        .find(|text| text.starts_with(section))
        .expect("a section");
    let row = section
        .lines()
        .find(|line| line.trim_start().starts_with(row));
    row.expect("a row")
        .trim_start()
        .strip_prefix(row_name(row.unwrap()))
        .unwrap()
        .trim()
}

fn entry_id(created: &Run) -> &str {
    let line = created.out.lines().next().expect("an entry");
    line.split(": ").nth(1).unwrap()
}

fn row_name(line: &str) -> &str {
    line.trim_start().get(..15).unwrap()
}

#[test]
fn one_run_shows_a_validated_identity_and_ends() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("state");
    let run = once(&folder, &["-trust-domain", "trial.test"]);
    assert_eq!(run.code, Some(0), "{} {}", run.out, run.err);
    assert!(rows(&run.out, "X509-SVID", "SPIFFE ID").starts_with("spiffe://trial.test/user/"));
    assert!(rows(&run.out, "JWT-SVID", "Claims").contains("\"sub\":\"spiffe://trial.test/user/"));
    assert_eq!(rows(&run.out, "JWT-SVID", "Audience"), "signet-dev");
    let last = run.out.lines().last().unwrap();
    let socket = folder.join("agent.sock");
    assert_eq!(
        last,
        format!("SPIFFE_ENDPOINT_SOCKET=unix://{}", socket.display())
    );
    let mode = std::fs::metadata(&folder).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);

    let other = once(&folder, &["-trustDomain", "other.test"]);
    assert_eq!(other.code, Some(1));
    assert!(
        other
            .err
            .contains("holds the state of trust domain \"trial.test\""),
        "{}",
        other.err
    );
}

#[test]
fn a_second_run_goes_on_with_the_same_authority_and_agent() {
    let folder = tempfile::tempdir().unwrap();
    let first = once(folder.path(), &[]);
    assert_eq!(first.code, Some(0), "{}", first.err);
    let read = |file: &str| std::fs::read(folder.path().join(file)).unwrap();
    let (bundle, agent) = (read("bundle.pem"), read("agent/agent-data.json"));
    let second = once(folder.path(), &[]);
    assert_eq!(second.code, Some(0), "{}", second.err);
    assert_eq!(read("bundle.pem"), bundle);
    assert_eq!(
        read("agent/agent-data.json"),
        agent,
        "the agent attested anew"
    );
    assert_eq!(
        rows(&first.out, "X509-SVID", "SPIFFE ID"),
        rows(&second.out, "X509-SVID", "SPIFFE ID")
    );
}

#[test]
fn an_agent_without_its_identity_attests_anew_and_the_users_identity_stays() {
    let folder = tempfile::tempdir().unwrap();
    let first = once(folder.path(), &[]);
    assert_eq!(first.code, Some(0), "{}", first.err);
    std::fs::remove_file(folder.path().join("agent/agent-data.json")).unwrap();
    let second = once(folder.path(), &[]);
    assert_eq!(second.code, Some(0), "{}", second.err);
    assert_eq!(
        rows(&first.out, "X509-SVID", "SPIFFE ID"),
        rows(&second.out, "X509-SVID", "SPIFFE ID")
    );
}

#[test]
fn a_running_one_keeps_its_folder_answers_spires_commands_and_ends_on_ctrl_c() {
    let mut dev = Dev::start();
    let id = rows(&dev.page, "X509-SVID", "SPIFFE ID").to_owned();

    let second = once(dev.folder.path(), &[]);
    assert_eq!(second.code, Some(1));
    assert!(
        second.err.starts_with("another `signet dev` runs in "),
        "{}",
        second.err
    );

    assert_eq!(dev.server("healthcheck").out, "Server is healthy.\n");
    assert_eq!(dev.agent("healthcheck").out, "Agent is healthy.\n");
    assert_eq!(dev.server("agent count").out, "1 attested agent\n");
    let agents = dev.server("agent list");
    assert!(agents.out.starts_with("Found 1 attested agent:\n\nSPIFFE ID         : spiffe://example.org/spire/agent/join_token/"));
    let entries = dev.server(&format!("entry show -spiffeID {id}"));
    assert!(
        entries
            .out
            .starts_with("Found 1 entry\nEntry ID                : "),
        "{}",
        entries.out
    );
    let bundle = dev.server("bundle show -format spiffe");
    assert!(
        bundle
            .out
            .starts_with("{\n    \"keys\": [\n        {\n            \"use\": \"x509-svid\",\n")
    );
    assert_eq!(dev.server("bundle list").out, "");

    let x509 = dev.agent("api fetch");
    assert!(
        x509.out.starts_with("Received 1 svid after "),
        "{}",
        x509.err
    );
    assert!(
        x509.out
            .contains(&format!("\n\nSPIFFE ID:\t\t{id}\nSVID Valid After:\t"))
    );
    let jwt = dev.agent("api fetch jwt -audience me");
    let token = jwt.out.lines().nth(1).unwrap().trim().to_owned();
    assert!(jwt.out.starts_with(&format!("token({id}):\n\t")));
    let valid = dev.agent(&format!("api validate jwt -audience me -svid {token}"));
    assert!(valid.out.starts_with(&format!(
        "SVID is valid.\nSPIFFE ID : {id}\nClaims    : {{\"aud\":[\"me\"],"
    )));
    let invalid = dev.agent(&format!("api validate jwt -audience other -svid {token}"));
    assert_eq!(
        invalid.err,
        "SVID is not valid: expected audience in [\"other\"] (audience=[\"me\"])\n"
    );

    dev.signal(Signal::SIGINT);
    assert_eq!(dev.child.wait().unwrap().code(), Some(0));
}

#[test]
fn entries_and_tokens_are_written_as_spires_program_writes_them() {
    let dev = Dev::start();
    let create = "entry create -parentID spiffe://example.org/p -spiffeID spiffe://example.org/a -selector unix:uid:2 -selector unix:gid:2 -hint web";
    let created = dev.server(create);
    let id = entry_id(&created).to_owned();
    let lines = "SPIFFE ID               : spiffe://example.org/a\n\
                 Parent ID               : spiffe://example.org/p\n\
                 Revision                : 0\n\
                 X509-SVID TTL           : default\n\
                 JWT-SVID TTL            : default\n";
    let selectors = "Selector                : unix:gid:2\nSelector                : unix:uid:2\n";
    let hint = "Hint                    : web\n\n";
    assert_eq!(
        created.out,
        format!("Entry ID                : {id}\n{lines}{selectors}{hint}")
    );
    let again = dev.server(create);
    assert_eq!((again.out.as_str(), again.code), ("", Some(1)));
    let selectors = "Selector                : unix:uid:2\nSelector                : unix:gid:2\n";
    assert_eq!(
        again.err,
        format!(
            "Failed to create the following entry (code: AlreadyExists, msg: \"similar entry already exists\"):\nEntry ID                : (none)\n{lines}{selectors}{hint}Error: failed to create one or more entries\n"
        )
    );
    let json = dev.server(&format!("{create} -output json"));
    assert_eq!(json.code, Some(0));
    assert!(
        json.out
            .ends_with("\"status\":{\"code\":6,\"message\":\"similar entry already exists\"}}]}\n")
    );
}

#[test]
fn entries_are_changed_and_removed_as_spires_program_does() {
    let dev = Dev::start();
    let created = dev.server("entry create -parentID spiffe://example.org/p -spiffeID spiffe://example.org/a -selector unix:uid:2");
    let id = entry_id(&created).to_owned();
    let update = format!(
        "entry update -entryID {id} -parentID spiffe://example.org/p -spiffeID spiffe://example.org/a -selector unix:uid:3 -jwtSVIDIncludeJTI"
    );
    let updated = dev.server(&update);
    assert!(
        updated.out.contains("Revision                : 1\n"),
        "{}",
        updated.err
    );
    assert!(updated.out.ends_with("JwtSvidIncludeJti       : true\n\n"));

    let deleted = dev.server(&format!("entry delete -entryID {id}"));
    assert_eq!(
        deleted.out,
        format!("Deleted entry with ID: {id}\n\n\nDeleted 1 entries successfully")
    );
    let gone = dev.server(&format!("entry delete -entryID {id}"));
    assert_eq!(gone.out, "\n\nFailed to delete 1 entries");
    assert_eq!(
        gone.err,
        format!(
            "Failed to delete entry with ID {id} (code: NotFound, msg: \"entry not found\")\nError: failed to delete one or more entries\n"
        )
    );
    assert_eq!(
        dev.server("entry show -entryID nope").err,
        "Error: error fetching entry ID nope: rpc error: code = NotFound desc = entry not found\n"
    );
}

#[test]
fn tokens_and_agents_are_refused_in_spires_words() {
    let dev = Dev::start();
    let token = dev.server("token generate");
    assert!(
        token.out.starts_with("Token: ") && token.out.ends_with("\nWarning: Missing SPIFFE ID.\n")
    );
    assert_eq!(
        dev.server("token generate -ttl 0").err,
        "Error: rpc error: code = InvalidArgument desc = ttl is required, you must provide one\n"
    );
    assert_eq!(
        dev.server("agent show -spiffeID spiffe://example.org/spire/agent/join_token/nope")
            .err,
        "Error: rpc error: code = NotFound desc = agent not found\n"
    );
}
