//! Who may call what: one row for each RPC of the protos, and nothing else is allowed.

use self::Role::{Admin, Agent, Anyone, Downstream, Local};

/// What a caller must be, at least one of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    /// Whoever can connect, with or without a certificate.
    Anyone,
    /// A process of this machine that could open the admin socket.
    Local,
    /// A SPIFFE ID of `admin_ids`, or of an entry with the flag `admin`.
    Admin,
    /// An attested agent with its SVID in use.
    Agent,
    /// A SPIFFE ID of an entry with the flag `downstream`.
    Downstream,
}

const OPERATOR: &[Role] = &[Local, Admin];

/// The RPCs that tell something and leave everything as it is. Every other one changes or issues: each call
/// of it leaves an event in the audit trail, whether it is let through or not, and runs to its end.
const TELLING: &[&str] = &[
    "CountAgents",
    "ListAgents",
    "GetAgent",
    "GetBundle",
    "GetFederatedBundle",
    "CountBundles",
    "ListFederatedBundles",
    "CountEntries",
    "ListEntries",
    "GetEntry",
    "GetAuthorizedEntries",
    "SyncAuthorizedEntries",
    "ListFederationRelationships",
    "GetFederationRelationship",
    "GetJWTAuthorityState",
    "GetX509AuthorityState",
    "GetWITAuthorityState",
    "GetLogger",
    "GetInfo",
    "Follow",
    "Check",
    "List",
    "Watch",
];

type Row = (&'static str, &'static [(&'static str, &'static [Role])]);

const TABLE: &[Row] = &[
    (
        "spire.api.server.agent.v1.Agent",
        &[
            ("AttestAgent", &[Anyone]),
            ("RenewAgent", &[Agent]),
            ("PostStatus", &[Agent]),
            ("CountAgents", OPERATOR),
            ("ListAgents", OPERATOR),
            ("GetAgent", OPERATOR),
            ("DeleteAgent", OPERATOR),
            ("BanAgent", OPERATOR),
            ("CreateJoinToken", OPERATOR),
        ],
    ),
    (
        "spire.api.server.bundle.v1.Bundle",
        &[
            ("GetBundle", &[Anyone]),
            ("GetFederatedBundle", &[Local, Admin, Agent]),
            ("AppendBundle", OPERATOR),
            ("CountBundles", OPERATOR),
            ("ListFederatedBundles", OPERATOR),
            ("BatchCreateFederatedBundle", OPERATOR),
            ("BatchUpdateFederatedBundle", OPERATOR),
            ("BatchSetFederatedBundle", OPERATOR),
            ("BatchDeleteFederatedBundle", OPERATOR),
            ("PublishJWTAuthority", &[Downstream]),
            ("PublishWITAuthority", &[Downstream]),
        ],
    ),
    (
        "spire.api.server.entry.v1.Entry",
        &[
            ("CountEntries", OPERATOR),
            ("ListEntries", OPERATOR),
            ("GetEntry", OPERATOR),
            ("BatchCreateEntry", OPERATOR),
            ("BatchUpdateEntry", OPERATOR),
            ("BatchDeleteEntry", OPERATOR),
            ("GetAuthorizedEntries", &[Agent]),
            ("SyncAuthorizedEntries", &[Agent]),
        ],
    ),
    (
        "spire.api.server.svid.v1.SVID",
        &[
            ("MintX509SVID", OPERATOR),
            ("MintJWTSVID", OPERATOR),
            ("MintWITSVID", OPERATOR),
            ("BatchNewX509SVID", &[Agent]),
            ("NewJWTSVID", &[Agent]),
            ("BatchNewWITSVID", &[Agent]),
            ("NewDownstreamX509CA", &[Downstream]),
        ],
    ),
    (
        "spire.api.server.trustdomain.v1.TrustDomain",
        &[
            ("ListFederationRelationships", OPERATOR),
            ("GetFederationRelationship", OPERATOR),
            ("BatchCreateFederationRelationship", OPERATOR),
            ("BatchUpdateFederationRelationship", OPERATOR),
            ("BatchDeleteFederationRelationship", OPERATOR),
            ("RefreshBundle", OPERATOR),
        ],
    ),
    (
        "spire.api.server.localauthority.v1.LocalAuthority",
        &[
            ("GetJWTAuthorityState", OPERATOR),
            ("PrepareJWTAuthority", OPERATOR),
            ("ActivateJWTAuthority", OPERATOR),
            ("TaintJWTAuthority", OPERATOR),
            ("RevokeJWTAuthority", OPERATOR),
            ("GetX509AuthorityState", OPERATOR),
            ("PrepareX509Authority", OPERATOR),
            ("ActivateX509Authority", OPERATOR),
            ("TaintX509Authority", OPERATOR),
            ("TaintX509UpstreamAuthority", OPERATOR),
            ("RevokeX509Authority", OPERATOR),
            ("RevokeX509UpstreamAuthority", OPERATOR),
            ("GetWITAuthorityState", OPERATOR),
            ("PrepareWITAuthority", OPERATOR),
            ("ActivateWITAuthority", OPERATOR),
            ("TaintWITAuthority", OPERATOR),
            ("RevokeWITAuthority", OPERATOR),
        ],
    ),
    (
        "spire.api.server.logger.v1.Logger",
        &[
            ("GetLogger", &[Local]),
            ("SetLogLevel", &[Local]),
            ("ResetLogLevel", &[Local]),
        ],
    ),
    ("spire.api.server.debug.v1.Debug", &[("GetInfo", &[Local])]),
    ("signet.server.v1.Backup", &[("Snapshot", &[Local])]),
    (
        "signet.server.v1.Import",
        &[
            ("ImportBundle", &[Local]),
            ("BatchImportEntry", &[Local]),
            ("BatchImportAgent", &[Local]),
        ],
    ),
    ("signet.agent.v1.Feed", &[("Follow", &[Agent])]),
    (
        "grpc.health.v1.Health",
        &[("Check", &[Local]), ("List", &[Local]), ("Watch", &[Local])],
    ),
];

