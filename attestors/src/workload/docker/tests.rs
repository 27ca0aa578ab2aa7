//! The attestor against an engine that answers well, badly or not at all, on real sockets.

mod fake;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;

use self::fake::{Answer, Engine as FakeEngine, body, ok};
use super::*;
use crate::workload::cgroup::pattern::Patterns;

const IMAGE: &str = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";

fn id() -> ContainerId {
    ContainerId::parse(&"a".repeat(64)).unwrap()
}

fn container(engine: Engine) -> Container {
    Container { id: id(), engine }
}

fn described(id: &ContainerId) -> Answer {
    ok(&json!({
        "Id": id.as_str(),
        "Image": format!("sha256:{IMAGE}"),
        "State": { "Pid": std::process::id() },
        "Config": { "Labels": { "app": "web" }, "Env": ["SECRET=hush"], "Image": "web:1" },
    }))
}

fn options(engine: &FakeEngine) -> Options {
    Options {
        docker_socket: engine.socket(),
        podman_socket: engine.socket(),
        user_sockets: None,
        docker_version: None,
        patterns: None,
        request_timeout: Duration::from_secs(30),
    }
}

fn docker(options: Options) -> Docker {
    Docker::new(options, Viewpoint::default())
}

async fn find(options: Options, engine: Engine) -> Result<Verdict, DockerError> {
    docker(options).find(&container(engine)).await
}

