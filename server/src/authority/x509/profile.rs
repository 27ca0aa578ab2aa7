//! The last look at a certificate before it is signed.
//!
//! Reads the very bytes that the signature will cover, and knows nothing of how they were written: a
//! fault of the writer must not become a certificate.

use identity::spiffe_id::SpiffeId;

const SEQUENCE: u8 = 0x30;
const BOOLEAN: u8 = 0x01;
const OID: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const URI: u8 = 0x86;

const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// What a certificate must say of what it is for.
struct Rules {
    /// The bits of the key usage that are looked at, and those of them that are there.
    key_usage: (u8, u8),
    basic_constraints: &'static [u8],
    dns_names: bool,
}

// X509-SVID 4.3: digitalSignature, and neither keyCertSign nor cRLSign, the bits 2 and 1.
// X509-SVID 4.1: cA is false, which DER leaves out.
const LEAF: Rules = Rules {
    key_usage: (0x86, 0x80),
    basic_constraints: &[SEQUENCE, 0],
    dns_names: true,
};

// X509-SVID 4.3: keyCertSign; what signs certificates does nothing but that, and cRLSign.
// X509-SVID 4.1: cA is true.
const AUTHORITY: Rules = Rules {
    key_usage: (0xff, 0x06),
    basic_constraints: &[SEQUENCE, 3, BOOLEAN, 1, 0xff],
    dns_names: false,
};

/// Whether `to_be_signed` is the leaf of an X509-SVID for `id`.
pub(super) fn is_leaf_of(to_be_signed: &[u8], id: &SpiffeId) -> bool {
    check(to_be_signed, id, &LEAF).is_some()
}

/// Whether `to_be_signed` is a signing certificate of the trust domain whose SPIFFE ID is `id`.
pub(super) fn is_authority_of(to_be_signed: &[u8], id: &SpiffeId) -> bool {
    // X509-SVID 3.2: its SPIFFE ID has no path.
    !id.has_path() && check(to_be_signed, id, &AUTHORITY).is_some()
}

fn check(to_be_signed: &[u8], id: &SpiffeId, rules: &Rules) -> Option<()> {
    let (looked_at, there) = rules.key_usage;
    let (body, rest) = value(to_be_signed, SEQUENCE)?;
    rest.is_empty().then_some(())?;
    // Version, serial number, algorithm, issuer, validity, subject and key come before.
    let mut rest = body;
    for _ in 0..7 {
        (_, _, rest) = next(rest)?;
    }
    let (extensions, rest) = value(rest, EXTENSIONS)?;
    rest.is_empty().then_some(())?;
    let (mut extensions, rest) = value(extensions, SEQUENCE)?;
    rest.is_empty().then_some(())?;
    let (mut usages, mut constraints, mut names) = (0, 0, 0);
    while !extensions.is_empty() {
        let (extension, rest) = value(extensions, SEQUENCE)?;
        extensions = rest;
        let (oid, critical, content) = parts(extension)?;
        let counted = match oid {
            // X509-SVID 4.3: critical.
            KEY_USAGE => (critical
                && matches!(content, [0x03, 0x02, _, bits] if bits & looked_at == there))
            .then_some(&mut usages),
            BASIC_CONSTRAINTS => (content == rules.basic_constraints).then_some(&mut constraints),
            // X509-SVID 2: exactly one URI, the SPIFFE ID.
            SUBJECT_ALT_NAME => names_only(content, id, rules.dns_names).then_some(&mut names),
            _ => continue,
        };
        *counted? += 1;
    }
    ((usages, constraints, names) == (1, 1, 1)).then_some(())
}

fn names_only(content: &[u8], id: &SpiffeId, with_dns_names: bool) -> bool {
    let Some((mut names, [])) = value(content, SEQUENCE) else {
        return false;
    };
    let mut uris = 0;
    while !names.is_empty() {
        match next(names) {
            Some((DNS_NAME, _, rest)) if with_dns_names => names = rest,
            Some((URI, uri, rest)) if uri == id.as_str().as_bytes() => {
                uris += 1;
                names = rest;
            }
            _ => return false,
        }
    }
    uris == 1
}

/// The identifier of an extension, whether it is critical, and its content.
fn parts(extension: &[u8]) -> Option<(&[u8], bool, &[u8])> {
    let (oid, rest) = value(extension, OID)?;
    let (critical, rest) = match value(rest, BOOLEAN) {
        Some((flag, rest)) => (flag == [0xff], rest),
        None => (false, rest),
    };
    let (content, rest) = value(rest, OCTET_STRING)?;
    rest.is_empty().then_some((oid, critical, content))
}

/// The content of the value at the start, if it has this tag, and what follows it.
fn value(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = next(input)?;
    (found == tag).then_some((content, rest))
}

/// The tag and the content of the value at the start, and what follows it. Lengths in DER only.
fn next(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = input.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match (first, rest) {
        (short @ ..=0x7f, rest) => (usize::from(*short), rest),
        (0x81, [length @ 0x80..=0xff, rest @ ..]) => (usize::from(*length), rest),
        (0x82, [high @ 1..=0xff, low, rest @ ..]) => {
            (usize::from(*high) << 8 | usize::from(*low), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}
