//! Randomness from the operating system.

use std::time::Duration;

/// Fills `bytes` with random ones.
///
/// Panics when the operating system has none to give: going on with predictable bytes is worse than
/// ending.
#[expect(
    clippy::expect_used,
    reason = "nothing may go on with predictable bytes"
)]
pub fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system gives randomness");
}

/// Draws an array.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}

/// Draws a length of time below `max`, evenly, to the nanosecond.
pub fn jitter(max: Duration) -> Duration {
    let max = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX);
    // The high half of a 128-bit product is even to within 2^-64 times `max`, and below it.
    let drawn = (u128::from(word()) * u128::from(max)) >> 64;
    Duration::from_nanos(u64::try_from(drawn).unwrap_or(max))
}

fn word() -> u64 {
    #[cfg(feature = "test-util")]
    if let Some(word) = replayed::next() {
        return word;
    }
    u64::from_ne_bytes(bytes())
}

/// Lengths of time that a test can have drawn again. Keys and tokens never come from here.
#[cfg(feature = "test-util")]
pub mod replayed {
    use std::cell::Cell;

    thread_local! {
        static STATE: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// From now on [`jitter`](super::jitter) draws on this thread what this seed says.
    pub fn from_seed(seed: u64) {
        STATE.set(Some(seed));
    }

    // SplitMix64: one step for each word, and no two seeds run alike for long.
    pub(super) fn next() -> Option<u64> {
        let state = STATE.get()?.wrapping_add(0x9e37_79b9_7f4a_7c15);
        STATE.set(Some(state));
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(mixed ^ (mixed >> 31))
    }
}

/// Draws `length` bytes, and writes them in lower-case hexadecimal digits.
pub fn token_hex(length: usize) -> String {
    let mut drawn = vec![0; length];
    fill(&mut drawn);
    drawn
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0xf])
        .map(hex_digit)
        .collect()
}

fn hex_digit(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).unwrap_or('0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jitter_stays_below_its_bound() {
        assert_eq!(jitter(Duration::ZERO), Duration::ZERO);
        for _ in 0..1000 {
            assert!(jitter(Duration::from_nanos(3)) < Duration::from_nanos(3));
        }
        assert!(jitter(Duration::MAX) <= Duration::from_nanos(u64::MAX));
    }

    #[cfg(feature = "test-util")]
    #[test]
    fn a_seed_draws_the_same_jitter_again() {
        let draw = |seed| {
            replayed::from_seed(seed);
            [(); 3].map(|()| jitter(Duration::from_secs(1)))
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn a_token_is_as_long_as_asked_and_never_the_same() {
        let token = token_hex(16);
        assert_eq!(token.len(), 32);
        assert!(
            token
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
        );
        assert_ne!(token, token_hex(16));
    }
}
