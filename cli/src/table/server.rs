//! The commands of the server's half.

pub(super) mod authorities;
pub(super) mod federation;

use super::{Action, OUTPUT, PLAIN, ServerAction};
use crate::command::{Command, Manners};
use crate::flags::{Flag, FlagSet, Kind};
use crate::socket::SERVER;

/// Commands that ask a server.
const ASKS: Manners = Manners {
    failure: "Error: ",
    repeats_flag_errors: false,
    help_end: "flag: help requested",
};

const VALIDATES: Manners = Manners {
    failure: "SPIRE server configuration file is invalid: ",
    ..PLAIN
};

pub(super) const SOCKET: &[Flag] = &[
    Flag::text("socketPath", "Path to the SPIRE Server API socket").default(SERVER.default),
    Flag::text(
        "instance",
        "Instance name to substitute into socket templates (env SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE).",
    ),
];

const RUN: &[Flag] = &[
    Flag::text("bindAddress", "IP address or DNS name of the SPIRE server"),
    Flag::int("serverPort", "Port number of the SPIRE server"),
    Flag::text("config", "Path to a SPIRE config file"),
    Flag::text("dataDir", "Directory to store runtime data to"),
    Flag::text("logFile", "File to write logs to"),
    Flag::text("logFormat", "'text' or 'json'"),
    Flag::switch(
        "logSourceLocation",
        "Include source file, line number and function name in log lines",
    ),
    Flag::text("logLevel", "'debug', 'info', 'warn', or 'error'"),
    Flag::text(
        "trustDomain",
        "The trust domain that this server belongs to",
    ),
    Flag::switch(
        "expandEnv",
        "Expand environment variables in SPIRE config file",
    ),
    Flag::text("socketPath", "Path to bind the SPIRE Server API socket to"),
    Flag::switch(
        "allowUnknownConfig",
        "Warn of unknown configuration keys instead of refusing them",
    )
    .own(),
];

const AGENT_FILTER: &[Flag] = &[
    Flag::list("selector", SELECTOR),
    Flag::text(
        "attestationType",
        "Filter by attestation type, like join_token or x509pop.",
    ),
    Flag::new(
        "canReattest",
        Kind::Either,
        "Filter based on string received, 'true': agents that can reattest, 'false': agents that can't reattest, other value will return all.",
    ),
    Flag::new(
        "banned",
        Kind::Either,
        "Filter based on string received, 'true': banned agents, 'false': not banned agents, other value will return all.",
    ),
    Flag::text(
        "expiresBefore",
        "Filter by expiration time (format: \"2006-01-02 15:04:05 -0700 -07\")",
    ),
    MATCH_SELECTORS,
];

const SELECTOR: &str = "A colon-delimited type:value selector. Can be used more than once";

const MATCH_SELECTORS: Flag = Flag::text(
    "matchSelectorsOn",
    "The match mode used when filtering by selectors. Options: exact, any, superset and subset",
)
.default("superset");

const DOWNSTREAM: Flag = Flag::switch(
    "downstream",
    "A boolean value that, when set, indicates that the entry describes a downstream SPIRE server",
);

const ENTRY_FILTER: &[Flag] = &[
    DOWNSTREAM,
    Flag::list("selector", SELECTOR),
    Flag::list(
        "federatesWith",
        "SPIFFE ID of a trust domain an entry is federate with. Can be used more than once",
    ),
    Flag::text(
        "matchFederatesWithOn",
        "The match mode used when filtering by federates with. Options: exact, any, superset and subset",
    )
    .default("superset"),
    MATCH_SELECTORS,
];

