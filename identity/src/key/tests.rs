//! Keys of every kind, and encodings that are almost keys.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair,
    },
};
use proptest::prelude::*;
use rcgen::KeyPair;
use zeroize::Zeroizing;

use super::*;
use crate::testing::private;

const P256_G: (&str, &str) = (
    "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
);

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

/// An RSA key of a modulus with so many bits and no small factors.
fn rsa(bits: usize, e: &[u8]) -> Result<PublicKey, KeyError> {
    let mut n = vec![0x5b; bits / 8];
    n[0] |= 0x80;
    let last = n.len() - 1;
    while weakness::has_small_factor(&n) {
        n[last] += 2;
    }
    PublicKey::from_rsa(&n, e)
}

const F4: &[u8] = &[1, 0, 1];

#[test]
fn reads_every_kind_of_private_key_and_derives_the_public_half() {
    for (algorithm, expected) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, KeyAlgorithm::EcP256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, KeyAlgorithm::EcP384),
        (&rcgen::PKCS_ED25519, KeyAlgorithm::Ed25519),
        (&rcgen::PKCS_RSA_SHA256, KeyAlgorithm::Rsa(2048)),
    ] {
        let pair = KeyPair::generate_for(algorithm).unwrap();
        let key = private(&pair);
        assert_eq!(key.algorithm(), expected);
        assert_eq!(key.pkcs8_der(), pair.serialized_der());
        assert_eq!(
            key.public_key().spki_der(),
            pem::parse(pair.public_key_pem()).unwrap().contents()
        );
        assert_eq!(
            *key.to_pkcs8_pem(),
            pair.serialize_pem().replace("\r\n", "\n")
        );
        assert_eq!(key.public_key().check_for_issuance(), Ok(()));
    }
}

#[test]
fn a_private_key_shows_nothing_of_itself() {
    let key = private(&KeyPair::generate().unwrap());
    assert_eq!(format!("{key:?}"), "PrivateKey(EcP256, redacted)");
}

#[test]
fn refuses_private_keys_of_other_kinds_and_sizes() {
    let parse = |der: &[u8]| PrivateKey::from_pkcs8_der(Zeroizing::new(der.to_vec())).map(|_| ());
    let p521 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P521_SHA512_ASN1_SIGNING, &SystemRandom::new())
        .unwrap();
    assert_eq!(parse(p521.as_ref()), Err(KeyError::Malformed));
    assert_eq!(parse(b""), Err(KeyError::Malformed));
    assert_eq!(parse(&[0; 16 * 1024 + 1]), Err(KeyError::TooLarge));
    let good = KeyPair::generate().unwrap().serialize_der();
    assert_eq!(
        parse(&[good.as_slice(), &[0]].concat()),
        Err(KeyError::Malformed)
    );
    assert_eq!(parse(&good[..good.len() - 1]), Err(KeyError::Malformed));
}

#[test]
fn the_key_id_is_the_one_that_spire_computes() {
    let root = include_str!("../../tests/data/spire_bundle.pem");
    let root = &crate::x509::parse_pem_certificates(root).unwrap()[0];
    let computed = hex::encode(root.public_key().subject_key_id());
    assert_eq!(computed, "94d57ed84df714407c6570337b479a6f3a738790");
    assert_eq!(root.subject_key_id(), Some(computed));
}

#[test]
fn refuses_points_that_are_not_on_their_curve() {
    let (x, y) = (hex(P256_G.0), hex(P256_G.1));
    assert!(PublicKey::from_ec(KeyAlgorithm::EcP256, &x, &y).is_ok());
    let mut off = y.clone();
    off[31] ^= 1;
    let infinity = [0; 32];
    for (x, y) in [
        (&x, &off),
        (&y, &x),
        (&infinity.to_vec(), &infinity.to_vec()),
    ] {
        assert_eq!(
            PublicKey::from_ec(KeyAlgorithm::EcP256, x, y),
            Err(KeyError::Malformed)
        );
    }
    assert_eq!(
        PublicKey::from_ec(KeyAlgorithm::EcP384, &x, &y),
        Err(KeyError::Malformed)
    );
    assert_eq!(
        PublicKey::from_ec(KeyAlgorithm::EcP256, &x[1..], &y),
        Err(KeyError::Malformed)
    );
    // RFC 7518 6.2.1.2: as long as the field, not longer.
    let padded = [&[0][..], &x].concat();
    assert_eq!(
        PublicKey::from_ec(KeyAlgorithm::EcP256, &padded, &y),
        Err(KeyError::Malformed)
    );
}

