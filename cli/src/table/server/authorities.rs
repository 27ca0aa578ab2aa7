//! `server localauthority`: the same five commands for either kind of authority; and `server upstreamauthority`.

use super::super::{AuthorityKind, AuthorityStep, OUTPUT, ServerAction};
use super::{ASKS, SOCKET, command};
use crate::command::Command;
use crate::flags::{Flag, FlagSet};

/// The commands of a kind: its word on the command line, its name in prose, and what a preparation
/// puts into the bundle.
macro_rules! commands {
    ($($kind:ident $word:literal $name:literal $published:literal),+ $(,)?) => {
        &[$(
            command(
                concat!("server localauthority ", $word, " activate"),
                concat!("Activates a prepared ", $name, " authority for use, which will cause it to be used for all ", $name, " signing operations serviced by this server going forward"),
                flags!($word, "activate", concat!("The authority ID of the ", $name, " authority to activate")),
                ASKS,
                ServerAction::AuthorityStep(AuthorityStep::Activate, AuthorityKind::$kind),
            ),
            command(
                concat!("server localauthority ", $word, " prepare"),
                concat!("Prepares a new ", $name, " authority for use by generating a new key and injecting ", $published, " into the bundle"),
                flags!($word, "prepare"),
                ASKS,
                ServerAction::AuthorityStep(AuthorityStep::Prepare, AuthorityKind::$kind),
            ),
            command(
                concat!("server localauthority ", $word, " revoke"),
                concat!("Revokes the previously active ", $name, " authority by removing it from the bundle and propagating this update throughout the cluster"),
                flags!($word, "revoke", concat!("The authority ID of the ", $name, " authority to revoke")),
                ASKS,
                ServerAction::AuthorityStep(AuthorityStep::Revoke, AuthorityKind::$kind),
            ),
            command(
                concat!("server localauthority ", $word, " show"),
                concat!("Shows the local ", $name, " authorities"),
                flags!($word, "show"),
                ASKS,
                ServerAction::AuthorityShow(AuthorityKind::$kind),
            ),
            command(
                concat!("server localauthority ", $word, " taint"),
                concat!("Marks the previously active ", $name, " authority as being tainted"),
                flags!($word, "taint", concat!("The authority ID of the ", $name, " authority to taint")),
                ASKS,
                ServerAction::AuthorityStep(AuthorityStep::Taint, AuthorityKind::$kind),
            ),
        )+]
    };
}

macro_rules! flags {
    ($word:literal, $verb:literal) => {
        FlagSet {
            name: concat!("localauthority ", $word, " ", $verb),
            groups: &[SOCKET, OUTPUT],
        }
    };
    ($word:literal, $verb:literal, $id:expr) => {
        FlagSet {
            name: concat!("localauthority ", $word, " ", $verb),
            groups: &[SOCKET, OUTPUT, &[Flag::text("authorityID", $id)]],
        }
    };
}

pub(in crate::table) static COMMANDS: &[Command] = commands![
    Jwt "jwt" "JWT" "it",
    X509 "x509" "X.509" "the resulting CA certificate",
];

pub(in crate::table) static UPSTREAM_COMMANDS: &[Command] = &[
    command(
        "server upstreamauthority revoke",
        "Revokes the previously active X.509 upstream authority by removing it from the bundle and propagating this update throughout the cluster",
        FlagSet {
            name: "upstreamauthority revoke",
            groups: &[
                SOCKET,
                OUTPUT,
                &[Flag::text(
                    "subjectKeyID",
                    "The X.509 Subject Key Identifier (or SKID) of the authority's CA certificate of the X.509 upstream authority to revoke",
                )],
            ],
        },
        ASKS,
        ServerAction::UpstreamRevoke,
    ),
    command(
        "server upstreamauthority taint",
        "Marks the provided X.509 upstream authority as being tainted",
        FlagSet {
            name: "upstreamauthority taint",
            groups: &[
                SOCKET,
                OUTPUT,
                &[Flag::text(
                    "subjectKeyID",
                    "The X.509 Subject Key Identifier (or SKID) of the authority's CA certificate of the upstream X.509 authority to taint",
                )],
            ],
        },
        ASKS,
        ServerAction::UpstreamTaint,
    ),
];
