//! What becomes of a bundle that was fetched, and when the next one is. Pure.

use std::collections::HashSet;
use std::time::Duration;

use identity::bundle::Bundle;

/// A shorter hint counts as this, as in SPIRE.
const LEAST_HINT: Duration = Duration::from_secs(60);
/// A longer hint counts as this: whoever never asks again never hears that a key was revoked.
const MOST_HINT: Duration = Duration::from_secs(24 * 60 * 60);
/// SPIFFE Federation 4.1: without a hint, five minutes.
const WITHOUT_HINT: Duration = Duration::from_secs(5 * 60);
/// While there is no bundle yet.
const WITHOUT_BUNDLE: Duration = Duration::from_secs(60);
/// How often is asked within a hint, so that one failure delays nothing.
const TRIES_IN_A_HINT: u32 = 4;

/// What is done with a fetched bundle.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// It is what is stored.
    Unchanged,
    /// It takes the place of what is stored.
    Store(Bundle),
    /// It is not taken, and what is stored stays.
    Refused(Refusal),
}

/// Why a bundle that the right endpoint has sent is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Somebody may show an old bundle to bring revoked keys back.
    #[error("the bundle has the sequence number {offered}, older than {stored}, which is stored")]
    Older { stored: u64, offered: u64 },
    /// Somebody may show revoked keys under the number of the bundle that is without them.
    #[error("the bundle has the sequence number {0}, as the stored one, and other authorities")]
    SameNumber(u64),
    #[error("the bundle has no authority")]
    Empty,
}

impl Refusal {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Older { .. } => "bundle_older",
            Self::SameNumber(_) => "bundle_same_number",
            Self::Empty => "bundle_empty",
        }
    }
}

/// Judges a fetched bundle of the same trust domain.
pub(crate) fn judge(stored: Option<&Bundle>, offered: Bundle) -> Verdict {
    if offered.x509_authorities.is_empty() && offered.jwt_authorities.is_empty() {
        return Verdict::Refused(Refusal::Empty);
    }
    let mut offered = in_order(offered);
    let Some(stored) = stored else {
        return Verdict::Store(offered);
    };
    // SPIFFE Federation 4.2: sequence numbers tell which is newer. Where one is missing (0), the bundle
    // that was fetched last counts; the stored number stays, or what was refused by it would be taken
    // after a bundle without any.
    if offered.sequence == 0 {
        offered.sequence = stored.sequence;
    } else if offered.sequence < stored.sequence {
        return Verdict::Refused(Refusal::Older {
            stored: stored.sequence,
            offered: offered.sequence,
        });
    } else if offered.sequence == stored.sequence && !same_authorities(stored, &offered) {
        // SPIFFE Trust Domain and Bundle 4.1.1: the number changes with the bundle. A hint says
        // nothing of keys.
        return Verdict::Refused(Refusal::SameNumber(offered.sequence));
    }
    if in_order(stored.clone()) == offered {
        Verdict::Unchanged
    } else {
        Verdict::Store(offered)
    }
}

/// Whether two bundles have the same authorities, in whatever order. Only what the JSON of a bundle
/// carries of them counts: one that an operator stored may know more.
fn same_authorities(a: &Bundle, b: &Bundle) -> bool {
    let x509 = |bundle: &Bundle| -> HashSet<Vec<u8>> {
        let certificates = bundle.certificates();
        certificates.map(|one| one.der().to_vec()).collect()
    };
    let within = |a: &Bundle, b: &Bundle| {
        a.jwt_authorities.iter().all(|one| {
            let mut others = b.jwt_authorities.iter();
            others.any(|other| other.key_id == one.key_id && other.public_key == one.public_key)
        })
    };
    x509(a) == x509(b) && within(a, b) && within(b, a)
}

/// SPIRE's endpoint names the JWT keys in another order each time.
fn in_order(mut bundle: Bundle) -> Bundle {
    bundle
        .jwt_authorities
        .sort_by(|a, b| a.key_id.cmp(&b.key_id));
    bundle
}

