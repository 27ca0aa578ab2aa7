//! The life of an agent against a small server: attested, restarted, refused and banned.

use std::os::unix::fs::PermissionsExt;

use identity::trust_domain::TrustDomain;
use runtime::shutdown::{Shutdown, ShutdownTrigger};
use runtime::tasks::Drained;
use tempfile::TempDir;
use workload_api::client::{Endpoint, WorkloadClient};

use super::*;
use crate::api::tests::{Driver, UID, published};
use crate::config::Overrides;
use crate::upstream::grpc::fake::Fake;

mod pod;

/// A folder for an agent, and what its configuration says.
struct Place {
    folder: TempDir,
    port: u16,
    node_attestor: String,
}

/// An agent that runs until it is stopped.
struct Running {
    handle: Handle,
    trigger: ShutdownTrigger,
    tasks: TaskGroup,
}

impl Place {
    fn new(fake: &Fake) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("bundle.pem"),
            fake.ca.certificate.to_pem(),
        )
        .unwrap();
        Self {
            folder,
            port: fake.addr.port(),
            node_attestor: r#"NodeAttestor "join_token" {}"#.to_owned(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self, lines: &str) -> Config {
        let folder = self.folder.path().display();
        let text = format!(
            r#"
            agent {{
                data_dir = "{folder}/data" trust_domain = "example.org"
                server_address = "127.0.0.1" server_port = {port}
                trust_bundle_path = "{folder}/bundle.pem" socket_path = "{folder}/agent.sock"
                experimental {{ sync_interval = "100ms" }}
                {lines}
            }}
            plugins {{
                KeyManager "disk" {{ plugin_data {{ directory = "{folder}/keys" }} }}
                {node_attestor}
                WorkloadAttestor "unix" {{}}
            }}
            "#,
            port = self.port,
            node_attestor = self.node_attestor,
        );
        Config::load(
            &runtime::config::parse(&text).unwrap(),
            Overrides::default(),
            &|_| None,
        )
        .unwrap()
        .0
    }

    async fn start(&self, lines: &str) -> Result<Running, StartError> {
        let (trigger, _) = Shutdown::new();
        self.start_under(lines, trigger).await
    }

    async fn start_under(
        &self,
        lines: &str,
        trigger: ShutdownTrigger,
    ) -> Result<Running, StartError> {
        let tasks = TaskGroup::new(trigger.clone());
        let deps = Deps {
            clock: Clock::system(),
            metrics: Metrics::new(),
            tasks: tasks.clone(),
            readiness: Readiness::new(),
            log: None,
        };
        let handle = start(self.config(lines), deps).await?;
        Ok(Running {
            handle,
            trigger,
            tasks,
        })
    }

    /// What is kept on disk.
    fn kept(&self) -> Kept {
        open(&self.config("")).unwrap()
    }

    /// Makes the SVID that is kept one that is over.
    fn expire(&self, fake: &Fake, reattestable: bool) {
        let mut kept = self.kept();
        let leaf = kept.state.state().svid.first().unwrap();
        let (id, from) = (leaf.spiffe_id().unwrap(), leaf.validity().not_before());
        let hour = Duration::from_secs(3600);
        let key = kept.custody.generate(None).unwrap();
        let csr = crate::custody::request(&key).unwrap();
        let chain = fake.ca.sign(&csr, &id, from - 2 * hour, hour);
        let svid = identity::x509::X509Svid::new(chain, key).unwrap();
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let bundle = Bundle::from_certificates(trust_domain, [fake.ca.certificate.clone()]);
        kept.keep(&svid, reattestable, &bundle).unwrap();
    }

    /// The state as it is on disk while an agent runs, which has the folder locked.
    fn kept_while_running(&self) -> StateFile {
        let config = self.config("");
        StateFile::open(&config.data_dir, &config.trust_domain).unwrap()
    }
}

impl Running {
    async fn ready(self) -> Self {
        within(self.handle.readiness.ready()).await;
        self
    }

    fn id(&self) -> String {
        self.handle.credentials.own().svid.id().to_string()
    }

    fn serial(&self) -> String {
        self.handle
            .credentials
            .own()
            .svid
            .leaf()
            .serial_decimal()
            .to_owned()
    }

    async fn stop(self) {
        self.trigger.trigger(Reason::Requested("test"));
        assert_eq!(
            self.tasks.drain(Duration::from_secs(10)).await,
            Drained::InTime
        );
    }

