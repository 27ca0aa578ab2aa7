//! What must hold for every pairing of a server and an agent, ours or SPIRE's.
//!
//! Each scenario is written against the command lines that both programs share, so that SPIRE's own
//! pairing shows that the scenario is right.

mod handshakes;
mod kept;
mod kinds;
mod pods;
mod pop;

use std::path::Path;
use std::process::Command;

use crate::domain::{Agent, Domain, Plan};
use crate::process::{eventually, run};
use crate::programs::Make;

pub use self::handshakes::{
    no_handshake_fails, no_handshake_fails_through,
    no_handshake_fails_while_authorities_are_replaced,
};
pub use self::kept::{
    a_denied_agent_serves_nothing_again, serves_nothing,
    the_agent_serves_the_same_without_its_server, three_identities, wait_for_serials,
};
pub use self::kinds::{
    an_agent_hears_of_more_entries_than_one_message_holds, every_kind_of_entry_is_served,
};
pub use self::pods::a_pod_attests_by_its_service_account_token;
pub use self::pop::{
    Pki, a_host_attests_by_an_rsa_key, a_host_attests_by_its_name, a_host_attests_by_its_ssh_key,
    a_node_attests_by_an_rsa_key, a_node_attests_by_its_certificate,
};

/// A server and an agent of the given makes.
#[derive(Clone, Copy, Debug)]
pub struct Pairing {
    pub server: Make,
    pub agent: Make,
}

impl Pairing {
    pub const OURS: Self = Self::new(Make::Signet, Make::Signet);

    pub const fn new(server: Make, agent: Make) -> Self {
        Self { server, agent }
    }

    fn start(self) -> (Domain, Agent) {
        let domain = Plan::new(self.server).start();
        let agent = domain.agent(self.agent);
        (domain, agent)
    }
}

/// X509-SVIDs and JWT-SVIDs reach a workload, validate, and chain to the bundle.
pub fn a_workload_gets_both_kinds_of_svid(pairing: Pairing) {
    let (domain, agent) = pairing.start();
    domain.entry(&agent, "/web", "unix:uid:0", &["-dns", "web.example.org"]);
    let folder = wait_for_svid(&agent, "/web");

    let (leaf, bundle) = (
        folder.path().join("svid.0.pem"),
        folder.path().join("bundle.0.pem"),
    );
    openssl_verifies(&leaf, &bundle);
    let text = openssl_text(&leaf);
    assert!(text.contains("URI:spiffe://example.org/web"), "{text}");
    assert!(text.contains("DNS:web.example.org"), "{text}");

    let printed = agent
        .api(pairing.agent, &["fetch", "jwt", "-audience", "reports"])
        .success();
    assert!(
        printed.contains("token(spiffe://example.org/web):"),
        "{printed}"
    );
    let token = printed.lines().nth(1).unwrap().trim().to_owned();
    let valid = agent.api(
        pairing.agent,
        &["validate", "jwt", "-audience", "reports", "-svid", &token],
    );
    assert!(
        valid.clone().success().contains("SVID is valid."),
        "{valid:?}"
    );
    let other = agent.api(
        pairing.agent,
        &["validate", "jwt", "-audience", "other", "-svid", &token],
    );
    assert_eq!(other.code, 1, "{other:?}");
}

/// An update of an entry reaches the workload in its next SVID; its deletion takes the SVID away.
pub fn an_entry_is_updated_and_deleted(pairing: Pairing) {
    let (domain, agent) = pairing.start();
    let id = domain.entry(&agent, "/web", "unix:uid:0", &[]);
    wait_for_svid(&agent, "/web");

    let update = [
        "entry",
        "update",
        "-entryID",
        &id,
        "-parentID",
        &agent.id,
        "-spiffeID",
        "spiffe://example.org/web",
    ];
    let update = [
        &update[..],
        &["-selector", "unix:uid:0", "-dns", "new.example.org"],
    ]
    .concat();
    domain.cli(&update).success();
    eventually("the new name is in the SVID", || {
        let folder = fetch(&agent).unwrap();
        openssl_text(&folder.path().join("svid.0.pem")).contains("DNS:new.example.org")
    });

    domain.cli(&["entry", "delete", "-entryID", &id]).success();
    eventually("the identity is withdrawn", || {
        let ended = agent.api(agent.make, &["fetch", "x509"]);
        ended.code == 1 && ended.stderr.contains("no identity issued")
    });
}