/// The row of an RPC, found once and then compared by address alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rpc {
    /// The method's own name, a label of metrics.
    pub(crate) method: &'static str,
    pub(crate) service: &'static str,
    pub(crate) roles: &'static [Role],
    /// Whether it changes or issues something.
    pub(crate) acts: bool,
}

/// Finds the row of a request path, `/package.Service/Method`.
pub(crate) fn rpc(path: &str) -> Option<Rpc> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let (service, rows) = TABLE.iter().find(|(name, _)| *name == service)?;
    let (method, roles) = rows.iter().find(|(name, _)| *name == method)?;
    Some(Rpc {
        method,
        service,
        roles,
        acts: !TELLING.contains(method),
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    fn rpcs_of_the_protos() -> Vec<(String, String)> {
        let files = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
        let mut rpcs = Vec::new();
        for file in &files.file {
            for service in &file.service {
                for method in &service.method {
                    let service = format!("{}.{}", file.package(), service.name());
                    rpcs.push((service, method.name().to_owned()));
                }
            }
        }
        rpcs
    }

    #[test]
    fn has_a_row_for_every_rpc_of_the_protos() {
        let rpcs = rpcs_of_the_protos();
        assert!(
            rpcs.len() > 50,
            "the descriptors hold only {} RPCs",
            rpcs.len()
        );
        for (service, method) in rpcs {
            let path = format!("/{service}/{method}");
            let row = rpc(&path).unwrap_or_else(|| panic!("{path} has no row"));
            assert!(!row.roles.is_empty(), "{path} is for nobody");
        }
    }

    #[test]
    fn has_no_row_for_anything_else() {
        let rpcs = rpcs_of_the_protos();
        for (service, rows) in TABLE
            .iter()
            .filter(|(service, _)| !service.starts_with("grpc."))
        {
            for (method, _) in *rows {
                let known = rpcs.contains(&((*service).to_owned(), (*method).to_owned()));
                assert!(known, "{service}/{method} is no RPC");
            }
        }
        for path in [
            "",
            "/",
            "//",
            "/spire.api.server.entry.v1.Entry",
            "/a.B/C",
            "Entry/GetEntry",
        ] {
            assert!(rpc(path).is_none(), "{path}");
        }
    }

    #[test]
    fn every_rpc_that_only_tells_has_a_row_and_one_name_is_that_of_one_rpc() {
        let all: Vec<_> = TABLE.iter().flat_map(|(_, rows)| rows.iter()).collect();
        for telling in TELLING {
            let named = all.iter().filter(|(method, _)| method == telling);
            assert_eq!(named.count(), 1, "{telling}");
        }
    }

    #[test]
    fn lets_anyone_attest_and_read_our_bundle_and_nothing_else() {
        let anyone: Vec<_> = TABLE
            .iter()
            .flat_map(|(_, rows)| rows.iter())
            .filter(|(_, roles)| roles.contains(&Anyone))
            .map(|(method, _)| *method)
            .collect();
        assert_eq!(anyone, ["AttestAgent", "GetBundle"]);
    }
}
