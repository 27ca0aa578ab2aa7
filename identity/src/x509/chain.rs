//! The verdict on a peer's chain: RFC 5280 by webpki, then the rules of X509-SVID 5.2.

use std::{
    borrow::Borrow,
    time::{SystemTime, UNIX_EPOCH},
};

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, VerifiedPath, anchor_from_trusted_cert, aws_lc_rs as algorithms};

use super::{Certificate, CertificateError, LeafError, check_peer_leaf};
use crate::{bundle::Bundle, spiffe_id::SpiffeId, trust_domain::TrustDomain};

/// The longest chain taken, leaf included.
pub const MAX_CHAIN: usize = 16;

/// What signatures on certificates may be made with.
pub(super) static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P256_SHA512,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ECDSA_P384_SHA512,
    algorithms::ED25519,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// What the peer uses its certificate for. It matters only where extended key usage is present.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// The peer is the server of the connection.
    ServerAuth,
    /// The peer is the client of the connection.
    ClientAuth,
}

impl Purpose {
    fn usage(self) -> webpki::KeyUsage {
        match self {
            Self::ServerAuth => webpki::KeyUsage::server_auth(),
            Self::ClientAuth => webpki::KeyUsage::client_auth(),
        }
    }
}

/// Parses a peer's certificates, leaf first, as TLS hands them over, then [`verify_peer`].
pub fn verify_peer_der<B: Borrow<Bundle>>(
    chain: &[CertificateDer<'_>],
    purpose: Purpose,
    bundle_of: impl FnOnce(&TrustDomain) -> Option<B>,
    now: SystemTime,
) -> Result<SpiffeId, VerifyError> {
    check_length(chain.len())?;
    let chain = chain
        .iter()
        .map(|der| Certificate::parse(der))
        .collect::<Result<Vec<_>, _>>()
        .map_err(VerifyError::Certificate)?;
    verify_peer(&chain, purpose, bundle_of, now)
}

/// Verifies a peer's chain, leaf first, and tells who the peer is.
///
/// `bundle_of` answers for the trust domain that the leaf claims; its X.509 authorities alone are
/// the anchors, tainted ones included until they are revoked.
pub fn verify_peer<B: Borrow<Bundle>>(
    chain: &[Certificate],
    purpose: Purpose,
    bundle_of: impl FnOnce(&TrustDomain) -> Option<B>,
    now: SystemTime,
) -> Result<SpiffeId, VerifyError> {
    check_length(chain.len())?;
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err(VerifyError::Empty);
    };
    let id = check_peer_leaf(leaf)?;
    // X509-SVID 5.1: the anchors are those of the leaf's own trust domain, and no others.
    let Some(bundle) = bundle_of(id.trust_domain()) else {
        return Err(VerifyError::NoBundle {
            trust_domain: id.trust_domain().clone(),
        });
    };
    let roots = bundle
        .borrow()
        .x509_authorities
        .iter()
        .map(|authority| &authority.certificate);
    verify_path(
        leaf,
        intermediates,
        &Roots::usable(roots, now),
        purpose,
        now,
    )?;
    Ok(id)
}

/// Verifies that a peer, whose certificates came as TLS hands them over, is the one with this SPIFFE ID, by
/// the bundle of its trust domain.
pub fn verify_named_peer_der(
    chain: &[CertificateDer<'_>],
    purpose: Purpose,
    bundle: &Bundle,
    expected: &SpiffeId,
    now: SystemTime,
) -> Result<(), NotThePeer> {
    // X509-SVID 5.1: the bundle counts for its own trust domain alone.
    let bundle_of =
        |trust_domain: &TrustDomain| (*trust_domain == bundle.trust_domain).then_some(bundle);
    let found = verify_peer_der(chain, purpose, bundle_of, now)?;
    if found == *expected {
        return Ok(());
    }
    Err(NotThePeer::OtherId {
        found,
        expected: expected.clone(),
    })
}

pub(super) fn check_length(length: usize) -> Result<(), VerifyError> {
    match length {
        0 => Err(VerifyError::Empty),
        1..=MAX_CHAIN => Ok(()),
        _ => Err(VerifyError::TooLong { length }),
    }
}

/// Roots, and beside each its form for webpki.
pub(super) struct Roots<'a> {
    certificates: Vec<&'a Certificate>,
    pub(super) anchors: Vec<TrustAnchor<'a>>,
}

impl<'a> Roots<'a> {
    /// Those that may sign at `now`. webpki takes an anchor's name and key, and asks nothing else;
    /// the rest is asked here and in [`Roots::allows`].
    pub(super) fn usable(roots: impl Iterator<Item = &'a Certificate>, now: SystemTime) -> Self {
        let usable = roots.filter(|root| is_current(root, now) && may_sign(root) && !is_leaf(root));
        let (certificates, anchors) = usable
            .filter_map(|root| Some((root, anchor_from_trusted_cert(root.der()).ok()?)))
            .unzip();
        Self {
            certificates,
            anchors,
        }
    }

