//! The server as the agent meets it: attestation, bundles, entries, and servers that are not ours.

use std::time::Duration;

use futures_util::{FutureExt, stream};
use proto::spire::types;

use super::fake::Fake;
use super::*;
use crate::bootstrap::Trust;
use crate::config::ServerAddress;
use crate::custody::{self, Custody, CustodyConfig};
use crate::upstream::fake::{Ca, trust_domain};
use identity::x509::X509Svid;

const SERVER: &str = "spiffe://example.org/spire/server";

fn target(fake: &Fake) -> Target {
    Target {
        host: "localhost".to_owned(),
        port: fake.addr.port(),
        more: Vec::new(),
        trust_domain: trust_domain(),
        patience: Patience::USUAL,
        demands_pq: false,
    }
}

fn trust_in(ca: &Ca) -> Trust {
    Trust::Bundle(Box::new(Bundle::from_certificates(
        trust_domain(),
        [ca.certificate.clone()],
    )))
}

/// Attests with a token, and gives the identity that came of it.
async fn attested(
    fake: &Fake,
    trust: Trust,
    token: &str,
) -> Result<(Arc<AgentSvid>, Bundle), UpstreamError> {
    let key = Custody::open(&CustodyConfig::Memory)
        .unwrap()
        .generate(None)
        .unwrap();
    let evidence = Evidence {
        kind: "join_token",
        payload: token.as_bytes().to_vec().into(),
        answerer: None,
        csr: custody::request(&key).unwrap(),
        shown: None,
    };
    let attested = attest(target(fake), trust, evidence, Clock::system()).await?;
    let svid = X509Svid::new(attested.chain, key).unwrap();
    Ok((
        Arc::new(AgentSvid {
            svid,
            reattestable: attested.reattestable,
        }),
        attested.bundle,
    ))
}

async fn server(fake: &Fake) -> (Server, Arc<Credentials>) {
    fake.token("t");
    let (own, bundle) = attested(fake, trust_in(&fake.ca), "t").await.unwrap();
    let credentials = Arc::new(Credentials::new(own, Arc::new(bundle)));
    (
        Server::new(target(fake), Arc::clone(&credentials), Clock::system()),
        credentials,
    )
}

/// A way to a server that can be made to swallow everything: what was connected stays so, whoever
/// connects is taken, and no byte comes through. No kernel tells it from a server that thinks.
struct Hole {
    addr: std::net::SocketAddr,
    is_open: watch::Sender<bool>,
    _tasks: runtime::shutdown::ShutdownTrigger,
}

impl Hole {
    async fn before(to: std::net::SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let is_open = watch::Sender::new(false);
        let (trigger, shutdown) = runtime::shutdown::Shutdown::new();
        let tasks = runtime::tasks::TaskGroup::new(trigger.clone());
        let opened = is_open.subscribe();
        let group = tasks.clone();
        let ended = shutdown;
        tasks.spawn("hole", async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut opened, ended) = (opened.clone(), ended.clone());
                group.spawn("hole.way", async move {
                    let carry = async {
                        if *opened.borrow() {
                            return;
                        }
                        let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
                        let swallow = async {
                            let _ = opened.wait_for(|is_open| *is_open).await;
                        };
                        tokio::select! {
                            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                            () = swallow => ended.requested().await,
                        }
                    };
                    carry.await;
                    ended.requested().await;
                });
            }
        });
        Self {
            addr,
            is_open,
            _tasks: trigger,
        }
    }

    fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// The server by way of this, and then by its own address.
    async fn leads(&self, fake: &Fake, patience: Patience) -> Server {
        fake.token("t");
        let (own, bundle) = attested(fake, trust_in(&fake.ca), "t").await.unwrap();
        let address = |port| ServerAddress {
            host: "127.0.0.1".to_owned(),
            port,
        };
        let target = Target {
            host: "127.0.0.1".to_owned(),
            port: self.addr.port(),
            more: vec![address(fake.addr.port())],
            patience,
            ..target(fake)
        };
        let credentials = Arc::new(Credentials::new(own, Arc::new(bundle)));
        Server::new(target, credentials, Clock::system())
    }
}