#[test]
fn certifies_only_what_is_on_the_allow_list() {
    for bits in [2048, 3072, 4096] {
        assert_eq!(
            rsa(bits, F4).unwrap().check_for_issuance(),
            Ok(()),
            "{bits}"
        );
    }
    // Good for checking, not for certifying.
    assert_eq!(
        rsa(8192, F4).unwrap().check_for_issuance(),
        Err(KeyError::Weak)
    );
    let p521 = EcdsaKeyPair::generate(&ECDSA_P521_SHA512_ASN1_SIGNING).unwrap();
    let p521 = PublicKey::from_spki_der(spki(&p521).as_slice()).unwrap();
    assert_eq!(p521.algorithm(), KeyAlgorithm::EcP521);
    assert_eq!(p521.check_for_issuance(), Err(KeyError::Weak));
    // Good for nothing.
    for bits in [512, 1024, 2040, 16384] {
        assert!(rsa(bits, F4).is_err(), "{bits}");
    }
    for e in [&[1][..], &[2], &[3], &[17], &[1, 0, 0], &[1, 0, 0, 0, 1]] {
        let fit = rsa(2048, e).and_then(|key| key.check_for_issuance());
        assert!(fit.is_err(), "{e:?}");
    }
}

fn spki<K: aws_lc_rs::signature::KeyPair>(pair: &K) -> Vec<u8>
where
    K::PublicKey: aws_lc_rs::encoding::AsDer<aws_lc_rs::encoding::PublicKeyX509Der<'static>>,
{
    use aws_lc_rs::encoding::AsDer;
    pair.public_key().as_der().unwrap().as_ref().to_vec()
}

#[test]
fn refuses_keys_of_unknown_algorithms() {
    // A key on secp256k1, and X25519, in SubjectPublicKeyInfo form.
    let secp256k1 = hex("3056301006072a8648ce3d020106052b8104000a03420004\
         79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798\
         483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8");
    assert_eq!(
        PublicKey::from_spki_der(&secp256k1),
        Err(KeyError::Algorithm)
    );
    let x25519 = [hex("302a300506032b656e032100"), vec![9; 32]].concat();
    assert_eq!(PublicKey::from_spki_der(&x25519), Err(KeyError::Algorithm));
    assert_eq!(
        PublicKey::from_spki_der(&[0x30; 5000]),
        Err(KeyError::TooLarge)
    );
}

#[test]
fn refuses_encodings_that_are_not_canonical() {
    let der = private(&KeyPair::generate().unwrap())
        .public_key()
        .spki_der()
        .to_vec();
    assert!(PublicKey::from_spki_der(&der).is_ok());
    assert_eq!(
        PublicKey::from_spki_der(&[der.as_slice(), &[0]].concat()),
        Err(KeyError::Malformed)
    );
    // The length of the outer sequence in two bytes instead of one.
    let long = [&[0x30, 0x81], &der[1..]].concat();
    assert_eq!(PublicKey::from_spki_der(&long), Err(KeyError::Malformed));
    // The compressed form of the base point.
    let compressed = [
        hex("3039301306072a8648ce3d020106082a8648ce3d030107032200"),
        vec![3],
        hex(P256_G.0),
    ]
    .concat();
    assert_eq!(
        PublicKey::from_spki_der(&compressed),
        Err(KeyError::Malformed)
    );
}

#[test]
fn a_scheme_that_does_not_fit_is_refused_before_the_signature_is_looked_at() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let key = PublicKey::from_spki_der(&spki(&pair)).unwrap();
    let signature = pair.sign(&SystemRandom::new(), b"message").unwrap();
    let verify = |scheme, message: &[u8]| key.verify(scheme, message, signature.as_ref());
    assert_eq!(verify(SignatureScheme::EcdsaSha256Der, b"message"), Ok(()));
    assert_eq!(
        verify(SignatureScheme::EcdsaSha256Der, b"another"),
        Err(KeyError::Signature)
    );
    assert_eq!(
        verify(SignatureScheme::Es256, b"message"),
        Err(KeyError::Signature)
    );
    for scheme in [
        SignatureScheme::Es384,
        SignatureScheme::Es512,
        SignatureScheme::Ed25519,
        SignatureScheme::RsaPkcs1Sha256,
        SignatureScheme::RsaPssSha256,
    ] {
        assert_eq!(
            verify(scheme, b"message"),
            Err(KeyError::Scheme),
            "{scheme:?}"
        );
    }
}

#[test]
fn ed25519_signatures_verify() {
    let pair = Ed25519KeyPair::generate().unwrap();
    let key = PublicKey::from_spki_der(&spki(&pair)).unwrap();
    let signature = pair.sign(b"message");
    assert_eq!(
        key.verify(SignatureScheme::Ed25519, b"message", signature.as_ref()),
        Ok(())
    );
    assert!(
        key.verify(SignatureScheme::Ed25519, b"messagf", signature.as_ref())
            .is_err()
    );
}

proptest! {
    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = PublicKey::from_spki_der(&bytes);
        let _ = PrivateKey::from_pkcs8_der(Zeroizing::new(bytes));
    }

    #[test]
    fn a_damaged_key_is_refused_or_another_key(at in 0..91_usize, bit in 0..8_u8) {
        let (x, y) = (hex(P256_G.0), hex(P256_G.1));
        let key = PublicKey::from_ec(KeyAlgorithm::EcP256, &x, &y).unwrap();
        let mut der = key.spki_der().to_vec();
        der[at] ^= 1 << bit;
        if let Ok(other) = PublicKey::from_spki_der(&der) {
            prop_assert_eq!(other.spki_der(), &der);
        }
    }
}
