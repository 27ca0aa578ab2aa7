//! Facts about nodes that are where their name leads to, and about those who send the server elsewhere.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::{AgentName, Prover};
use super::*;
use crate::node::{Decision, Refusal};

fn own() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

/// What a test allows, since all that it has is this machine.
fn options() -> Options {
    Options {
        allowed_dns_patterns: Vec::new(),
        required_port: None,
        allow_non_root_ports: true,
        tofu: true,
        networks: vec!["127.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()],
    }
}

fn verifier(change: impl FnOnce(&mut Options)) -> Verifier {
    let mut options = options();
    change(&mut options);
    Verifier::new(own(), options)
}

fn prover(host: &str) -> Prover {
    Prover {
        hostname: Some(HostName::parse(host).unwrap()),
        agent: AgentName::parse("default").unwrap(),
        port: 0,
        advertised_port: None,
    }
}

fn payload(host: &str, port: u16) -> String {
    format!(r#"{{"hostname":"{host}","agentname":"default","port":{port}}}"#)
}

fn refusal(error: &VerifyError) -> (&'static str, Decision) {
    (error.reason(), error.decision())
}

/// Attests against something that answers each connection with these bytes.
async fn attest_against(answer: impl Fn(&str) -> Vec<u8>) -> Result<Attested, VerifyError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let challenged = verifier(|_| {}).begin(payload("127.0.0.1", port).as_bytes());
    let challenged = challenged.unwrap();
    let answer = answer(&challenged.challenge.nonce);
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.unwrap();
        stream.write_all(&answer).await.unwrap();
        stream.shutdown().await.unwrap();
        String::from_utf8(request[..length].to_vec()).unwrap()
    };
    let (outcome, request) = tokio::join!(challenged.conclude(None), serve);
    let line = "GET /.well-known/spiffe/nodeattestor/http_challenge/default/challenge HTTP/1.1\r\n";
    assert!(request.starts_with(line), "{request}");
    outcome
}

fn ok(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

#[tokio::test]
async fn a_node_that_serves_what_was_drawn_is_attested_by_the_name_of_its_host() {
    for (tofu, lasting) in [(true, Lasting::FirstUse), (false, Lasting::Repeatable)] {
        let listening = prover("127.0.0.1").open().unwrap();
        let verifier = verifier(|options| options.tofu = tofu);
        let challenged = verifier.begin(listening.payload()).unwrap();
        let answer = listening.answer(&challenged.challenge()).unwrap();
        assert_eq!(answer, b"\n");
        let attested = listening
            .serve_during(challenged.conclude(None))
            .await
            .unwrap();
        let path = attested.agent_id().path().to_owned();
        assert_eq!(path, "/spire/agent/http_challenge/127.0.0.1");
        let values: Vec<_> = attested.selectors().iter().map(|one| one.value()).collect();
        assert_eq!(values, ["hostname:127.0.0.1"]);
        assert_eq!(attested.lasting(), lasting);
    }
}

#[tokio::test]
async fn an_agent_serves_its_nonce_at_its_place_alone_and_not_before_it_has_one() {
    let listening = prover("127.0.0.1").open().unwrap();
    let verifier = verifier(|_| {});
    let first = verifier.begin(listening.payload()).unwrap();
    let outcome = listening.serve_during(first.conclude(None)).await;
    let expected = ("http_status", Decision::Denied);
    assert_eq!(refusal(&outcome.unwrap_err()), expected);
    // The answer to an earlier challenge is none to the next one.
    let earlier = verifier.begin(listening.payload()).unwrap();
    listening.answer(&earlier.challenge()).unwrap();
    let next = verifier.begin(listening.payload()).unwrap();
    let outcome = listening.serve_during(next.conclude(None)).await;
    let expected = ("nonce_other", Decision::Denied);
    assert_eq!(refusal(&outcome.unwrap_err()), expected);
    let other = AgentName::parse("other").unwrap();
    let mut elsewhere = verifier.begin(listening.payload()).unwrap();
    elsewhere.target.agent = other;
    listening.answer(&elsewhere.challenge()).unwrap();
    let outcome = listening.serve_during(elsewhere.conclude(None)).await;
    assert_eq!(outcome.unwrap_err().reason(), "http_status");
}

#[tokio::test]
async fn adv_a_redirect_is_not_followed_and_more_than_a_nonce_is_not_read() {
    let found = attest_against(|nonce| ok(&format!(" {nonce}\n"))).await;
    assert!(found.is_ok(), "{found:?}");
    let redirect = |_: &str| {
        b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
            .to_vec()
    };
    assert_eq!(
        attest_against(redirect).await.unwrap_err().reason(),
        "http_status"
    );
    let long = |nonce: &str| ok(&format!("{nonce}{}", "\n".repeat(64)));
    assert_eq!(
        attest_against(long).await.unwrap_err().reason(),
        "body_too_large"
    );
    let endless = |nonce: &str| {
        let chunk = format!("40\r\n{}\r\n", "x".repeat(64));
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}2c\r\n{nonce}\r\n{}", chunk.repeat(1000)).into_bytes()
    };
    assert_eq!(
        attest_against(endless).await.unwrap_err().reason(),
        "body_too_large"
    );
    let other = |_: &str| ok("something else");
    assert_eq!(
        attest_against(other).await.unwrap_err().reason(),
        "nonce_other"
    );
    let garbage = |_: &str| b"SSH-2.0-OpenSSH\r\n".to_vec();
    assert_eq!(attest_against(garbage).await.unwrap_err().reason(), "http");
}

