//! The verifier, over HTTP, against the fake API server: one row for each field that can be wrong.

use std::time::Duration;

use bytes::Bytes;
use runtime::shutdown::{Reason, Shutdown};
use runtime::tasks::TaskGroup;
use tempfile::TempDir;

use super::*;
use crate::node::k8s_psat::fake::{FakeApiServer, FakePod, Fault};
use crate::node::{Decision, Refusal};

const AUDIENCE: &str = "spire-server";

/// A cluster with one node, the agent's pod on it, and its token `good`.
struct World {
    api: FakeApiServer,
    tasks: TaskGroup,
    folder: TempDir,
}

impl World {
    async fn new() -> Self {
        let tasks = TaskGroup::new(Shutdown::new().0);
        let api = FakeApiServer::start(&tasks, None).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        api.write_kubeconfig(&folder.path().join("kubeconfig"), None)
            .unwrap();
        api.put_node("node-1", "node-uid-1", &[("zone", "a"), ("secret", "x")]);
        api.put_pod(pod("agent-1", "pod-uid-1"));
        api.issue("good", &pod("agent-1", "pod-uid-1"), AUDIENCE);
        Self { api, tasks, folder }
    }

    fn cluster(&self) -> Cluster {
        Cluster {
            service_accounts: [ServiceAccount::parse("spire:agent").unwrap()].into(),
            audiences: vec![AUDIENCE.to_owned()],
            kube_config: KubeConfig::File(self.folder.path().join("kubeconfig")),
            node_label_keys: BTreeSet::new(),
            pod_label_keys: BTreeSet::new(),
            agent_id_by: AgentIdBy::NodeUid,
            limits: Limits::default(),
        }
    }

    fn verifier(&self) -> Verifier {
        verifier([("prod", self.cluster())])
    }

    /// The reason for which a token is not accepted, and what kind of answer that is.
    async fn refusal(&self, token: &str) -> (&'static str, Decision) {
        let error = verify(&self.verifier(), "prod", token).await.unwrap_err();
        (error.reason(), error.decision())
    }
}

