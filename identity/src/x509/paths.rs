//! Which authorities stand above a certificate that is no X509-SVID: any PKI's, for whatever use.
//!
//! RFC 5280 by webpki, as for SVIDs; what X509-SVID demands beyond it is not asked. The caller asks what
//! the certificate says, after this has shown that somebody may say it.

use std::{
    cell::RefCell,
    time::{SystemTime, UNIX_EPOCH},
};

use rustls_pki_types::UnixTime;
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, VerifiedPath};

use super::Certificate;
use super::chain::{ALGORITHMS, Roots, VerifyError, check_length, judge_path};

/// Any extended key usage will do, since the certificate is not used for TLS here.
struct AnyUse;

impl ExtendedKeyUsageValidator for AnyUse {
    fn validate(&self, _usages: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

/// Verifies a chain, leaf first, to any of the roots, and tells every certificate above the leaf on any
/// valid path, roots included, each once.
///
/// webpki takes the first path that it is content with. It is told of each that it was not the right
/// one, so that it goes on to the next; it gives up where paths are too many, and so does this.
pub fn authorities_above(
    chain: &[Certificate],
    roots: &[Certificate],
    now: SystemTime,
) -> Result<Vec<Certificate>, VerifyError> {
    check_length(chain.len())?;
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err(VerifyError::Empty);
    };
    let end_entity = EndEntityCert::try_from(leaf.der()).map_err(VerifyError::Path)?;
    let ders: Vec<_> = intermediates.iter().map(|one| one.der().clone()).collect();
    let roots = Roots::usable(roots.iter(), now);
    let time = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    let found = RefCell::new(Vec::new());
    let collect = |path: &VerifiedPath<'_>| {
        judge_path(path, intermediates, &roots)?;
        let mut found = found.borrow_mut();
        for used in path.intermediate_certificates() {
            let mut same = intermediates
                .iter()
                .filter(|one| **one.der() == *used.der());
            add(&mut found, same.next());
        }
        for root in roots.named(path.anchor()) {
            add(&mut found, Some(root));
        }
        Err(webpki::Error::UnknownIssuer)
    };
    let ended = end_entity.verify_for_usage(
        ALGORITHMS,
        &roots.anchors,
        &ders,
        time,
        AnyUse,
        None,
        Some(&collect),
    );
    let found = found.into_inner();
    match ended {
        Err(
            error @ (webpki::Error::MaximumSignatureChecksExceeded
            | webpki::Error::MaximumPathBuildCallsExceeded
            | webpki::Error::MaximumNameConstraintComparisonsExceeded),
        ) => Err(VerifyError::Path(error)),
        Err(error) if found.is_empty() => Err(VerifyError::Path(error)),
        Ok(_) | Err(_) => Ok(found),
    }
}

fn add(found: &mut Vec<Certificate>, one: Option<&Certificate>) {
    found.extend(one.filter(|one| !found.contains(one)).cloned());
}