    /// Waits until the agent ends by itself.
    async fn ended(self) -> Reason {
        let shutdown = self.trigger.subscribe();
        within(shutdown.requested()).await;
        self.tasks.drain(Duration::from_secs(10)).await;
        shutdown.reason().unwrap()
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("the test hangs")
}

/// A server with a token, and an agent that has used it.
async fn attested() -> (Fake, Place, Running) {
    let fake = Fake::start();
    fake.token("t");
    let place = Place::new(&fake);
    let agent = place
        .start(r#"join_token = "t""#)
        .await
        .unwrap()
        .ready()
        .await;
    (fake, place, agent)
}

#[tokio::test]
async fn serves_a_workload_what_its_entry_grants() {
    let fake = Fake::start();
    fake.token("t");
    let uid = nix::unistd::getuid();
    fake.script.lock().entries = vec![proto::spire::types::Entry {
        id: "e".to_owned(),
        spiffe_id: Some(proto::spire::types::Spiffeid {
            trust_domain: "example.org".to_owned(),
            path: "/w".to_owned(),
        }),
        selectors: vec![proto::spire::types::Selector {
            r#type: "unix".to_owned(),
            value: format!("uid:{uid}"),
        }],
        ..Default::default()
    }];
    let place = Place::new(&fake);
    let agent = place
        .start(r#"join_token = "t""#)
        .await
        .unwrap()
        .ready()
        .await;
    let endpoint = Endpoint::unix(agent.handle.socket.as_ref().unwrap()).unwrap();
    let client = WorkloadClient::connect(&endpoint).await.unwrap();
    let context = within(client.fetch_x509()).await.unwrap();
    let text = format!("{context:?}");
    assert!(text.contains("spiffe://example.org/w"), "{text}");
    drop(client);
    agent.stop().await;
}

#[tokio::test]
async fn a_storage_driver_is_heard_on_the_admin_socket() {
    let fake = Fake::start();
    fake.token("t");
    let place = Place::new(&fake);
    let apart = tempfile::tempdir().unwrap();
    let socket = apart.path().join("made/admin.sock");
    let lines = format!(
        r#"join_token = "t" admin_socket_path = "{}""#,
        socket.display()
    );
    let agent = place.start(&lines).await.unwrap();
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o770);
    let mut driver = Driver::connect(&socket).await;
    driver.tell(published("csi-1", UID)).await;
    within(driver.applied(1)).await;
    drop(driver);
    agent.ready().await.stop().await;
    assert!(!socket.try_exists().unwrap());
}

#[tokio::test]
async fn comes_back_with_its_identity_and_needs_no_new_token() {
    let (_fake, place, agent) = attested().await;
    let serial = agent.serial();
    agent.stop().await;
    std::fs::remove_file(place.path("bundle.pem")).unwrap();
    let agent = place.start("").await.unwrap().ready().await;
    assert_eq!(agent.serial(), serial);
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_cannot_reach_its_server_keeps_trying() {
    let (fake, place, agent) = attested().await;
    agent.stop().await;
    let (ca, script, port) = (
        Arc::clone(&fake.ca),
        Arc::clone(&fake.script),
        fake.addr.port(),
    );
    fake.stop().await;
    let agent = place.start("").await.unwrap();
    assert!(!agent.handle.readiness.is_ready());
    let fake = Fake::start_with(ca, "spiffe://example.org/spire/server", port, script);
    let agent = agent.ready().await;
    assert!(agent.handle.socket.as_ref().unwrap().try_exists().unwrap());
    agent.stop().await;
    drop(fake);
}

#[tokio::test]
async fn a_token_that_the_server_refuses_ends_the_start_in_its_words() {
    let fake = Fake::start();
    let place = Place::new(&fake);
    let error = place.start(r#"join_token = "spent""#).await.err().unwrap();
    let chain = report::chain(&error);
    assert!(
        chain.contains("join token does not exist or has already been used"),
        "{chain}"
    );
    assert!(
        chain.contains(&format!("127.0.0.1:{}", place.port)),
        "{chain}"
    );
    assert_eq!(fake.calls("attest"), 1);
}

#[tokio::test]
async fn without_a_token_the_error_says_how_to_get_one() {
    let fake = Fake::start();
    let error = Place::new(&fake).start("").await.err().unwrap();
    let chain = report::chain(&error);
    assert!(chain.contains("token generate"), "{chain}");
    assert!(fake.script.lock().calls.is_empty());
}

#[tokio::test]
async fn a_server_that_is_away_is_asked_until_shutdown() {
    let fake = Fake::start();
    let place = Place::new(&fake);
    let port = fake.addr.port();
    fake.stop().await;
    // Somebody takes the call, and hangs up.
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port))
        .await
        .unwrap();
    let (trigger, _) = Shutdown::new();
    let starting = place.start_under(r#"join_token = "t""#, trigger.clone());
    let hang_up = async {
        drop(listener.accept().await.unwrap());
        trigger.trigger(Reason::Requested("test"));
    };
    let (started, ()) = within(Box::pin(async { tokio::join!(starting, hang_up) })).await;
    assert!(matches!(started.err().unwrap(), StartError::ShutDown));
}

#[tokio::test]
async fn a_socket_that_is_taken_ends_the_start_before_the_token_is_spent() {
    let fake = Fake::start();
    fake.token("t");
    let place = Place::new(&fake);
    let _taken = std::os::unix::net::UnixListener::bind(place.path("agent.sock")).unwrap();
    let error = place.start(r#"join_token = "t""#).await.err().unwrap();
    assert_eq!(error.reason(), "in_use");
    assert!(fake.script.lock().tokens.contains("t"));
}

#[tokio::test]
async fn the_state_of_another_trust_domain_is_refused() {
    let (_fake, place, agent) = attested().await;
    agent.stop().await;
    let before = std::fs::read(place.path("data/agent-data.json")).unwrap();
    let mut config = place.config("");
    config.trust_domain = TrustDomain::parse("other.org").unwrap();
    assert_eq!(
        open(&config).unwrap_err().reason(),
        "state_foreign_trust_domain"
    );
    assert_eq!(
        std::fs::read(place.path("data/agent-data.json")).unwrap(),
        before
    );
}

#[tokio::test]
async fn renews_in_time_and_keeps_what_it_got() {
    let fake = Fake::start();
    fake.token("t");
    fake.script.lock().lifetime = Duration::from_secs(3);
    let place = Place::new(&fake);
    let agent = place
        .start(r#"join_token = "t""#)
        .await
        .unwrap()
        .ready()
        .await;
    let first = agent.serial();
    // On a machine under load the first renewals may come too late to be kept.
    let mut renewals = 1;
    while agent.serial() == first {
        renewals += 1;
        fake.called("renew", renewals).await;
    }
    agent.stop().await;
    let kept = place.kept();
    let leaf = kept.state.state().svid.first().unwrap();
    assert!(kept.custody.find(leaf.public_key()).is_some());
}

#[tokio::test]
async fn a_lost_answer_to_a_renewal_bricks_nothing() {
    let (fake, place, agent) = attested().await;
    let first = agent.serial();
    fake.script.lock().lose_renewals = 1;
    // A taint makes the agent renew at once.
    fake.script.lock().tainted = true;
    fake.called("renew", 2).await;
    let syncs = fake.calls("sync");
    fake.called("sync", syncs + 2).await;
    assert_ne!(agent.serial(), first);
    agent.stop().await;
    let agent = place.start("").await.unwrap().ready().await;
    agent.stop().await;
}

#[tokio::test]
async fn a_lost_answer_to_an_attestation_bricks_nothing() {
    let fake = Fake::start();
    fake.token("t");
    fake.script.lock().lose_attestations = 1;
    let place = Place::new(&fake);
    let (trigger, _) = Shutdown::new();
    // The answer is lost, and then the process dies.
    let died = {
        let starting = Box::pin(place.start_under(r#"join_token = "t""#, trigger.clone()));
        let die = async {
            fake.called("attest", 1).await;
            trigger.trigger(Reason::Requested("test"));
        };
        within(async { tokio::join!(starting, die) }).await.0
    };
    assert!(matches!(died.err().unwrap(), StartError::ShutDown));
    assert!(!fake.script.lock().tokens.contains("t"), "it is spent");
    let agent = place.start(r#"join_token = "t""#).await.unwrap();
    let agent = agent.ready().await;
    assert!(agent.id().ends_with("/t"), "{}", agent.id());
    assert!(place.kept_while_running().attempt().is_none());
    agent.stop().await;
}

#[tokio::test]
async fn each_token_is_tried_with_a_key_of_its_own() {
    let fake = Fake::start();
    let place = Place::new(&fake);
    for token in ["a", "a", "b"] {
        place
            .start(&format!(r#"join_token = "{token}""#))
            .await
            .err()
            .unwrap();
    }
    let tried = &fake.script.lock().tried;
    assert_eq!(tried[0], tried[1]);
    assert_ne!(tried[1].1, tried[2].1);
}

#[tokio::test]
async fn a_crash_before_the_new_svid_is_kept_leaves_the_old_one() {
    let (_fake, place, agent) = attested().await;
    let serial = agent.serial();
    let in_use = agent
        .handle
        .credentials
        .own()
        .svid
        .leaf()
        .public_key()
        .clone();
    agent.stop().await;
    // The new key was kept, and then the process died.
    place.kept().custody.generate(Some(&in_use)).unwrap();
    let agent = place.start("").await.unwrap().ready().await;
    assert_eq!(agent.serial(), serial);
    agent.stop().await;
}

#[tokio::test]
async fn a_ban_wipes_the_identity_and_ends_the_agent() {
    let (fake, place, agent) = attested().await;
    fake.script.lock().deny = Some(4);
    assert_eq!(agent.ended().await, Reason::Failed("the agent is banned"));
    let kept = place.kept();
    assert!(kept.state.state().svid.is_empty());
    let keys = std::fs::read_to_string(place.path("keys/keys.json")).unwrap();
    assert!(!keys.contains("agent-svid"), "{keys}");
}

#[tokio::test]
async fn an_evicted_agent_without_a_fresh_token_forgets_its_svid_and_ends() {
    let (fake, place, agent) = attested().await;
    fake.script.lock().deny = Some(2);
    assert!(agent.ended().await.is_failure());
    assert!(place.kept().state.state().svid.is_empty());
    // The bundle is kept, so a new token is all that it takes.
    std::fs::remove_file(place.path("bundle.pem")).unwrap();
    fake.token("fresh");
    let agent = place
        .start(r#"join_token = "fresh""#)
        .await
        .unwrap()
        .ready()
        .await;
    assert!(agent.id().ends_with("/fresh"), "{}", agent.id());
    agent.stop().await;
}

#[tokio::test]
async fn an_evicted_agent_with_a_fresh_token_attests_again() {
    let fake = Fake::start();
    fake.token("t");
    let place = Place::new(&fake);
    std::fs::write(place.path("token"), "t\n").unwrap();
    let line = format!(r#"join_token_file = "{}""#, place.path("token").display());
    let agent = place.start(&line).await.unwrap().ready().await;
    std::fs::write(place.path("token"), "fresh\n").unwrap();
    fake.token("fresh");
    fake.script.lock().deny = Some(2);
    fake.called("attest", 2).await;
    let syncs = fake.calls("sync");
    fake.called("sync", syncs + 2).await;
    assert!(agent.id().ends_with("/fresh"), "{}", agent.id());
    agent.stop().await;
}

#[tokio::test]
async fn an_expired_agent_waits_at_its_start_for_a_token_that_was_not_used() {
    let fake = Fake::start();
    fake.token("t");
    let place = Place::new(&fake);
    std::fs::write(place.path("token"), "t\n").unwrap();
    let line = format!(r#"join_token_file = "{}""#, place.path("token").display());
    place.start(&line).await.unwrap().ready().await.stop().await;
    place.expire(&fake, false);
    let bring = async {
        // The spent one was tried, and refused.
        fake.called("attest", 2).await;
        std::fs::write(place.path("token"), "fresh").unwrap();
        fake.token("fresh");
    };
    let both = Box::pin(async { tokio::join!(place.start(&line), bring) });
    let agent = within(both).await.0.unwrap().ready().await;
    assert!(agent.id().ends_with("/fresh"), "{}", agent.id());
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_to_rebootstrap_and_cannot_attest_again_ends_its_start_before_the_token_is_spent()
 {
    let fake = Fake::start();
    fake.token("t");
    let place = Place::new(&fake);
    let line = r#"join_token = "t" rebootstrap_mode = "always""#;
    let error = place.start(line).await.err().unwrap();
    assert_eq!(error.reason(), "rebootstrap_impossible");
    assert!(fake.script.lock().tokens.contains("t"));
    // One that has its identity already is told the same.
    let agent = place
        .start(r#"join_token = "t" rebootstrap_mode = "auto""#)
        .await;
    agent.unwrap().ready().await.stop().await;
    let error = place.start(line).await.err().unwrap();
    assert_eq!(error.reason(), "rebootstrap_impossible");
}

#[tokio::test]
async fn a_damaged_key_file_ends_the_start_and_is_left_alone() {
    let (_fake, place, agent) = attested().await;
    agent.stop().await;
    std::fs::write(place.path("keys/keys.json"), "{").unwrap();
    let error = place.start("").await.err().unwrap();
    assert_eq!(error.reason(), "key_file_damaged");
    assert_eq!(std::fs::read(place.path("keys/keys.json")).unwrap(), b"{");
}

#[tokio::test]
async fn health_is_told_over_http() {
    let (_fake, place, agent) = attested().await;
    agent.stop().await;
    let mut config = place.config("");
    config.health = Some(runtime::config::HealthConfig {
        address: HostPort {
            host: "localhost".to_owned(),
            port: 0,
        },
        live_path: "/live".to_owned(),
        ready_path: "/ready".to_owned(),
    });
    let (trigger, _) = Shutdown::new();
    let tasks = TaskGroup::new(trigger.clone());
    let deps = Deps {
        clock: Clock::system(),
        metrics: Metrics::new(),
        tasks: tasks.clone(),
        readiness: Readiness::new(),
        log: None,
    };
    let handle = start(config, deps).await.unwrap();
    within(handle.readiness.ready()).await;
    let mut stream = tokio::net::TcpStream::connect(handle.health.unwrap())
        .await
        .unwrap();
    tokio::io::AsyncWriteExt::write_all(
        &mut stream,
        b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await
    .unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer)
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Running {
        handle,
        trigger,
        tasks,
    }
    .stop()
    .await;
}
