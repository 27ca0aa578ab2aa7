//! Errors as the wire tells them: the one map from what went wrong to codes and messages.
//!
//! Codes and messages are SPIRE's where SPIRE has the case; tools match on them. A caller learns a
//! safe sentence; the log gets the chain.

use std::error::Error;
use std::fmt::Display;

use attestors::node::{Decision, Refusal as NotAttested};
use identity::entry::EntryError;
use identity::trust_domain::TrustDomain;
use proto::spire::types;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use tracing::{debug, error, warn};

use super::Services;
use super::caller::Caller;
use super::metrics::label;
use crate::audit::Event;
use crate::authority::{SignError, UpstreamError};
use crate::bundles::NotAppended;
use crate::federation::RefreshError;
use crate::limits::Exceeded;
use crate::store::BackupError;
use crate::writes::WriteError;
use crate::writes::bundles::Refusal as BundleRefusal;
use crate::writes::entries::Refusal;

/// The status of an item that went well.
pub(super) fn ok() -> types::Status {
    types::Status {
        code: Code::Ok.into(),
        message: "OK".to_owned(),
    }
}

/// The status of an item that did not go well.
pub(super) fn item(status: &Status) -> types::Status {
    types::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
    }
}

/// The status of an item that is refused. The refusal stands in the audit trail: of whom, of what, and why.
pub(super) fn refused_item(
    services: &Services,
    caller: &(dyn Display + Sync),
    (method, subject): (&'static str, &str),
    status: &Status,
) -> types::Status {
    let event = Event::Refused {
        method,
        subject: Some(subject),
        reason: label(status.code()),
        sentence: status.message(),
    };
    services.audit.record(caller, event);
    item(status)
}

/// A refused call, as the audit trail tells it.
pub(super) fn refusal<'a>(method: &'a str, status: &'a Status) -> Event<'a> {
    Event::Refused {
        method,
        subject: None,
        reason: label(status.code()),
        sentence: status.message(),
    }
}

/// INVALID_ARGUMENT with what was wrong with the argument.
pub(super) fn invalid(what: &str, cause: &(dyn Error + 'static)) -> Status {
    let message = format!("{what}: {}", runtime::report::chain(cause));
    debug!(error = message, "Refused an argument");
    Status::invalid_argument(message)
}

/// What became of a write that was not made, or is not visible.
pub(super) fn write(what: &str, cause: &WriteError) -> Status {
    let chain = runtime::report::chain(cause);
    error!(
        error = chain,
        error.reason = cause.reason(),
        operation = what,
        "Could not write"
    );
    let code = match cause {
        WriteError::Store(_) | WriteError::CutShort => Code::Internal,
        WriteError::Slow | WriteError::Stalled(_) => Code::Unavailable,
        WriteError::Contended(_) => Code::Aborted,
    };
    // The outermost sentence names no file and no record.
    let sentence = match cause {
        WriteError::Contended(_) => "the record kept changing".to_owned(),
        WriteError::Store(_) | WriteError::CutShort | WriteError::Slow | WriteError::Stalled(_) => {
            cause.to_string()
        }
    };
    Status::new(code, format!("{what}: {sentence}"))
}

/// Why a backup was not taken.
pub(super) fn backup(cause: &BackupError) -> Status {
    error!(
        error = runtime::report::chain(cause),
        error.reason = cause.reason(),
        operation = "back up the store",
        "Could not read the store"
    );
    Status::internal("failed to read the datastore")
}

/// What became of a signature that was not made.
pub(super) fn sign(what: &str, cause: &SignError) -> Status {
    error!(
        error = runtime::report::chain(cause),
        error.reason = cause.reason(),
        operation = what,
        "Could not sign"
    );
    Status::internal(what.to_owned())
}

/// What the authority above did not do. Who asked is a server of ours, and is to know whether to ask again.
pub(super) fn upstream(what: &str, cause: &UpstreamError) -> Status {
    warn!(
        error = runtime::report::chain(cause),
        error.reason = cause.reason(),
        operation = what,
        "The upstream authority did not do what was asked of it"
    );
    Status::internal(format!("{what}: {}", runtime::report::chain(cause)))
}

/// Why a node was not attested. SPIRE puts the plugin before its words.
pub(super) fn not_attested(
    caller: &Caller,
    attestor: &'static str,
    error: &impl NotAttested,
) -> Status {
    warn!(
        attestor,
        caller = %caller,
        error = runtime::report::chain(error),
        error.reason = error.reason(),
        "Did not attest a node"
    );
    let code = match error.decision() {
        Decision::Malformed => Code::InvalidArgument,
        Decision::Denied => Code::PermissionDenied,
        Decision::Undecided => Code::Internal,
    };
    let message = format!("nodeattestor({attestor}): {}", error.sentence());
    Status::new(code, message)
}

/// Why a bundle of another trust domain was not written.
pub(super) fn bundle_refused(refusal: BundleRefusal) -> Status {
    match refusal {
        BundleRefusal::Exists => Status::already_exists(refusal.to_string()),
        BundleRefusal::NotFound => Status::not_found(refusal.to_string()),
        BundleRefusal::Referenced(_) => Status::failed_precondition(format!(
            "failed to delete federated bundle: datastore-sql: {refusal}"
        )),
    }
}

/// Why an authority did not join our own bundle.
pub(super) fn not_appended(what: &str, refused: &NotAppended) -> Status {
    debug!(error.reason = refused.reason(), "Refused an authority");
    let message = format!("{what}: {refused}");
    match refused {
        NotAppended::KeyIdTaken(_) => Status::already_exists(message),
        NotAppended::Full => Status::resource_exhausted(message),
    }
}

/// Why a bundle was not fetched. The operator who asked learns all of it: what is wrong is mostly the
/// other end.
pub(super) fn not_refreshed(trust_domain: &TrustDomain, error: &RefreshError) -> Status {
    let chain = runtime::report::chain(error);
    warn!(%trust_domain, error = chain, error.reason = error.reason(), "Could not refresh a bundle");
    Status::internal(format!("failed to refresh bundle: {chain}"))
}

/// Why a call is to come again later: the standard details say when.
pub(super) fn limited(exceeded: &Exceeded) -> Status {
    let message = format!("rate limit exceeded: {exceeded}");
    let details = match exceeded {
        Exceeded::TooOften { after, .. } => ErrorDetails::with_retry_info(Some(*after)),
        Exceeded::TooMany { .. } => ErrorDetails::new(),
    };
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// Counts a signature for a caller that is no agent. Processes of this machine are not limited.
pub(super) fn within_measure(services: &Services, caller: &Caller) -> Result<(), Status> {
    let Some(svid) = caller.svid() else {
        return Ok(());
    };
    let admitted = services.limits.sign(&svid.id, 1);
    admitted.map_err(|exceeded| limited(&exceeded))
}

/// Why an entry was not created.
pub(super) fn not_created(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Similar(_) => Status::already_exists("similar entry already exists"),
        Refusal::IdTaken => Status::already_exists(format!("failed to create entry: {refusal}")),
        Refusal::NoBundle(_) | Refusal::NotFound => {
            Status::internal(format!("failed to create entry: {refusal}"))
        }
        Refusal::Invalid(error) => entry_invalid("failed to create entry", error),
    }
}

/// Why an entry was not updated.
pub(super) fn not_updated(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::NotFound => Status::not_found("failed to update entry"),
        Refusal::Similar(_) | Refusal::IdTaken => {
            Status::already_exists(format!("failed to update entry: {refusal}"))
        }
        Refusal::NoBundle(_) => Status::internal(format!("failed to update entry: {refusal}")),
        Refusal::Invalid(error) => entry_invalid("failed to update entry", error),
    }
}

/// Why an entry was not taken over.
pub(super) fn not_imported(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Similar(here) => Status::already_exists(format!(
            "entry {} is here with the same parent, SPIFFE ID and selectors",
            here.id
        )),
        Refusal::NoBundle(_) => Status::failed_precondition(refusal.to_string()),
        Refusal::IdTaken | Refusal::NotFound | Refusal::Invalid(_) => {
            Status::invalid_argument(refusal.to_string())
        }
    }
}

/// SPIRE finds some faults when it converts an entry and others when it stores it; the message says
/// which, and the difference is kept for those who match on it.
pub(super) fn entry_invalid(when_stored: &str, error: &EntryError) -> Status {
    debug!(error.reason = error.reason(), "Refused an entry");
    let message = error.message();
    match error {
        EntryError::Id(_)
        | EntryError::X509SvidTtl
        | EntryError::JwtSvidTtl
        | EntryError::ExpiresAt
        | EntryError::StoredWithoutPrefetch
        | EntryError::StoredWithMixedSelectors => {
            Status::invalid_argument(format!("{when_stored}: datastore-validation: {message}"))
        }
        _ => Status::invalid_argument(format!("failed to convert entry: {message}")),
    }
}
