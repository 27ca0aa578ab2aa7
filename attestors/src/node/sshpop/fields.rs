//! The fields of a certificate, in the order of OpenSSH's PROTOCOL.certkeys.
//!
//! `ssh_key` reads certificates too, and refuses those without an end (valid before 2^64 - 1), which is
//! what `ssh-keygen` writes unless told otherwise. Keys it reads well: they are left to it.

use ssh_key::PublicKey;
use ssh_key::public::KeyData;

use super::signature::prefixed;

/// What the names of certificates have after that of their key.
const SUFFIX: &str = "-cert-v01@openssh.com";

/// The kinds of keys that are certified, each with how many fields its public half has.
const KINDS: [(&str, usize); 5] = [
    ("ssh-ed25519", 1),
    ("ecdsa-sha2-nistp256", 2),
    ("ecdsa-sha2-nistp384", 2),
    ("ecdsa-sha2-nistp521", 2),
    ("ssh-rsa", 2),
];

/// What a certificate says. Nothing of it was checked.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    pub(super) key: KeyData,
    pub(super) serial: u64,
    /// 1 of a user, 2 of a host.
    pub(super) kind: u32,
    pub(super) key_id: &'a str,
    pub(super) principals: Vec<&'a str>,
    /// The first second of its time, and the first one after it.
    pub(super) valid: std::ops::Range<u64>,
    pub(super) critical: Vec<&'a str>,
    pub(super) authority: KeyData,
    /// The bytes that the authority signed.
    pub(super) signed: &'a [u8],
    /// The algorithm of the signature, and its bytes.
    pub(super) signature: (&'a str, &'a [u8]),
}

impl<'a> Fields<'a> {
    /// Takes a certificate apart. Nothing may be left over anywhere.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = Rest(bytes);
        let name = rest.text()?.strip_suffix(SUFFIX)?;
        let (_, count) = KINDS.into_iter().find(|(kind, _)| *kind == name)?;
        let _nonce = rest.string()?;
        let key = (0..count)
            .map(|_| rest.string())
            .collect::<Option<Vec<_>>>()?;
        let (serial, kind, key_id) = (rest.u64()?, rest.u32()?, rest.text()?);
        let principals = Rest(rest.string()?).texts()?;
        let valid = rest.u64()?..rest.u64()?;
        let critical = Rest(rest.string()?).pairs()?;
        let _extensions = Rest(rest.string()?).pairs()?;
        let _reserved = rest.string()?;
        let authority = rest.string()?;
        let signed = bytes.get(..bytes.len().checked_sub(rest.0.len())?)?;
        let mut signature = Rest(rest.string()?);
        let format = signature.text()?;
        let blob = signature.string()?;
        (rest.0.is_empty() && signature.0.is_empty()).then_some(())?;
        Some(Self {
            key: key_of(&[&[name.as_bytes()], key.as_slice()].concat())?,
            serial,
            kind,
            key_id,
            principals,
            valid,
            critical,
            authority: PublicKey::from_bytes(authority).ok()?.into(),
            signed,
            signature: (format, blob),
        })
    }
}

/// A key of its fields, the name of its kind first.
fn key_of(fields: &[&[u8]]) -> Option<KeyData> {
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend(u32::try_from(field.len()).ok()?.to_be_bytes());
        bytes.extend_from_slice(field);
    }
    PublicKey::from_bytes(&bytes).ok().map(Into::into)
}

/// What is still to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn string(&mut self) -> Option<&'a [u8]> {
        let (string, rest) = prefixed(self.0)?;
        self.0 = rest;
        Some(string)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.string()?).ok()
    }

    fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*bytes))
    }

    fn u64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*bytes))
    }

    /// Texts to the end.
    fn texts(mut self) -> Option<Vec<&'a str>> {
        let mut texts = Vec::new();
        while !self.0.is_empty() {
            texts.push(self.text()?);
        }
        Some(texts)
    }

    /// The names of what has names and values, to the end.
    fn pairs(mut self) -> Option<Vec<&'a str>> {
        let mut names = Vec::new();
        while !self.0.is_empty() {
            names.push(self.text()?);
            let _value = self.string()?;
        }
        Some(names)
    }
}
