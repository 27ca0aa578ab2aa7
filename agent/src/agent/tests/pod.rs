//! An agent in a pod: it proves itself by what its kubelet keeps in a file, as often as it has to.

use tonic::Code;

use super::*;

impl Place {
    /// A place with the token of a pod.
    fn of_pod(fake: &Fake) -> Self {
        let mut place = Self::new(fake);
        place.node_attestor = format!(
            r#"NodeAttestor "k8s_psat" {{ plugin_data {{ cluster = "prod" token_path = "{}" }} }}"#,
            place.path("token").display()
        );
        place.put_token("one");
        place
    }

    fn put_token(&self, token: &str) {
        std::fs::write(self.path("token"), token).unwrap();
    }
}

fn evidence(token: &str, shown: bool) -> (String, bool) {
    (format!(r#"{{"cluster":"prod","token":"{token}"}}"#), shown)
}

#[tokio::test]
async fn renews_by_the_token_of_the_moment_and_shows_who_it_is() {
    let fake = Fake::start();
    let place = Place::of_pod(&fake);
    let agent = place.start("").await.unwrap().ready().await;
    assert!(agent.id().ends_with("/k8s_psat/prod/node"));
    let first = agent.serial();
    place.put_token("two");
    // A taint makes the agent renew at once.
    fake.script.lock().tainted = true;
    fake.called("attest", 2).await;
    let syncs = fake.calls("sync");
    fake.called("sync", syncs + 2).await;
    assert_ne!(agent.serial(), first);
    assert_eq!(fake.calls("renew"), 0);
    let seen = fake.script.lock().evidence.clone();
    assert_eq!(seen[..2], [evidence("one", false), evidence("two", true)]);
    agent.stop().await;
}

#[tokio::test]
async fn an_evicted_agent_attests_again_and_goes_on() {
    let fake = Fake::start();
    let place = Place::of_pod(&fake);
    let agent = place.start("").await.unwrap().ready().await;
    fake.script.lock().deny = Some(2);
    fake.called("attest", 2).await;
    let syncs = fake.calls("sync");
    fake.called("sync", syncs + 2).await;
    assert!(place.kept_while_running().state().reattestable);
    agent.stop().await;
}

#[tokio::test]
async fn a_restart_without_its_state_takes_nothing_but_the_token() {
    let fake = Fake::start();
    let place = Place::of_pod(&fake);
    place.start("").await.unwrap().ready().await.stop().await;
    std::fs::remove_dir_all(place.path("data")).unwrap();
    std::fs::remove_dir_all(place.path("keys")).unwrap();
    place.start("").await.unwrap().ready().await.stop().await;
    let seen = fake.script.lock().evidence.clone();
    assert_eq!(seen, [evidence("one", false), evidence("one", false)]);
}

#[tokio::test]
async fn a_refusal_that_may_be_cured_elsewhere_is_no_reason_to_end() {
    for (code, message) in [
        (Code::PermissionDenied, "token not authenticated"),
        (Code::InvalidArgument, "not configured for cluster"),
    ] {
        let fake = Fake::start();
        let place = Place::of_pod(&fake);
        fake.script.lock().refusals = vec![(code, message)];
        let agent = place.start("").await.unwrap().ready().await;
        assert_eq!(fake.calls("attest"), 2);
        agent.stop().await;
    }
}

#[tokio::test]
async fn a_token_that_is_not_there_yet_is_waited_for() {
    let fake = Fake::start();
    let place = Place::of_pod(&fake);
    std::fs::remove_file(place.path("token")).unwrap();
    let bring = async {
        // The first try has failed when the agent has opened its folder of keys.
        while !place.path("keys").try_exists().unwrap() {
            tokio::task::yield_now().await;
        }
        place.put_token("late");
    };
    let (agent, ()) = within(Box::pin(async { tokio::join!(place.start(""), bring) })).await;
    agent.unwrap().ready().await.stop().await;
    assert_eq!(fake.script.lock().evidence, [evidence("late", false)]);
}

#[tokio::test]
async fn a_ban_is_final_in_whatever_form_it_is_told() {
    let fake = Fake::start();
    let place = Place::of_pod(&fake);
    let banned = "failed to attest: agent is banned";
    fake.script.lock().refusals = vec![(Code::PermissionDenied, banned)];
    let error = place.start("").await.err().unwrap();
    assert_eq!(error.reason(), "agent_banned");
    assert_eq!(fake.calls("attest"), 1);
    let agent = place.start("").await.unwrap().ready().await;
    fake.script.lock().deny = Some(4);
    assert_eq!(agent.ended().await, Reason::Failed("the agent is banned"));
}

#[tokio::test]
async fn a_pod_whose_svid_expired_while_it_was_away_attests_again_at_its_start() {
    let fake = Fake::start();
    let place = Place::of_pod(&fake);
    place.start("").await.unwrap().ready().await.stop().await;
    place.expire(&fake, true);
    let agent = place.start("").await.unwrap().ready().await;
    assert_eq!(fake.calls("attest"), 2);
    agent.stop().await;
}

#[tokio::test]
async fn a_server_that_lost_its_authorities_is_found_again_by_the_bundle_that_is_fetched_again() {
    let fake = Fake::start();
    let place = Place::of_pod(&fake);
    let lines = r#"rebootstrap_mode = "always" rebootstrap_delay = "50ms""#;
    let agent = place.start(lines).await.unwrap().ready().await;
    let (port, script) = (fake.addr.port(), Arc::clone(&fake.script));
    fake.stop().await;
    script.lock().calls.clear();
    let ca = Arc::new(crate::upstream::fake::Ca::new());
    std::fs::write(place.path("bundle.pem"), ca.certificate.to_pem()).unwrap();
    let server = "spiffe://example.org/spire/server";
    let fake = Fake::start_with(Arc::clone(&ca), server, port, script);
    fake.called("sync", 2).await;
    let trust = agent.handle.credentials.trust();
    assert_eq!(trust.certificates().collect::<Vec<_>>(), [&ca.certificate]);
    agent.stop().await;
    // A delay this short may be over once more before synchronization knows the server again.
    let attested = fake.calls("attest");
    assert!(attested >= 1);
    // And what came of it is kept.
    place.start(lines).await.unwrap().ready().await.stop().await;
    assert_eq!(fake.calls("attest"), attested);
}