fn entry(id: &str, path: &str, revision: i64) -> types::Entry {
    types::Entry {
        id: id.to_owned(),
        spiffe_id: Some(types::Spiffeid {
            trust_domain: "example.org".to_owned(),
            path: path.to_owned(),
        }),
        selectors: vec![types::Selector {
            r#type: "unix".to_owned(),
            value: "uid:1".to_owned(),
        }],
        revision_number: revision,
        created_at: 1_700_000_000,
        ..Default::default()
    }
}

fn numbered(count: usize) -> Vec<types::Entry> {
    // Not in the order of their ids.
    (0..count)
        .rev()
        .map(|number| entry(&format!("e{number:03}"), &format!("/w/{number}"), 0))
        .collect()
}

#[tokio::test]
async fn attests_by_a_token_and_learns_the_bundle() {
    let fake = Fake::start();
    fake.token("t");
    let (own, bundle) = attested(&fake, trust_in(&fake.ca), "t").await.unwrap();
    assert_eq!(
        own.svid.id().as_str(),
        "spiffe://example.org/spire/agent/join_token/t"
    );
    assert!(!own.reattestable);
    assert_eq!(
        bundle.certificates().collect::<Vec<_>>(),
        [&fake.ca.certificate]
    );
    assert_eq!(fake.script.lock().calls, ["attest", "bundle"]);
}

#[tokio::test]
async fn a_spent_token_is_refused_in_the_servers_words() {
    let fake = Fake::start();
    fake.token("t");
    attested(&fake, trust_in(&fake.ca), "t").await.unwrap();
    let error = attested(&fake, trust_in(&fake.ca), "t").await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("join token does not exist or has already been used"),
        "{error}"
    );
    assert!(error.to_string().contains("invalid_argument"), "{error}");
}

#[tokio::test]
async fn a_server_of_another_authority_is_told_from_one_that_is_away() {
    let fake = Fake::start();
    fake.token("t");
    let other = Ca::new();
    let error = attested(&fake, trust_in(&other), "t").await.unwrap_err();
    assert_eq!(error.reason(), "unknown_authority", "{error:?}");
    let (trust, gone) = (trust_in(&fake.ca), target(&fake));
    fake.stop().await;
    let evidence = Evidence {
        kind: "join_token",
        payload: Vec::new().into(),
        answerer: None,
        csr: Vec::new(),
        shown: None,
    };
    let error = attest(gone, trust, evidence, Clock::system())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "unavailable", "{error:?}");
}

#[tokio::test]
async fn insecure_bootstrap_still_demands_the_servers_name() {
    let fake = Fake::start();
    fake.token("t");
    assert!(attested(&fake, Trust::AnyServer, "t").await.is_ok());
    for id in [
        "spiffe://example.org/workload",
        "spiffe://other.org/spire/server",
    ] {
        let fake = Fake::start_as(Arc::new(Ca::new()), id, 0);
        fake.token("t");
        let error = attested(&fake, Trust::AnyServer, "t").await.unwrap_err();
        let chain = runtime::report::chain(&error);
        assert!(
            chain.contains(&format!("it is `{id}`, not `{SERVER}`")),
            "{chain}"
        );
        assert!(fake.script.lock().calls.is_empty());
    }
}

#[tokio::test]
async fn a_workload_of_the_same_authority_is_not_the_server() {
    let fake = Fake::start_as(Arc::new(Ca::new()), "spiffe://example.org/workload", 0);
    fake.token("t");
    let error = attested(&fake, trust_in(&fake.ca), "t").await.unwrap_err();
    assert_eq!(error.reason(), "unavailable");
    assert!(fake.script.lock().calls.is_empty());
}

#[tokio::test]
async fn a_bundle_that_cannot_be_fetched_does_not_waste_the_token() {
    let fake = Fake::start();
    fake.token("t");
    fake.script.lock().no_bundle = true;
    let (_, bundle) = attested(&fake, trust_in(&fake.ca), "t").await.unwrap();
    assert_eq!(
        bundle.certificates().collect::<Vec<_>>(),
        [&fake.ca.certificate]
    );
}

