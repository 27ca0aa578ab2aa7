//! The command lines of either make, against servers and agents of either make.
//!
//! SPIRE's program on SPIRE's server or agent says what is right; the other three pairs say the same, once
//! ids, keys and times are taken out, and but for what ours says otherwise on purpose (`mended.rs`).

mod files;
mod mask;
mod mended;
mod table;

use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use tests::domain::{Agent, Domain, Plan};
use tests::process::{Ended, Process, eventually, run};
use tests::programs::Make::{self, Signet, Spire};
use tests::programs::signet;

use self::mask::Mask;
use self::mended::Mended;
use self::table::{Line, Transcript, differences, unheard};

const SERVER: &str = include_str!("commands/server.txt");
const AGENT: &str = include_str!("commands/agent.txt");
const IDENTITY: &str = include_str!("commands/identity.txt");
/// All of SPIRE's commands, with their flags indented below each.
const COMMANDS: &str = include_str!("../../../cli/src/table/spire.txt");

/// Lines that SPIRE's server takes and ours does not.
const REFUSED: &str = include_str!("commands/refused.txt");

/// Each pair: the make of the server or agent, and that of the program that asks.
const PAIRS: [(Make, Make); 4] = [
    (Spire, Spire),
    (Spire, Signet),
    (Signet, Spire),
    (Signet, Signet),
];

#[test]
fn every_command_explains_itself_as_spires_does() {
    if !is_there() {
        return;
    }
    let commands = COMMANDS.lines().filter(|line| !line.starts_with(' '));
    let commands: Vec<&str> = commands.collect();
    assert!(commands.len() > 50, "only {} commands", commands.len());
    let explain = |make: Make| {
        let mut mask = Mask::new("/nonexistent");
        let said = commands.iter().flat_map(|command| {
            let (part, command) = command.split_once(' ').unwrap();
            table::run(&[Line::help(command)], &mut mask, |words, _| {
                run(program(make, part).args(words))
            })
        });
        said.collect::<Transcript>()
    };
    let said = differences("our program", &explain(Spire), &explain(Signet), &[]);
    assert!(said.is_empty(), "{said}");
}

#[test]
fn every_command_of_the_server_says_the_same_in_all_pairs() {
    if !is_there() {
        return;
    }
    let lines = table::read(SERVER);
    let refused = table::read(REFUSED);
    let transcripts = in_all_pairs(|server, program| {
        let (transcript, refused) = ask_server(server, program, &lines, &refused);
        let expected = if server == Spire { 0 } else { refused.len() };
        let found = table::refused(&refused);
        assert_eq!(found.len(), expected, "{found:?}");
        transcript
    });
    judge(&transcripts, mended::OF_SERVER);
}

#[test]
fn every_command_of_the_agent_says_the_same_in_all_pairs() {
    if !is_there() {
        return;
    }
    let transcripts = in_all_pairs(ask_agent);
    judge(&transcripts, mended::OF_AGENT);
}

fn is_there() -> bool {
    tests::peers::folder("spire").is_some()
}

