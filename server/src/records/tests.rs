//! Facts about what is stored: it comes back as it was, and damage is told.

use std::time::{Duration, UNIX_EPOCH};

use identity::entry::{DnsName, Entry, EntryDraft, EntryId, Hint};
use identity::selector::Selector;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use proptest::prelude::*;

use super::agents::{Agent, Next, Standing, Used};
use super::tokens::JoinToken;
use super::*;

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::from_path(&trust_domain(), path).unwrap()
}

fn some_selectors() -> Selectors {
    ["a:1", "a:2", "b:x:y"]
        .iter()
        .map(|text| Selector::parse(text).unwrap())
        .collect()
}

fn times() -> impl Strategy<Value = SystemTime> {
    (1_u64..4_102_444_800).prop_map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds))
}

fn entries() -> impl Strategy<Value = Entry> {
    let ttl = || prop::option::of((1_u64..1_000_000).prop_map(Duration::from_secs));
    let flags = any::<[bool; 5]>();
    let texts = (
        prop::option::of("[a-z]{1,9}"),
        prop::collection::vec("[a-z]{1,9}\\.org", 0..3),
    );
    (
        ttl(),
        ttl(),
        flags,
        texts,
        prop::option::of(times()),
        times(),
        0_i64..i64::MAX,
    )
        .prop_map(
            |(x509, jwt, flags, (hint, dns), expires_at, created_at, revision)| {
                let mut draft = EntryDraft::new(id("/w"), id("/spire/agent/x/1"), some_selectors());
                draft.x509_svid_ttl = x509;
                draft.jwt_svid_ttl = jwt;
                [
                    draft.admin,
                    draft.downstream,
                    draft.disable_x509_svid_prefetch,
                    draft.jwt_svid_include_jti,
                ] = [flags[0], flags[1], flags[2], flags[3]];
                if flags[4] {
                    draft
                        .federates_with
                        .insert(TrustDomain::parse("fed.org").unwrap());
                }
                draft.hint = hint.map(|hint| Hint::parse(&hint).unwrap());
                draft.dns_names = dns
                    .iter()
                    .map(|name| DnsName::parse(name).unwrap())
                    .collect();
                draft.expires_at = expires_at;
                let entry_id = EntryId::parse("e1").unwrap();
                draft
                    .check(&trust_domain())
                    .unwrap()
                    .into_entry(entry_id, revision, created_at)
            },
        )
}

fn agents() -> impl Strategy<Value = Agent> {
    let next = prop::option::of(("[1-9][0-9]{1,30}", times()));
    let standing = prop_oneof![
        Just(Standing::Banned),
        ("[1-9][0-9]{1,30}", next).prop_map(|(serial, next)| Standing::Active {
            serial,
            next: next.map(|(serial, expires_at)| Next { serial, expires_at }),
        }),
    ];
    let from = prop::option::of(any::<std::net::IpAddr>());
    let used = (
        any::<[u8; 32]>(),
        prop::option::of(times()),
        ".{0,9}",
        from,
        any::<bool>(),
    );
    let used = used.prop_map(|(fingerprint, issued_at, holder, from, disputed)| Used {
        fingerprint,
        issued_at,
        holder,
        from,
        disputed,
    });
    let used = prop::option::of(used);
    let joined_with = prop::option::of(any::<[u8; 32]>());
    let moved_from = prop::collection::vec("[0-9a-f]{40}", 0..3);
    (
        standing,
        times(),
        any::<bool>(),
        ".{0,20}",
        used,
        joined_with,
        moved_from,
    )
        .prop_map(
            |(standing, expires_at, can_reattest, version, used, joined_with, moved_from)| Agent {
                id: id("/spire/agent/join_token/t"),
                attestation_type: "join_token".into(),
                standing,
                expires_at,
                can_reattest,
                selectors: some_selectors(),
                version,
                used,
                joined_with: joined_with.map(|hash| hash.to_vec().into()),
                moved_from,
            },
        )
}

proptest! {
    #[test]
    fn an_entry_comes_back_as_it_was_stored(entry in entries()) {
        prop_assert_eq!(entries::decode(&entries::encode(&entry)).unwrap(), entry);
    }

    #[test]
    fn an_agent_comes_back_as_it_was_stored(agent in agents()) {
        prop_assert_eq!(agents::decode(&agents::encode(&agent)).unwrap(), agent);
    }

    #[test]
    fn a_token_comes_back_as_it_was_stored(expires_at in times(), named: bool) {
        let token = JoinToken { expires_at, agent_id: named.then(|| id("/host")) };
        prop_assert_eq!(tokens::decode(&tokens::encode(&token)).unwrap(), token);
    }

    #[test]
    fn damaged_bytes_are_an_error_or_a_record_and_never_a_panic(bytes: Vec<u8>) {
        let _ = entries::decode(&bytes);
        let _ = agents::decode(&bytes);
        let _ = tokens::decode(&bytes);
        let _ = bundles::decode(&bytes);
    }

    #[test]
    fn the_guard_tells_apart_what_runs_together_as_text(a in "[a-z]{1,4}", b in "[a-z]{1,4}") {
        let entry = |selector: &str| {
            let selectors = [Selector::parse(selector).unwrap()].into_iter().collect();
            EntryDraft::new(id("/w"), id("/spire/agent/x/1"), selectors)
                .check(&trust_domain())
                .unwrap()
                .into_entry(EntryId::parse("e1").unwrap(), 0, UNIX_EPOCH)
        };
        let joined = entries::unique_hash(&entry(&format!("{a}:{b}:c")));
        let other = entries::unique_hash(&entry(&format!("{a}{b}:c")));
        prop_assert_ne!(joined, other);
    }
}

#[test]
fn an_agent_without_a_serial_number_is_banned() {
    use prost::Message;
    let stored = proto::records::StoredAgent {
        spiffe_id: "spiffe://example.org/spire/agent/join_token/t".to_owned(),
        ..Default::default()
    };
    assert!(agents::decode(&stored.encode_to_vec()).unwrap().is_banned());
}
