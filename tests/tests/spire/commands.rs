//! The commands that ask a server, of either program, on a server of either make.
//!
//! SPIRE's program on SPIRE's server says what is right; the other three pairs say the same, once ids,
//! keys and times are taken out.

use std::path::Path;

use tests::domain::{Domain, Plan};
use tests::process::Ended;
use tests::programs::Make::{self, Signet, Spire};

/// What a command came to, without what is another each time.
#[derive(Debug, Eq, PartialEq)]
struct Said {
    out: String,
    err: String,
    code: i32,
}

/// The command lines, in their order; `W` is a folder of the run.
const MINT: &[&[&str]] = &[
    &["x509", "mint"],
    &["x509", "mint", "-spiffeID", "bad"],
    &["x509", "mint", "-spiffeID", "spiffe://other.org/x"],
    &["x509", "mint", "-spiffeID", "spiffe://example.org"],
    &[
        "x509",
        "mint",
        "-spiffeID",
        "spiffe://example.org/spire/server",
    ],
    &[
        "x509",
        "mint",
        "-spiffeID",
        "spiffe://example.org/x",
        "-ttl",
        "bogus",
    ],
    &[
        "x509",
        "mint",
        "-spiffeID",
        "spiffe://example.org/x",
        "-ttl",
        "-5s",
    ],
    &[
        "x509",
        "mint",
        "-spiffeID",
        "spiffe://example.org/x",
        "-ttl",
        "1000h",
    ],
    &[
        "x509",
        "mint",
        "-spiffeID",
        "spiffe://example.org/x",
        "-dns",
        "*.a.b",
        "-dns",
        "x.a.b",
    ],
    &[
        "x509",
        "mint",
        "-spiffeID",
        "spiffe://example.org/x",
        "-dns",
        "a.b.",
    ],
    &[
        "x509",
        "mint",
        "-output",
        "json",
        "-spiffeID",
        "spiffe://example.org/x",
    ],
    &[
        "x509",
        "mint",
        "-spiffeID",
        "spiffe://example.org/x",
        "-dns",
        "x.org",
        "-write",
        "W",
    ],
    &[
        "x509",
        "mint",
        "-output",
        "json",
        "-spiffeID",
        "spiffe://example.org/x",
        "-write",
        "W",
    ],
    &[
        "x509",
        "mint",
        "-spiffeID",
        "spiffe://example.org/x",
        "-write",
        "W/none",
    ],
    &["jwt", "mint"],
    &["jwt", "mint", "-spiffeID", "spiffe://example.org/x"],
    &["jwt", "mint", "-spiffeID", "bad", "-audience", "a"],
    &[
        "jwt",
        "mint",
        "-spiffeID",
        "spiffe://other.org/x",
        "-audience",
        "a",
    ],
    &[
        "jwt",
        "mint",
        "-spiffeID",
        "spiffe://example.org/x",
        "-audience",
        "",
    ],
    &[
        "jwt",
        "mint",
        "-spiffeID",
        "spiffe://example.org/x",
        "-audience",
        "a",
    ],
    &[
        "jwt",
        "mint",
        "-spiffeID",
        "spiffe://example.org/x",
        "-audience",
        "a",
        "-ttl",
        "1000h",
    ],
    &[
        "jwt",
        "mint",
        "-output",
        "json",
        "-spiffeID",
        "spiffe://example.org/x",
        "-audience",
        "a",
    ],
    &[
        "jwt",
        "mint",
        "-spiffeID",
        "spiffe://example.org/x",
        "-audience",
        "a",
        "-write",
        "W/jwt",
    ],
];

const BUNDLE: &[&[&str]] = &[
    &["bundle", "count"],
    &["bundle", "set", "-id", "fed.org", "-path", "W/roots.pem"],
    &["bundle", "set", "-id", "fed2.org", "-path", "W/roots.pem"],
    &["bundle", "count"],
    &["bundle", "count", "-output", "json"],
    &[
        "entry",
        "create",
        "-parentID",
        "spiffe://example.org/p",
        "-spiffeID",
        "spiffe://example.org/w",
        "-selector",
        "a:b",
        "-federatesWith",
        "fed.org",
    ],
    &["bundle", "delete"],
    &["bundle", "delete", "-id", "fed.org", "-mode", "bogus"],
    &["bundle", "delete", "-id", "fed.org"],
    &["bundle", "delete", "-id", "fed.org", "-output", "json"],
    &["bundle", "delete", "-id", "fed.org", "-mode", "dissociate"],
    &["entry", "count"],
    &[
        "bundle", "delete", "-id", "fed2.org", "-mode", "delete", "-output", "json",
    ],
    &["bundle", "delete", "-id", "fed2.org"],
    &["bundle", "delete", "-id", "fed2.org", "-output", "json"],
    &["bundle", "delete", "-id", "spiffe://example.org"],
    &["bundle", "delete", "-id", "bad id"],
    &["bundle", "set", "-id", "fed.org", "-path", "W/roots.pem"],
    &[
        "entry",
        "create",
        "-parentID",
        "spiffe://example.org/p",
        "-spiffeID",
        "spiffe://example.org/w2",
        "-selector",
        "a:b",
        "-federatesWith",
        "fed.org",
    ],
    &["bundle", "delete", "-id", "fed.org", "-mode", "delete"],
    &["entry", "count"],
    &["entry", "delete", "-entryID", "none"],
];

