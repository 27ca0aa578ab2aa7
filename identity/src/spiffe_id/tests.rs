//! SPIFFE IDs against the recorded vectors, and against every byte.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn parse(id: &str) -> SpiffeId {
    SpiffeId::parse(id).unwrap()
}

fn example() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

/// Each row has an id, a verdict, and the text as parts that are repeated so often.
fn vectors() -> Vec<(String, bool, String)> {
    let rows: Vec<Value> =
        serde_json::from_str(include_str!("../../tests/data/spiffe_ids.json")).unwrap();
    rows.iter()
        .map(|row| {
            let parts = row["parts"].as_array().unwrap().iter();
            let text = parts
                .map(|part| {
                    part[0]
                        .as_str()
                        .unwrap()
                        .repeat(part[1].as_u64().unwrap().try_into().unwrap())
                })
                .collect();
            (
                row["id"].as_str().unwrap().to_owned(),
                row["valid"].as_bool().unwrap(),
                text,
            )
        })
        .collect()
}

#[test]
fn agrees_with_all_106_vectors_and_keeps_every_byte() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 106);
    for (row, valid, text) in vectors {
        let parsed = SpiffeId::parse(&text);
        assert_eq!(parsed.is_ok(), valid, "{row}: {parsed:?}");
        if let Ok(id) = parsed {
            assert_eq!(id.as_str(), text, "{row}");
            assert_eq!(
                id.to_string(),
                format!("spiffe://{}{}", id.trust_domain(), id.path())
            );
            assert_eq!(
                SpiffeId::from_path(id.trust_domain(), id.path()),
                Ok(id.clone()),
                "{row}"
            );
            assert_eq!(
                SpiffeId::from_parts(id.trust_domain().name(), id.path()),
                Ok(id)
            );
        }
    }
}

#[test]
fn accepts_39_bytes_in_a_trust_domain_and_65_in_a_path() {
    let accepted = |make: &dyn Fn(u8) -> Vec<u8>| {
        (0..=255_u8)
            .filter(|byte| *byte != b'/')
            .filter(|byte| {
                std::str::from_utf8(&make(*byte)).is_ok_and(|id| SpiffeId::parse(id).is_ok())
            })
            .count()
    };
    assert_eq!(
        accepted(&|byte| [b"spiffe://td", &[byte][..], b"/p"].concat()),
        39
    );
    assert_eq!(
        accepted(&|byte| [b"spiffe://td/p", &[byte][..]].concat()),
        65
    );
}

#[test]
fn says_what_is_wrong_and_where() {
    const TD: &str = "trust domain characters are limited to lowercase letters, numbers, dots, \
                      dashes, and underscores";
    const PATH: &str =
        "path segment characters are limited to letters, numbers, dots, dashes, and underscores";
    #[rustfmt::skip]
    let table: &[(&str, &str, Option<usize>, Option<char>)] = &[
        ("", "cannot be empty", None, None),
        ("http://td/x", "scheme is missing or invalid", Some(0), None),
        ("SPIFFE://td/x", "scheme is missing or invalid", Some(0), None),
        ("spiffe://", "trust domain is missing", None, None),
        ("spiffe:///x", "trust domain is missing", None, None),
        ("spiffe://tD/x", TD, Some(10), Some('D')),
        ("spiffe://td:443/x", TD, Some(11), Some(':')),
        ("spiffe://ex\u{e4}mple/x", TD, Some(11), Some('\u{e4}')),
        ("spiffe://td/", "path cannot have a trailing slash", Some(11), None),
        ("spiffe://td/a/", "path cannot have a trailing slash", Some(13), None),
        ("spiffe://td//a", "path cannot contain empty segments", Some(12), None),
        ("spiffe://td/a//b", "path cannot contain empty segments", Some(14), None),
        ("spiffe://td/a/../b", "path cannot contain dot segments", Some(14), None),
        ("spiffe://td/.", "path cannot contain dot segments", Some(12), None),
        ("spiffe://td/a%2Fb", PATH, Some(13), Some('%')),
        ("spiffe://td/a?q", PATH, Some(13), Some('?')),
        ("spiffe://td/a\n", PATH, Some(13), Some('\n')),
    ];
    for (id, message, position, character) in table {
        let error = SpiffeId::parse(id).unwrap_err();
        assert_eq!(
            (
                error.to_string().as_str(),
                error.position(),
                error.character()
            ),
            (*message, *position, *character),
            "{id:?}"
        );
        assert!(!error.reason().is_empty());
    }
}

#[test]
fn refuses_a_path_without_its_slash() {
    let error = SpiffeId::from_path(&example(), "a").unwrap_err();
    assert_eq!(error.to_string(), "path must have a leading slash");
    assert_eq!(error.position(), Some("spiffe://example.org".len()));
}

