//! What is written comes back, and nothing else is taken for a record.

use proptest::prelude::*;

use super::*;
use crate::cache::tests::{TTL, signed};
use crate::upstream::fake::{self, Ca, entry, epoch};

fn whole_entry() -> Entry {
    Entry {
        x509_svid_ttl: Some(Duration::from_secs(60)),
        jwt_svid_ttl: Some(Duration::from_secs(61)),
        federates_with: [TrustDomain::parse("other.org").unwrap()].into(),
        admin: true,
        downstream: true,
        expires_at: Some(epoch() + Duration::from_secs(7)),
        dns_names: vec![DnsName::parse("a.example.org").unwrap()],
        store_svid: true,
        hint: Some(Hint::parse("internal").unwrap()),
        revision: 9,
        disable_x509_svid_prefetch: true,
        jwt_svid_include_jti: true,
        ..entry("e", &["k8s:ns:a", "unix:uid:1"])
    }
}

fn items() -> Vec<Item> {
    let ca = Ca::new();
    let mut bundle = fake::bundle(&[&ca.certificate]);
    bundle.x509_authorities[0].tainted = true;
    bundle.sequence = 3;
    bundle.refresh_hint = Some(Duration::from_secs(5));
    bundle.jwt_authorities.push(JwtAuthority {
        key_id: "key-1".to_owned(),
        public_key: ca.certificate.public_key().clone(),
        expires_at: Some(epoch()),
        tainted: true,
    });
    let mut foreign = bundle.clone();
    foreign.trust_domain = TrustDomain::parse("other.org").unwrap();
    let (entry, revision) = (whole_entry(), (9, epoch()));
    let audience = ["b".to_owned(), "a".to_owned()];
    vec![
        Item::Format,
        Item::Entry(Arc::new(entry.clone())),
        Item::Own(Arc::new(bundle)),
        Item::Federated(Arc::new(foreign)),
        Item::X509 {
            entry_id: entry.id.clone(),
            revision,
            svid: signed(&ca, &entry, epoch(), TTL).svid,
        },
        Item::Jwt {
            entry_id: entry.id.clone(),
            revision,
            svid: fake::jwt(&entry.spiffe_id, &audience, epoch(), TTL, 1),
        },
    ]
}

#[test]
fn each_kind_comes_back_as_it_was_kept_and_under_its_own_name() {
    let items = items();
    for item in &items {
        let read = Item::decode(&item.name(), &item.encode()).unwrap();
        assert!(read.is_same(item), "{item:?}");
        assert_eq!(read.encode(), item.encode());
        for other in &items {
            assert_eq!(other.name() == item.name(), other.is_same(item));
        }
    }
}

#[test]
fn an_svid_comes_back_with_its_key() {
    for item in items() {
        if let Item::X509 { svid, .. } = &item {
            let read = Item::decode(&item.name(), &item.encode()).unwrap();
            let Item::X509 { svid: found, .. } = read else {
                panic!("another kind")
            };
            assert_eq!(found.key().pkcs8_der(), svid.key().pkcs8_der());
            assert!(!format!("{item:?}").contains(&hex::encode(svid.key().pkcs8_der())));
        }
    }
}

#[test]
fn a_record_under_the_name_of_another_is_refused() {
    let items = items();
    for item in &items {
        for other in items.iter().filter(|other| other.name() != item.name()) {
            assert!(Item::decode(&other.name(), &item.encode()).is_err());
        }
    }
}

#[test]
fn a_newer_format_is_told_by_its_number() {
    let newer = SealedFormat {
        version: FORMAT + 1,
    }
    .encode_to_vec();
    let refused = Item::decode(&Item::Format.name(), &newer);
    assert!(matches!(refused, Err(CodecError::Format(version)) if version == FORMAT + 1));
}

proptest! {
    #[test]
    fn any_bytes_are_a_record_or_an_error(
        kind in prop::sample::select(b"feobxj?".to_vec()),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = Item::decode(&[kind, b'/', b'e'], &bytes);
    }

    #[test]
    fn a_damaged_record_is_a_record_or_an_error(
        which in 0..6_usize,
        at in any::<prop::sample::Index>(),
        bit in 0..8,
    ) {
        let item = &items()[which];
        let mut bytes = item.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        let _ = Item::decode(&item.name(), &bytes);
    }
}
