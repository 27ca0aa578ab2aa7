//! The life of an agent's identity through everything that a node goes through, in simulated time.

mod node;

use self::node::{By, HOUR, LIFETIME, Node};
use super::*;
use crate::rebootstrap::Mode;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test(start_paused = true)]
async fn a_quiet_day_has_a_renewal_for_each_half_life_and_no_gap() {
    for by in [By::Psat, By::Token] {
        let node = Node::start(by, Mode::Never).await;
        assert_eq!(node.live(DAY).await, 0);
        let tried = node.server.script.lock().tried;
        assert!((48..=64).contains(&tried), "{tried}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_expired_while_its_server_was_down_attests_again_when_it_is_back() {
    for by in [By::Psat, By::TokenFile] {
        let node = Node::start(by, Mode::Never).await;
        node.server.script.lock().is_away = true;
        node.live(4 * HOUR).await;
        assert!(!node.is_valid() && node.is_running() && !node.readiness.is_ready());
        let tried = node.server.script.lock().tried;
        assert!(tried <= 4 * 130, "{tried}");
        node.bring_token("fresh");
        node.server.script.lock().is_away = false;
        node.live(2 * MINUTE).await;
        assert!(node.is_valid() && node.readiness.is_ready());
        assert_eq!(node.live(DAY).await, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_suspend_of_twelve_hours_is_recovered_from_within_two_minutes() {
    for by in [By::Psat, By::TokenFile] {
        let node = Node::start(by, Mode::Never).await;
        node.live(HOUR / 3).await;
        node.bring_token("fresh");
        node.suspend(12 * HOUR);
        assert!(!node.is_valid());
        node.live(2 * MINUTE).await;
        assert!(node.is_valid() && node.is_running());
        assert_eq!(node.live(DAY).await, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_five_minutes_costs_nothing() {
    let node = Node::start(By::Token, Mode::Never).await;
    node.steps.0.forward(5 * MINUTE);
    assert_eq!(node.live(DAY / 2).await, 0);
    node.steps.0.back(10 * MINUTE);
    assert_eq!(node.live(DAY / 2).await, 0);
    let tried = node.server.script.lock().tried;
    assert!(tried <= 70, "{tried}");
    assert!(node.readiness.is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_beyond_expiry_is_recovered_from_when_it_is_right_again() {
    let node = Node::start(By::Token, Mode::Never).await;
    node.live(10 * MINUTE).await;
    node.steps.0.forward(30 * DAY);
    node.live(MINUTE).await;
    assert!(!node.readiness.is_ready() && node.is_running());
    node.steps.0.back(30 * DAY);
    node.live(2 * MINUTE).await;
    // The same agent, by a token that was spent long ago.
    assert!(node.readiness.is_ready());
    assert_eq!(node.server.script.lock().attested, 1);
    assert_eq!(node.live(DAY).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_by_half_an_hour_does_not_make_the_agent_renew_without_end() {
    let node = Node::start(By::Token, Mode::Never).await;
    node.steps.0.forward(LIFETIME / 2 - MINUTE);
    node.live(HOUR).await;
    let renewed = node.server.script.lock().renewed;
    assert!(renewed <= 61, "{renewed}");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_does_not_make_the_agent_miss_its_renewal() {
    let node = Node::start(By::Token, Mode::Never).await;
    node.live(MINUTE).await;
    // Far enough that the wall clock alone would have it wait until it has expired.
    node.steps.0.back(LIFETIME / 2 - MINUTE);
    assert_eq!(node.live(DAY).await, 0);
    assert_eq!(node.server.script.lock().attested, 1);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_by_a_day_delays_no_retry() {
    let node = Node::start(By::Psat, Mode::Never).await;
    node.server.script.lock().is_away = true;
    node.live(2 * HOUR).await;
    node.steps.0.back(DAY);
    node.steps.1.back(DAY);
    node.server.script.lock().is_away = false;
    node.live(2 * MINUTE).await;
    assert!(node.is_valid() && node.readiness.is_ready());
}

#[tokio::test(start_paused = true)]
async fn an_evicted_agent_waits_for_a_fresh_token_in_its_file_for_as_long_as_it_takes() {
    let node = Node::start(By::TokenFile, Mode::Never).await;
    let evict = |node: &Node| {
        node.server.script.lock().deny = Some(Denial::NotAttested);
        node.denials.try_send(Denial::NotAttested).unwrap();
    };
    evict(&node);
    for _ in 0..8 {
        // Synchronization hears it again and again.
        tokio::time::sleep(30 * MINUTE).await;
        let _ = node.denials.try_send(Denial::NotAttested);
    }
    assert!(node.is_running() && !node.readiness.is_ready());
    // A token that was spent before is not shown again.
    assert_eq!(node.server.script.lock().attested, 1);
    let tried = node.server.script.lock().tried;
    assert!(tried <= 4 * 130, "{tried}");
    std::fs::write(node.path("token"), "refused").unwrap();
    tokio::time::sleep(5 * MINUTE).await;
    assert!(node.is_running());
    node.bring_token("fresh");
    tokio::time::sleep(2 * MINUTE).await;
    assert!(node.readiness.is_ready() && node.is_valid());
    assert!(
        node.credentials
            .own()
            .svid
            .id()
            .to_string()
            .ends_with("/fresh")
    );
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_the_server_takes_back_needs_no_token() {
    let node = Node::start(By::TokenFile, Mode::Never).await;
    node.server.script.lock().deny = Some(Denial::NotActive);
    node.denials.try_send(Denial::NotActive).unwrap();
    tokio::time::sleep(10 * MINUTE).await;
    assert!(!node.readiness.is_ready());
    node.server.script.lock().deny = None;
    tokio::time::sleep(2 * MINUTE).await;
    assert!(node.readiness.is_ready());
    assert_eq!(node.server.script.lock().attested, 1);
}

#[tokio::test(start_paused = true)]
async fn an_evicted_agent_without_a_token_that_may_change_ends() {
    let node = Node::start(By::Token, Mode::Never).await;
    node.denials.try_send(Denial::NotAttested).unwrap();
    tokio::time::sleep(MINUTE).await;
    assert!(!node.is_running());
}

#[tokio::test(start_paused = true)]
async fn a_servers_clock_that_was_wrong_for_a_while_ends_no_agent() {
    let node = Node::start(By::Token, Mode::Never).await;
    node.live(MINUTE).await;
    // It says that what it issued has expired.
    node.steps.1.forward(LIFETIME - 10 * MINUTE);
    node.denials.try_send(Denial::Expired).unwrap();
    node.server.script.lock().deny = Some(Denial::Expired);
    tokio::time::sleep(5 * MINUTE).await;
    assert!(node.is_running() && !node.readiness.is_ready());
    node.server.script.lock().deny = None;
    node.steps.1.back(LIFETIME - 10 * MINUTE);
    tokio::time::sleep(2 * MINUTE).await;
    assert!(node.readiness.is_ready() && node.is_valid());
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_at_the_wrong_moment_ends_no_agent_that_can_attest_again() {
    let node = Node::start(By::Psat, Mode::Never).await;
    // Nothing can be written to where the keys are.
    let blocker = node.path("keys.json.new");
    std::fs::create_dir(&blocker).unwrap();
    std::fs::write(blocker.join("x"), "").unwrap();
    node.denials.try_send(Denial::NotAttested).unwrap();
    tokio::time::sleep(10 * MINUTE).await;
    assert!(node.is_running() && !node.readiness.is_ready());
    std::fs::remove_dir_all(&blocker).unwrap();
    tokio::time::sleep(2 * MINUTE).await;
    assert!(node.readiness.is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_ban_ends_an_agent_whatever_it_was_about() {
    for by in [By::Psat, By::TokenFile] {
        let node = Node::start(by, Mode::Auto).await;
        node.denials.try_send(Denial::NotAttested).unwrap();
        node.server.script.lock().is_away = true;
        tokio::time::sleep(MINUTE).await;
        node.denials.try_send(Denial::Banned).unwrap();
        tokio::time::sleep(MINUTE).await;
        assert!(!node.is_running());
        assert!(
            !std::fs::read_to_string(node.path("keys.json"))
                .unwrap()
                .contains("agent-svid")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lost_its_authorities_is_believed_after_the_delay_by_a_bundle_that_was_fetched_again()
 {
    let node = Node::start(By::Psat, Mode::Auto).await;
    let before = node.credentials.own();
    node.replace_authority();
    node.publish_bundle();
    tokio::time::sleep(9 * MINUTE).await;
    node.fail(UpstreamError::UNKNOWN_AUTHORITY);
    // What the agent has is kept until the next is there.
    assert!(!node.knows_the_authority());
    assert!(Arc::ptr_eq(&before, &node.credentials.own()));
    tokio::time::sleep(2 * MINUTE).await;
    assert!(node.knows_the_authority() && node.is_running() && node.readiness.is_ready());
    assert_eq!(node.live(DAY).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_bundle_that_is_late_is_fetched_until_it_is_there() {
    let node = Node::start(By::Psat, Mode::Auto).await;
    node.replace_authority();
    tokio::time::sleep(4 * HOUR).await;
    assert!(!node.knows_the_authority() && node.is_running());
    let tried = node.server.script.lock().tried;
    assert!(tried <= 4 * 260, "{tried}");
    // Not even a damaged one is taken for the last word.
    std::fs::write(node.path("bundle.pem"), "<html>").unwrap();
    tokio::time::sleep(10 * MINUTE).await;
    node.publish_bundle();
    tokio::time::sleep(2 * MINUTE).await;
    assert!(node.knows_the_authority());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_known_again_within_the_delay_changes_nothing() {
    let node = Node::start(By::Psat, Mode::Auto).await;
    node.fail(UpstreamError::UNKNOWN_AUTHORITY);
    tokio::time::sleep(5 * MINUTE).await;
    node.succeed();
    tokio::time::sleep(6 * MINUTE).await;
    node.fail("unavailable");
    tokio::time::sleep(MINUTE).await;
    // The delay begins anew.
    node.fail(UpstreamError::UNKNOWN_AUTHORITY);
    tokio::time::sleep(5 * MINUTE).await;
    assert_eq!(node.server.script.lock().attested, 1);
}

#[tokio::test(start_paused = true)]
async fn without_the_mode_the_bundle_is_never_fetched_again_and_the_agent_goes_on() {
    let node = Node::start(By::Psat, Mode::Never).await;
    node.replace_authority();
    node.publish_bundle();
    tokio::time::sleep(4 * HOUR).await;
    assert!(!node.knows_the_authority() && node.is_running());
    assert_eq!(node.server.script.lock().attested, 1);
}