#[test]
fn holds_the_length_limit_however_an_id_is_made() {
    let room = MAX_BYTES - "spiffe://example.org/".len();
    let most = "p".repeat(room);
    assert!(SpiffeId::from_segments(&example(), [&most]).is_ok());
    assert!(SpiffeId::from_path(&example(), &format!("/{most}")).is_ok());
    let more = "p".repeat(room + 1);
    let expected = SpiffeIdError::TooLong {
        length: MAX_BYTES + 1,
    };
    assert_eq!(
        SpiffeId::from_segments(&example(), [&more]),
        Err(expected.clone())
    );
    assert_eq!(
        SpiffeId::from_path(&example(), &format!("/{more}")),
        Err(expected)
    );
}

#[test]
fn segments_cannot_smuggle_a_slash_or_a_dot_segment() {
    for segments in [
        &["a/b"][..],
        &["a", "", "b"],
        &[""],
        &["a", ""],
        &[".."],
        &["a", "."],
        &["%2e"],
    ] {
        assert!(
            SpiffeId::from_segments(&example(), segments).is_err(),
            "{segments:?}"
        );
    }
    let none: [&str; 0] = [];
    assert_eq!(
        SpiffeId::from_segments(&example(), none),
        Ok(example().id())
    );
    let two = SpiffeId::from_segments(&example(), ["a", "B.c"]).unwrap();
    assert_eq!(two.as_str(), "spiffe://example.org/a/B.c");
}

#[test]
fn knows_servers_agents_and_the_reserved_namespace() {
    let server = SpiffeId::server(&example());
    assert_eq!(server.as_str(), "spiffe://example.org/spire/server");
    assert!(server.is_server() && server.is_reserved() && !server.is_agent());

    let agent = SpiffeId::agent(&example(), "x509pop", "a/b").unwrap();
    assert_eq!(
        agent.as_str(),
        "spiffe://example.org/spire/agent/x509pop/a/b"
    );
    assert!(agent.is_agent() && agent.is_reserved() && !agent.is_server());
    assert!(SpiffeId::agent(&example(), "join_token", "").is_err());
    assert!(SpiffeId::agent(&example(), "join_token", "../../server").is_err());

    for (id, reserved) in [
        ("spiffe://example.org/spire", true),
        ("spiffe://example.org/spire/x", true),
        ("spiffe://example.org/spires", false),
        ("spiffe://example.org/Spire/server", false),
        ("spiffe://example.org/x/spire/server", false),
        ("spiffe://example.org", false),
    ] {
        assert_eq!(parse(id).is_reserved(), reserved, "{id}");
    }
    assert!(!parse("spiffe://example.org/spire/agent").is_agent());
    assert!(!parse("spiffe://example.org/spire/server/x").is_server());
}

#[test]
fn compares_paths_by_case_and_domains_by_byte() {
    assert_ne!(parse("spiffe://td/A"), parse("spiffe://td/a"));
    assert_ne!(
        parse("spiffe://example.org./x"),
        parse("spiffe://example.org/x")
    );
    assert!(!parse("spiffe://example.org./x").is_member_of(&example()));
    assert!(parse("spiffe://example.org/x").is_member_of(&example()));
    assert!(!parse("spiffe://example.org").has_path());
}

proptest! {
    #[test]
    fn never_panics_and_never_changes_a_text(text in ".{0,64}") {
        if let Ok(id) = SpiffeId::parse(&text) {
            prop_assert_eq!(id.as_str(), text);
        }
    }

    #[test]
    fn parses_whatever_the_grammar_makes(
        name in "[a-z0-9._-]{1,255}",
        path in "(/[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,20}){0,8}",
    ) {
        let text = format!("spiffe://{name}{path}");
        let id = SpiffeId::parse(&text).unwrap();
        prop_assert_eq!(id.as_str(), &text);
        prop_assert_eq!(id.trust_domain().name(), name);
        prop_assert_eq!(id.path(), path);
        prop_assert_eq!(text.parse::<SpiffeId>().unwrap(), id);
    }

    #[test]
    fn refuses_one_odd_character_anywhere(
        at in 0..30_usize,
        odd in "[^a-zA-Z0-9._/-]",
    ) {
        let mut text = "spiffe://example.org/some/path".to_owned();
        text.insert_str(at, &odd);
        prop_assert!(SpiffeId::parse(&text).is_err());
    }

    #[test]
    fn segments_round_trip(segments in prop::collection::vec("[^/]{0,6}", 0..6)) {
        if let Ok(id) = SpiffeId::from_segments(&example(), &segments) {
            let read: Vec<&str> = id.path().split('/').skip(1).collect();
            prop_assert_eq!(read, segments);
        }
    }
}