const ENTRY_FIELDS: &[Flag] = &[
    Flag::text("parentID", "The SPIFFE ID of this record's parent"),
    Flag::text("spiffeID", "The SPIFFE ID that this record represents"),
    Flag::int(
        "x509SVIDTTL",
        "The lifetime, in seconds, for x509-SVIDs issued based on this registration entry.",
    ),
    Flag::int(
        "jwtSVIDTTL",
        "The lifetime, in seconds, for JWT-SVIDs issued based on this registration entry.",
    ),
    Flag::text(
        "data",
        "Path to a file containing registration JSON (optional). If set to '-', read the JSON from stdin.",
    ),
    Flag::list("selector", SELECTOR),
    Flag::list(
        "federatesWith",
        "SPIFFE ID of a trust domain to federate with. Can be used more than once",
    ),
    Flag::switch(
        "admin",
        "If set, the SPIFFE ID in this entry will be granted access to the SPIRE Server's management APIs",
    ),
    Flag::switch(
        "storeSVID",
        "A boolean value that, when set, indicates that the resulting issued SVID from this entry must be stored through an SVIDStore plugin",
    ),
    DOWNSTREAM,
    Flag::int(
        "entryExpiry",
        "An expiry, from epoch in seconds, for the resulting registration entry to be pruned",
    ),
    Flag::list(
        "dns",
        "A DNS name that will be included in SVIDs issued based on this entry, where appropriate. Can be used more than once",
    ),
    Flag::text(
        "hint",
        "The entry hint, used to disambiguate entries with the same SPIFFE ID",
    ),
    Flag::switch(
        "disableX509SVIDPrefetch",
        "A boolean value that, when set, disables prefetching X509 SVID for this entry",
    ),
    Flag::switch(
        "jwtSVIDIncludeJTI",
        "A boolean value that, when set, includes a unique 'jti' claim in JWT-SVIDs issued for this entry and bypasses the agent JWT-SVID cache",
    ),
];

const fn command(
    path: &'static str,
    synopsis: &'static str,
    flags: FlagSet,
    manners: Manners,
    action: ServerAction,
) -> Command {
    Command {
        path,
        synopsis,
        flags,
        manners,
        action: Action::Server(action),
    }
}

/// A set of flags under the name that heads its usage text.
macro_rules! flags {
    ($name:literal, $($group:expr),+ $(,)?) => {
        FlagSet { name: $name, groups: &[$($group),+] }
    };
}

