//! Signatures by ECDSA that come as two numbers, as our library takes them.

/// The longest number of an ECDSA signature taken: P-521 needs 66 bytes.
const MAX_NUMBER_BYTES: usize = 66;

/// Two numbers as a signature has them in DER (RFC 3279 2.2.3). If one is too long nothing is left, which is
/// no signature by any key.
pub(super) fn ecdsa_der(r: &[u8], s: &[u8]) -> Vec<u8> {
    match (number(r), number(s)) {
        (Some(r), Some(s)) => element(0x30, &[r, s].concat()),
        _ => Vec::new(),
    }
}

fn number(bytes: &[u8]) -> Option<Vec<u8>> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let digits = bytes.get(zeros..).unwrap_or_default();
    if digits.len() > MAX_NUMBER_BYTES {
        return None;
    }
    let sign = digits.first().is_none_or(|byte| byte & 0x80 != 0);
    let zero: &[u8] = if sign { &[0] } else { &[] };
    Some(element(0x02, &[zero, digits].concat()))
}

/// An element of less than 256 bytes, which two numbers of 66 bytes are.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap_or(u8::MAX);
    let head: &[u8] = if length < 0x80 {
        &[tag, length]
    } else {
        &[tag, 0x81, length]
    };
    [head, content].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_of_a_signature_become_der_that_fits_its_lengths_or_nothing(
            r in proptest::collection::vec(any::<u8>(), 0..80),
            s in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let der = ecdsa_der(&r, &s);
            let digits = |bytes: &[u8]| bytes.iter().skip_while(|byte| **byte == 0).count();
            if digits(&r).max(digits(&s)) > MAX_NUMBER_BYTES {
                prop_assert!(der.is_empty());
                return Ok(());
            }
            let content = if der[1] == 0x81 { 3 } else { 2 };
            prop_assert_eq!(der.len() - content, usize::from(der[content - 1]));
        }
    }

    #[test]
    fn adv_a_number_with_more_behind_it_is_not_the_number() {
        let longest = [1; MAX_NUMBER_BYTES];
        assert!(!ecdsa_der(&longest, &longest).is_empty());
        let more = [longest.as_slice(), b"x"].concat();
        assert!(ecdsa_der(&more, &longest).is_empty());
        assert!(ecdsa_der(&longest, &more).is_empty());
        let padded = [&[0; 8], longest.as_slice()].concat();
        assert_eq!(ecdsa_der(&padded, &longest), ecdsa_der(&longest, &longest));
    }
}
