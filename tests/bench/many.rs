//! One agent of a hundred thousand entries.

use std::time::Duration;

use tests::domain::Plan;
use tests::programs::Make;
use tests::simulated::Site;

use crate::admin::{Admin, NewEntry};
use crate::cost::{pause, wall};
use crate::meter::Meter;
use crate::table::{Goal, Row};

const ENTRIES: usize = 100_000;
/// More than this in one message would be too much for some clients of gRPC.
const LARGEST: f64 = 1.0;
const SETTLED: Duration = Duration::from_secs(5);

pub(crate) fn rows() -> Vec<Row> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let domain = Plan::new(Make::Signet)
            .ids_alone()
            .key(r#"log_level = "WARN""#)
            .start();
        let admin = Admin::of(&domain).await;
        let place = domain.place(r#"log_level = "INFO""#);
        let start = wall();
        admin.create_all(entries(&place.id)).await;
        let created = start.elapsed();

        let start = wall();
        let mut agent = place.start();
        agent.line("Following the server");
        let synced = start.elapsed();
        pause(SETTLED);
        let (kept, server) = (
            Meter::of(agent.pid()).memory(),
            Meter::of(domain.server.pid()).memory(),
        );

        // The same again for an agent that looks at the messages.
        let site = Site::open(&domain.server_socket(), domain.port).await;
        let looking = site.agent().await;
        admin.create_all(entries(&looking.id.to_string())).await;
        let start = wall();
        let mut following = looking.follow(None).await.unwrap();
        let change = following.change().await.unwrap();
        let told = start.elapsed();
        assert_eq!(change.told.len(), ENTRIES);
        let largest = f64::from(u32::try_from(change.largest).unwrap()) / f64::from(1 << 20);
        vec![
            Row {
                name: "100,000 entries for one agent: largest message",
                goal: Goal::AtMost(LARGEST),
                measured: largest,
                unit: " MiB",
                from: format!("all of it in {:.2} s", told.as_secs_f64()),
            },
            Row {
                from: format!(
                    "agent {:.0} MiB resident, server {:.0} MiB",
                    kept.resident, server.resident
                ),
                ..Row::limit(
                    "the same: an agent's start, attestation and synchronization",
                    synced.as_secs_f64(),
                    " s",
                )
            },
            Row {
                from: "calls of 500, one after the other, all below one parent".to_owned(),
                ..Row::limit(
                    "the same: creating the entries",
                    created.as_secs_f64(),
                    " s",
                )
            },
        ]
    })
}

fn entries(agent: &str) -> impl Iterator<Item = NewEntry<'_>> {
    (0..ENTRIES).map(move |at| NewEntry {
        parent: agent,
        path: format!("/{at}"),
        selector: ("unix", format!("uid:{}", 200_000 + at)),
    })
}
