//! Tokens of every shape against the rules, signed here with aws-lc.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{self, EcdsaKeyPair, KeyPair, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    bundle::{Bundle, JwtAuthority},
    key::PublicKey,
    testing::{now, trust_domain},
};

const ID: &str = "spiffe://example.org/a";
const AUDIENCE: &str = "me";

fn seconds() -> u64 {
    now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A key that signs with one algorithm.
enum Signer {
    Ec(&'static str, EcdsaKeyPair),
    Rsa(&'static str, RsaKeyPair),
}

impl Signer {
    fn es256() -> Self {
        Self::ec("ES256", &signature::ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    fn ec(name: &'static str, algorithm: &'static signature::EcdsaSigningAlgorithm) -> Self {
        Self::Ec(name, EcdsaKeyPair::generate(algorithm).unwrap())
    }

    fn rsa(name: &'static str) -> Self {
        Self::Rsa(name, RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Ec(name, _) | Self::Rsa(name, _) => name,
        }
    }

    fn public_key(&self) -> PublicKey {
        let der: PublicKeyX509Der<'_> = match self {
            Self::Ec(_, pair) => pair.public_key().as_der().unwrap(),
            Self::Rsa(_, pair) => pair.public_key().as_der().unwrap(),
        };
        PublicKey::from_spki_der(der.as_ref()).unwrap()
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ec(_, pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Rsa(name, pair) => {
                let padding: &'static dyn signature::RsaEncoding = match *name {
                    "RS256" => &signature::RSA_PKCS1_SHA256,
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    _ => &signature::RSA_PSS_SHA512,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature)
                    .unwrap();
                signature
            }
        }
    }

    /// A token of these texts, signed.
    fn token(&self, header: &str, claims: &str) -> String {
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims)
        );
        format!(
            "{signed}.{}",
            URL_SAFE_NO_PAD.encode(self.sign(signed.as_bytes()))
        )
    }

    fn header(&self) -> Value {
        json!({"alg": self.name(), "kid": "k", "typ": "JWT"})
    }

    fn bundle(&self) -> Bundle {
        let mut bundle = Bundle::new(trust_domain("example.org"));
        bundle.jwt_authorities.push(JwtAuthority {
            key_id: "k".to_owned(),
            public_key: self.public_key(),
            expires_at: None,
            tainted: false,
        });
        bundle
    }

    fn judge(&self, header: &Value, claims: &Value) -> Result<ValidatedJwt, JwtError> {
        self.judge_text(&header.to_string(), &claims.to_string())
    }

    fn judge_text(&self, header: &str, claims: &str) -> Result<ValidatedJwt, JwtError> {
        judge(&self.token(header, claims), &self.bundle())
    }

    fn judge_claims(&self, change: impl FnOnce(&mut Value)) -> Result<ValidatedJwt, JwtError> {
        let mut claims = claims();
        change(&mut claims);
        self.judge(&self.header(), &claims)
    }
}

fn judge(token: &str, bundle: &Bundle) -> Result<ValidatedJwt, JwtError> {
    let bundle_of = |name: &_| (*name == bundle.trust_domain).then_some(bundle);
    validate(token, AUDIENCE, bundle_of, now())
}

fn claims() -> Value {
    json!({"sub": ID, "aud": [AUDIENCE], "exp": seconds() + 300, "iat": seconds()})
}

fn reason(verdict: Result<ValidatedJwt, JwtError>) -> &'static str {
    verdict.unwrap_err().reason()
}

#[test]
fn accepts_all_nine_algorithms() {
    let signers = [
        Signer::es256(),
        Signer::ec("ES384", &signature::ECDSA_P384_SHA384_FIXED_SIGNING),
        Signer::ec("ES512", &signature::ECDSA_P521_SHA512_FIXED_SIGNING),
        Signer::rsa("RS256"),
        Signer::rsa("RS384"),
        Signer::rsa("RS512"),
        Signer::rsa("PS256"),
        Signer::rsa("PS384"),
        Signer::rsa("PS512"),
    ];
    for signer in &signers {
        let valid = signer.judge(&signer.header(), &claims()).unwrap();
        assert_eq!(valid.id.as_str(), ID, "{}", signer.name());
        assert_eq!(
            (valid.key_id.as_str(), valid.audience.as_slice()),
            ("k", &[AUDIENCE.to_owned()][..])
        );
        assert_eq!(valid.expires_at, now() + Duration::from_secs(300));
        assert_eq!(Value::Object(valid.claims), claims());
        // The key alone decides which algorithms fit; and each is one of the nine.
        for other in &signers {
            let accepted = other.name() == signer.name();
            let mut header = signer.header();
            header["alg"] = json!(other.name());
            assert_eq!(
                signer.judge(&header, &claims()).is_ok(),
                accepted,
                "{}",
                other.name()
            );
        }
        assert_eq!(
            Algorithm::parse(signer.name()).unwrap().name(),
            signer.name()
        );
    }
}