    /// The roots with this name and key.
    pub(super) fn named(&self, anchor: &TrustAnchor<'_>) -> impl Iterator<Item = &'a Certificate> {
        let pairs = self.anchors.iter().zip(&self.certificates);
        pairs
            .filter(move |(own, _)| *own == anchor)
            .map(|(_, root)| *root)
    }

    /// Whether a root with this name and key lets so many certificates stand below it.
    fn allows(&self, anchor: &TrustAnchor<'_>, intermediates: usize) -> bool {
        // RFC 5280 6.1 leaves the anchor's own path length to the caller.
        self.named(anchor).any(|root| {
            root.path_length()
                .is_none_or(|most| usize::try_from(most).is_ok_and(|most| intermediates <= most))
        })
    }
}

/// A root may be in a bundle beyond its time; nothing that it signed counts then.
fn is_current(root: &Certificate, now: SystemTime) -> bool {
    root.validity().not_before() <= now && now <= root.validity().not_after()
}

/// X509-SVID 4.1: a signing certificate has cA TRUE. A root without basic constraints is taken for
/// its key, as old roots are; one that denies being an authority is not.
fn is_leaf(root: &Certificate) -> bool {
    root.extensions()
        .basic_constraints
        .is_some_and(|constraints| !constraints.is_ca)
}

/// RFC 5280 4.2.1.3: a key that checks certificates has keyCertSign, where usage is restricted.
fn may_sign(certificate: &Certificate) -> bool {
    certificate
        .key_usage()
        .is_none_or(|usage| usage.key_cert_sign())
}

fn verify_path(
    leaf: &Certificate,
    intermediates: &[Certificate],
    roots: &Roots<'_>,
    purpose: Purpose,
    now: SystemTime,
) -> Result<(), VerifyError> {
    let end_entity = EndEntityCert::try_from(leaf.der()).map_err(VerifyError::Path)?;
    // The bytes were read by two parsers; an identity that only one of them sees is none.
    let seen: Vec<&str> = end_entity.valid_uri_names().collect();
    if !matches!(seen.as_slice(), [uri] if leaf.spiffe_id().is_ok_and(|id| id.as_str() == *uri)) {
        return Err(VerifyError::Leaf(LeafError::ManyUris { count: seen.len() }));
    }
    let intermediate_ders: Vec<_> = intermediates
        .iter()
        .map(|certificate| certificate.der().clone())
        .collect();
    let time = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    let judge = |path: &VerifiedPath<'_>| judge_path(path, intermediates, roots);
    end_entity
        .verify_for_usage(
            ALGORITHMS,
            &roots.anchors,
            &intermediate_ders,
            time,
            purpose.usage(),
            None,
            Some(&judge),
        )
        .map_err(VerifyError::Path)?;
    Ok(())
}

/// What webpki leaves open about a path that it found.
pub(super) fn judge_path(
    path: &VerifiedPath<'_>,
    intermediates: &[Certificate],
    roots: &Roots<'_>,
) -> Result<(), webpki::Error> {
    let mut count = 0;
    for used in path.intermediate_certificates() {
        count += 1;
        let der = used.der();
        let known = intermediates
            .iter()
            .find(|certificate| certificate.der().as_ref() == der.as_ref());
        // RFC 5280 6.1.4 (n): an intermediate with a key usage has keyCertSign in it.
        if !known.is_some_and(may_sign) {
            return Err(webpki::Error::UnknownIssuer);
        }
    }
    if roots.allows(path.anchor(), count) {
        Ok(())
    } else {
        Err(webpki::Error::PathLenConstraintViolated)
    }
}

/// Why a peer is not the one that was meant.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NotThePeer {
    /// Nobody is known by its chain.
    #[error(transparent)]
    Invalid(#[from] VerifyError),
    /// It is somebody else.
    #[error("it is `{found}`, not `{expected}`")]
    OtherId {
        /// Who it is.
        found: SpiffeId,
        /// Who was meant.
        expected: SpiffeId,
    },
}

impl NotThePeer {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(error) => error.reason(),
            Self::OtherId { .. } => "other_id",
        }
    }
}

/// Why a peer's chain is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The peer showed no certificate.
    #[error("peer has no certificate")]
    Empty,
    /// The peer showed more than [`MAX_CHAIN`] certificates.
    #[error("peer has {length} certificates, the maximum is {MAX_CHAIN}")]
    TooLong {
        /// How many.
        length: usize,
    },
    /// A certificate is not one.
    #[error("peer has an invalid certificate")]
    Certificate(#[source] CertificateError),
    /// The leaf breaks X509-SVID 5.2.
    #[error("peer has an invalid X509-SVID")]
    Leaf(#[from] LeafError),
    /// There is no bundle for the trust domain that the leaf claims.
    #[error("no bundle for the peer's trust domain {:?}", trust_domain.name())]
    NoBundle {
        /// The trust domain that the leaf claims.
        trust_domain: TrustDomain,
    },
    /// There is no valid path to an authority of the leaf's trust domain (X509-SVID 5.1).
    #[error("no valid path to an authority of the peer's trust domain")]
    Path(#[source] webpki::Error),
}

impl VerifyError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "chain_empty",
            Self::TooLong { .. } => "chain_too_long",
            Self::Certificate(error) => error.reason(),
            Self::Leaf(error) => error.reason(),
            Self::NoBundle { .. } => "no_bundle",
            Self::Path(webpki::Error::CertExpired { .. }) => "certificate_expired",
            Self::Path(webpki::Error::CertNotValidYet { .. }) => "certificate_not_yet_valid",
            Self::Path(_) => "no_path",
        }
    }
}
