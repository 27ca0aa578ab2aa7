//! Signatures by ECDSA that come as two numbers, as our library takes them.

/// The longest number of an ECDSA signature taken: P-521 needs 66 bytes.
const MAX_NUMBER_BYTES: usize = 66;

/// Two numbers as a signature has them in DER (RFC 3279 2.2.3); of too long ones nothing is left.
pub(super) fn ecdsa_der(r: &[u8], s: &[u8]) -> Vec<u8> {
    let number = |bytes: &[u8]| {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let digits = bytes.get(zeros..).unwrap_or_default();
        let digits = digits
            .get(..MAX_NUMBER_BYTES.min(digits.len()))
            .unwrap_or_default();
        let sign = digits.first().is_none_or(|byte| byte & 0x80 != 0);
        let zero: &[u8] = if sign { &[0] } else { &[] };
        let body = [zero, digits].concat();
        element(0x02, &body)
    };
    element(0x30, &[number(r), number(s)].concat())
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
        fn numbers_of_a_signature_become_der_that_fits_its_lengths(
            r in proptest::collection::vec(any::<u8>(), 0..80),
            s in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let der = ecdsa_der(&r, &s);
            let content = if der[1] == 0x81 { 3 } else { 2 };
            prop_assert_eq!(der.len() - content, usize::from(der[content - 1]));
        }
    }
}
