//! Moduli that a glance shows to be weak.
//!
//! This finds the mistakes of known bad generators, not every weak key: no test can.

/// The primes below 752, as certification authorities on the web try them.
fn small_primes() -> impl Iterator<Item = u32> {
    (2_u32..752).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0))
}

/// The primes by which the moduli of CVE-2017-15361 (ROCA) are told: 3 to 167.
fn fingerprint_primes() -> impl Iterator<Item = u32> {
    small_primes().filter(|prime| (3..=167).contains(prime))
}

/// The number, big-endian, modulo `prime`.
fn modulo(number: &[u8], prime: u32) -> u32 {
    // Below 752 * 256, so nothing overflows.
    number
        .iter()
        .fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime)
}

/// Whether one of the small primes divides the modulus.
pub(super) fn has_small_factor(modulus: &[u8]) -> bool {
    small_primes().any(|prime| modulo(modulus, prime) == 0)
}

/// Whether the modulus looks as if it came from the generator of CVE-2017-15361, whose primes, and
/// so their products, are powers of 65537 modulo every small prime. A sound modulus passes all the
/// primes by an accident of less than one in 2^27.
pub(super) fn is_roca(modulus: &[u8]) -> bool {
    fingerprint_primes().all(|prime| is_power_of_f4(modulo(modulus, prime), prime))
}

fn is_power_of_f4(value: u32, prime: u32) -> bool {
    let mut power = 1;
    for _ in 0..prime {
        if power == value {
            return true;
        }
        power = power * (65537 % prime) % prime;
    }
    false
}

#[cfg(test)]
mod tests {
    use x509_parser::der_parser::num_bigint::BigUint;

    use super::*;

    #[test]
    fn there_are_133_primes_below_752() {
        assert_eq!(small_primes().count(), 133);
        assert_eq!(small_primes().last(), Some(751));
        assert_eq!(fingerprint_primes().count(), 38);
    }

    #[test]
    fn finds_every_small_factor_in_a_large_number() {
        let large: BigUint = (BigUint::from(1_u8) << 2203_usize) - 1_u8; // a Mersenne prime
        assert!(!has_small_factor(&large.to_bytes_be()));
        for prime in small_primes() {
            assert!(has_small_factor(&(&large * prime).to_bytes_be()), "{prime}");
        }
    }

    #[test]
    fn finds_moduli_of_the_roca_generator_and_no_others() {
        let product: BigUint = fingerprint_primes().map(BigUint::from).product();
        for exponent in [0_u32, 1, 7, 12_345] {
            let power = BigUint::from(65537_u32).modpow(&exponent.into(), &product);
            let modulus = (&product << 1800_usize) + power;
            assert!(is_roca(&modulus.to_bytes_be()), "{exponent}");
        }
        for _ in 0..3 {
            let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
            let key = crate::testing::private(&pair);
            assert_eq!(key.public_key().check_for_issuance(), Ok(()));
        }
    }
}
