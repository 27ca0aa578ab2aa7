//! Two Envoys of one domain, and one of another.

use tests::domain::{Agent, Domain, Plan};
use tests::envoy::{Envoy, Facing, program_for_others};
use tests::process::eventually;
use tests::programs::Make::Signet;

const SERVER_UID: u32 = 12_001;
const CLIENT_UID: u32 = 12_002;

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
