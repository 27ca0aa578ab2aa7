//! Real SPIRE as a judge: its agent on our server, and our agent on its server.
//!
//! SPIRE's own pairing runs the same scenarios first: if that fails, the scenario is wrong.

#[cfg(test)]
mod commands;
#[cfg(test)]
mod composer;
#[cfg(test)]
mod federation;
#[cfg(test)]
mod files;
#[cfg(test)]
mod migrate;
#[cfg(test)]
mod nested;

use tests::programs::Make::{Signet, Spire};
use tests::scenarios::Pairing;

macro_rules! pairings {
    ($($scenario:ident),* $(,)?) => {
        mod spire_with_spire { $(#[test] fn $scenario() { crate::judge(super::Pairing::new(super::Spire, super::Spire), tests::scenarios::$scenario); })* }
        mod a_spire_agent_on_our_server { $(#[test] fn $scenario() { crate::judge(super::Pairing::new(super::Signet, super::Spire), tests::scenarios::$scenario); })* }
        mod our_agent_on_a_spire_server { $(#[test] fn $scenario() { crate::judge(super::Pairing::new(super::Spire, super::Signet), tests::scenarios::$scenario); })* }
    };
}

pairings!(
    a_workload_gets_both_kinds_of_svid,
    an_entry_is_updated_and_deleted,
    the_agent_renews_its_svid_five_times,
    every_kind_of_entry_is_served,
    an_agent_hears_of_more_entries_than_one_message_holds,
    no_handshake_fails_while_authorities_are_replaced,
    a_banned_agent_ends,
    an_evicted_agent_ends,
    the_server_restarts_with_the_same_authority,
    the_agent_restarts_with_its_identity,
    a_pod_attests_by_its_service_account_token,
    a_node_attests_by_its_certificate,
    a_node_attests_by_an_rsa_key,
    a_host_attests_by_its_ssh_key,
    a_host_attests_by_an_rsa_key,
    a_host_attests_by_its_name,
);

/// What SPIRE's agent has not: our agent has it on SPIRE's server too.
mod our_agent_keeps_its_promises_on_a_spire_server {
    use tests::programs::Make::{Signet, Spire};
    use tests::scenarios::{self, Pairing};

    const PAIRING: Pairing = Pairing::new(Spire, Signet);

    #[test]
    fn it_serves_the_same_without_its_server() {
        crate::judge(
            PAIRING,
            scenarios::the_agent_serves_the_same_without_its_server,
        );
    }

    #[test]
    fn denied_it_serves_nothing_again() {
        crate::judge(PAIRING, scenarios::a_denied_agent_serves_nothing_again);
    }

    #[test]
    fn no_handshake_fails() {
        crate::judge(PAIRING, scenarios::no_handshake_fails);
    }
}

fn judge(pairing: Pairing, scenario: fn(Pairing)) {
    if tests::peers::folder("spire").is_some() {
        scenario(pairing);
    }
}

/// Join-token agents cannot attest again, so the folder is all that there is.
#[test]
fn either_agent_takes_over_the_folder_of_the_other() {
    if tests::peers::folder("spire").is_none() {
        return;
    }
    let domain = tests::domain::Plan::new(Spire).start();
    for (first, second) in [(Spire, Signet), (Signet, Spire)] {
        let mut agent = domain.agent(first);
        let id = agent.id.clone();
        agent.restart_as(second);
        agent.restart_as(first);
        let listed = domain.cli(&["agent", "show", "-spiffeID", &id]).success();
        assert!(listed.contains(&id), "{listed}");
    }
}