pub(super) static COMMANDS: &[Command] = &[
    command(
        "server agent ban",
        "Ban an attested agent given its SPIFFE ID",
        flags!(
            "agent ban",
            SOCKET,
            OUTPUT,
            &[Flag::text("spiffeID", "The SPIFFE ID of the agent to ban (agent identity)")],
        ),
        ASKS,
        ServerAction::AgentBan,
    ),
    command(
        "server agent count",
        "Count attested agents",
        flags!("agent count", SOCKET, OUTPUT, AGENT_FILTER),
        ASKS,
        ServerAction::AgentCount,
    ),
    command(
        "server agent evict",
        "Evicts an attested agent given its SPIFFE ID",
        flags!(
            "agent evict",
            SOCKET,
            OUTPUT,
            &[Flag::text("spiffeID", "The SPIFFE ID of the agent to evict (agent identity)")],
        ),
        ASKS,
        ServerAction::AgentEvict,
    ),
    command(
        "server agent list",
        "Lists attested agents and their SPIFFE IDs",
        flags!("agent list", SOCKET, OUTPUT, AGENT_FILTER),
        ASKS,
        ServerAction::AgentList,
    ),
    command(
        "server agent purge",
        "Purge expired agents that were attested using a non-TOFU security model based on a given time",
        flags!(
            "agent purge",
            SOCKET,
            OUTPUT,
            &[
                Flag::new(
                    "expiredFor",
                    Kind::Span,
                    "Amount of time that has passed since the agent's SVID has expired. It is used to determine which agents to purge.",
                )
                .default("720h0m0s"),
                Flag::switch(
                    "dryRun",
                    "Indicates that the command will not perform any action, but will print the agents that would be purged.",
                ),
            ],
        ),
        ASKS,
        ServerAction::AgentPurge,
    ),
    command(
        "server agent show",
        "Shows the details of an attested agent given its SPIFFE ID",
        flags!(
            "agent show",
            SOCKET,
            OUTPUT,
            &[Flag::text("spiffeID", "The SPIFFE ID of the agent to show (agent identity)")],
        ),
        ASKS,
        ServerAction::AgentShow,
    ),
    command(
        "server backup",
        "Writes the store of a server to a file, while it runs or after",
        flags!(
            "backup",
            SOCKET,
            &[
                Flag::text("dataDir", "The data directory of a server that does not run"),
                Flag::text("out", "The file to write; it must not exist"),
            ],
        ),
        ASKS,
        ServerAction::Backup,
    ),
    command(
        "server bundle count",
        "Count bundles",
        flags!("bundle count", SOCKET, OUTPUT),
        ASKS,
        ServerAction::BundleCount,
    ),
    command(
        "server bundle delete",
        "Deletes federated bundle data",
        flags!(
            "bundle delete",
            SOCKET,
            OUTPUT,
            &[
                Flag::text("id", "SPIFFE ID of the trust domain"),
                Flag::text(
                    "mode",
                    "Deletion mode: one of restrict, delete, or dissociate",
                )
                .default("restrict"),
            ],
        ),
        ASKS,
        ServerAction::BundleDelete,
    ),
    command(
        "server bundle list",
        "Lists federated bundle data",
        flags!(
            "bundle list",
            SOCKET,
            OUTPUT,
            &[
                Flag::text("id", "SPIFFE ID of the trust domain"),
                Flag::text(
                    "format",
                    "The format to list federated bundles (only pretty output format supports this flag). Either \"pem\" or \"spiffe\".",
                )
                .default("pem"),
            ],
        ),
        ASKS,
        ServerAction::BundleList,
    ),
    command(
        "server bundle set",
        "Creates or updates federated bundle data",
        flags!(
            "bundle set",
            SOCKET,
            OUTPUT,
            &[
                Flag::text("id", "SPIFFE ID of the trust domain"),
                Flag::text("path", "Path to the bundle data"),
                Flag::text("format", "The format of the bundle data. Either \"pem\" or \"spiffe\".")
                    .default("pem"),
            ],
        ),
        ASKS,
        ServerAction::BundleSet,
    ),
    command(
        "server bundle show",
        "Prints server CA bundle to stdout",
        flags!(
            "bundle show",
            SOCKET,
            OUTPUT,
            &[Flag::text(
                "format",
                "The format to show the bundle (only pretty output format supports this flag). Either \"pem\" or \"spiffe\".",
            )
            .default("pem")],
        ),
        ASKS,
        ServerAction::BundleShow,
    ),
    command(
        "server debug getinfo",
        "Prints debug information about the server",
        flags!("debug getinfo", SOCKET, OUTPUT),
        ASKS,
        ServerAction::DebugGetInfo,
    ),
    command(
        "server entry count",
        "Count registration entries",
        flags!(
            "entry count",
            SOCKET,
            OUTPUT,
            ENTRY_FILTER,
            &[
                Flag::text("parentID", "The Parent ID of the records to count"),
                Flag::text("spiffeID", "The SPIFFE ID of the records to count"),
                Flag::text("hint", "The Hint of the records to count (optional)"),
            ],
        ),
        ASKS,
        ServerAction::EntryCount,
    ),
    command(
        "server entry create",
        "Creates registration entries",
        flags!(
            "entry create",
            SOCKET,
            OUTPUT,
            ENTRY_FIELDS,
            &[
                Flag::text(
                    "entryID",
                    "A custom ID for this registration entry (optional). If not set, a new entry ID will be generated",
                ),
                Flag::switch(
                    "node",
                    "If set, this entry will be applied to matching nodes rather than workloads",
                ),
            ],
        ),
        ASKS,
        ServerAction::EntryCreate,
    ),
    command(
        "server entry delete",
        "Deletes registration entries",
        flags!(
            "entry delete",
            SOCKET,
            OUTPUT,
            &[
                Flag::text("entryID", "The Registration Entry ID of the record to delete."),
                Flag::text(
                    "file",
                    "Path to a file containing a JSON structure for batch deletion (optional). If set to '-', read from stdin.",
                ),
            ],
        ),
        ASKS,
        ServerAction::EntryDelete,
    ),
    command(
        "server entry show",
        "Displays configured registration entries",
        flags!(
            "entry show",
            SOCKET,
            OUTPUT,
            ENTRY_FILTER,
            &[
                Flag::text("entryID", "The Entry ID of the records to show"),
                Flag::text("parentID", "The Parent ID of the records to show"),
                Flag::text("spiffeID", "The SPIFFE ID of the records to show"),
                Flag::text("hint", "The Hint of the records to show (optional)"),
            ],
        ),
        ASKS,
        ServerAction::EntryShow,
    ),
    command(
        "server entry update",
        "Updates registration entries",
        flags!(
            "entry update",
            SOCKET,
            OUTPUT,
            ENTRY_FIELDS,
            &[Flag::text("entryID", "The Registration Entry ID of the record to update")],
        ),
        ASKS,
        ServerAction::EntryUpdate,
    ),
    command(
        "server healthcheck",
        "Determines server health status",
        flags!(
            "healthcheck",
            SOCKET,
            &[
                Flag::switch("shallow", "Perform a less stringent health check"),
                Flag::switch("verbose", "Print verbose information"),
            ],
        ),
        ASKS,
        ServerAction::Healthcheck,
    ),
    command(
        "server jwt mint",
        "Mints a JWT-SVID",
        flags!(
            "jwt mint",
            SOCKET,
            OUTPUT,
            &[
                Flag::text("spiffeID", "SPIFFE ID of the JWT-SVID"),
                Flag::new("ttl", Kind::Span, "TTL of the JWT-SVID"),
                Flag::list(
                    "audience",
                    "Audience claim that will be included in the SVID. Can be used more than once.",
                ),
                Flag::text("write", "File to write token to instead of stdout"),
            ],
        ),
        ASKS,
        ServerAction::JwtMint,
    ),
    command(
        "server logger get",
        "Gets the logger details",
        flags!("logger get", SOCKET, OUTPUT),
        ASKS,
        ServerAction::LoggerGet,
    ),
    command(
        "server logger reset",
        "Reset the logger details to launch level",
        flags!("logger reset", SOCKET, OUTPUT),
        ASKS,
        ServerAction::LoggerReset,
    ),
    command(
        "server logger set",
        "Sets the logger details",
        flags!(
            "logger set",
            SOCKET,
            OUTPUT,
            &[Flag::text(
                "level",
                "The new log level, one of (panic, fatal, error, warn, info, debug, trace)",
            )],
        ),
        ASKS,
        ServerAction::LoggerSet,
    ),
    command(
        "server restore",
        "Makes the store of a server from a backup",
        flags!(
            "restore",
            &[
                Flag::text("dataDir", "The data directory of the server; it may hold the key file, and nothing else"),
                Flag::text("in", "The backup to read"),
            ],
        ),
        ASKS,
        ServerAction::Restore,
    ),
    command("server run", "Runs the server", flags!("run", RUN), PLAIN, ServerAction::Run),
    command(
        "server token generate",
        "Generates a join token",
        flags!(
            "generate",
            SOCKET,
            OUTPUT,
            &[
                Flag::int("ttl", "Token TTL in seconds").default("600"),
                Flag::text("spiffeID", "Additional SPIFFE ID to assign the token owner (optional)"),
            ],
        ),
        ASKS,
        ServerAction::TokenGenerate,
    ),
    command(
        "server validate",
        "Validates a SPIRE server configuration file",
        flags!("validate", RUN),
        VALIDATES,
        ServerAction::Validate,
    ),
    command(
        "server x509 mint",
        "Mints an X509-SVID",
        flags!(
            "x509 mint",
            SOCKET,
            OUTPUT,
            &[
                Flag::text("spiffeID", "SPIFFE ID of the X509-SVID"),
                Flag::new("ttl", Kind::Span, "TTL of the X509-SVID"),
                Flag::list(
                    "dns",
                    "DNS name that will be included in SVID. Can be used more than once.",
                ),
                Flag::text("write", "Directory to write output to instead of stdout"),
            ],
        ),
        ASKS,
        ServerAction::X509Mint,
    ),
];