#[test]
fn refuses_every_other_algorithm_before_anything_else() {
    let signer = Signer::es256();
    for alg in [
        "none", "None", "NONE", "HS256", "HS384", "HS512", "EdDSA", "ES256K", "A128KW", "", "es256",
    ] {
        // The rest is as wrong as can be; it is the algorithm that is told.
        let header = json!({"alg": alg, "crit": ["x"]});
        assert_eq!(
            reason(signer.judge(&header, &json!({}))),
            "token_algorithm",
            "{alg:?}"
        );
    }
    for header in [
        json!({"kid": "k"}),
        json!({"alg": 1}),
        json!({"alg": null}),
        json!({"alg": ["ES256"]}),
    ] {
        assert_eq!(
            reason(signer.judge(&header, &claims())),
            "token_algorithm",
            "{header}"
        );
    }
}

#[test]
fn a_shared_secret_made_of_the_public_key_is_of_no_use() {
    let signer = Signer::rsa("RS256");
    let mut header = signer.header();
    header["alg"] = json!("HS256");
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims().to_string())
    );
    let spki = signer.public_key().spki_der().to_vec();
    let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &spki);
    let tag = aws_lc_rs::hmac::sign(&secret, signed.as_bytes());
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()));
    assert_eq!(reason(judge(&token, &signer.bundle())), "token_algorithm");
}

#[test]
fn the_header_has_three_parameters_and_no_more() {
    let signer = Signer::es256();
    for name in [
        "jwk", "jku", "x5u", "x5c", "x5t", "crit", "b64", "cty", "zip",
    ] {
        let mut header = signer.header();
        header[name] = json!("x");
        assert_eq!(
            reason(signer.judge(&header, &claims())),
            "token_header_parameter",
            "{name}"
        );
    }
}

#[test]
fn the_type_is_jwt_or_jose_or_absent() {
    let signer = Signer::es256();
    for (typ, accepted) in [
        (json!("JWT"), true),
        (json!("JOSE"), true),
        (json!("jwt"), false),
        (json!("at+jwt"), false),
        (json!("wit+jwt"), false),
        (json!(""), false),
        (json!(null), false),
    ] {
        let mut header = signer.header();
        header["typ"] = typ.clone();
        assert_eq!(signer.judge(&header, &claims()).is_ok(), accepted, "{typ}");
    }
    let header = json!({"alg": "ES256", "kid": "k"});
    assert!(signer.judge(&header, &claims()).is_ok());
}

#[test]
fn the_key_id_is_there_and_short_and_matches_exactly() {
    let signer = Signer::es256();
    for kid in [json!(""), json!(1), json!(null), json!("k".repeat(129))] {
        let mut header = signer.header();
        header["kid"] = kid.clone();
        assert_eq!(
            reason(signer.judge(&header, &claims())),
            "token_key_id",
            "{kid}"
        );
    }
    assert_eq!(
        reason(signer.judge(&json!({"alg": "ES256"}), &claims())),
        "token_key_id"
    );
    for kid in ["K", "k ", "../k", "' OR 1=1 --", &"k".repeat(128)] {
        let mut header = signer.header();
        header["kid"] = json!(kid);
        assert_eq!(
            reason(signer.judge(&header, &claims())),
            "token_unknown_key",
            "{kid}"
        );
    }
}

#[test]
fn the_key_is_that_of_the_subjects_trust_domain() {
    let (a, b) = (Signer::es256(), Signer::es256());
    let bundles = [("a.test", a.bundle()), ("b.test", b.bundle())].map(|(name, mut bundle)| {
        bundle.trust_domain = trust_domain(name);
        bundle
    });
    let judge = |signer: &Signer, sub: &str| {
        let mut claims = claims();
        claims["sub"] = json!(sub);
        let token = signer.token(&signer.header().to_string(), &claims.to_string());
        let bundle_of = |name: &_| bundles.iter().find(|bundle| bundle.trust_domain == *name);
        validate(&token, AUDIENCE, bundle_of, now())
    };
    assert!(judge(&a, "spiffe://a.test/x").is_ok());
    assert!(judge(&b, "spiffe://b.test/x").is_ok());
    // Both bundles have a key "k"; the one of the subject counts.
    assert_eq!(reason(judge(&b, "spiffe://a.test/x")), "signature_invalid");
    assert_eq!(reason(judge(&a, "spiffe://c.test/x")), "no_bundle");
}

