//! The two nonces of a proof of possession: the server's, so that no old signature counts, and the
//! agent's, so that the server does not choose what the agent signs.

use runtime::random;
use serde::{Deserialize, Serialize};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The bytes of a nonce.
const LEN: usize = 32;

/// A nonce. In JSON it is base64, as Go writes bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Nonce([u8; LEN]);

impl Nonce {
    /// Draws one.
    pub(super) fn draw() -> Self {
        Self(random::bytes())
    }

    /// What is signed: the server's nonce and the agent's, in this order. It is hashed on the way.
    pub(super) fn joined(self, agent: Self) -> [u8; 2 * LEN] {
        let mut joined = [0; 2 * LEN];
        let (server_half, agent_half) = joined.split_at_mut(LEN);
        server_half.copy_from_slice(&self.0);
        agent_half.copy_from_slice(&agent.0);
        joined
    }
}

impl TryFrom<String> for Nonce {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = STANDARD.decode(text).map_err(|_not_base64| "no base64")?;
        let bytes = <[u8; LEN]>::try_from(bytes);
        Ok(Self(bytes.map_err(|_other_length| "no nonce of 32 bytes")?))
    }
}

impl From<Nonce> for String {
    fn from(nonce: Nonce) -> Self {
        STANDARD.encode(nonce.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_nonces_are_never_the_same_and_stand_in_their_order() {
        let (one, other) = (Nonce::draw(), Nonce::draw());
        assert_ne!(one, other);
        assert_ne!(one.joined(other), other.joined(one));
        assert_eq!(one.joined(other)[..LEN], one.0);
    }

    #[test]
    fn a_nonce_of_another_length_is_none() {
        for length in [0, 31, 33] {
            let text = STANDARD.encode(vec![0; length]);
            assert!(Nonce::try_from(text).is_err(), "{length}");
        }
        let nonce = Nonce::draw();
        assert_eq!(Nonce::try_from(String::from(nonce)), Ok(nonce));
    }
}
