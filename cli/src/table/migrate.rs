//! The command that moves a trust domain from a SPIRE server. SPIRE has none.

use super::{Action, PLAIN};
use crate::command::{Command, Manners};
use crate::flags::{Flag, FlagSet, Kind};
use crate::table::server::SOCKET;

pub(super) static COMMAND: Command = Command {
    path: "migrate",
    synopsis: "Moves a trust domain from a SPIRE server that runs; without -apply it shows what it would do",
    flags: FlagSet {
        name: "migrate",
        groups: &[
            SOCKET,
            &[
                Flag::text("from", "Path to the API socket of the server to move from"),
                Flag::switch(
                    "apply",
                    "Take everything over, let our authorities join the old server's bundle, wait for its agents, and verify",
                ),
                Flag::switch(
                    "verify",
                    "Change nothing, and fail unless the servers may be switched",
                ),
                Flag::switch(
                    "prune",
                    "Delete the entries and evict the agents here that the old server has not, whoever made them",
                ),
                Flag::new(
                    "syncInterval",
                    Kind::Duration,
                    "The longest sync_interval of the old server's agents",
                )
                .default("5s"),
                Flag::text(
                    "wayBack",
                    "The file to write, in SQL, of what the old server's database must learn for its agents to go back",
                ),
            ],
        ],
    },
    manners: Manners {
        failure: "Error: ",
        repeats_flag_errors: false,
        ..PLAIN
    },
    action: Action::Migrate,
};
