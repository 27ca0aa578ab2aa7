//! What ours says otherwise than SPIRE's on purpose. `docs/operations.md` tells of each, below "Where Signet
//! differs from SPIRE".

/// Words of SPIRE's, and those of ours in their place.
#[derive(Debug)]
pub(crate) struct Mended {
    /// A part of the lines of the table that this is about.
    pub(crate) of: &'static str,
    pub(crate) theirs: &'static str,
    pub(crate) ours: &'static str,
}

/// Of the server, and of the program that asks it.
pub(crate) const OF_SERVER: &[Mended] = &[
    // Ours has more commands.
    mended(
        "",
        "    backup               Writes the store of a server to a file, while it runs or after\n",
    ),
    mended(
        "",
        "    restore              Makes the store of a server from a backup\n",
    ),
    // SPIRE's server tells of its database.
    Mended {
        of: "entry create",
        theirs: "datastore-sql: UNIQUE constraint failed: registered_entries.entry_id",
        ours: "entry ID already exists",
    },
    Mended {
        of: "federation create",
        theirs: "datastore-sql: UNIQUE constraint failed: federated_trust_domains.trust_domain",
        ours: "there is a federation relationship with this trust domain already",
    },
    Mended {
        of: "-dns a..b",
        theirs: r#"idna error\nidna: invalid label \"a..b\""#,
        ours: "idna error: invalid label",
    },
    // The words of whoever reads JSON.
    Mended {
        of: "no.json",
        theirs: "invalid character 'o' in literal null (expecting 'u')",
        ours: "expected ident at line 1 column 2",
    },
    Mended {
        of: "-format spiffe -path W/b.pem",
        theirs: "spiffebundle: unable to parse JWKS: invalid character '-' in numeric literal",
        ours: "bundle is not a JSON object: invalid number at line 1 column 2",
    },
    // An entry that lost a trust domain is another than before.
    Mended {
        of: "entry show -spiffeID spiffe://example.org/fedw",
        theirs: "Revision                : 0",
        ours: "Revision                : 1",
    },
    // SPIRE's program warns of what did not happen.
    Mended {
        of: "x509 mint -spiffeID spiffe://example.org/x -ttl 5m",
        theirs: "X509-SVID lifetime was capped shorter than specified ttl; expires \"NUMBER\"\n",
        ours: "",
    },
    Mended {
        of: "jwt mint -spiffeID spiffe://example.org/x -audience a -ttl 1m",
        theirs: "JWT-SVID lifetime was capped shorter than specified ttl; expires \"NUMBER\"\n",
        ours: "",
    },
    mended(
        "validate",
        "Warning: DataStore `sql` with `sqlite3`: the embedded store below `data_dir` is used; SPIRE's database is not read, `signet migrate` asks the server that has it\n",
    ),
];

/// Of the agent, and of the program that asks it.
pub(crate) const OF_AGENT: &[Mended] = &[
    mended(
        "",
        "    explain        Tells why a process has the identities that it has, or none\n",
    ),
    // The words of whoever reads a token.
    Mended {
        of: "-svid abc",
        theirs: "go-jose/go-jose: compact JWS format must have three parts",
        ours: "not in compact form",
    },
    Mended {
        of: "-svid a.b.c",
        theirs: "illegal base64 data at input byte 0",
        ours: "not in compact form",
    },
    Mended {
        of: "-svid <TOKEN>x",
        theirs: "go-jose/go-jose: error in cryptographic primitive",
        ours: "unable to parse JWT token: not in compact form",
    },
];

/// What ours says and SPIRE's does not.
const fn mended(of: &'static str, ours: &'static str) -> Mended {
    Mended {
        of,
        theirs: "",
        ours,
    }
}