#[test]
fn the_subject_is_one_spiffe_id() {
    let signer = Signer::es256();
    for (sub, expected) in [
        (json!(""), "token_no_subject"),
        (json!(1), "token_claim"),
        (json!(null), "token_claim"),
        (json!([ID]), "token_claim"),
        (json!("a"), "scheme_invalid"),
        (json!("spiffe://example.org/a/../b"), "path_dot_segment"),
        (json!("spiffe://Example.org/a"), "trust_domain_character"),
        (
            json!(format!("spiffe://example.org/{}", "a".repeat(2048))),
            "spiffe_id_too_long",
        ),
    ] {
        assert_eq!(
            reason(signer.judge_claims(|claims| claims["sub"] = sub.clone())),
            expected
        );
    }
    let without = |claims: &mut Value| {
        claims.as_object_mut().unwrap().remove("sub");
    };
    assert_eq!(reason(signer.judge_claims(without)), "token_no_subject");
    let twice = format!(
        r#"{{"sub":"{ID}","sub":"{ID}b","aud":"me","exp":{}}}"#,
        seconds() + 9
    );
    assert_eq!(
        reason(signer.judge_text(&signer.header().to_string(), &twice)),
        "token_claims"
    );
}

#[test]
fn the_audience_is_compared_whole_and_by_case() {
    let signer = Signer::es256();
    let with = |aud: &Value| signer.judge_claims(|claims| claims["aud"] = aud.clone());
    for accepted in [json!("me"), json!(["me"]), json!(["x", "me"])] {
        assert!(with(&accepted).is_ok(), "{accepted}");
    }
    for other in [
        json!("other"),
        json!("ME"),
        json!(" me"),
        json!("me "),
        json!(["mee", "m"]),
    ] {
        assert_eq!(reason(with(&other)), "token_audience", "{other}");
    }
    for none in [json!([]), json!(""), json!([""]), json!(["me", ""])] {
        assert_eq!(reason(with(&none)), "token_no_audience", "{none}");
    }
    for wrong in [
        json!(1),
        json!({}),
        json!(null),
        json!(["me", 1]),
        json!([["me"]]),
    ] {
        assert_eq!(reason(with(&wrong)), "token_claim", "{wrong}");
    }
    let without = |claims: &mut Value| {
        claims.as_object_mut().unwrap().remove("aud");
    };
    assert_eq!(reason(signer.judge_claims(without)), "token_no_audience");
    let error = with(&json!(["other"])).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"expected audience in ["me"] (audience=["other"])"#
    );
}

#[test]
fn times_are_whole_seconds_with_a_minute_of_leeway() {
    let signer = Signer::es256();
    let with = |claim: &'static str, time: Value| {
        signer.judge_claims(|claims| {
            claims.as_object_mut().unwrap().remove("iat");
            claims[claim] = time;
        })
    };
    let s = seconds();
    assert!(with("exp", json!(s - 60)).is_ok());
    assert_eq!(reason(with("exp", json!(s - 61))), "token_expired");
    assert_eq!(reason(with("exp", json!(0))), "token_expired");
    assert!(with("nbf", json!(s + 60)).is_ok());
    assert_eq!(reason(with("nbf", json!(s + 61))), "token_not_yet_valid");
    assert!(with("iat", json!(s + 60)).is_ok());
    assert_eq!(reason(with("iat", json!(s + 61))), "token_issued_in_future");
    assert!(with("exp", json!(9_007_199_254_740_993_u64)).is_ok());
    for claim in ["exp", "nbf", "iat"] {
        for wrong in [
            json!(-1),
            json!("1"),
            json!(1.5),
            json!(1e30),
            json!(null),
            json!(u64::MAX),
        ] {
            assert_eq!(
                reason(with(claim, wrong.clone())),
                "token_claim",
                "{claim} {wrong}"
            );
        }
    }
    let without = |claims: &mut Value| {
        claims.as_object_mut().unwrap().remove("exp");
    };
    assert_eq!(reason(signer.judge_claims(without)), "token_no_expiry");
    let reversed = |claims: &mut Value| claims["iat"] = json!(s + 301);
    assert_eq!(reason(signer.judge_claims(reversed)), "token_claim");
}

