//! What an agent keeps over a restart: served again without its server, and never when it should not be.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use tests::domain::{Agent, Domain, Plan};
use tests::process::eventually;
use tests::programs::Make::Signet;
use tests::scenarios::{fetch, openssl_text, wait_for_svid};

/// A trust domain whose agent has shown this process three identities.
fn domain(plan: Plan) -> (Domain, Agent) {
    let domain = plan.start();
    let agent = domain.agent(Signet);
    for path in ["/one", "/two", "/three"] {
        domain.entry(&agent, path, "unix:uid:0", &[]);
    }
    (domain, agent)
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

fn wait_for_serials(agent: &Agent) -> BTreeSet<String> {
    let mut found = None;
    eventually("three identities", || {
        found = serials(agent);
        found.is_some()
    });
    found.expect("just found")
}

#[test]
fn an_agent_killed_at_any_moment_without_its_server_serves_the_same_serials_again() {
    let seed = SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(1, |now| now.subsec_nanos());
    println!("seed {seed}");
    let mut random = u64::from(seed) | 1;
    let (mut domain, mut agent) = domain(Plan::new(Signet));
    let shown = wait_for_serials(&agent);
    // Killed as soon as they were shown, and the server with it.
    agent.process.kill();
    domain.server.kill();
    for round in 0..super::rounds(20) {
        agent.restart();
        assert_eq!(wait_for_serials(&agent), shown, "round {round}");
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        #[expect(
            clippy::disallowed_methods,
            reason = "the moment of the kill is the experiment"
        )]
        std::thread::sleep(Duration::from_millis(random % 400));
        assert!(agent.process.is_running());
    }
    let text = agent.process.text();
    assert!(text.contains("Restored what was kept"), "{text}");
    // With the server back, the agent hears of what is new.
    domain.restart_server();
    domain.entry(&agent, "/four", "unix:uid:0", &[]);
    wait_for_svid(&agent, "/four");
}

#[test]
fn an_agent_killed_right_after_it_heard_of_its_ban_or_eviction_serves_nothing_again() {
    for word in ["ban", "evict"] {
        let (mut domain, mut agent) = domain(Plan::new(Signet));
        wait_for_serials(&agent);
        assert!(agent.data_dir().join("cache").is_dir());
        domain
            .cli(&["agent", word, "-spiffeID", &agent.id])
            .success();
        agent.process.line("Server denied this agent");
        agent.process.kill();
        assert!(
            !agent
                .data_dir()
                .join("cache")
                .try_exists()
                .expect("it can be looked at"),
            "{word}"
        );
        domain.server.kill();
        serves_nothing(&agent);
    }
}

#[test]
fn an_agent_that_saw_its_own_svid_expire_serves_nothing_after_a_restart() {
    let (mut domain, mut agent) = domain(Plan::new(Signet).key("agent_ttl = \"12s\""));
    wait_for_serials(&agent);
    domain.server.kill();
    agent.process.line("Wiped the sealed cache");
    // While it runs, workloads keep what is valid.
    wait_for_serials(&agent);
    agent.process.kill();
    serves_nothing(&agent);
}

/// Without an identity and a token it ends; if it was killed before it had wiped its identity too, it
/// waits for its server. In no case it opens a socket.
fn serves_nothing(agent: &Agent) {
    let socket = agent.socket();
    let _ = std::fs::remove_file(&socket);
    let mut process = agent.start_alone();
    eventually("it ends, or waits for its server", || {
        !process.is_running()
            || process
                .text()
                .contains("Could not synchronize with the server")
    });
    assert!(!socket.try_exists().expect("it can be looked at"));
    let text = process.text();
    assert!(!text.contains("Restored what was kept"), "{text}");
}

#[test]
fn a_damaged_cache_is_set_aside_and_the_agent_serves_from_its_server() {
    let (domain, mut agent) = domain(Plan::new(Signet));
    let shown = wait_for_serials(&agent);
    agent.process.kill();
    let key = agent.data_dir().join("cache/key");
    let whole = std::fs::read(&key).expect("the key");
    std::fs::write(&key, &whole[..20]).expect("the key");
    agent.restart();
    agent.process.line("set it aside");
    assert_ne!(wait_for_serials(&agent), shown);
    // What it began anew is as good.
    let shown = wait_for_serials(&agent);
    agent.restart();
    assert_eq!(wait_for_serials(&agent), shown);
    drop(domain);
}
