//! Every command, in one table: its words, its flags, and what it does.
//!
//! SPIRE's commands have SPIRE's names, flags, defaults and help texts; `tests/flags.txt` holds what
//! was recorded of them, and a test compares.

mod agent;
mod k8s;
mod migrate;
mod server;

use crate::command::{Command, Manners};
use crate::flags::{Flag, FlagSet, Kind};

/// What a command does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    Dev,
    Migrate,
    Server(ServerAction),
    Agent(AgentAction),
    K8s(K8sAction),
}

/// What a command for nodes of Kubernetes does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum K8sAction {
    Csi,
    Healthcheck,
}

/// What a command of the server's half does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ServerAction {
    AgentBan,
    AgentCount,
    AgentEvict,
    AgentList,
    AgentPurge,
    AgentShow,
    AuthorityShow(AuthorityKind),
    AuthorityStep(AuthorityStep, AuthorityKind),
    Backup,
    BundleCount,
    BundleDelete,
    BundleList,
    BundleSet,
    BundleShow,
    DebugGetInfo,
    EntryCount,
    EntryCreate,
    EntryDelete,
    EntryShow,
    EntryUpdate,
    FederationCreate,
    FederationDelete,
    FederationList,
    FederationRefresh,
    FederationShow,
    FederationUpdate,
    Healthcheck,
    JwtMint,
    LoggerGet,
    LoggerReset,
    LoggerSet,
    Restore,
    Run,
    TokenGenerate,
    UpstreamRevoke,
    UpstreamTaint,
    Validate,
    X509Mint,
}

/// The kinds of a server's signing authorities.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AuthorityKind {
    X509,
    Jwt,
}

impl AuthorityKind {
    /// As people read it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::X509 => "X.509",
            Self::Jwt => "JWT",
        }
    }
}

/// What is done to a signing authority.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AuthorityStep {
    Prepare,
    Activate,
    Taint,
    Revoke,
}

/// What a command of the agent's half does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AgentAction {
    DebugGetInfo,
    Explain,
    FetchJwt,
    FetchX509,
    Healthcheck,
    LoggerGet,
    LoggerReset,
    LoggerSet,
    Run,
    Validate,
    ValidateJwt,
    Watch,
}

/// The groups of `signet` itself.
pub(crate) const GROUPS: &[(&str, &str)] = &[
    ("agent", "Runs and asks an agent"),
    ("k8s", "Runs what the nodes of a Kubernetes cluster need"),
    ("server", "Runs and asks a server"),
];

/// The table.
pub(crate) fn commands() -> impl Iterator<Item = &'static Command> {
    let own = [&DEV, &migrate::COMMAND].into_iter();
    own.chain(agent::COMMANDS)
        .chain(k8s::COMMANDS)
        .chain(server::COMMANDS)
        .chain(server::authorities::COMMANDS)
        .chain(server::authorities::UPSTREAM_COMMANDS)
        .chain(server::federation::COMMANDS)
}

static DEV: Command = Command {
    path: "dev",
    synopsis: "Runs a server and an agent for trying out, and shows an identity",
    flags: FlagSet {
        name: "dev",
        groups: &[&[
            Flag::text(
                "dir",
                "Directory for state and sockets. If not set, a folder below the user's state directory",
            ),
            Flag::text("trust-domain", "The trust domain").default("example.org"),
            // The other commands spell it so.
            Flag::text("trustDomain", "The trust domain").own(),
            Flag::switch("once", "Print the identity and exit"),
            Flag::text("logLevel", "'debug', 'info', 'warn', or 'error'").default("warn"),
        ]],
    },
    manners: PLAIN,
    action: Action::Dev,
};

/// Commands that run something: a failure is its text alone.
const PLAIN: Manners = Manners {
    failure: "",
    repeats_flag_errors: true,
    help_end: "flag: help requested",
};

const OUTPUT: &[Flag] = &[Flag::new(
    "output",
    Kind::Output,
    "Desired output format (pretty, json); default: pretty.",
)];

#[cfg(test)]
mod tests;
