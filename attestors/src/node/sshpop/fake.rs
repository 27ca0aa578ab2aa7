//! An authority that certifies hosts as `ssh-keygen` does, for tests.

use std::ops::Range;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What a certificate says.
#[derive(Clone, Debug)]
pub struct Draft {
    /// 2 for a host, 1 for a user.
    pub kind: u32,
    /// The names of the host.
    pub principals: Vec<&'static str>,
    /// In seconds since 1970.
    pub valid: Range<u64>,
    /// A critical option.
    pub critical: Option<&'static str>,
}

impl Draft {
    /// A certificate of a host, for good.
    #[must_use]
    pub fn host(name: &'static str) -> Self {
        Self {
            kind: 2,
            principals: vec![name],
            valid: 0..u64::MAX,
            critical: None,
        }
    }
}

/// An authority with a key on Ed25519.
#[derive(Debug)]
pub struct FakeAuthority(Ed25519KeyPair);

impl FakeAuthority {
    /// Draws one. None if the library does not.
    #[must_use]
    pub fn new() -> Option<Self> {
        Ed25519KeyPair::generate().ok().map(Self)
    }

    /// Its key, as a line of `authorized_keys`.
    #[must_use]
    pub fn line(&self) -> String {
        format!("ssh-ed25519 {} fake", STANDARD.encode(self.key()))
    }

    fn key(&self) -> Vec<u8> {
        [string(b"ssh-ed25519"), string(self.0.public_key().as_ref())].concat()
    }

    /// Certifies the key of a PKCS#8 document. The line is as in a file `…-cert.pub`.
    #[must_use]
    pub fn certify(&self, pkcs8: &[u8], draft: &Draft) -> Option<String> {
        let (name, key) = public_of(pkcs8)?;
        let name = format!("{name}-cert-v01@openssh.com");
        let principals: Vec<u8> = draft
            .principals
            .iter()
            .flat_map(|name| string(name.as_bytes()))
            .collect();
        let critical = draft.critical.map_or_else(Vec::new, |name| {
            [string(name.as_bytes()), string(&string(b"x"))].concat()
        });
        let signed = [
            string(name.as_bytes()),
            string(&[7; 32]),
            key,
            1_u64.to_be_bytes().to_vec(),
            draft.kind.to_be_bytes().to_vec(),
            string(b"key of the host"),
            string(&principals),
            draft.valid.start.to_be_bytes().to_vec(),
            draft.valid.end.to_be_bytes().to_vec(),
            string(&critical),
            string(b""),
            string(b""),
            string(&self.key()),
        ]
        .concat();
        let signature = self.0.sign(&signed);
        let signature = [string(b"ssh-ed25519"), string(signature.as_ref())].concat();
        let whole = [signed, string(&signature)].concat();
        Some(format!("{name} {} fake", STANDARD.encode(whole)))
    }
}

/// The name of the kind of key, and the fields of its public half.
fn public_of(pkcs8: &[u8]) -> Option<(&'static str, Vec<u8>)> {
    if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8) {
        return Some(("ssh-ed25519", string(key.public_key().as_ref())));
    }
    for (algorithm, name, curve) in [
        (
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            "ecdsa-sha2-nistp256",
            "nistp256",
        ),
        (
            &ECDSA_P384_SHA384_FIXED_SIGNING,
            "ecdsa-sha2-nistp384",
            "nistp384",
        ),
        (
            &ECDSA_P521_SHA512_FIXED_SIGNING,
            "ecdsa-sha2-nistp521",
            "nistp521",
        ),
    ] {
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8) {
            let point = string(key.public_key().as_ref());
            return Some((name, [string(curve.as_bytes()), point].concat()));
        }
    }
    let key = RsaKeyPair::from_pkcs8(pkcs8).ok()?;
    // RFC 8017 A.1.1: a sequence of two numbers, in the form that SSH takes them in too.
    let (sequence, _) = element(key.public_key().as_ref())?;
    let (n, rest) = element(sequence)?;
    let (e, _) = element(rest)?;
    Some(("ssh-rsa", [string(e), string(n)].concat()))
}

/// The content of an element of DER, and what follows.
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let more = usize::from(first & 0x7f);
    let (length, rest) = match first & 0x80 {
        0 => (more, rest),
        _ => {
            let (length, rest) = rest.split_at_checked(more)?;
            let length = length
                .iter()
                .fold(0, |sum, byte| sum * 256 + usize::from(*byte));
            (length, rest)
        }
    };
    rest.split_at_checked(length)
}

fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or_default();
    [&length.to_be_bytes(), bytes].concat()
}