#[test]
fn a_number_too_large_for_any_clock_is_refused() {
    let signer = Signer::es256();
    for exp in [
        "1e308",
        "1e309",
        "18446744073709551616",
        "99999999999999999999999",
        "-0",
    ] {
        let claims = format!(r#"{{"sub":"{ID}","aud":"me","exp":{exp}}}"#);
        let verdict = signer.judge_text(&signer.header().to_string(), &claims);
        assert!(verdict.is_err(), "{exp}");
    }
}

#[test]
fn unknown_claims_never_harm() {
    let verdict = Signer::es256().judge_claims(|claims| {
        claims["jti"] = json!("x");
        claims["cnf"] = json!({"jwk": {}});
        claims["deep"] = json!([[[[{"a": null}]]]]);
    });
    assert_eq!(verdict.unwrap().claims["jti"], "x");
}

#[test]
fn only_the_compact_form_is_a_token() {
    let signer = Signer::es256();
    let bundle = signer.bundle();
    let good = signer.token(&signer.header().to_string(), &claims().to_string());
    assert!(judge(&good, &bundle).is_ok());
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let flattened =
        json!({"protected": header, "payload": payload, "signature": signature}).to_string();
    for wrong in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        format!("{header}.{payload}"),
        format!("{header}.{payload}."),
        format!("{header}..{signature}"),
        format!(".{payload}.{signature}"),
        format!("{good}.{signature}"),
        format!("{good}.x.y"),
        format!("{good}="),
        format!("{good}\n"),
        format!(" {good}"),
        format!("{header}=.{payload}.{signature}"),
        format!("{header}.{payload}.+/{signature}"),
        flattened,
    ] {
        assert_eq!(
            reason(judge(&wrong, &bundle)),
            "token_not_compact",
            "{wrong}"
        );
    }
    let huge = "a".repeat(MAX_TOKEN_BYTES + 1);
    assert_eq!(reason(judge(&huge, &bundle)), "token_too_large");
}

#[test]
fn odd_signatures_are_refused() {
    let signer = Signer::es256();
    let Signer::Ec(_, pair) = &signer else {
        panic!("ES256 is a curve");
    };
    let good = signer.token(&signer.header().to_string(), &claims().to_string());
    let (signed, _) = good.rsplit_once('.').unwrap();
    let der_pair = EcdsaKeyPair::from_pkcs8(
        &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
        pair.to_pkcs8v1().unwrap().as_ref(),
    )
    .unwrap();
    let der = der_pair
        .sign(&SystemRandom::new(), signed.as_bytes())
        .unwrap();
    for wrong in [
        der.as_ref(),
        &[0; 64],
        &[0; 63],
        &[1; 65],
        &[0xff; 64],
        &[1],
    ] {
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(wrong));
        assert_eq!(reason(judge(&token, &signer.bundle())), "signature_invalid");
    }
}

#[test]
fn objects_with_a_name_twice_and_other_values_are_refused() {
    let signer = Signer::es256();
    let (header, body) = (signer.header().to_string(), claims().to_string());
    for wrong in [
        r#"{"alg":"ES256","alg":"none","kid":"k"}"#,
        r#"{"alg":"none","alg":"ES256","kid":"k"}"#,
        r#"{"alg":"ES256","kid":"k","kid":"k"}"#,
        r#"{"alg":"ES256","kid":"k"} x"#,
        "[]",
        "null",
        "{",
    ] {
        assert_eq!(
            reason(signer.judge_text(wrong, &body)),
            "token_header",
            "{wrong}"
        );
    }
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for wrong in [r#"{"a":{"b":1,"b":2}}"#, "[]", "\"x\"", "", &deep] {
        let expected = if wrong.is_empty() {
            "token_not_compact"
        } else {
            "token_claims"
        };
        assert_eq!(reason(signer.judge_text(&header, wrong)), expected);
    }
}

#[test]
fn a_token_in_hand_is_read_without_its_key_and_not_shown() {
    let signer = Signer::es256();
    let text = signer.token(&signer.header().to_string(), &claims().to_string());
    let svid = JwtSvid::parse_unverified(&text).unwrap();
    assert_eq!(
        (svid.token(), svid.id().as_str(), svid.key_id()),
        (text.as_str(), ID, "k")
    );
    assert_eq!(svid.audience(), [AUDIENCE]);
    assert_eq!(svid.issued_at(), Some(now()));
    assert_eq!(svid.expires_at(), now() + Duration::from_secs(300));
    assert_eq!(
        svid.validity().unwrap().lifetime(),
        Duration::from_secs(300)
    );
    let shown = format!("{svid:?}");
    let signature = text.rsplit('.').next().unwrap();
    assert!(shown.contains(ID) && !shown.contains(signature), "{shown}");
    assert!(JwtSvid::parse_unverified("a.b.c").is_err());
}

#[test]
fn one_changed_character_breaks_a_token() {
    let signer = Signer::es256();
    let bundle = signer.bundle();
    let good = signer.token(&signer.header().to_string(), &claims().to_string());
    for at in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let damaged = String::from_utf8(bytes).unwrap();
        assert!(judge(&damaged, &bundle).is_err(), "character {at}");
    }
}

proptest! {
    #[test]
    fn never_panics(text in ".{0,200}", header in ".{0,60}", body in ".{0,60}", now in any::<u32>()) {
        let now: SystemTime = UNIX_EPOCH + Duration::from_secs(now.into());
        let none = |_: &_| None::<Bundle>;
        prop_assert!(validate(&text, AUDIENCE, none, now).is_err());
        let token = [&header, &body, &text].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        prop_assert!(validate(&token, AUDIENCE, none, now).is_err());
        let _ = JwtSvid::parse_unverified(&token);
    }
}
