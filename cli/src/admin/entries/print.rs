//! Entries and the outcomes of writing them, line by line as SPIRE prints them.

use std::fmt::Write as _;

use proto::spire::server::entry::BatchDeleteEntryResponse;
use proto::spire::types::{Entry, Status};

use crate::admin::shown;
use crate::console::Console;
use crate::failure::Failure;
use crate::go;

/// The lines of an entry, and an empty one.
pub(super) fn entry(entry: &Entry) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<24}: {value}");
    };
    let seconds = |ttl: i32| match ttl {
        0 => "default".to_owned(),
        ttl => ttl.to_string(),
    };
    line(
        "Entry ID",
        if entry.id.is_empty() {
            "(none)"
        } else {
            &entry.id
        },
    );
    line("SPIFFE ID", &shown(entry.spiffe_id.as_ref()));
    line("Parent ID", &shown(entry.parent_id.as_ref()));
    line("Revision", &entry.revision_number.to_string());
    if entry.downstream {
        line("Downstream", "true");
    }
    line("X509-SVID TTL", &seconds(entry.x509_svid_ttl));
    line("JWT-SVID TTL", &seconds(entry.jwt_svid_ttl));
    if entry.expires_at != 0 {
        line("Expiration time", &go::unix_time(entry.expires_at));
    }
    for selector in &entry.selectors {
        line(
            "Selector",
            &format!("{}:{}", selector.r#type, selector.value),
        );
    }
    for trust_domain in &entry.federates_with {
        line("FederatesWith", trust_domain);
    }
    for name in &entry.dns_names {
        line("DNS name", name);
    }
    if entry.admin {
        line("Admin", "true");
    }
    if entry.store_svid {
        line("StoreSvid", "true");
    }
    if !entry.hint.is_empty() {
        line("Hint", &entry.hint);
    }
    let attributes = entry.additional_attributes.unwrap_or_default();
    if attributes.disable_x509_svid_prefetch {
        line("DisableX509SvidPrefetch", "true");
    }
    if attributes.jwt_svid_include_jti {
        line("JwtSvidIncludeJti", "true");
    }
    text.push('\n');
    text
}

/// What entries are sorted by.
pub(super) fn order(entry: &Entry) -> impl Ord + use<'_> {
    let id = |id: Option<&'_ proto::spire::types::Spiffeid>| {
        id.map(|id| (id.trust_domain.clone(), id.path.clone()))
    };
    let selectors = entry.selectors.iter();
    (
        id(entry.spiffe_id.as_ref()),
        id(entry.parent_id.as_ref()),
        entry.x509_svid_ttl,
        entry.jwt_svid_ttl,
        entry.selectors.len(),
        selectors
            .map(|s| (s.r#type.as_str(), s.value.as_str()))
            .collect::<Vec<_>>(),
    )
}

/// The status, where it is a failure.
pub(super) fn failed(status: Option<&Status>) -> Option<&Status> {
    status.filter(|status| status.code != 0)
}

/// Prints what was written to standard output, then what was not to standard error.
pub(super) fn results<'r>(
    console: &mut Console,
    verb: &str,
    results: impl Iterator<Item = (Option<&'r Status>, Option<&'r Entry>)>,
) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for (status, entry) in results {
        let text = entry.map(self::entry).unwrap_or_default();
        match failed(status) {
            None => console.out(format_args!("{text}")),
            Some(status) => failures.push((status, text)),
        }
    }
    for (status, text) in &failures {
        let code = go::code(status.code);
        console.err(format_args!(
            "Failed to {verb} the following entry (code: {code}, msg: {:?}):\n{text}",
            status.message
        ));
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "failed to {verb} one or more entries"
    )))
}

/// Prints the outcomes of a deletion. The last line has no end, and the plural is fixed: scripts know
/// both.
pub(super) fn deletions(
    console: &mut Console,
    answer: &BatchDeleteEntryResponse,
) -> Result<(), Failure> {
    let (deleted, kept): (Vec<_>, Vec<_>) = answer
        .results
        .iter()
        .partition(|result| failed(result.status.as_ref()).is_none());
    for result in &deleted {
        console.out(format_args!("Deleted entry with ID: {}\n", result.id));
    }
    if !deleted.is_empty() {
        console.out(format_args!("\n\n"));
    }
    for result in &kept {
        if let Some(status) = failed(result.status.as_ref()) {
            console.err(format_args!(
                "Failed to delete entry with ID {} (code: {}, msg: {:?})\n",
                result.id,
                go::code(status.code),
                status.message
            ));
        }
    }
    let (deleted, kept) = (deleted.len(), kept.len());
    if kept == 0 {
        console.out(format_args!("Deleted {deleted} entries successfully"));
        return Ok(());
    }
    match deleted {
        0 => console.out(format_args!("\n\nFailed to delete {kept} entries")),
        _ => console.out(format_args!(
            "\n\nDeleted {deleted} entries successfully, but failed to delete {kept} entries"
        )),
    }
    Err(Failure::new("failed to delete one or more entries"))
}

