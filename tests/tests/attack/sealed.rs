//! What an agent keeps over a restart: served again without its server, and never when it should not be.

use std::time::{Duration, SystemTime};

use tests::domain::Plan;
use tests::programs::Make::Signet;
use tests::scenarios::{
    Pairing, a_denied_agent_serves_nothing_again, serves_nothing, three_identities,
    wait_for_serials, wait_for_svid,
};

#[test]
fn an_agent_killed_at_any_moment_without_its_server_serves_the_same_serials_again() {
    let seed = SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(1, |now| now.subsec_nanos());
    println!("seed {seed}");
    let mut random = u64::from(seed) | 1;
    let (mut domain, mut agent) = three_identities(Pairing::OURS, Plan::new(Signet));
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
    a_denied_agent_serves_nothing_again(Pairing::OURS);
}

#[test]
fn an_agent_that_saw_its_own_svid_expire_serves_nothing_after_a_restart() {
    let (mut domain, mut agent) =
        three_identities(Pairing::OURS, Plan::new(Signet).key("agent_ttl = \"12s\""));
    wait_for_serials(&agent);
    domain.server.kill();
    agent.process.line("Wiped the sealed cache");
    // While it runs, workloads keep what is valid.
    wait_for_serials(&agent);
    agent.process.kill();
    serves_nothing(&agent);
}

#[test]
fn a_damaged_cache_is_set_aside_and_the_agent_serves_from_its_server() {
    let (domain, mut agent) = three_identities(Pairing::OURS, Plan::new(Signet));
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
