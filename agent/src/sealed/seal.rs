//! The seal: AES-256-GCM by a key of this cache alone, so that what is read is what was written here, by
//! this agent, under this name; checksum and authenticity are one.
//!
//! A value larger than the engine likes is cut into pieces. Each is sealed for itself and tells how many
//! there are and which writing it is of, so that pieces of two writings are never put together.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use identity::spiffe_id::SpiffeId;
use runtime::random;
use zeroize::Zeroizing;

use super::engine::Stored;

/// The version of the sealed form, in each value's first byte and in what is authenticated.
const VERSION: u8 = 1;
/// How long the key is.
pub(super) const KEY_LEN: usize = 32;
/// The most that one piece holds: with its frame it stays below the 16 KiB that the engine keeps inline.
const PIECE: usize = 15 * 1024;
/// The most pieces of one value: 3.75 MiB, more than the largest bundle.
const MOST_PIECES: usize = 256;
/// A mark of the writing and the number of pieces, before the content.
const FRAME: usize = 8 + 2;

/// Why a value was not sealed, or not opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum SealError {
    #[error("the value is too large to be kept")]
    TooLarge,
    #[error("the value is not sealed by this agent's key under this name")]
    Broken,
    #[error("the value is of the version {0}, which this program does not read")]
    Version(u8),
    #[error("pieces of the value are missing, or of different writings")]
    Pieces,
    #[error("the cipher failed")]
    Cipher,
}

/// The key, and whose values it seals.
pub(super) struct Seal {
    key: RandomizedNonceKey,
    // What every value is bound to beside its name.
    owner: Vec<u8>,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal").finish_non_exhaustive()
    }
}

impl Seal {
    /// A seal of this agent.
    pub(super) fn new(key: &[u8; KEY_LEN], agent: &SpiffeId) -> Result<Self, SealError> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(cipher)?;
        let mut owner = Vec::new();
        for part in [agent.trust_domain().name(), agent.as_str()] {
            push_part(&mut owner, part.as_bytes());
        }
        Ok(Self { key, owner })
    }

    /// Seals a value: the names and bytes to be stored for it.
    pub(super) fn seal(&self, name: &[u8], value: &[u8]) -> Result<Vec<Stored>, SealError> {
        let pieces = value.chunks(PIECE).count().max(1);
        if pieces > MOST_PIECES {
            return Err(SealError::TooLarge);
        }
        let total = u16::try_from(pieces).map_err(|_range| SealError::TooLarge)?;
        let writing: [u8; 8] = random::bytes();
        (0..total)
            .map(|index| {
                let start = usize::from(index) * PIECE;
                let piece = value.get(start..(start + PIECE).min(value.len()));
                let mut plain = Zeroizing::new(Vec::with_capacity(
                    FRAME + piece.map_or(0, <[u8]>::len) + AES_256_GCM.tag_len(),
                ));
                plain.extend_from_slice(&writing);
                plain.extend_from_slice(&total.to_be_bytes());
                plain.extend_from_slice(piece.unwrap_or_default());
                let stored_name = piece_name(name, index);
                let nonce = self
                    .key
                    .seal_in_place_append_tag(self.aad(&stored_name), &mut *plain)
                    .map_err(cipher)?;
                let mut stored = Vec::with_capacity(1 + NONCE_LEN + plain.len());
                stored.push(VERSION);
                stored.extend_from_slice(nonce.as_ref());
                stored.extend_from_slice(&plain);
                Ok((stored_name, stored))
            })
            .collect()
    }

    /// Opens one piece.
    pub(super) fn open_piece(&self, stored_name: &[u8], stored: &[u8]) -> Result<Piece, SealError> {
        let (version, rest) = stored.split_first().ok_or(SealError::Broken)?;
        if *version != VERSION {
            return Err(SealError::Version(*version));
        }
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN).ok_or(SealError::Broken)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(broken)?;
        let mut buffer = Zeroizing::new(sealed.to_vec());
        let plain = self
            .key
            .open_in_place(nonce, self.aad(stored_name), &mut buffer)
            .map_err(broken)?;
        let (writing, rest) = plain.split_first_chunk().ok_or(SealError::Broken)?;
        let (total, content) = rest.split_first_chunk().ok_or(SealError::Broken)?;
        Ok(Piece {
            writing: *writing,
            total: u16::from_be_bytes(*total),
            content: Zeroizing::new(content.to_vec()),
        })
    }

    fn aad(&self, stored_name: &[u8]) -> Aad<Vec<u8>> {
        let mut bound = vec![VERSION];
        bound.extend_from_slice(&self.owner);
        push_part(&mut bound, stored_name);
        Aad::from(bound)
    }
}

/// An opened piece.
#[derive(Debug)]
pub(super) struct Piece {
    writing: [u8; 8],
    total: u16,
    content: Zeroizing<Vec<u8>>,
}