fn pod(name: &str, uid: &str) -> FakePod {
    FakePod {
        namespace: "spire".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        service_account: "agent".to_owned(),
        node_name: "node-1".to_owned(),
        labels: [("app", "agent"), ("secret", "y")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    }
}

fn verifier<const N: usize>(clusters: [(&str, Cluster); N]) -> Verifier {
    let clusters = clusters.map(|(name, cluster)| (name.to_owned(), cluster));
    let own = TrustDomain::parse("example.org").unwrap();
    Verifier::new(own, clusters.into()).unwrap()
}

async fn verify(verifier: &Verifier, cluster: &str, token: &str) -> Result<Attested, VerifyError> {
    let token = ServiceAccountToken::new(token.to_owned());
    let payload = Payload::new(cluster.to_owned(), token).unwrap();
    verifier.verify(&payload.encode()).await
}

fn told(attested: &Attested) -> Vec<String> {
    let selectors = attested.selectors().iter();
    selectors.map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_pod_gets_the_id_of_its_node_and_the_selectors_of_spire() {
    let world = World::new().await;
    let attested = verify(&world.verifier(), "prod", "good").await.unwrap();
    assert_eq!(
        attested.agent_id().as_str(),
        "spiffe://example.org/spire/agent/k8s_psat/prod/node-uid-1"
    );
    assert_eq!(
        told(&attested),
        [
            "k8s_psat:agent_node_ip:172.16.10.1",
            "k8s_psat:agent_node_name:node-1",
            "k8s_psat:agent_node_uid:node-uid-1",
            "k8s_psat:agent_ns:spire",
            "k8s_psat:agent_pod_name:agent-1",
            "k8s_psat:agent_pod_uid:pod-uid-1",
            "k8s_psat:agent_sa:agent",
            "k8s_psat:cluster:prod",
        ]
    );
    assert_eq!(attested.credential().unwrap().holder, "pod-uid-1");
}

#[tokio::test]
async fn a_cluster_may_name_agents_by_pod_and_show_allowed_labels() {
    let world = World::new().await;
    let verifier = verifier([(
        "prod",
        Cluster {
            node_label_keys: ["zone".to_owned()].into(),
            pod_label_keys: ["app".to_owned(), "absent".to_owned()].into(),
            agent_id_by: AgentIdBy::PodUid,
            ..world.cluster()
        },
    )]);
    let attested = verify(&verifier, "prod", "good").await.unwrap();
    assert_eq!(
        attested.agent_id().as_str(),
        "spiffe://example.org/spire/agent/k8s_psat/prod/pod/pod-uid-1"
    );
    let told = told(&attested);
    assert!(told.contains(&"k8s_psat:agent_node_label:zone:a".to_owned()));
    assert!(told.contains(&"k8s_psat:agent_pod_label:app:agent".to_owned()));
    assert!(!told.iter().any(|selector| selector.contains("secret")));
}

#[tokio::test]
async fn a_cluster_that_does_not_name_the_node_is_asked_for_pod_and_node() {
    let world = World::new().await;
    let mut token = world.api.token("good").unwrap();
    (token.node, token.credential_id) = (None, None);
    world.api.put_token("old", token);
    let old = verify(&world.verifier(), "prod", "old").await.unwrap();
    let new = verify(&world.verifier(), "prod", "good").await.unwrap();
    assert_eq!((old.agent_id(), told(&old)), (new.agent_id(), told(&new)));
    let fingerprint = |attested: &Attested| attested.credential().unwrap().fingerprint;
    assert_ne!(fingerprint(&old), fingerprint(&new));
}

#[tokio::test]
async fn without_the_right_to_read_pods_and_nodes_the_review_is_enough() {
    let world = World::new().await;
    world.api.forbid(&["pods", "nodes"]);
    let attested = verify(&world.verifier(), "prod", "good").await.unwrap();
    assert_eq!(
        attested.agent_id().as_str(),
        "spiffe://example.org/spire/agent/k8s_psat/prod/node-uid-1"
    );
    let told = told(&attested);
    assert_eq!(told.len(), 7, "{told:?}");
    assert!(
        !told
            .iter()
            .any(|selector| selector.contains("agent_node_ip"))
    );
}

#[tokio::test]
async fn the_right_to_read_is_missed_where_the_review_or_the_labels_need_it() {
    let world = World::new().await;
    let mut token = world.api.token("good").unwrap();
    token.node = None;
    world.api.put_token("old", token);
    world.api.forbid(&["nodes"]);
    let forbidden = ("api_server_forbidden", Decision::Undecided);
    assert_eq!(world.refusal("old").await, forbidden);
    let labeled = verifier([(
        "prod",
        Cluster {
            node_label_keys: ["zone".to_owned()].into(),
            ..world.cluster()
        },
    )]);
    let error = verify(&labeled, "prod", "good").await.unwrap_err();
    assert_eq!(error.reason(), "api_server_forbidden");
    world.api.forbid(&["tokenreviews"]);
    assert_eq!(world.refusal("good").await, forbidden);
}

#[tokio::test]
async fn a_token_that_is_not_the_agents_is_refused() {
    let world = World::new().await;
    let good = world.api.token("good").unwrap();
    let put = |name: &str, change: &dyn Fn(&mut crate::node::k8s_psat::fake::FakeToken)| {
        let mut token = good.clone();
        change(&mut token);
        world.api.put_token(name, token);
    };
    put("other audience", &|token| {
        token.audiences = vec!["vault".to_owned()];
    });
    put("default token", &|token| {
        token.audiences = vec!["https://kubernetes.default.svc".to_owned()];
    });
    put("other account", &|token| {
        token.username = "system:serviceaccount:spire:other".to_owned();
    });
    put("other namespace", &|token| {
        token.username = "system:serviceaccount:other:agent".to_owned();
    });
    put("a user", &|token| {
        token.username = "system:node:spire:agent".to_owned();
    });
    put("no user", &|token| token.username = String::new());
    put("legacy token", &|token| {
        (token.pod, token.node) = (None, None);
    });
    put("deleted pod", &|token| {
        token.pod = Some(("gone".to_owned(), "pod-uid-9".to_owned()));
    });
    put("other node", &|token| {
        token.node = Some(("node-2".to_owned(), "node-uid-1".to_owned()));
    });
    put("recreated node", &|token| {
        token.node = Some(("node-1".to_owned(), "node-uid-0".to_owned()));
    });
    world.api.put_node("node-2", "node-uid-1", &[]);
    let refused = ("token_refused", Decision::Undecided);
    for (token, expected) in [
        ("unknown", refused),
        ("other audience", refused),
        ("default token", refused),
        ("deleted pod", refused),
        (
            "other account",
            ("service_account_not_allowed", Decision::Denied),
        ),
        (
            "other namespace",
            ("service_account_not_allowed", Decision::Denied),
        ),
        ("a user", ("not_a_service_account", Decision::Undecided)),
        ("no user", ("username_empty", Decision::Undecided)),
        ("legacy token", ("token_not_bound", Decision::Undecided)),
        ("other node", ("pod_on_other_node", Decision::Denied)),
        ("recreated node", ("node_replaced", Decision::Denied)),
    ] {
        assert_eq!(world.refusal(token).await, expected, "{token}");
    }
    assert!(verify(&world.verifier(), "prod", "good").await.is_ok());
}

#[tokio::test]
async fn a_review_that_does_not_speak_of_the_audience_is_not_enough() {
    let world = World::new().await;
    world.api.fail(Some(Fault::UnawareOfAudiences));
    assert_eq!(world.refusal("good").await.0, "audience_not_validated");
    // An empty list of audiences is the operator's wish not to ask.
    let any = verifier([(
        "prod",
        Cluster {
            audiences: Vec::new(),
            ..world.cluster()
        },
    )]);
    assert!(verify(&any, "prod", "good").await.is_ok());
}

#[tokio::test]
async fn an_unauthenticated_review_denies_and_says_so_as_spire_does() {
    let world = World::new().await;
    let body = Bytes::from_static(br#"{"status":{"authenticated":false}}"#);
    world.api.fail(Some(Fault::Body(body)));
    let error = verify(&world.verifier(), "prod", "good").await.unwrap_err();
    assert_eq!(error.decision(), Decision::Denied);
    assert_eq!(
        error.sentence(),
        r#"token not authenticated according to TokenReview API for cluster "prod""#
    );
}

#[tokio::test]
async fn a_pod_that_was_deleted_or_made_again_does_not_attest() {
    let world = World::new().await;
    world.api.put_pod(pod("agent-1", "pod-uid-2"));
    assert_eq!(world.refusal("good").await.0, "token_refused");
    // An API server remembers for some seconds that it authenticated a token.
    world.api.fail(Some(Fault::StaleReviews));
    assert_eq!(
        world.refusal("good").await,
        ("pod_replaced", Decision::Denied)
    );
    world.api.delete_pod("spire", "agent-1");
    assert_eq!(world.refusal("good").await.0, "object_not_found");
}

#[tokio::test]
async fn a_node_that_is_gone_does_not_attest() {
    let world = World::new().await;
    world.api.delete_node("node-1");
    let error = verify(&world.verifier(), "prod", "good").await.unwrap_err();
    assert_eq!(error.reason(), "object_not_found");
    assert_eq!(
        error.sentence(),
        r#"failed to get node from k8s API server for cluster "prod": unable to query nodes API: not found"#
    );
}

#[tokio::test]
async fn each_cluster_has_its_own_api_server_and_rules() {
    let (one, two) = (World::new().await, World::new().await);
    two.api.put_token("second", two.api.token("good").unwrap());
    let other = Cluster {
        service_accounts: [ServiceAccount::parse("other:agent").unwrap()].into(),
        ..one.cluster()
    };
    let verifier = verifier([
        ("one", one.cluster()),
        ("two", two.cluster()),
        ("three", other),
    ]);
    let attested = verify(&verifier, "two", "second").await.unwrap();
    assert!(
        attested
            .agent_id()
            .path()
            .starts_with("/spire/agent/k8s_psat/two/")
    );
    for (cluster, token, reason) in [
        ("one", "second", "token_refused"),
        ("three", "good", "service_account_not_allowed"),
        ("four", "good", "cluster_unknown"),
        ("../one", "good", "cluster_unknown"),
    ] {
        let error = verify(&verifier, cluster, token).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{cluster}");
    }
    let error = verifier.verify(b"{}").await.unwrap_err();
    assert_eq!(error.decision(), Decision::Malformed);
    let own = TrustDomain::parse("example.org").unwrap();
    for name in ["a/b", "..", "a b", ""] {
        let clusters = [(name.to_owned(), one.cluster())].into();
        assert!(Verifier::new(own.clone(), clusters).is_err(), "{name}");
    }
}

#[tokio::test]
async fn a_broken_api_server_is_named_and_never_lets_anyone_in() {
    let world = World::new().await;
    let waiting = |within| {
        let limits = Limits { within, at_once: 1 };
        let cluster = Cluster {
            limits,
            ..world.cluster()
        };
        verifier([("prod", cluster)])
    };
    // Only what never comes is not waited for: a long answer takes its time on a busy machine.
    let (verifier, hasty) = (
        waiting(Duration::from_secs(60)),
        waiting(Duration::from_millis(300)),
    );
    let long = vec![b' '; (4 << 20) + 1];
    for (fault, reason) in [
        (Fault::Status(500), "api_server_status"),
        (Fault::Status(503), "api_server_status"),
        (Fault::Status(401), "api_server_unauthorized"),
        (Fault::Hang, "api_server_late"),
        (Fault::Hang, "api_server_late"),
        (
            Fault::Body(Bytes::from_static(b"<html>")),
            "answer_malformed",
        ),
        (Fault::Body(Bytes::new()), "answer_malformed"),
        (
            Fault::Body(Bytes::from_static(b"{\"status\":{\"auth")),
            "answer_malformed",
        ),
        (Fault::Body(long.into()), "answer_too_long"),
    ] {
        world.api.fail(Some(fault.clone()));
        let asking = match fault {
            Fault::Hang => &hasty,
            _ => &verifier,
        };
        let error = verify(asking, "prod", "good").await.unwrap_err();
        assert_eq!(
            (error.reason(), error.decision()),
            (reason, Decision::Undecided)
        );
    }
    world.api.fail(None);
    assert!(
        verify(&verifier, "prod", "good").await.is_ok(),
        "it is used again"
    );
    world.tasks.trigger().trigger(Reason::Requested("test"));
    world.tasks.drain(Duration::from_secs(5)).await;
    let error = verify(&verifier, "prod", "good").await.unwrap_err();
    assert_eq!(error.reason(), "api_server_unreachable");
    assert!(
        !error.sentence().contains("127.0.0.1"),
        "{}",
        error.sentence()
    );
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_is_named() {
    let world = World::new().await;
    let verifier = world.verifier();
    let path = world.folder.path().join("kubeconfig");
    std::fs::write(&path, "not: [a kubeconfig").unwrap();
    let error = verify(&verifier, "prod", "good").await.unwrap_err();
    assert_eq!(error.reason(), "api_server_config");
    // It is read again for the next try.
    world.api.write_kubeconfig(&path, None).unwrap();
    assert!(verify(&verifier, "prod", "good").await.is_ok());
}

#[tokio::test]
async fn the_api_server_is_known_by_its_certificate() {
    let tasks = TaskGroup::new(Shutdown::new().0);
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (right, wrong) = (
        folder.path().join("right.pem"),
        folder.path().join("wrong.pem"),
    );
    std::fs::write(&right, made.cert.pem()).unwrap();
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&wrong, other.cert.pem()).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let api = FakeApiServer::start(&tasks, Some(acceptor)).await.unwrap();
    for (ca_file, reason) in [
        (&right, "object_not_found"),
        (&wrong, "api_server_unreachable"),
    ] {
        let path = folder.path().join("kubeconfig");
        api.write_kubeconfig(&path, Some(ca_file)).unwrap();
        let server = ApiServer::new(KubeConfig::File(path), Limits::default());
        let name = ObjectName::parse("nobody").unwrap();
        assert_eq!(server.node(&name).await.unwrap_err().reason(), reason);
    }
}

#[test]
fn the_time_of_issue_is_read_from_the_token_itself() {
    let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
    let at = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    assert_eq!(
        issued_at(&token(r#"{"iat":1550843654,"x":1}"#)),
        at(1_550_843_654)
    );
    for other in [
        "",
        "opaque",
        "a.b.c",
        "e30.e30.e30",
        &token(r#"{"iat":-1}"#),
        &token("[]"),
    ] {
        assert_eq!(issued_at(other), None, "{other}");
    }
}
