//! What the log of a server tells of what was done, and what it never tells.

use nix::unistd::getuid;
use tests::domain::Plan;
use tests::process::eventually;
use tests::programs::Make::Signet;

/// The lines of the audit trail with this event.
fn lines(log: &str, event: &str) -> Vec<String> {
    let event = format!("event={event} ");
    let lines = log
        .lines()
        .filter(|line| line.contains("audit") && line.contains(&event));
    lines.map(str::to_owned).collect()
}

#[test]
fn the_trail_is_on_and_tells_who_what_for_whom_and_why_not() {
    let domain = Plan::new(Signet).key(r#"log_level = "INFO""#).start();
    let id = "spiffe://example.org/minted";
    let words = [
        "x509",
        "mint",
        "-spiffeID",
        id,
        "-dns",
        "a.example",
        "-dns",
        "b.example",
    ];
    domain.cli(&words).success();
    domain.entry_below(
        "spiffe://example.org/spire/agent/x/1",
        "/a",
        "unix:uid:1",
        &[],
    );
    assert_ne!(
        domain.cli(&["entry", "delete", "-entryID", "nothing"]).code,
        0
    );
    assert_ne!(
        domain
            .cli(&["x509", "mint", "-spiffeID", "spiffe://other.org/a"])
            .code,
        0
    );
    eventually("the log tells of the last of them", || {
        lines(&domain.server.text(), "refused").len() == 2
    });
    let log = domain.server.text();
    let caller = format!("local(uid={},pid=", getuid().as_raw());
    for (event, told) in [
        (
            "x509_svid_minted",
            &[
                "audit.decision=allowed",
                id,
                "svid.serial=",
                "svid.dns_names=\"a.example, b.example\"",
            ][..],
        ),
        (
            "entry_created",
            &[
                "audit.decision=allowed",
                "entry.id=",
                "spiffe://example.org/a",
            ],
        ),
    ] {
        let [line] = lines(&log, event).try_into().expect("one such line");
        assert!(line.contains(&caller), "{line}");
        for part in told {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    check_refused(&lines(&log, "refused"));
}

/// What was refused is told in order, with the call, what it asked for, and why.
fn check_refused(lines: &[String]) {
    for (line, told) in lines.iter().zip([
        [
            "BatchDeleteEntry",
            "audit.subject=nothing",
            "error.reason=not_found",
        ],
        [
            "MintX509SVID",
            "audit.decision=refused",
            "error.reason=invalid_argument",
        ],
    ]) {
        for part in told {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
}

#[test]
fn at_its_loudest_no_log_has_a_token_of_a_workload_or_a_private_key() {
    let domain = Plan::new(Signet).key(r#"log_level = "TRACE""#).start();
    let agent = domain.agent_with(Signet, r#"log_level = "TRACE""#);
    let selector = format!("unix:uid:{}", getuid().as_raw());
    domain.entry(&agent, "/a", &selector, &[]);
    tests::scenarios::wait_for_svid(&agent, "/a");
    let fetched = agent.api(
        Signet,
        &["fetch", "jwt", "-audience", "x", "-output", "json"],
    );
    let minted = domain.cli(&[
        "jwt",
        "mint",
        "-spiffeID",
        "spiffe://example.org/m",
        "-audience",
        "x",
    ]);
    let unused = domain.token();
    let mut secrets = vec![unused, minted.success().trim().to_owned()];
    secrets.extend(tokens(&fetched.success()));
    secrets.extend(keys(&domain.folder().join("server/keys.json")));
    secrets.extend(keys(&agent.data_dir().join("keys.json")));
    assert!(
        secrets.len() >= 6,
        "only {} secrets are known",
        secrets.len()
    );
    for log in [domain.server.text(), agent.process.text()] {
        assert!(
            log.contains("TRACE") || log.contains("trace"),
            "it is at its loudest"
        );
        for secret in &secrets {
            // Of a token its signature, and of a key a part of it, are enough.
            let tail: String = secret
                .chars()
                .rev()
                .take(24)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect();
            assert!(
                !log.contains(&tail),
                "a log has a secret that ends with {tail}"
            );
        }
    }
}

/// The tokens in what was printed.
fn tokens(printed: &str) -> Vec<String> {
    let words = printed.split('"');
    words
        .filter(|word| word.starts_with("eyJ"))
        .map(str::to_owned)
        .collect()
}

/// The keys of a file of keys, in base64.
fn keys(path: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let words = text.split('"').filter(|word| word.len() > 100);
    words.map(str::to_owned).collect()
}
