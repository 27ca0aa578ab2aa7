//! Names of trust domains, and what only looks like one.

use proptest::prelude::*;

use super::*;

#[test]
fn takes_a_name_or_an_id_and_nothing_else() {
    let name = TrustDomain::parse("example.org").unwrap();
    assert_eq!(TrustDomain::parse("spiffe://example.org"), Ok(name.clone()));
    assert_eq!(name.id().as_str(), "spiffe://example.org");
    assert_eq!(name.id().trust_domain(), &name);
    for wrong in [
        "spiffe://example.org/",
        "spiffe://example.org/x",
        "example.org/",
        "example.org/x",
        "Example.org",
        "example.org:443",
        "",
        "spiffe://",
        "https://example.org",
        "SPIFFE://example.org",
        "spiffe:/example.org",
        "example.org\n",
        " example.org",
        "ex\u{e4}mple.org",
    ] {
        assert!(TrustDomain::parse(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn says_what_is_wrong_and_where() {
    let error = TrustDomain::parse("bad/id").unwrap_err();
    assert_eq!(
        error.to_string(),
        "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores"
    );
    assert_eq!((error.position(), error.character()), (Some(3), Some('/')));
    let error = TrustDomain::parse("spiffe://bad/id").unwrap_err();
    assert_eq!(error.position(), Some(12));
    assert_eq!(
        TrustDomain::parse("").unwrap_err().to_string(),
        "trust domain is missing"
    );
    let error = TrustDomain::parse("https://a").unwrap_err();
    assert_eq!(error.to_string(), "scheme is missing or invalid");
}

#[test]
fn never_treats_a_name_as_an_address_or_a_dns_name() {
    for name in [
        "1.2.3.4",
        "999.999.999.999",
        "a..b",
        "example.org.",
        ".",
        "-",
        "_",
        &"a".repeat(64),
    ] {
        assert_eq!(TrustDomain::parse(name).unwrap().name(), name);
    }
    assert_ne!(
        TrustDomain::parse("example.org."),
        TrustDomain::parse("example.org")
    );
}

#[test]
fn takes_255_bytes_and_not_256() {
    assert!(TrustDomain::parse(&"t".repeat(255)).is_ok());
    let error = TrustDomain::parse(&"t".repeat(256)).unwrap_err();
    assert_eq!(error, TrustDomainError::TooLong { length: 256 });
}

proptest! {
    #[test]
    fn never_panics_and_round_trips(text in ".{0,40}") {
        if let Ok(trust_domain) = TrustDomain::parse(&text) {
            prop_assert_eq!(text.strip_prefix("spiffe://").unwrap_or(&text), trust_domain.name());
            prop_assert_eq!(TrustDomain::parse(trust_domain.id().as_str()), Ok(trust_domain));
        }
    }
}