#[tokio::test]
async fn adv_a_name_that_leads_to_an_internal_address_is_not_gone_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let strict = verifier(|options| options.networks.clear());
    for host in ["127.0.0.1", "169.254.169.254", "10.0.0.1", "192.168.0.1"] {
        let challenged = strict.begin(payload(host, port).as_bytes()).unwrap();
        let outcome = challenged.conclude(None).await;
        let expected = ("address_internal", Decision::Denied);
        assert_eq!(refusal(&outcome.unwrap_err()), expected, "{host}");
    }
    let connected = std::future::poll_fn(|context| {
        std::task::Poll::Ready(listener.poll_accept(context).is_ready())
    });
    assert!(!connected.await, "the server connected all the same");
    for host in ["localhost", "127.1", "2130706433", "[::1]", "127.0.0.1."] {
        let refused = strict.begin(payload(host, port).as_bytes());
        assert_eq!(
            refused.unwrap_err().decision(),
            Decision::Malformed,
            "{host}"
        );
    }
}

#[tokio::test]
async fn who_does_not_answer_at_all_is_told_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let challenged = verifier(|_| {}).begin(payload("127.0.0.1", port).as_bytes());
    let error = challenged.unwrap().conclude(None).await.unwrap_err();
    assert_eq!(error.reason(), "agent_unreachable");
}

#[tokio::test(start_paused = true)]
async fn adv_who_answers_nothing_holds_the_server_up_for_ten_seconds_and_64_of_them_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let verifier = verifier(|_| {});
    let conclude = |caller: usize| {
        let begun = verifier.begin(payload("127.0.0.1", port).as_bytes());
        let from = format!("192.0.2.{caller}").parse().unwrap();
        begun.unwrap().conclude(Some(from))
    };
    let held = (0..AT_A_TIME).map(|n| Box::pin(conclude(n / OF_A_CALLER)));
    let mut held = futures_util::future::join_all(held);
    assert!(futures_util::poll!(&mut held).is_pending());
    let busy = conclude(AT_A_TIME).await.unwrap_err();
    assert_eq!(refusal(&busy), ("busy", Decision::Undecided));
    for outcome in held.await {
        assert_eq!(outcome.unwrap_err().reason(), "agent_too_slow");
    }
}

#[tokio::test(start_paused = true)]
async fn adv_one_caller_has_four_turns_and_keeps_nobody_else_waiting() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let verifier = verifier(|_| {});
    let from = |text: &str| Some(text.parse().unwrap());
    let conclude = |addr: &str| {
        let begun = verifier.begin(payload("127.0.0.1", port).as_bytes());
        begun.unwrap().conclude(from(addr))
    };
    let held = (0..OF_A_CALLER).map(|_| Box::pin(conclude("192.0.2.1")));
    let mut held = futures_util::future::join_all(held);
    assert!(futures_util::poll!(&mut held).is_pending());
    let busy = conclude("192.0.2.1").await.unwrap_err();
    assert_eq!(refusal(&busy), ("busy", Decision::Undecided));
    let listening = prover("127.0.0.1").open().unwrap();
    let other = verifier.begin(listening.payload()).unwrap();
    listening.answer(&other.challenge()).unwrap();
    let other = other.conclude(from("192.0.2.2"));
    assert!(listening.serve_during(other).await.is_ok());
    drop(held);
    let outcome = conclude("192.0.2.1").await;
    assert_eq!(outcome.unwrap_err().reason(), "agent_too_slow");
}

#[tokio::test]
async fn adv_whatever_answers_in_an_agents_place_the_caller_is_told_the_same() {
    let mut told = Vec::new();
    for answer in ["HTTP/1.1 404 No\r\n\r\n", "SSH-2.0-OpenSSH\r\n", ""] {
        let outcome = attest_against(|_| answer.as_bytes().to_vec()).await;
        told.push(outcome.unwrap_err().sentence());
    }
    let other = attest_against(|_| ok("something else")).await;
    told.push(other.unwrap_err().sentence());
    let strict = verifier(|options| options.networks.clear());
    let inside = strict.begin(payload("10.0.0.1", 80).as_bytes()).unwrap();
    told.push(inside.conclude(None).await.unwrap_err().sentence());
    assert_eq!(told, ["challenge verification failed"; 5]);
}

#[test]
fn an_operator_says_which_hosts_and_ports_count() {
    let begin = |change: fn(&mut Options), host: &str, port| {
        let begun = verifier(change).begin(payload(host, port).as_bytes());
        begun.err().map(|error| error.reason())
    };
    let patterns: fn(&mut Options) = |options| {
        let pattern = Pattern::parse(r"p[0-9]\.example\.org|q").unwrap();
        options.allowed_dns_patterns = vec![pattern];
    };
    for (host, reason) in [
        ("p1.example.org", None),
        ("q", None),
        ("p1.example.org.evil.test", Some("hostname_not_allowed")),
        ("xp1.example.org", Some("hostname_not_allowed")),
        ("qq", Some("hostname_not_allowed")),
    ] {
        assert_eq!(begin(patterns, host, 80), reason, "{host}");
    }
    assert_eq!(
        begin(|options| options.required_port = Some(80), "h", 80),
        None
    );
    let other = begin(|options| options.required_port = Some(80), "h", 81);
    assert_eq!(other, Some("port_not_allowed"));
    let root: fn(&mut Options) = |options| options.allow_non_root_ports = false;
    assert_eq!(begin(root, "h", 1023), None);
    assert_eq!(begin(root, "h", 1024), Some("port_not_allowed"));
    for pattern in ["(", "a)(b", "a{9999}{9999}"] {
        assert!(Pattern::parse(pattern).is_err(), "{pattern}");
    }
}