const OPERATOR: &[&[&str]] = &[
    &["logger", "get"],
    &["logger", "get", "-output", "json"],
    &["logger", "set"],
    &["logger", "set", "-level", "bogus"],
    &["logger", "set", "-level", "debug"],
    &["logger", "set", "-level", "WARN", "-output", "json"],
    &["logger", "get"],
    &["logger", "reset"],
    &["logger", "reset", "-output", "json"],
    &["debug", "getinfo"],
    &["debug", "getinfo", "-output", "json"],
    &["agent", "purge"],
    &["agent", "purge", "-dryRun"],
    &["agent", "purge", "-expiredFor", "0s", "-output", "json"],
    &["agent", "purge", "-expiredFor", "bogus"],
];

#[test]
fn minting_says_the_same() {
    compare(MINT);
}

#[test]
fn counting_and_deleting_bundles_says_the_same() {
    compare(BUNDLE);
}

#[test]
fn looking_at_a_server_says_the_same() {
    compare(OPERATOR);
}

/// Runs all lines on each pair and holds them against SPIRE's own.
fn compare(lines: &[&[&str]]) {
    if tests::peers::folder("spire").is_none() {
        return;
    }
    for server in [Spire, Signet] {
        // A server of its own for each program: both begin with nothing.
        let right = (server != Spire).then(|| run(Spire, Spire, lines));
        let by_spire = run(server, Spire, lines);
        let by_signet = run(server, Signet, lines);
        let right = right.as_ref().unwrap_or(&by_spire);
        for (at, line) in lines.iter().enumerate() {
            let line = line.join(" ");
            assert_eq!(by_spire[at], right[at], "SPIRE's `{line}` on {server:?}");
            assert_eq!(by_signet[at], right[at], "our `{line}` on {server:?}");
        }
    }
}

fn run(server: Make, program: Make, lines: &[&[&str]]) -> Vec<Said> {
    let domain = Plan::new(server).start();
    let work = domain.folder().join("work");
    std::fs::create_dir(&work).unwrap();
    let roots = domain.cli(&["bundle", "show"]).success();
    std::fs::write(work.join("roots.pem"), roots).unwrap();
    let said = lines.iter().map(|line| say(&domain, program, &work, line));
    said.collect()
}

fn say(domain: &Domain, program: Make, work: &Path, line: &[&str]) -> Said {
    let folder = work.to_str().unwrap();
    let words: Vec<String> = line
        .iter()
        .map(|word| match word.strip_prefix('W') {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{folder}{rest}"),
            _ => (*word).to_owned(),
        })
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let Ended {
        stdout,
        stderr,
        code,
    } = domain.cli_of(program, &words);
    Said {
        out: plain(&stdout, folder),
        err: plain(&stderr, folder),
        code,
    }
}

/// A text without what is another each time.
fn plain(text: &str, folder: &str) -> String {
    let mut plain = String::new();
    let mut in_pem = false;
    for line in text.replace(folder, "W").split_inclusive('\n') {
        if line.starts_with("-----END") {
            in_pem = false;
        }
        if !in_pem && !line.trim_start().starts_with("Uptime:") {
            words(&mut plain, line);
        }
        in_pem |= line.starts_with("-----BEGIN");
    }
    match plain.split_once("\"uptime\":") {
        None => plain,
        Some((before, after)) => {
            let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{before}\"uptime\":N{rest}")
        }
    }
}

fn words(plain: &mut String, line: &str) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "+/=_-.:".contains(c);
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let end = match is_word(first) {
            true => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        let (word, after) = rest.split_at(end);
        plain.push_str(stable(word));
        rest = after;
    }
}

/// The word itself, or what stands for words of its kind.
fn stable(word: &str) -> &str {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    match word {
        // Encoded keys, certificates and tokens.
        _ if word.len() >= 60 => "LONG",
        // Ids of entries.
        _ if word.len() == 36 && word.matches('-').count() == 4 => "UUID",
        // Times, in seconds or spelled; serial numbers.
        _ if digits >= 9 => "NUMBER",
        _ => word,
    }
}