#[tokio::test]
async fn a_server_takes_an_agent_that_demands_post_quantum_keys() {
    let fake = Fake::start();
    let (_, credentials) = server(&fake).await;
    let target = Target {
        demands_pq: true,
        ..target(&fake)
    };
    let server = Server::new(target, credentials, Clock::system());
    server.post_status("1").await.unwrap();
}

#[tokio::test]
async fn a_short_list_of_entries_comes_whole() {
    let fake = Fake::start();
    fake.script.lock().entries = numbered(3);
    let (server, _) = server(&fake).await;
    let entries = server.sync_entries(&EntrySet::default()).await.unwrap();
    assert_eq!(entries.len(), 3);
    fake.script.lock().entries.clear();
    assert!(server.sync_entries(&entries).await.unwrap().is_empty());
}

#[tokio::test]
async fn of_a_long_list_only_what_changed_is_asked_for_sorted_and_in_pages() {
    let fake = Fake::start();
    fake.script.lock().entries = numbered(7);
    fake.script.lock().page_size = 3;
    let (server, _) = server(&fake).await;
    let first = server.sync_entries(&EntrySet::default()).await.unwrap();
    assert_eq!(first.len(), 7);
    let asked = std::mem::take(&mut fake.script.lock().asked);
    assert_eq!(
        asked,
        [
            vec!["e000", "e001", "e002"],
            vec!["e003", "e004", "e005"],
            vec!["e006"]
        ]
    );

    {
        let mut script = fake.script.lock();
        script.entries[0].revision_number = 1;
        // The same id and revision, created anew.
        script.entries[1].created_at += 1;
        script.entries.pop();
    }
    let second = server.sync_entries(&first).await.unwrap();
    assert_eq!(fake.script.lock().asked, [["e005", "e006"]]);
    assert_eq!(second.len(), 6);
    let id = EntryId::parse("e004").unwrap();
    assert!(Arc::ptr_eq(
        first.get(&id).unwrap(),
        second.get(&id).unwrap()
    ));
}

#[tokio::test]
async fn entries_among_revisions_break_the_protocol() {
    let fake = Fake::start();
    fake.script.lock().entries = numbered(7);
    fake.script.lock().page_size = 3;
    fake.script.lock().mix = true;
    let (server, _) = server(&fake).await;
    let error = server.sync_entries(&EntrySet::default()).await.unwrap_err();
    assert_eq!(error.reason(), "protocol");
}

#[tokio::test]
async fn a_malformed_entry_is_passed_over_and_the_others_are_served() {
    let fake = Fake::start();
    let mut nobody = entry("nobody", "/w", 0);
    nobody.selectors.clear();
    let mut foreign = entry("foreign", "/w", 0);
    foreign.spiffe_id.as_mut().unwrap().trust_domain = "other.org".to_owned();
    fake.script.lock().entries = vec![nobody, foreign, entry("", "/w", 0), entry("good", "/w", 0)];
    let (server, _) = server(&fake).await;
    let entries = server.sync_entries(&EntrySet::default()).await.unwrap();
    assert_eq!(
        entries
            .iter()
            .map(|entry| entry.id.as_str())
            .collect::<Vec<_>>(),
        ["good"]
    );
}

#[tokio::test]
async fn a_batch_is_answered_item_by_item() {
    let fake = Fake::start();
    fake.script.lock().entries = numbered(1);
    let (server, _) = server(&fake).await;
    let key = Custody::open(&CustodyConfig::Memory)
        .unwrap()
        .generate(None)
        .unwrap();
    let request = |id: &str| SigningRequest {
        entry_id: EntryId::parse(id).unwrap(),
        csr: custody::request(&key).unwrap(),
    };
    let answers = server
        .sign_x509(vec![request("nobody"), request("e000")])
        .await
        .unwrap();
    let refusal = answers[0].as_ref().unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the server refused the item with not_found: entry not found or not authorized"
    );
    assert_eq!(
        answers[1].as_ref().unwrap()[0].public_key(),
        key.public_key()
    );
}

