//! The scenarios of real SPIRE, with our server and our agent.

use tests::scenarios::{self, Pairing};

macro_rules! ours {
    ($($scenario:ident),* $(,)?) => { $(#[test] fn $scenario() { scenarios::$scenario(Pairing::OURS); })* };
}

ours!(
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
);