/// How long until the next try, after one that left this bundle.
pub(crate) fn next_try(bundle: Option<&Bundle>) -> Duration {
    match bundle.map(|bundle| bundle.refresh_hint) {
        None => WITHOUT_BUNDLE,
        Some(None) => WITHOUT_HINT,
        Some(Some(hint)) => hint.clamp(LEAST_HINT, MOST_HINT) / TRIES_IN_A_HINT,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use identity::bundle::{JwtAuthority, X509Authority};
    use identity::key::PublicKey;
    use identity::trust_domain::TrustDomain;
    use identity::x509::Certificate;
    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};

    use super::*;

    fn bundle(sequence: u64) -> Bundle {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        let mut bundle = Bundle::new(TrustDomain::parse("fed.org").unwrap());
        bundle.add_x509_authority(X509Authority::new(
            Certificate::parse(certificate.der()).unwrap(),
        ));
        for key_id in ["b", "a"] {
            bundle.jwt_authorities.push(JwtAuthority {
                key_id: key_id.to_owned(),
                public_key: PublicKey::from_spki_der(&key.subject_public_key_info()).unwrap(),
                expires_at: None,
                tainted: false,
            });
        }
        bundle.sequence = sequence;
        bundle
    }

    #[test]
    fn a_newer_bundle_and_one_without_a_number_are_stored() {
        let stored = bundle(7);
        for offered in [bundle(8), bundle(0)] {
            assert!(matches!(judge(Some(&stored), offered), Verdict::Store(_)));
        }
        assert!(matches!(judge(None, bundle(1)), Verdict::Store(_)));
    }

    #[test]
    fn a_bundle_older_than_the_stored_one_is_refused() {
        let refused = Refusal::Older {
            stored: 7,
            offered: 6,
        };
        assert_eq!(
            judge(Some(&bundle(7)), bundle(6)),
            Verdict::Refused(refused)
        );
    }

    #[test]
    fn adv_other_authorities_under_the_same_number_are_refused_in_whatever_order() {
        let mut stored = bundle(7);
        stored.x509_authorities.extend(bundle(7).x509_authorities);
        let refused = Verdict::Refused(Refusal::SameNumber(7));
        assert_eq!(judge(Some(&stored), bundle(7)), refused);
        let mut fewer = stored.clone();
        fewer.x509_authorities.pop();
        assert_eq!(judge(Some(&stored), fewer.clone()), refused);
        assert_eq!(judge(Some(&fewer), stored.clone()), refused);
        let mut fewer = stored.clone();
        fewer.jwt_authorities.pop();
        assert_eq!(judge(Some(&stored), fewer), refused);
        let mut turned = stored.clone();
        turned.x509_authorities.reverse();
        assert!(matches!(judge(Some(&stored), turned), Verdict::Store(_)));
        let mut known_better = stored.clone();
        known_better.jwt_authorities[0].expires_at = Some(SystemTime::UNIX_EPOCH);
        assert!(matches!(
            judge(Some(&known_better), stored),
            Verdict::Store(_)
        ));
    }

    #[test]
    fn adv_a_bundle_without_a_number_opens_no_way_to_an_older_one() {
        let Verdict::Store(stored) = judge(Some(&bundle(7)), bundle(0)) else {
            panic!("the last fetch counts")
        };
        assert_eq!(stored.sequence, 7);
        let older = judge(Some(&stored), bundle(6));
        assert!(matches!(older, Verdict::Refused(Refusal::Older { .. })));
        let mut again = stored.clone();
        again.sequence = 0;
        assert_eq!(judge(Some(&stored), again), Verdict::Unchanged);
    }

    #[test]
    fn a_bundle_without_authorities_is_refused_even_as_the_first() {
        let empty = Bundle::new(TrustDomain::parse("fed.org").unwrap());
        for stored in [None, Some(&bundle(7))] {
            assert_eq!(
                judge(stored, empty.clone()),
                Verdict::Refused(Refusal::Empty)
            );
        }
    }

    #[test]
    fn another_order_of_jwt_keys_is_no_change_and_another_hint_is_one() {
        let stored = bundle(7);
        let mut offered = stored.clone();
        offered.jwt_authorities.reverse();
        assert_eq!(judge(Some(&stored), offered.clone()), Verdict::Unchanged);
        offered.refresh_hint = Some(Duration::from_secs(9));
        assert!(matches!(judge(Some(&stored), offered), Verdict::Store(_)));
    }

    #[test]
    fn asks_four_times_within_a_hint_that_is_neither_tiny_nor_huge() {
        let hinted = |seconds| {
            let mut bundle = bundle(1);
            bundle.refresh_hint = Some(Duration::from_secs(seconds));
            next_try(Some(&bundle)).as_secs()
        };
        assert_eq!(
            [1, 60, 300, 86_400, u64::MAX].map(hinted),
            [15, 15, 75, 21_600, 21_600]
        );
        assert_eq!(next_try(Some(&bundle(1))), WITHOUT_HINT);
        assert_eq!(next_try(None), WITHOUT_BUNDLE);
    }
}
