//! What an agent of ours keeps over a restart: served again without its server, and never when it should not be.

use std::collections::BTreeSet;

use super::{Pairing, fetch, openssl_text, wait_for_svid};
use crate::domain::{Agent, Domain, Plan};
use crate::process::eventually;

/// A trust domain whose agent is to show this process three identities.
pub fn three_identities(pairing: Pairing, plan: Plan) -> (Domain, Agent) {
    let domain = plan.start();
    let agent = domain.agent(pairing.agent);
    for path in ["/one", "/two", "/three"] {
        domain.entry(&agent, path, "unix:uid:0", &[]);
    }
    (domain, agent)
}

/// The serial numbers of what this process gets, once that are all three.
pub fn wait_for_serials(agent: &Agent) -> BTreeSet<String> {
    let mut found = None;
    eventually("three identities", || {
        found = serials(agent);
        found.is_some()
    });
    found.unwrap()
}

/// The serial numbers of what this process gets now, all three or none.
fn serials(agent: &Agent) -> Option<BTreeSet<String>> {
    let folder = fetch(agent)?;
    let leaves = (0..3).map(|index| folder.path().join(format!("svid.{index}.pem")));
    let serials: BTreeSet<_> = leaves
        .filter(|leaf| leaf.is_file())
        .map(|leaf| {
            let text = openssl_text(&leaf);
            let mut lines = text
                .lines()
                .skip_while(|line| !line.contains("Serial Number"));
            format!("{:?} {:?}", lines.next(), lines.next())
        })
        .collect();
    (serials.len() == 3).then_some(serials)
}

/// An agent and its server are killed; the agent comes back alone with the same identities, again and again.
pub fn the_agent_serves_the_same_without_its_server(pairing: Pairing) {
    let (mut domain, mut agent) = three_identities(pairing, Plan::new(pairing.server));
    let shown = wait_for_serials(&agent);
    agent.process.kill();
    domain.server.kill();
    for round in 0..3 {
        agent.restart();
        assert_eq!(wait_for_serials(&agent), shown, "round {round}");
    }
    domain.restart_server();
    domain.entry(&agent, "/four", "unix:uid:0", &[]);
    wait_for_svid(&agent, "/four");
}

/// An agent that has heard of its ban or eviction serves nothing, though it is killed at once and started again.
pub fn a_denied_agent_serves_nothing_again(pairing: Pairing) {
    for word in ["ban", "evict"] {
        let (mut domain, mut agent) = three_identities(pairing, Plan::new(pairing.server));
        wait_for_serials(&agent);
        assert!(agent.data_dir().join("cache").is_dir());
        domain
            .cli(&["agent", word, "-spiffeID", &agent.id])
            .success();
        agent.process.line("Server denied this agent");
        agent.process.kill();
        let key = agent.data_dir().join("cache/key");
        assert!(!key.try_exists().unwrap(), "{word}");
        domain.server.kill();
        serves_nothing(&agent);
    }
}

/// Without an identity and a token it ends; if it was killed before it had wiped its identity too, it
/// waits for its server. In no case it opens a socket.
pub fn serves_nothing(agent: &Agent) {
    let socket = agent.socket();
    let _ = std::fs::remove_file(&socket);
    let mut process = agent.start_alone();
    eventually("it ends, or waits for its server", || {
        !process.is_running()
            || process
                .text()
                .contains("Could not synchronize with the server")
    });
    assert!(!socket.try_exists().unwrap());
    let text = process.text();
    assert!(!text.contains("Restored what was kept"), "{text}");
}