#[tokio::test]
async fn a_bundle_that_nobody_has_is_none_and_one_of_another_domain_is_refused() {
    let fake = Fake::start();
    let (server, _) = server(&fake).await;
    assert!(server.bundle(&trust_domain()).await.unwrap().is_some());
    assert!(
        server
            .bundle(&TrustDomain::parse("nobody.org").unwrap())
            .await
            .unwrap()
            .is_none()
    );
    let error = server
        .bundle(&TrustDomain::parse("mixed.up").unwrap())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "protocol");
}

#[tokio::test]
async fn a_denial_says_what_the_agent_has_to_do() {
    let fake = Fake::start();
    let (server, _) = server(&fake).await;
    fake.script.lock().deny = Some(4);
    let error = server.post_status("1").await.unwrap_err();
    assert!(
        matches!(error, UpstreamError::Denied(Denial::Banned)),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_denial_of_the_identity_before_the_last_is_no_verdict_on_this_one() {
    let fake = Fake::start();
    let (server, credentials) = server(&fake).await;
    let other = Server::new(target(&fake), Arc::clone(&credentials), Clock::system());
    let attempts = std::sync::atomic::AtomicUsize::new(0);
    let answer = server.call(|line| {
        let is_first = attempts.fetch_add(1, Ordering::Relaxed) == 0;
        let (other, credentials) = (&other, &credentials);
        async move {
            // While the call is on its way, the agent renews and uses what it got.
            if is_first {
                let key = Custody::open(&CustodyConfig::Memory)
                    .unwrap()
                    .generate(None)
                    .unwrap();
                let chain = other.renew(custody::request(&key).unwrap()).await?;
                let svid = X509Svid::new(chain, key).unwrap();
                credentials.renew(Arc::new(AgentSvid {
                    svid,
                    reattestable: false,
                }));
                other.post_status("1").await?;
            }
            AgentClient::new(line.channel())
                .post_status(PostStatusRequest::default())
                .await?;
            Ok(())
        }
    });
    answer.await.unwrap();
    assert_eq!(attempts.into_inner(), 2);
    assert_eq!(fake.calls("post_status"), 3);
}

/// A call that is told once that the agent's SVID is not the one that the server has for it.
async fn told_once(server: &Server) -> (usize, Result<(), UpstreamError>) {
    let attempts = std::sync::atomic::AtomicUsize::new(0);
    let answer = server.call(|_| {
        let is_first = attempts.fetch_add(1, Ordering::Relaxed) == 0;
        std::future::ready(match is_first {
            true => Err(UpstreamError::Denied(Denial::NotActive)),
            false => Ok(()),
        })
    });
    let answer = answer.await;
    (attempts.into_inner(), answer)
}

fn same_again(credentials: &Credentials) -> Arc<AgentSvid> {
    Arc::new(AgentSvid::clone(&credentials.own()))
}

#[tokio::test]
async fn a_denial_of_an_identity_that_is_being_replaced_waits_for_the_next_one() {
    let fake = Fake::start();
    let (server, credentials) = server(&fake).await;
    let replacing = credentials.replacing();
    let mut call = std::pin::pin!(told_once(&server));
    assert!(call.as_mut().now_or_never().is_none());
    credentials.renew(same_again(&credentials));
    drop(replacing);
    let (attempts, answer) = call.await;
    answer.unwrap();
    assert_eq!(attempts, 2);

    // None came.
    let replacing = credentials.replacing();
    let mut call = std::pin::pin!(told_once(&server));
    assert!(call.as_mut().now_or_never().is_none());
    drop(replacing);
    let (attempts, answer) = call.await;
    let error = answer.unwrap_err();
    assert!(
        matches!(error, UpstreamError::Denied(Denial::NotActive)),
        "{error:?}"
    );
    assert_eq!(attempts, 1);
}

#[tokio::test]
async fn a_feed_tells_of_the_end_of_an_identity_after_the_next_one_has_come() {
    let fake = Fake::start();
    let (_server, credentials) = server(&fake).await;
    let ends = |denial| {
        let parts = stream::iter([Err(UpstreamError::Denied(denial))]).boxed();
        after_replacement(parts, Arc::clone(&credentials))
    };
    let replacing = credentials.replacing();
    let renewals = credentials.renewals();
    let mut parts = ends(Denial::NotActive);
    assert!(parts.next().now_or_never().is_none());
    credentials.renew(same_again(&credentials));
    drop(replacing);
    assert!(matches!(
        parts.next().await,
        Some(Err(UpstreamError::Denied(Denial::NotActive)))
    ));
    assert!(renewals.has_changed().unwrap());

    // A ban is meant for the agent, whatever it is called now.
    let _replacing = credentials.replacing();
    assert!(ends(Denial::Banned).next().now_or_never().is_some());
}

#[tokio::test]
async fn a_server_that_restarts_is_found_again() {
    let mut fake = Fake::start();
    let (server, _) = server(&fake).await;
    for _ in 0..3 {
        server.post_status("1").await.unwrap();
        fake = fake.restart().await;
    }
    server.post_status("1").await.unwrap();
}

#[tokio::test]
async fn a_server_without_a_feed_is_told_from_one_that_is_away() {
    let fake = Fake::start();
    let (server, _) = server(&fake).await;
    assert!(server.follow(None).await.unwrap().is_none());
    fake.stop().await;
    let error = server.follow(None).await.unwrap_err();
    assert_eq!(error.reason(), "unavailable");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_passed_over_for_the_next_address() {
    let fake = Fake::start();
    fake.token("t");
    let (own, bundle) = attested(&fake, trust_in(&fake.ca), "t").await.unwrap();
    // One that refuses, and one that takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = refusing.local_addr().unwrap().port();
    drop(refusing);
    let address = |port| ServerAddress {
        host: "127.0.0.1".to_owned(),
        port,
    };
    let target = Target {
        port: gone,
        more: vec![
            address(silent.local_addr().unwrap().port()),
            address(fake.addr.port()),
        ],
        ..target(&fake)
    };
    let credentials = Arc::new(Credentials::new(own, Arc::new(bundle)));
    let server = Server::new(target, credentials, Clock::system());
    server.post_status("1").await.unwrap();
}

#[tokio::test]
async fn a_network_that_swallows_everything_is_noticed_by_a_ping_and_the_next_server_is_asked() {
    let fake = Fake::start();
    let hole = Hole::before(fake.addr).await;
    let patience = Patience {
        // Long enough for a busy machine: what is not swallowed must not be given up.
        connect: Duration::from_secs(2),
        ping: Duration::from_millis(200),
        pong: Duration::from_secs(2),
        // Nothing but a ping tells in time.
        call: Duration::from_secs(60),
        ..Patience::USUAL
    };
    let server = hole.leads(&fake, patience).await;
    server.post_status("1").await.unwrap();
    hole.open();
    server.post_status("1").await.unwrap();
}

#[tokio::test]
async fn towards_a_server_that_takes_no_pings_the_deadline_of_a_call_tells_the_same() {
    let fake = Fake::start();
    let hole = Hole::before(fake.addr).await;
    let patience = Patience {
        connect: Duration::from_secs(2),
        // A ping would tell before the deadline does, and not so soon that a busy machine is taken for a hole.
        ping: Duration::from_millis(100),
        pong: Duration::from_secs(1),
        call: Duration::from_secs(4),
        ..Patience::USUAL
    };
    let server = hole.leads(&fake, patience).await;
    // It has no feed, so it is not one of ours.
    assert!(server.follow(None).await.unwrap().is_none());
    server.post_status("1").await.unwrap();
    hole.open();
    let error = server.post_status("1").await.unwrap_err();
    assert_eq!(error.to_string(), "could not reach the server");
    let chain = runtime::report::chain(&error);
    assert!(chain.contains("did not answer in time"), "{chain}");
    server.post_status("1").await.unwrap();
}

#[tokio::test]
async fn the_bundle_of_the_moment_judges_the_server() {
    let fake = Fake::start();
    let (server, credentials) = server(&fake).await;
    let other = Bundle::from_certificates(trust_domain(), [Ca::new().certificate]);
    let good = credentials.trust();
    credentials.trust_now(Arc::new(other));
    let fake = fake.restart().await;
    let error = server.post_status("1").await.unwrap_err();
    assert_eq!(error.reason(), "unknown_authority");
    credentials.trust_now(good);
    server.post_status("1").await.unwrap();
    drop(fake);
}