#[cfg(test)]
mod tests {
    use proto::spire::server::entry::batch_delete_entry_response::Result as Deleted;
    use proto::spire::types::{Selector, Spiffeid};

    use super::*;
    use crate::console::recorded::console;

    fn id(path: &str) -> Option<Spiffeid> {
        Some(Spiffeid {
            trust_domain: "example.org".to_owned(),
            path: path.to_owned(),
        })
    }

    fn full() -> Entry {
        Entry {
            id: "760ef148-a9b6-48c7-90cf-5b77bb199f46".to_owned(),
            spiffe_id: id("/c"),
            parent_id: id("/spire/agent/join_token/t"),
            downstream: true,
            x509_svid_ttl: 600,
            jwt_svid_ttl: 120,
            expires_at: 4_102_444_800,
            selectors: vec![Selector {
                r#type: "unix".to_owned(),
                value: "uid:1002".to_owned(),
            }],
            dns_names: vec!["c.example".to_owned()],
            admin: true,
            hint: "h1".to_owned(),
            ..Entry::default()
        }
    }

    const FULL: &str = "\
Entry ID                : 760ef148-a9b6-48c7-90cf-5b77bb199f46
SPIFFE ID               : spiffe://example.org/c
Parent ID               : spiffe://example.org/spire/agent/join_token/t
Revision                : 0
Downstream              : true
X509-SVID TTL           : 600
JWT-SVID TTL            : 120
Expiration time         : 2100-01-01 00:00:00 +0000 UTC
Selector                : unix:uid:1002
DNS name                : c.example
Admin                   : true
Hint                    : h1

";

    #[test]
    fn an_entry_is_printed_as_recorded() {
        assert_eq!(entry(&full()), FULL);
        let bare = Entry::default();
        assert!(
            entry(&bare)
                .starts_with("Entry ID                : (none)\nSPIFFE ID               : \n")
        );
    }

    #[test]
    fn failures_follow_on_standard_error() {
        let (mut console, out, err) = console();
        let status = Status {
            code: 6,
            message: "similar entry already exists".to_owned(),
        };
        let entry = full();
        let results = [(Some(&status), Some(&entry)), (None, Some(&entry))];
        let failure = super::results(&mut console, "create", results.into_iter()).unwrap_err();
        assert_eq!(failure.to_string(), "failed to create one or more entries");
        assert_eq!(out.text(), FULL);
        assert_eq!(
            err.text(),
            format!(
                "Failed to create the following entry (code: AlreadyExists, msg: \"similar entry already exists\"):\n{FULL}"
            )
        );
    }

    #[test]
    fn deletions_are_counted_as_recorded() {
        let result = |id: &str, code, message: &str| Deleted {
            id: id.to_owned(),
            status: Some(Status {
                code,
                message: message.to_owned(),
            }),
        };
        let (gone, kept) = (
            result("my-id", 0, "OK"),
            result("nope2", 5, "entry not found"),
        );
        for (results, stdout, stderr) in [
            (
                vec![gone.clone()],
                "Deleted entry with ID: my-id\n\n\nDeleted 1 entries successfully",
                "",
            ),
            (
                vec![kept.clone()],
                "\n\nFailed to delete 1 entries",
                "Failed to delete entry with ID nope2 (code: NotFound, msg: \"entry not found\")\n",
            ),
            (
                vec![gone, kept],
                "Deleted entry with ID: my-id\n\n\n\n\nDeleted 1 entries successfully, but failed to delete 1 entries",
                "Failed to delete entry with ID nope2 (code: NotFound, msg: \"entry not found\")\n",
            ),
        ] {
            let (mut console, out, err) = console();
            let _ = deletions(&mut console, &BatchDeleteEntryResponse { results });
            assert_eq!((out.text().as_str(), err.text().as_str()), (stdout, stderr));
        }
    }
}
