//! What stands in for a checksum in a file of SPIRE's, which has none: the signatures in it.
//!
//! A flipped bit in a certificate that can still be read breaks its signature. An authority below one
//! that is not here has none that could be checked; the agent knows its server by it, and no more: the
//! server's list replaces it before a workload sees any.

use identity::x509::{Certificate, Signed};

use super::{Damage, State};

/// Checks the chain of the SVID up to the bundle, and the authorities that signed themselves. What is
/// over or not yet begun is no damage.
pub(super) fn check(state: &State) -> Result<(), Damage> {
    for (index, certificate) in state.svid.iter().enumerate() {
        let above = state.svid.iter().skip(index + 1);
        let mut issuers = above.chain(&state.bundle);
        if !issuers.any(|issuer| may_have_signed(issuer, certificate)) {
            return Err(Damage::Signature {
                field: "svid",
                index,
            });
        }
    }
    let is_broken = |root: &Certificate| is_root(root) && !may_have_signed(root, root);
    match state.bundle.iter().position(is_broken) {
        None => Ok(()),
        Some(index) => Err(Damage::Signature {
            field: "bundle",
            index,
        }),
    }
}

/// Whether an authority is its own issuer. RFC 5280 4.2.1.1: every other names the key of its issuer, so
/// a root whose name is damaged does not pass for one below another.
fn is_root(authority: &Certificate) -> bool {
    let above = authority.authority_key_id();
    authority.is_self_issued() || above.is_none() || above == authority.subject_key_id()
}

/// An old root may be signed by an algorithm that nobody checks any more.
fn may_have_signed(issuer: &Certificate, certificate: &Certificate) -> bool {
    certificate.signed_by(issuer.public_key()) != Signed::No
}
