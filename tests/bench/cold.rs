//! The first SVID of a workload that the agent knows of and has nothing signed for.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::unistd::{geteuid, getuid};
use tests::domain::Plan;
use tests::peers;
use tests::process::run;
use tests::programs::Make;
use tests::scenarios::wait_for_svid;

use crate::admin::{Admin, NewEntry};
use crate::cost::{Delays, millis};
use crate::table::{Goal, Row};

/// Each call is by a user of its own, so by a workload of its own.
const CALLERS: u32 = 500;
/// Real SPIRE takes half a second for each.
const SPIRE_CALLERS: u32 = 10;
/// Nobody is of these ids.
const FIRST_USER: u32 = 200_000;
/// The agent holds so many SVIDs that nobody asks for now, and signs no more ahead.
const KEPT: &str = "x509_svid_cache_max_size = 1";

pub(crate) fn rows() -> Vec<Row> {
    if !geteuid().is_root() {
        peers::skip("callers of many users, for the first SVID of each, need root");
        return Vec::new();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let signet = runtime.block_on(calls(Make::Signet, CALLERS));
    let mut rows = vec![Row {
        name: "SVID of a known entry with nothing signed, from the call, p99",
        goal: Goal::AtMost(10.0),
        measured: millis(signet.p99()),
        unit: " ms",
        from: signet.told("calls"),
    }];
    if peers::folder("spire").is_some() {
        let spire = runtime.block_on(calls(Make::Spire, SPIRE_CALLERS));
        rows.push(Row {
            from: spire.told("calls"),
            ..Row::limit("the same from real SPIRE, p50", millis(spire.p50()), " ms")
        });
    }
    rows
}

async fn calls(make: Make, callers: u32) -> Delays {
    let domain = Plan::new(make)
        .ids_alone()
        .key(r#"log_level = "WARN""#)
        .start();
    let keys = format!("log_level = \"WARN\"\n{KEPT}");
    let agent = domain.agent_with(make, &keys);
    let admin = Admin::of(&domain).await;
    let users = FIRST_USER..FIRST_USER + callers;
    let entries = users.clone().map(|user| NewEntry {
        parent: &agent.id,
        path: format!("/user/{user}"),
        selector: ("unix", format!("uid:{user}")),
    });
    admin.create_all(entries).await;
    // The last entry: with it the agent has all of them.
    let selector = format!("unix:uid:{}", getuid());
    domain.entry(&agent, "/bench", &selector, &[]);
    wait_for_svid(&agent, "/bench");
    let this = std::env::current_exe().unwrap();
    let mut delays = Delays::default();
    for user in users {
        let mut call = Command::new(&this);
        call.arg("call").arg(agent.socket()).uid(user);
        let printed = run(&mut call).success();
        delays.see(Duration::from_secs_f64(
            printed.trim().parse::<f64>().unwrap() / 1e6,
        ));
    }
    delays
}