/// Runs all pairs side by side.
fn in_all_pairs(pair: impl Fn(Make, Make) -> Transcript + Sync) -> Vec<Transcript> {
    std::thread::scope(|scope| {
        let pair = &pair;
        let running = PAIRS.map(|(served, asks)| scope.spawn(move || pair(served, asks)));
        running
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

fn judge(transcripts: &[Transcript], mended: &[Mended]) {
    let (right, others) = transcripts.split_first().unwrap();
    let mut told = String::new();
    for ((served, asks), other) in PAIRS.iter().skip(1).zip(others) {
        let pair = format!("{asks:?}'s program on {served:?}'s");
        told += &differences(&pair, right, other, mended);
    }
    assert!(told.is_empty(), "{told}");
    assert_eq!(unheard(mended, transcripts), [""; 0]);
}

/// Says the lines to a server of its own, and then those that only SPIRE's takes.
fn ask_server(
    server: Make,
    program: Make,
    lines: &[Line],
    refused: &[Line],
) -> (Transcript, Transcript) {
    let domain = Plan::new(server).start();
    // Of the same make each time, so that its version is the same.
    let agent = domain.agent(Spire);
    let work = domain.folder().join("work");
    std::fs::create_dir(&work).unwrap();
    files::write(&work);
    let mut mask = Mask::new(work.to_str().unwrap());
    mask.name("AGENT", &agent.id);
    let ask = |words: &[&str], has_socket| match has_socket {
        true => domain.cli_of(program, words),
        false => run(called(program, "server", &work)
            .args(words)
            .env(VARIABLE, "expanded")),
    };
    let transcript = table::run(lines, &mut mask, ask);
    (transcript, table::run(refused, &mut mask, ask))
}

/// Asks an agent of a caller without an identity first, then with two.
fn ask_agent(make: Make, program: Make) -> Transcript {
    let domain = Plan::new(Spire).start();
    let work = domain.folder().join("work");
    std::fs::create_dir(&work).unwrap();
    files::write(&work);
    let admin = work.join("admin.sock");
    let agent = domain.agent_with(make, &format!("admin_socket_path = {admin:?}"));
    let mut mask = Mask::new(work.to_str().unwrap());
    let ask = |words: &[&str], has_socket| match has_socket {
        true => run(&mut agent_command(&agent, program, &admin, words)),
        false => run(called(program, "agent", &work)
            .args(words)
            .env(VARIABLE, "expanded")),
    };
    let mut transcript = table::run(&table::read(AGENT), &mut mask, ask);
    give_identities(&domain, &agent, &work);
    let token = agent.api(
        Signet,
        &[
            "fetch",
            "jwt",
            "-audience",
            "aud1",
            "-spiffeID",
            "spiffe://example.org/w1",
        ],
    );
    mask.name("TOKEN", token.success().lines().nth(1).unwrap().trim());
    transcript.extend(table::run(&table::read(IDENTITY), &mut mask, ask));
    let watch = table::read("~ api watch");
    transcript.extend(table::run(&watch, &mut mask, |words, _| {
        interrupted(&agent, program, words)
    }));
    transcript
}

/// A command of either agent program against the socket that it asks.
fn agent_command(agent: &Agent, make: Make, admin: &Path, words: &[&str]) -> Command {
    let flags = words.iter().position(|word| word.starts_with('-'));
    let (names, flags) = words.split_at(flags.unwrap_or(words.len()));
    let socket = match names.first() {
        Some(&"logger" | &"debug") => admin.to_owned(),
        _ => agent.socket(),
    };
    let mut command = make.agent();
    command
        .args(names)
        .arg("-socketPath")
        .arg(socket)
        .args(flags);
    command
}

/// A command that goes on, interrupted once it has shown an identity. Both its outputs count as one.
fn interrupted(agent: &Agent, make: Make, words: &[&str]) -> Ended {
    let mut process = Process::start("watch", &mut agent.api_command(make, &words[1..]));
    // An empty line ends what it says of the second.
    eventually("it has shown both", || {
        let said = process.text();
        said.split_once("spiffe://example.org/w2")
            .is_some_and(|(_, rest)| rest.ends_with('\n'))
    });
    process.signal(Signal::SIGINT);
    let code = process.wait().code().unwrap_or(-1);
    eventually("it has said all", || process.has_said_all());
    Ended {
        stdout: process.text(),
        stderr: String::new(),
        code,
    }
}

/// Two entries whose ids say in which order their SVIDs are shown, and a bundle of another trust domain.
fn give_identities(domain: &Domain, agent: &Agent, work: &Path) {
    let bundle = work.join("b.spiffe");
    let bundle = bundle.to_str().unwrap();
    domain
        .cli(&[
            "bundle", "set", "-id", "fed.org", "-format", "spiffe", "-path", bundle,
        ])
        .success();
    domain.entry(
        agent,
        "/w1",
        "unix:uid:0",
        &["-entryID", "a", "-hint", "web", "-federatesWith", "fed.org"],
    );
    domain.entry(
        agent,
        "/w2",
        "unix:gid:0",
        &["-entryID", "b", "-dns", "w2.example"],
    );
    eventually("both identities are there", || {
        let fetched = agent.api(Signet, &["fetch", "x509"]);
        fetched.stdout.contains("Received 2 svids")
    });
}

/// The variable that is set where a file speaks of it.
const VARIABLE: &str = "SIGNET_TEST";

/// A program under the name of SPIRE's.
fn called(make: Make, part: &str, folder: &Path) -> Command {
    if make == Spire {
        return program(make, part);
    }
    let name = folder.join(format!("spire-{part}"));
    if !name.is_symlink() {
        std::os::unix::fs::symlink(signet(), &name).unwrap();
    }
    Command::new(name)
}

fn program(make: Make, part: &str) -> Command {
    match part {
        "server" => make.server(),
        _ => make.agent(),
    }
}
