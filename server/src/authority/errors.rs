//! What can go wrong with authorities.

use identity::{
    key::KeyError,
    spiffe_id::SpiffeId,
    x509::{AuthorityError, CertificateError, SvidError},
};

use super::{DiskError, UpstreamError, slots::Refused};
use crate::{
    bundles::BundleStoreError,
    keys::{KeysError, SignatureError},
    store::{Key, StoreError},
};

/// Why an SVID was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("`{id}` is not a member of the trust domain of this server")]
    NotMember { id: SpiffeId },
    #[error("`{id}` may not stand in an SVID of this kind")]
    Reserved { id: SpiffeId },
    #[error("key may not be certified")]
    PublicKey(#[from] KeyError),
    #[error("JWT-SVID needs an audience")]
    NoAudience,
    #[error("authority has ended, and its successor is not ready")]
    AuthorityEnded,
    #[error("could not make a key")]
    Key,
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("could not encode the claims")]
    Claims(#[source] serde_json::Error),
    #[error("certificate to be signed is not what was asked for")]
    Profile,
    #[error("could not read back the certificate just signed")]
    ReadBack(#[source] CertificateError),
    #[error("certificate just signed does not make an X509-SVID")]
    Svid(#[from] SvidError),
    #[error("signing was cut short")]
    Ended,
}

impl SignError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotMember { .. } => "not_a_member",
            Self::Reserved { .. } => "reserved_id",
            Self::PublicKey(cause) => cause.reason(),
            Self::NoAudience => "no_audience",
            Self::AuthorityEnded => "authority_ended",
            Self::Key => "key_generation",
            Self::Signature(_) => "signature",
            Self::Claims(_) => "claims",
            Self::Profile | Self::ReadBack(_) | Self::Svid(_) => "profile",
            Self::Ended => "signing_ended",
        }
    }
}

/// Why an authority could not be made around its new key.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("the upstream authority did not sign ours")]
    Upstream(#[from] UpstreamError),
    #[error("certificate of the authority does not lead to a root of the upstream authority")]
    Chain(#[from] AuthorityError),
    #[error("could not sign the certificate of the authority")]
    Sign(#[from] rcgen::Error),
    #[error("could not read back the certificate of the authority")]
    ReadBack(#[from] CertificateError),
    #[error("certificate of the authority is not a signing certificate of the trust domain")]
    Profile,
}

/// Why an authority of the journal is not taken up.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("it has ended")]
    Ended,
    #[error("its private key is not in custody")]
    NoKey,
    #[error("the private key in custody is another one")]
    OtherKey,
    #[error("the bundle does not hold it")]
    NotInBundle,
    #[error("the journal does not hold its certificate")]
    NoCertificate,
    #[error("its certificate is damaged")]
    Certificate(#[from] CertificateError),
}

impl Unusable {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Ended => "authority_ended",
            Self::NoKey => "key_missing",
            Self::OtherKey => "key_replaced",
            Self::NotInBundle => "not_in_bundle",
            Self::NoCertificate | Self::Certificate(_) => "certificate_damaged",
        }
    }
}

/// Why an authority was not prepared or activated; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Bundle(#[from] BundleStoreError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Create(#[from] CreateError),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error("journal of the authorities is damaged; restore a backup")]
    Journal {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("another server writes to the journal of this one, at `{key}`")]
    JournalTaken { key: Key },
    #[error("new authority was published but cannot be seen yet")]
    NotVisible {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("could not read the bundle of the upstream authority")]
    Upstream(#[from] UpstreamError),
    #[error("the step was cut short by the end of the server")]
    CutShort,
}

impl RotateError {
    /// Whether it may be done later, without a change here.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Create(CreateError::Upstream(cause)) | Self::Upstream(cause) => cause.may_pass(),
            _ => false,
        }
    }

    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Store(cause) => cause.reason(),
            Self::Bundle(cause) => cause.reason(),
            Self::Keys(cause) => cause.reason(),
            Self::Create(CreateError::Upstream(cause)) | Self::Upstream(cause) => cause.reason(),
            Self::Create(_) => "authority_certificate",
            Self::Sign(cause) => cause.reason(),
            Self::Journal { .. } => "journal_damaged",
            Self::JournalTaken { .. } => "journal_taken",
            Self::NotVisible { .. } => "not_visible",
            Self::CutShort => "cut_short",
            Self::Refused(cause) => cause.reason(),
        }
    }
}

/// Why the authorities did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("could not bring up the signing authorities")]
    Rotate(#[from] RotateError),
    #[error("could not sign the server's own X509-SVID")]
    ServerSvid(#[from] SignError),
    #[error("no signing authority is active")]
    NoAuthority,
    #[error("could not load the upstream authority")]
    Upstream(#[from] DiskError),
}

impl StartError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Rotate(cause) => cause.reason(),
            Self::ServerSvid(cause) => cause.reason(),
            Self::NoAuthority => "no_authority",
            Self::Upstream(cause) => cause.reason(),
        }
    }
}
