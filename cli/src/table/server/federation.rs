//! `server federation`.

use super::super::{OUTPUT, ServerAction};
use super::{ASKS, SOCKET, command};
use crate::command::Command;
use crate::flags::{Flag, FlagSet};

const FIELDS: &[Flag] = &[
    Flag::text(
        "data",
        "Path to a file containing federation relationships in JSON format (optional). If set to '-', read the JSON from stdin.",
    ),
    Flag::text(
        "trustDomain",
        "Name of the trust domain to federate with (e.g., example.org)",
    ),
    Flag::text(
        "bundleEndpointURL",
        "URL of the SPIFFE bundle endpoint that provides the trust bundle (must use the HTTPS protocol)",
    ),
    Flag::text(
        "bundleEndpointProfile",
        "Endpoint profile type (either \"https_web\" or \"https_spiffe\")",
    ),
    Flag::text(
        "endpointSpiffeID",
        "SPIFFE ID of the SPIFFE bundle endpoint server. Only used for 'spiffe' profile.",
    ),
    Flag::text(
        "trustDomainBundlePath",
        "Path to the trust domain bundle data (optional).",
    ),
    Flag::text(
        "trustDomainBundleFormat",
        "The format of the bundle data (optional). Either \"pem\" or \"spiffe\".",
    )
    .default("pem"),
];

const ID: &[Flag] = &[Flag::text("id", "SPIFFE ID of the trust domain")];

const SHOWN: &[Flag] = &[Flag::text(
    "trustDomain",
    "The trust domain name of the federation relationship to show",
)];

macro_rules! federation {
    ($verb:literal, $synopsis:literal, $action:ident $(, $flags:ident)?) => {
        command(
            concat!("server federation ", $verb),
            $synopsis,
            FlagSet {
                name: concat!("federation ", $verb),
                groups: &[SOCKET, OUTPUT $(, $flags)?],
            },
            ASKS,
            ServerAction::$action,
        )
    };
}

pub(in crate::table) static COMMANDS: &[Command] = &[
    federation!(
        "create",
        "Creates a dynamic federation relationship with a foreign trust domain",
        FederationCreate,
        FIELDS
    ),
    federation!(
        "delete",
        "Deletes a dynamic federation relationship",
        FederationDelete,
        ID
    ),
    federation!(
        "list",
        "Lists all dynamic federation relationships",
        FederationList
    ),
    federation!(
        "refresh",
        "Refreshes the bundle from the specified federated trust domain",
        FederationRefresh,
        ID
    ),
    federation!(
        "show",
        "Shows a dynamic federation relationship",
        FederationShow,
        SHOWN
    ),
    federation!(
        "update",
        "Updates a dynamic federation relationship with a foreign trust domain",
        FederationUpdate,
        FIELDS
    ),
];