/// Puts the pieces of one value together, in their order.
pub(super) fn join(pieces: &[(u16, Piece)]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let Some((_, first)) = pieces.first() else {
        return Err(SealError::Pieces);
    };
    let (writing, total) = (first.writing, first.total);
    if usize::from(total) != pieces.len() {
        return Err(SealError::Pieces);
    }
    let mut value = Zeroizing::new(Vec::with_capacity(
        pieces.iter().map(|(_, piece)| piece.content.len()).sum(),
    ));
    for (expected, (index, piece)) in (0..total).zip(pieces) {
        if *index != expected || piece.writing != writing || piece.total != total {
            return Err(SealError::Pieces);
        }
        value.extend_from_slice(&piece.content);
    }
    Ok(value)
}

/// The name that a piece is stored by.
pub(super) fn piece_name(name: &[u8], index: u16) -> Vec<u8> {
    let mut stored = name.to_vec();
    stored.extend_from_slice(&index.to_be_bytes());
    stored
}

/// The name of a value and the number of the piece, from what the piece is stored by.
pub(super) fn split_name(stored: &[u8]) -> Option<(&[u8], u16)> {
    let (name, index) = stored.split_last_chunk()?;
    Some((name, u16::from_be_bytes(*index)))
}

// Lengths stand before parts, so that no two bindings read alike.
fn push_part(bound: &mut Vec<u8>, part: &[u8]) {
    bound.extend_from_slice(&(part.len() as u64).to_be_bytes());
    bound.extend_from_slice(part);
}

fn cipher(_: Unspecified) -> SealError {
    SealError::Cipher
}

fn broken(_: Unspecified) -> SealError {
    SealError::Broken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seal_of(agent: &str, key: u8) -> Seal {
        Seal::new(&[key; KEY_LEN], &SpiffeId::parse(agent).unwrap()).unwrap()
    }

    fn seal() -> Seal {
        seal_of("spiffe://example.org/agent", 1)
    }

    fn open(seal: &Seal, stored: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<u8>, SealError> {
        let pieces = stored.iter().map(|(name, sealed)| {
            let (_, index) = split_name(name).ok_or(SealError::Broken)?;
            Ok((index, seal.open_piece(name, sealed)?))
        });
        Ok(join(&pieces.collect::<Result<Vec<_>, _>>()?)?.to_vec())
    }

    proptest! {
        #[test]
        fn what_was_sealed_is_opened_again_in_pieces_below_16_kib(
            name in prop::collection::vec(any::<u8>(), 0..40),
            length in prop_oneof![0..200_usize, 15_000..16_000_usize, 60_000..70_000_usize],
        ) {
            let value: Vec<_> = (0..=250_u8).cycle().take(length).collect();
            let stored = seal().seal(&name, &value).unwrap();
            for (stored_name, sealed) in &stored {
                prop_assert!(sealed.len() < 16 * 1024);
                prop_assert_eq!(split_name(stored_name).unwrap().0, &name[..]);
            }
            prop_assert_eq!(open(&seal(), &stored).unwrap(), value);
        }

        #[test]
        fn any_bytes_are_refused(name in prop::collection::vec(any::<u8>(), 0..40), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(seal().open_piece(&name, &bytes).is_err());
        }
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_found() {
        let stored = seal().seal(b"x/1", b"content").unwrap();
        let (name, sealed) = &stored[0];
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(seal().open_piece(name, &damaged).is_err());
        }
        for length in 0..sealed.len() {
            assert!(seal().open_piece(name, &sealed[..length]).is_err());
        }
    }

    #[test]
    fn a_value_is_bound_to_its_name_its_agent_and_its_key() {
        let stored = seal().seal(b"x/1", b"content").unwrap();
        let (name, sealed) = &stored[0];
        assert!(seal().open_piece(name, sealed).is_ok());
        assert!(seal().open_piece(b"x/2\0\0", sealed).is_err());
        for other in [
            seal_of("spiffe://example.org/other", 1),
            seal_of("spiffe://other.org/agent", 1),
            seal_of("spiffe://example.org/agent", 2),
        ] {
            assert!(other.open_piece(name, sealed).is_err());
        }
    }

    #[test]
    fn pieces_of_two_writings_are_not_put_together() {
        let value = vec![7; 3 * PIECE];
        let (one, other) = (
            seal().seal(b"b", &value).unwrap(),
            seal().seal(b"b", &value).unwrap(),
        );
        let mixed = [one[0].clone(), other[1].clone(), one[2].clone()];
        assert_eq!(open(&seal(), &mixed), Err(SealError::Pieces));
        assert_eq!(open(&seal(), &one[..2]), Err(SealError::Pieces));
        assert_eq!(open(&seal(), &one[1..]), Err(SealError::Pieces));
        assert_eq!(
            seal().seal(b"b", &vec![7; MOST_PIECES * PIECE + 1]),
            Err(SealError::TooLarge)
        );
    }
}
