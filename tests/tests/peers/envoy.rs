//! Two Envoys of one domain, and one of another.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tests::domain::{Agent, Domain, Plan};
use tests::envoy::{Dialect, Envoy, Facing, Sds, program_for_others};
use tests::process::eventually;
use tests::programs::Make::Signet;

const SERVER_UID: u32 = 12_001;
const CLIENT_UID: u32 = 12_002;
const STRANGER_UID: u32 = 12_003;

// The certificate is back-dated by ten seconds, so this lifetime is renewed about every five.
fn plan() -> Plan {
    Plan::new(Signet).key(r#"default_x509_svid_ttl = "20s""#)
}

fn entries(domain: &Domain, agent: &Agent) {
    domain.entry(agent, "/server", &format!("unix:uid:{SERVER_UID}"), &[]);
    domain.entry(agent, "/client", &format!("unix:uid:{CLIENT_UID}"), &[]);
}

#[test]
fn two_envoys_talk_mutual_tls_through_three_rotations_without_a_failed_request() {
    let domain = plan().start();
    let Some(binary) = program_for_others(domain.folder()) else {
        return;
    };
    let agent = domain.agent(Signet);
    entries(&domain, &agent);
    let mut server = Envoy::start(&binary, &agent, SERVER_UID, Facing::Server);
    let facing = Facing::Client {
        to: server.port,
        validates: true,
    };
    let mut client = Envoy::start(&binary, &agent, CLIENT_UID, facing);
    eventually("the first request goes through", || {
        client.request() == Some(200)
    });

    server
        .process
        .line("request 200 from=spiffe://example.org/client");
    let seen = client.process.line("request 200");
    assert!(seen.contains("to=spiffe://example.org/server"), "{seen}");

    let (mut serials, mut rotations) = ((server.serial(), client.serial()), (0, 0));
    let mut requests = 0;
    while rotations.0 < 3 || rotations.1 < 3 {
        let answer = client.request();
        requests += 1;
        assert_eq!(
            answer,
            Some(200),
            "request {requests} after {rotations:?} rotations\n{}",
            client.process.text()
        );
        let now = (server.serial(), client.serial());
        rotations.0 += u32::from(now.0 != serials.0);
        rotations.1 += u32::from(now.1 != serials.1);
        serials = now;
        assert!(
            requests < 20_000,
            "no three rotations in {requests} requests: {rotations:?}"
        );
    }
}

#[test]
fn an_envoy_refuses_a_certificate_of_another_trust_domain() {
    let (domain, other) = (plan().start(), plan().trust_domain("other.test").start());
    let Some(binary) = program_for_others(domain.folder()) else {
        return;
    };
    let (agent, other_agent) = (domain.agent(Signet), other.agent(Signet));
    entries(&domain, &agent);
    entries(&other, &other_agent);
    let server = Envoy::start(&binary, &agent, SERVER_UID, Facing::Server);

    // A client of its own domain gets through, so the refusal below says something.
    let facing = Facing::Client {
        to: server.port,
        validates: true,
    };
    let client = Envoy::start(&binary, &agent, CLIENT_UID, facing);
    eventually("the client of the same domain is served", || {
        client.request() == Some(200)
    });

    // This one accepts any server, so that the server alone can refuse.
    let facing = Facing::Client {
        to: server.port,
        validates: false,
    };
    let stranger = Envoy::start(&binary, &other_agent, CLIENT_UID, facing);
    eventually("the stranger has its certificate", || {
        stranger.serial().is_some()
    });
    eventually("the server refuses the stranger", || {
        assert_ne!(stranger.request(), Some(200));
        let stats = server.admin("/stats?filter=ssl.fail_verify");
        stats
            .lines()
            .any(|line| line.contains("fail_verify") && !line.trim_end().ends_with(" 0"))
    });
}

#[test]
fn the_rotation_of_one_of_fifty_secrets_reaches_an_envoy_alone() {
    let domain = Plan::new(Signet).start();
    let Some(binary) = program_for_others(domain.folder()) else {
        return;
    };
    let agent = domain.agent(Signet);
    let file = domain.folder().join("entries.json");
    let entry = |path: &str, uid: u32, ttl: u32| {
        json!({
            "parent_id": agent.id,
            "spiffe_id": format!("spiffe://example.org/{path}"),
            "selectors": [{ "type": "unix", "value": format!("uid:{uid}") }],
            "x509_svid_ttl": ttl,
        })
    };
    // The certificate is back-dated by ten seconds: the first one is renewed about every five.
    let mut entries: Vec<Value> = (0..50)
        .map(|number| {
            let ttl = if number == 0 { 20 } else { 3600 };
            entry(&format!("number-{number:02}"), CLIENT_UID, ttl)
        })
        .collect();
    entries.push(entry("somebody-else", SERVER_UID, 3600));
    entries.push(entry("test", nix::unistd::geteuid().as_raw(), 3600));
    std::fs::write(&file, json!({ "entries": entries }).to_string()).unwrap();
    domain
        .cli(&["entry", "create", "-data", &file.display().to_string()])
        .success();

    // An Envoy that came before the entries would be told first that there are no such secrets.
    eventually("the agent has the entries", || {
        agent.api(Signet, &["fetch", "x509"]).code == 0
    });

    let mut more: Vec<_> = (0..50)
        .map(|number| format!("spiffe://example.org/number-{number:02}"))
        .collect();
    more.push("spiffe://example.org/somebody-else".to_owned());
    more.push("file-cert:/etc/certs/cert-chain.pem~/etc/certs/key.pem".to_owned());
    let sds = Sds {
        more,
        ..Sds::default()
    };
    let envoy = Envoy::start_with(&binary, &agent, CLIENT_UID, Facing::Server, &sds);

    // Both dialects count under the name of the secret.
    let updates = || envoy.counters(".update_success");
    let of = |updates: &std::collections::BTreeMap<String, u64>, number: usize| {
        let name = format!("number-{number:02}.update_success");
        let found = updates.iter().find(|(counter, _)| counter.ends_with(&name));
        found.map_or(0, |(_, count)| *count)
    };
    eventually("all fifty are there, and the first was renewed", || {
        let updates = updates();
        (1..50).all(|number| of(&updates, number) >= 2) && of(&updates, 0) >= 6
    });
    let updates = updates();
    for number in 1..50 {
        assert_eq!(of(&updates, number), 2, "{number}: {updates:?}");
    }
    let certificates = envoy.admin("/certs");
    assert!(certificates.contains("spiffe://example.org/number-07"));
    assert!(!certificates.contains("somebody-else"));
}

fn federate(domain: &Domain, with: &Domain) {
    let file = domain.folder().join("foreign.json");
    let bundle = with.cli(&["bundle", "show", "-format", "spiffe"]);
    std::fs::write(&file, bundle.success()).unwrap();
    let id = format!("spiffe://{}", with.plan.trust_domain);
    let path = file.display().to_string();
    domain
        .cli(&[
            "bundle", "set", "-id", &id, "-path", &path, "-format", "spiffe",
        ])
        .success();
}

fn no_request_fails_while_it_restarts(agent: &mut Agent, server: &Envoy, client: &Envoy) {
    let (serial, over) = (server.serial(), AtomicBool::new(false));
    std::thread::scope(|threads| {
        let traffic = threads.spawn(|| {
            let mut answers = Vec::new();
            while !over.load(Ordering::SeqCst) {
                answers.push(client.request());
            }
            answers
        });
        agent.restart();
        eventually("the server has a new certificate", || {
            server.serial() != serial
        });
        let fresh = server.serial();
        eventually("and another one", || server.serial() != fresh);
        over.store(true, Ordering::SeqCst);
        let answers = traffic.join().unwrap();
        let failed = answers
            .iter()
            .filter(|answer| **answer != Some(200))
            .count();
        assert_eq!(failed, 0, "of {} requests", answers.len());
    });
}

#[test]
fn envoys_of_federated_domains_talk_by_delta_through_a_restart_of_the_agent() {
    let (domain, other) = (plan().start(), plan().trust_domain("other.test").start());
    let Some(binary) = program_for_others(domain.folder()) else {
        return;
    };
    federate(&domain, &other);
    federate(&other, &domain);
    let (mut agent, other_agent) = (domain.agent(Signet), other.agent(Signet));
    let entry = |domain: &Domain, agent: &Agent, path: &str, uid: u32, with: &str| {
        domain.entry(
            agent,
            path,
            &format!("unix:uid:{uid}"),
            &["-federatesWith", with],
        );
    };
    entry(
        &domain,
        &agent,
        "/server",
        SERVER_UID,
        "spiffe://other.test",
    );
    entry(
        &other,
        &other_agent,
        "/client",
        CLIENT_UID,
        "spiffe://example.org",
    );
    entry(
        &other,
        &other_agent,
        "/stranger",
        STRANGER_UID,
        "spiffe://example.org",
    );

    let sds = |accepts: &'static str| Sds {
        dialect: Dialect::Delta,
        bundle: "ALL",
        accepts: Some(accepts),
        ..Sds::default()
    };
    let accepts = sds("spiffe://other.test/client");
    let server = Envoy::start_with(&binary, &agent, SERVER_UID, Facing::Server, &accepts);
    let facing = Facing::Client {
        to: server.port,
        validates: true,
    };
    let accepts = sds("spiffe://example.org/server");
    let start = |uid| Envoy::start_with(&binary, &other_agent, uid, facing, &accepts);
    let (mut client, stranger) = (start(CLIENT_UID), start(STRANGER_UID));
    eventually("the first request goes through", || {
        client.request() == Some(200)
    });
    let seen = client.process.line("request 200");
    assert!(seen.contains("to=spiffe://example.org/server"), "{seen}");

    let trust = |envoy: &Envoy| envoy.counters("sds.ALL.update_success");
    let before = trust(&server);
    assert!(!before.is_empty());
    no_request_fails_while_it_restarts(&mut agent, &server, &client);
    // It was told on the new stream what the Envoy has, so it sent what it had not.
    assert_eq!(trust(&server), before);

    // The bundle vouches for the stranger, and the static part of the context does not.
    eventually("the server refuses the stranger by its name", || {
        assert_ne!(stranger.request(), Some(200));
        !server.counters("ssl.fail_verify_san").is_empty()
    });
}
