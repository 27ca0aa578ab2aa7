//! Whether a signing certificate leads to a root (RFC 5280 6.1), asked of an authority before it signs.

use std::time::SystemTime;

use super::{Certificate, MAX_CHAIN, Signed};

/// Why a signing certificate does not lead to a root.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// There is no certificate.
    #[error("there is no signing certificate")]
    Empty,
    /// More than [`MAX_CHAIN`] certificates.
    #[error("chain has {length} certificates, the maximum is {MAX_CHAIN}")]
    TooLong {
        /// How many.
        length: usize,
    },
    /// Basic constraints or key usage do not allow it to sign certificates (X509-SVID 4.1, 4.3).
    #[error("certificate {place} of the chain may not sign certificates")]
    MayNotSign {
        /// Its place, from 0.
        place: usize,
    },
    /// It has ended, or has not begun.
    #[error("certificate {place} of the chain is not valid now")]
    NotCurrent {
        /// Its place, from 0.
        place: usize,
    },
    /// The next certificate did not sign it.
    #[error("certificate {place} of the chain is not signed by the one that follows it")]
    NotSigned {
        /// Its place, from 0.
        place: usize,
    },
    /// A path length forbids as many certificates below.
    #[error("certificate {place} of the chain allows no chain of this length below it")]
    PathLength {
        /// Its place, from 0; the root comes after the last.
        place: usize,
    },
    /// No root signed the last one.
    #[error("chain leads to none of the roots")]
    NoRoot,
}

/// Follows a chain of signing certificates, the lowest first, to one of `roots`, which may itself be the
/// last of the chain. Every certificate is to be valid at `now`.
pub fn find_root<'a>(
    chain: &[Certificate],
    roots: impl IntoIterator<Item = &'a Certificate>,
    now: SystemTime,
) -> Result<&'a Certificate, AuthorityError> {
    let last = match chain {
        [] => return Err(AuthorityError::Empty),
        [.., last] if chain.len() <= MAX_CHAIN => last,
        _ => {
            return Err(AuthorityError::TooLong {
                length: chain.len(),
            });
        }
    };
    for (place, certificate) in chain.iter().enumerate() {
        check(certificate, place, now)?;
    }
    for (place, pair) in chain.windows(2).enumerate() {
        if let [below, above] = pair
            && !is_signed(below, above)
        {
            return Err(AuthorityError::NotSigned { place });
        }
    }
    let mut found = Err(AuthorityError::NoRoot);
    for root in roots {
        if root == last {
            return Ok(root);
        }
        if is_signed(last, root) {
            // One of the same name and key may do where this one does not.
            match check(root, chain.len(), now) {
                Ok(()) => return Ok(root),
                Err(cause) => found = Err(cause),
            }
        }
    }
    found
}

/// Whether a certificate with `place` signing certificates below it may stand there.
fn check(certificate: &Certificate, place: usize, now: SystemTime) -> Result<(), AuthorityError> {
    let usage = certificate.key_usage();
    if !certificate.is_ca() || usage.is_some_and(|usage| !usage.key_cert_sign()) {
        return Err(AuthorityError::MayNotSign { place });
    }
    let validity = certificate.validity();
    if now < validity.not_before() || validity.not_after() < now {
        return Err(AuthorityError::NotCurrent { place });
    }
    match certificate.path_length() {
        Some(most) if usize::try_from(most).is_ok_and(|most| most < place) => {
            Err(AuthorityError::PathLength { place })
        }
        _ => Ok(()),
    }
}

fn is_signed(below: &Certificate, above: &Certificate) -> bool {
    below.issuer_der() == above.subject_der() && below.signed_by(above.public_key()) == Signed::Yes
}