/// The agent renews its own SVID in time, again and again, and goes on serving.
pub fn the_agent_renews_its_svid_five_times(pairing: Pairing) {
    // SPIRE's agent looks every five seconds: with less there is no time left to renew.
    let domain = Plan::new(pairing.server)
        .key(r#"agent_ttl = "10s""#)
        .start();
    let agent = domain.agent(pairing.agent);
    for _ in 0..5 {
        let before = serial(&domain, &agent);
        eventually("the server has seen a new serial", || {
            serial(&domain, &agent) != before
        });
    }
    domain.entry(&agent, "/after", "unix:uid:0", &[]);
    wait_for_svid(&agent, "/after");
}

/// A banned agent ends, and its identity is of no use any more.
pub fn a_banned_agent_ends(pairing: Pairing) {
    let (domain, mut agent) = pairing.start();
    domain
        .cli(&["agent", "ban", "-spiffeID", &agent.id])
        .success();
    assert!(!agent.process.wait().success());
    let shown = domain
        .cli(&["agent", "show", "-spiffeID", &agent.id])
        .success();
    assert!(
        shown
            .lines()
            .any(|line| line.starts_with("Banned") && line.ends_with("true")),
        "{shown}"
    );
}

/// An evicted agent that cannot attest again ends.
pub fn an_evicted_agent_ends(pairing: Pairing) {
    let (domain, mut agent) = pairing.start();
    domain
        .cli(&["agent", "evict", "-spiffeID", &agent.id])
        .success();
    assert!(!agent.process.wait().success());
    assert_ne!(
        domain.cli(&["agent", "show", "-spiffeID", &agent.id]).code,
        0
    );
}

/// The agent survives a crash of its server, and learns of new entries from the next one.
pub fn the_server_restarts_with_the_same_authority(pairing: Pairing) {
    let (mut domain, agent) = pairing.start();
    domain.entry(&agent, "/before", "unix:uid:0", &[]);
    wait_for_svid(&agent, "/before");
    let bundle = domain.cli(&["bundle", "show"]).success();
    domain.crash_and_restart_server();
    assert_eq!(domain.cli(&["bundle", "show"]).success(), bundle);
    domain.entry(&agent, "/after", "unix:uid:0", &[]);
    wait_for_svid(&agent, "/after");
}

/// The agent survives its own crash with its identity, and needs no new token.
pub fn the_agent_restarts_with_its_identity(pairing: Pairing) {
    let (domain, mut agent) = pairing.start();
    domain.entry(&agent, "/web", "unix:uid:0", &[]);
    let before = serial(&domain, &agent);
    agent.restart();
    wait_for_svid(&agent, "/web");
    assert_eq!(serial(&domain, &agent), before);
}

/// The serial number of the agent's SVID, as the server has it.
pub fn serial(domain: &Domain, agent: &Agent) -> String {
    let shown = domain
        .cli(&["agent", "show", "-spiffeID", &agent.id])
        .success();
    let line = shown
        .lines()
        .find(|line| line.starts_with("Serial number"))
        .unwrap_or_default();
    line.split(':').nth(1).unwrap_or_default().trim().to_owned()
}

/// Waits until the workload (this process) has the identity, and returns the folder it was written to.
pub fn wait_for_svid(agent: &Agent, path: &str) -> tempfile::TempDir {
    let mut written = None;
    eventually(path, || {
        written = fetch(agent).filter(|folder| {
            (0..8).any(|index| {
                let leaf = folder.path().join(format!("svid.{index}.pem"));
                leaf.is_file()
                    && openssl_text(&leaf).contains(&format!("URI:spiffe://example.org{path}\n"))
            })
        });
        written.is_some()
    });
    written.unwrap()
}

/// Fetches the X509-SVIDs into a folder; `None` if there are none.
pub fn fetch(agent: &Agent) -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().display().to_string();
    let ended = agent.api(agent.make, &["fetch", "x509", "-write", &name]);
    (ended.code == 0).then_some(folder)
}

/// Makes sure that OpenSSL accepts the chain for both roles.
pub fn openssl_verifies(leaf: &Path, bundle: &Path) {
    for purpose in ["sslserver", "sslclient"] {
        let mut command = Command::new("openssl");
        command.args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"]);
        run(command.arg(bundle).arg("-untrusted").arg(leaf).arg(leaf)).success();
    }
}

/// What OpenSSL prints of a certificate.
pub fn openssl_text(leaf: &Path) -> String {
    let mut command = Command::new("openssl");
    let text = run(command.args(["x509", "-noout", "-text", "-in"]).arg(leaf)).success();
    // Several names stand on one line; one a line is easier to look for.
    text.replace(", ", "\n")
}
