//! Entries against SPIRE's rules, and the messages that operators know.

use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::*;
use crate::{
    selector::Selector,
    testing::{id, trust_domain},
};

const PARENT: &str = "spiffe://example.org/spire/agent/join_token/t";

type Change = fn(&mut EntryDraft);

fn selectors(texts: &[&str]) -> Selectors {
    texts
        .iter()
        .map(|text| Selector::parse(text).unwrap())
        .collect()
}

fn draft() -> EntryDraft {
    EntryDraft::new(
        id("spiffe://example.org/a"),
        id(PARENT),
        selectors(&["unix:uid:1"]),
    )
}

fn check(change: impl FnOnce(&mut EntryDraft)) -> Result<CheckedEntry, EntryError> {
    let mut draft = draft();
    change(&mut draft);
    draft.check(&trust_domain("example.org"))
}

/// The texts are those that a real server was recorded with.
#[test]
fn refuses_with_the_messages_that_operators_know() {
    #[rustfmt::skip]
    let table: Vec<(Change, &str)> = vec![
        (|d| d.spiffe_id = id("spiffe://other.org/x"),
         r#"invalid spiffe ID: "spiffe://other.org/x" is not a member of trust domain "example.org""#),
        (|d| d.parent_id = id("spiffe://other.org/x"),
         r#"invalid parent ID: "spiffe://other.org/x" is not a member of trust domain "example.org""#),
        (|d| d.spiffe_id = id("spiffe://example.org/spire/foo"),
         r#"invalid spiffe ID: "spiffe://example.org/spire/foo" is not a workload in trust domain "example.org"; path is in the reserved namespace"#),
        (|d| d.spiffe_id = id("spiffe://example.org"),
         r#"invalid spiffe ID: "spiffe://example.org" is not a workload in trust domain "example.org"; path is empty"#),
        (|d| d.parent_id = id("spiffe://example.org"),
         r#"invalid parent ID: "spiffe://example.org" is not a member of trust domain "example.org"; path is empty"#),
        (|d| d.selectors = Selectors::default(), "selector list is empty"),
        (|d| { d.store_svid = true; d.selectors = selectors(&["a:1", "b:1"]); },
         "invalid registration entry: selector types must be the same when store SVID is enabled"),
        (|d| { d.store_svid = true; d.disable_x509_svid_prefetch = true; },
         "specifying cache behaviour is incompatible with storable SVIDs"),
        (|d| { d.federates_with.insert(trust_domain("example.org")); },
         r#"invalid federated trust domain: "example.org" is the server's own trust domain"#),
    ];
    for (change, message) in table {
        let error = check(change).unwrap_err();
        assert_eq!(error.message(), message);
        assert!(!error.reason().is_empty());
    }
}

#[test]
fn a_parent_may_be_an_agent_the_server_or_a_workload() {
    for parent in [
        PARENT,
        "spiffe://example.org/spire/server",
        "spiffe://example.org/b",
    ] {
        assert!(
            check(|draft| draft.parent_id = id(parent)).is_ok(),
            "{parent}"
        );
    }
}

#[test]
fn lifetimes_are_whole_seconds_that_32_bits_hold() {
    let most = Duration::from_secs(2_147_483_647);
    assert!(check(|draft| draft.x509_svid_ttl = Some(most)).is_ok());
    for wrong in [
        Duration::ZERO,
        Duration::from_millis(1500),
        most + Duration::from_secs(1),
    ] {
        assert_eq!(
            check(|d| d.x509_svid_ttl = Some(wrong)),
            Err(EntryError::X509SvidTtl)
        );
        assert_eq!(
            check(|d| d.jwt_svid_ttl = Some(wrong)),
            Err(EntryError::JwtSvidTtl)
        );
    }
}

#[test]
fn an_expiry_is_a_whole_second_after_1970() {
    let second = Duration::from_secs(1);
    assert!(check(|draft| draft.expires_at = Some(UNIX_EPOCH + second)).is_ok());
    for wrong in [UNIX_EPOCH, UNIX_EPOCH - second, UNIX_EPOCH + second / 2] {
        assert_eq!(
            check(|draft| draft.expires_at = Some(wrong)),
            Err(EntryError::ExpiresAt)
        );
    }
}

#[test]
fn an_entry_expires_at_its_second_and_its_draft_is_what_was_checked() {
    let end = UNIX_EPOCH + Duration::from_secs(100);
    let checked = check(|draft| {
        draft.expires_at = Some(end);
        draft.hint = Some(Hint::parse("h").unwrap());
    })
    .unwrap();
    let own_id = EntryId::parse("e-1").unwrap();
    let entry = checked.clone().into_entry(own_id.clone(), 3, UNIX_EPOCH);
    assert_eq!(
        (&entry.id, entry.revision, entry.created_at),
        (&own_id, 3, UNIX_EPOCH)
    );
    assert!(!entry.is_expired(end - Duration::from_secs(1)) && entry.is_expired(end));
    assert_eq!(
        entry.to_draft(),
        EntryDraft {
            id: Some(own_id),
            ..checked.draft().clone()
        }
    );
}

#[test]
fn an_id_of_the_operators_choice_stays() {
    let chosen = EntryId::parse("my-id").unwrap();
    let checked = check(|draft| draft.id = Some(EntryId::parse("my-id").unwrap())).unwrap();
    let entry = checked.into_entry(EntryId::parse("drawn").unwrap(), 0, UNIX_EPOCH);
    assert_eq!(entry.id, chosen);
}

#[test]
fn entry_ids_have_spires_characters_and_length() {
    for fine in [
        "a",
        "-._9Z",
        "db59f461-b25c-4393-b567-8a37a2ad32b5",
        &"a".repeat(255),
    ] {
        assert_eq!(EntryId::parse(fine).unwrap().as_str(), fine);
    }
    assert_eq!(EntryId::parse(""), Err(EntryIdError::Missing));
    assert_eq!(EntryId::parse(&"a".repeat(256)), Err(EntryIdError::TooLong));
    for odd in ["a b", "a/b", "a:b", "\u{e4}", "a\n"] {
        assert_eq!(EntryId::parse(odd), Err(EntryIdError::Character), "{odd:?}");
    }
}

#[test]
fn hints_have_up_to_1024_bytes_and_none_is_none() {
    assert_eq!(Hint::from_wire(""), Ok(None));
    assert!(Hint::from_wire(&"h".repeat(1024)).unwrap().is_some());
    let error = Hint::from_wire(&"h".repeat(1025)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "hint is too long, max length is 1024 characters"
    );
}

#[test]
fn dns_names_are_strict_labels_with_a_wildcard_at_the_left_at_most() {
    let label = "a".repeat(63);
    for fine in [
        "a",
        "b.example",
        "*.b.example",
        "B_1.example",
        "xn--bcher-kva.example",
        &label,
    ] {
        assert_eq!(DnsName::parse(fine).unwrap().as_str(), fine);
    }
    let long = [label.as_str(); 4].join(".");
    #[rustfmt::skip]
    let wrong = [
        ("", DnsNameError::Empty),
        (" ", DnsNameError::Empty),
        ("*.", DnsNameError::Empty),
        ("b\u{fc}cher.example", DnsNameError::NotAscii),
        ("*.*.example", DnsNameError::TooManyWildcards),
        ("*", DnsNameError::WildcardNotFirst),
        ("a*.example", DnsNameError::WildcardNotFirst),
        ("a.*.example", DnsNameError::WildcardNotFirst),
        ("example.", DnsNameError::EndsWithDot),
        (&long, DnsNameError::TooLong),
        ("bad dns", DnsNameError::Label),
        ("1.2.3.4", DnsNameError::Label),
        ("a.0X", DnsNameError::Label),
        ("a.0x7f", DnsNameError::Label),
        ("a..b", DnsNameError::Label),
        (".a", DnsNameError::Label),
        ("-a.example", DnsNameError::Label),
        ("a-.example", DnsNameError::Label),
        ("ab--c.example", DnsNameError::Label),
        ("a\0b", DnsNameError::Label),
        ("https://a", DnsNameError::Label),
    ];
    for (name, error) in wrong {
        assert_eq!(DnsName::parse(name), Err(error), "{name:?}");
    }
    assert_eq!(DnsName::parse(&"a".repeat(64)), Err(DnsNameError::Label));
}

proptest! {
    #[test]
    fn the_small_texts_never_panic_and_round_trip(text in ".{0,40}") {
        if let Ok(id) = EntryId::parse(&text) {
            prop_assert_eq!(id.as_str(), &text);
        }
        if let Ok(hint) = Hint::parse(&text) {
            prop_assert_eq!(hint.as_str(), &text);
        }
        if let Ok(name) = DnsName::parse(&text) {
            prop_assert_eq!(name.as_str(), &text);
        }
    }

    #[test]
    fn a_dns_name_is_one_for_rustls_too(name in "(\\*\\.)?[a-zA-Z0-9_-]{1,5}(\\.[a-zA-Z0-9_-]{1,5}){0,3}") {
        if let Ok(name) = DnsName::parse(&name) {
            let plain = name.as_str().strip_prefix("*.").unwrap_or(name.as_str());
            prop_assert!(rustls_pki_types::DnsName::try_from(plain).is_ok(), "{}", name);
        }
    }
}