fn texts(verdict: Verdict) -> Vec<String> {
    let Verdict::Attested(found) = verdict else {
        panic!("{verdict:?}")
    };
    found.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_container_has_its_labels_variables_image_and_digest() {
    let engine = FakeEngine::start(|target| match target {
        "/v1.41/containers/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/json" => {
            described(&id())
        }
        "/v1.41/images/sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc/json" => {
            ok(&json!({ "Id": format!("sha256:{IMAGE}") }))
        }
        other => panic!("{other}"),
    });
    let version = Some(ApiVersion::parse("1.41").unwrap());
    let options = Options {
        docker_version: version,
        ..options(&engine)
    };
    assert_eq!(
        texts(find(options, Engine::Docker).await.unwrap()),
        [
            "docker:env:SECRET=hush".to_owned(),
            format!("docker:image_config_digest:sha256:{IMAGE}"),
            "docker:image_id:web:1".to_owned(),
            "docker:label:app:web".to_owned(),
        ]
    );
}

#[tokio::test]
async fn an_image_that_cannot_be_asked_for_costs_its_digest_alone() {
    for answer in [
        body(404, b"{}"),
        body(500, b"{}"),
        body(200, b"garbage"),
        Answer::Partial(b"HTTP".to_vec()),
    ] {
        let engine = FakeEngine::start(move |target| match target {
            target if target.starts_with("/images/") => answer.clone(),
            _ => described(&id()),
        });
        let found = texts(find(options(&engine), Engine::Docker).await.unwrap());
        assert_eq!(found.len(), 3, "{found:?}");
    }
}

#[tokio::test]
async fn every_failure_of_an_engine_has_its_reason() {
    let huge = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
        description::MAX_BYTES + 1
    );
    for (answer, reason) in [
        (
            body(404, br#"{"message":"No such container"}"#),
            "container_not_listed",
        ),
        (body(500, b"{}"), "engine_status"),
        (body(301, b"{}"), "engine_status"),
        (body(200, b"garbage"), "engine_garbage"),
        (body(200, b""), "engine_garbage"),
        (body(200, b"{\"Config\":{}}"), "engine_garbage"),
        (Answer::Partial(Vec::new()), "engine_broken_off"),
        (
            Answer::Partial(b"\x15\x03\x01".to_vec()),
            "engine_broken_off",
        ),
        (
            Answer::Partial(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_vec()),
            "engine_broken_off",
        ),
        (Answer::Partial(huge.into_bytes()), "engine_too_large"),
        (Answer::Endless, "engine_too_large"),
    ] {
        let engine = FakeEngine::start(move |_| answer.clone());
        let error = find(options(&engine), Engine::Docker).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{error:?}");
    }
}

#[tokio::test]
async fn an_engine_that_hangs_or_is_not_there_is_told() {
    let engine = FakeEngine::start(|_| Answer::Hang);
    let request_timeout = Duration::from_millis(50);
    let hanging = Options {
        request_timeout,
        ..options(&engine)
    };
    let error = find(hanging, Engine::Docker).await.unwrap_err();
    assert_eq!(error.reason(), "engine_timeout");
    assert!(error.is_unasked());
    let gone = Options {
        docker_socket: engine.socket().with_extension("gone"),
        ..options(&engine)
    };
    let error = find(gone, Engine::Docker).await.unwrap_err();
    assert_eq!(error.reason(), "engine_unreachable");
    assert!(error.is_unasked());
}

#[tokio::test]
async fn a_pod_that_docker_does_not_list_is_another_runtimes() {
    let engine = FakeEngine::start(|_| body(404, b"{}"));
    let found = find(options(&engine), Engine::Kubelet).await.unwrap();
    assert!(texts(found).is_empty());
}

#[tokio::test]
async fn an_answer_about_another_container_is_a_denial() {
    let other = ContainerId::parse(&"b".repeat(64)).unwrap();
    let engine = FakeEngine::start(move |_| described(&other));
    let verdict = find(options(&engine), Engine::Docker).await.unwrap();
    assert_eq!(verdict, Verdict::Denied(Denial::ContainerMismatch));
}

#[tokio::test]
async fn a_claim_below_a_service_needs_the_containers_first_process_there() {
    let engine = FakeEngine::start(|_| described(&id()));
    // The first process is this test, which is in no container.
    let claimed = Some(b"/system.slice/game.service/libpod-payload-x"[..].into());
    let verdict = find(options(&engine), Engine::Podman { claimed })
        .await
        .unwrap();
    assert_eq!(verdict, Verdict::Denied(Denial::ContainerMismatch));
    let verdict = find(options(&engine), Engine::Podman { claimed: None }).await;
    assert!(!texts(verdict.unwrap()).is_empty());
}

#[tokio::test]
async fn a_users_podman_is_asked_only_if_allowed_and_only_that_users() {
    let engine = FakeEngine::start(|_| described(&id()));
    let own = nix::unistd::getuid().as_raw();
    let ask = |user_sockets, uid| {
        let options = Options {
            user_sockets,
            ..options(&engine)
        };
        find(options, Engine::RootlessPodman { uid })
    };
    let error = ask(None, own).await.unwrap_err();
    assert_eq!(error.reason(), "engine_of_a_user");
    assert_eq!(engine.requests(), 0);
    let folder = engine.socket().parent().unwrap().to_owned();
    for uid in [own, own + 1] {
        std::os::unix::fs::symlink(engine.socket(), folder.join(format!("{uid}.sock"))).unwrap();
    }
    let sockets = UserSockets::parse(&format!("unix://{}/%d.sock", folder.display())).unwrap();
    let found = ask(Some(sockets.clone()), own).await.unwrap();
    assert!(!texts(found).is_empty());
    let error = ask(Some(sockets), own + 1).await.unwrap_err();
    assert_eq!(error.reason(), "engine_not_the_users");
}

#[tokio::test]
async fn callers_of_one_container_share_an_answer_while_it_is_awaited() {
    let engine = FakeEngine::start(|target| match target {
        target if target.starts_with("/images/") => body(404, b"{}"),
        _ => described(&id()),
    });
    let docker = docker(options(&engine));
    let container = container(Engine::Docker);
    let all = futures_util::future::join_all((0..20).map(|_| docker.find(&container))).await;
    assert!(
        all.into_iter()
            .all(|found| texts(found.unwrap()).len() == 3)
    );
    assert_eq!(
        engine.requests(),
        2,
        "one for the container, one for its image"
    );
    docker.find(&container).await.unwrap();
    assert_eq!(engine.requests(), 4, "nothing is kept");
}

fn sleeper() -> Child {
    let mut command = Command::new("sleep");
    command.arg("1000").stdout(Stdio::null());
    command.spawn().unwrap()
}

fn peer_of(child: &Child) -> Arc<Peer> {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    Arc::new(Peer::for_test(child.id(), uid.as_raw(), gid.as_raw()).unwrap())
}

#[tokio::test]
async fn a_process_in_no_container_has_no_selectors_and_one_that_is_gone_is_denied() {
    let engine = FakeEngine::start(|_| body(500, b"{}"));
    // A pattern that matches nothing: the test itself may run in a container.
    let options = Options {
        patterns: Some(Patterns::parse(&["/nowhere/<id>"]).unwrap()),
        ..options(&engine)
    };
    let docker = docker(options);
    let mut child = sleeper();
    let peer = peer_of(&child);
    assert!(texts(docker.attest(&peer).await.unwrap()).is_empty());
    assert_eq!(engine.requests(), 0);
    child.kill().unwrap();
    child.wait().unwrap();
    let gone = docker.attest(&peer).await.unwrap();
    assert_eq!(gone, Verdict::Denied(Denial::Exited));
}
