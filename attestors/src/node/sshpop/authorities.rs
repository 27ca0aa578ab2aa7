//! The authorities that certify hosts, as an operator writes them.

use identity::key::{KeyError, PublicKey};
use ssh_key::public::KeyData;

use super::signature::public_key;

/// The longest text of authorities that is read.
pub(super) const MAX_TEXT_BYTES: usize = 1 << 20;

/// Authorities by their keys.
#[derive(Clone, Debug, Default)]
pub struct Authorities(Vec<(KeyData, PublicKey)>);

impl Authorities {
    /// Reads lines in the form of `authorized_keys`; empty ones and comments are passed over.
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(AuthorityError::TooLong);
        }
        let lines = text.lines().map(str::trim).enumerate();
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let read = lines.map(|(number, line)| {
            let line = without_options(line);
            let line_number = number + 1;
            let parsed = ssh_key::PublicKey::from_openssh(line)
                .map_err(|_e| AuthorityError::Malformed { line: line_number })?;
            let key = public_key(parsed.key_data()).map_err(|source| AuthorityError::Key {
                line: line_number,
                source,
            })?;
            Ok((parsed.key_data().clone(), key))
        });
        read.collect::<Result<_, _>>().map(Self)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of both.
    #[must_use]
    pub fn and(mut self, more: Self) -> Self {
        self.0.extend(more.0);
        self
    }

    /// The authority that has this key.
    pub(super) fn find(&self, key: &KeyData) -> Option<&PublicKey> {
        let found = self.0.iter().find(|(known, _)| known == key);
        found.map(|(_, key)| key)
    }
}

/// A line may begin with options, such as `cert-authority`; they say nothing here.
fn without_options(line: &str) -> &str {
    let is_key = |word: &str| word.starts_with("ssh-") || word.starts_with("ecdsa-");
    match line.split_once(' ') {
        Some((first, rest)) if !is_key(first) && !first.contains('"') => rest.trim_start(),
        _ => line,
    }
}

/// Why a text gives no authorities.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AuthorityError {
    /// It is too long.
    #[error("the text is longer than {MAX_TEXT_BYTES} bytes")]
    TooLong,
    /// A line is no key.
    #[error("line {line} is not a public key in the form of `authorized_keys`")]
    Malformed {
        /// The line, from 1.
        line: usize,
    },
    /// A key cannot be used.
    #[error("line {line} has an unusable key")]
    Key {
        /// The line, from 1.
        line: usize,
        /// Why.
        source: KeyError,
    },
}
