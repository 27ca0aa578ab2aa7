//! What a failed call means to the agent.

use std::error::Error;

use prost::Message;
use proto::spire::types::PermissionDeniedDetails;
use proto::spire::types::permission_denied_details::Reason;
use tonic::{Code as Grpc, Status};

use super::connect::ConnectError;
use crate::upstream::{Code, Denial, Refusal, UpstreamError};

/// How much of a server's words is kept.
const MAX_MESSAGE_CHARS: usize = 1024;
/// The type in SPIRE's details; the part before the slash is anybody's.
const DETAILS: &str = "spire.api.types.PermissionDeniedDetails";

impl From<Status> for UpstreamError {
    fn from(status: Status) -> Self {
        if let Some(error) = cause::<ConnectError>(&status) {
            return if error.is_unknown_authority() {
                Self::UnknownAuthority(Box::new(status))
            } else {
                Self::Unavailable(Box::new(status))
            };
        }
        // A status that the server sent has no source; what broke the connection has.
        if status.source().is_some() {
            return Self::Unavailable(Box::new(status));
        }
        match status.code() {
            Grpc::Unavailable | Grpc::DeadlineExceeded | Grpc::Cancelled => {
                Self::Unavailable(Box::new(status))
            }
            Grpc::ResourceExhausted => Self::Overloaded {
                message: words(status.message()),
            },
            Grpc::PermissionDenied => match denial(status.details()) {
                Some(denial) => Self::Denied(denial),
                None => refused(&status),
            },
            _ => refused(&status),
        }
    }
}

fn refused(status: &Status) -> UpstreamError {
    UpstreamError::Refused {
        code: code(status.code()),
        message: words(status.message()),
    }
}

/// One item of a batch that the server did not do.
pub(super) fn refusal(status: &proto::spire::types::Status) -> Refusal {
    Refusal {
        code: code(Grpc::from_i32(status.code)),
        message: words(&status.message),
    }
}

fn words(message: &str) -> String {
    message.chars().take(MAX_MESSAGE_CHARS).collect()
}

/// The reason that a server gives with PERMISSION_DENIED: what the agent has to do about it.
fn denial(details: &[u8]) -> Option<Denial> {
    let status = tonic_types::pb::Status::decode(details).ok()?;
    let is_ours = |type_url: &str| type_url.rsplit('/').next() == Some(DETAILS);
    let any = status.details.iter().find(|any| is_ours(&any.type_url))?;
    let details = PermissionDeniedDetails::decode(any.value.as_slice()).ok()?;
    match Reason::try_from(details.reason).ok()? {
        Reason::Unknown => None,
        Reason::AgentExpired => Some(Denial::Expired),
        Reason::AgentNotAttested => Some(Denial::NotAttested),
        Reason::AgentNotActive => Some(Denial::NotActive),
        Reason::AgentBanned => Some(Denial::Banned),
        Reason::AgentMustReattest => Some(Denial::MustReattest),
    }
}

fn code(code: Grpc) -> Code {
    Code(match code {
        Grpc::Ok => "ok",
        Grpc::Cancelled => "cancelled",
        Grpc::Unknown => "unknown",
        Grpc::InvalidArgument => "invalid_argument",
        Grpc::DeadlineExceeded => "deadline_exceeded",
        Grpc::NotFound => "not_found",
        Grpc::AlreadyExists => "already_exists",
        Grpc::PermissionDenied => "permission_denied",
        Grpc::ResourceExhausted => "resource_exhausted",
        Grpc::FailedPrecondition => "failed_precondition",
        Grpc::Aborted => "aborted",
        Grpc::OutOfRange => "out_of_range",
        Grpc::Unimplemented => "unimplemented",
        Grpc::Internal => "internal",
        Grpc::Unavailable => "unavailable",
        Grpc::DataLoss => "data_loss",
        Grpc::Unauthenticated => "unauthenticated",
    })
}

fn cause<E: Error + 'static>(status: &Status) -> Option<&E> {
    let mut next = status.source();
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(type_url: &str, reason: i32) -> Status {
        let any = tonic_types::pb::Status {
            code: Grpc::PermissionDenied.into(),
            message: String::new(),
            details: vec![prost_types_any(
                type_url,
                &PermissionDeniedDetails { reason },
            )],
        };
        Status::with_details(Grpc::PermissionDenied, "no", any.encode_to_vec().into())
    }

    fn prost_types_any(type_url: &str, details: &PermissionDeniedDetails) -> prost_types::Any {
        prost_types::Any {
            type_url: type_url.to_owned(),
            value: details.encode_to_vec(),
        }
    }

    #[test]
    fn a_denial_is_told_by_its_details() {
        for (reason, denial) in [
            (1, Denial::Expired),
            (2, Denial::NotAttested),
            (3, Denial::NotActive),
            (4, Denial::Banned),
            (5, Denial::MustReattest),
        ] {
            let error = UpstreamError::from(denied(
                "type.googleapis.com/spire.api.types.PermissionDeniedDetails",
                reason,
            ));
            assert!(
                matches!(error, UpstreamError::Denied(found) if found == denial),
                "{error:?}"
            );
        }
    }

    #[test]
    fn a_denial_without_details_that_we_know_is_a_refusal() {
        for status in [
            Status::permission_denied("no"),
            denied("type.googleapis.com/some.other.Details", 4),
            denied(
                "type.googleapis.com/spire.api.types.PermissionDeniedDetails",
                0,
            ),
            denied(
                "type.googleapis.com/spire.api.types.PermissionDeniedDetails",
                99,
            ),
            Status::with_details(Grpc::PermissionDenied, "no", b"\xff\xff"[..].into()),
        ] {
            let error = UpstreamError::from(status);
            assert_eq!(error.reason(), "refused", "{error:?}");
        }
    }

    #[test]
    fn what_a_server_says_is_cut() {
        let UpstreamError::Refused { message, .. } =
            UpstreamError::from(Status::internal("x".repeat(5000)))
        else {
            panic!("a refusal");
        };
        assert_eq!(message.len(), 1024);
    }

    proptest::proptest! {
        #[test]
        fn details_never_panic(details in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = denial(&details);
        }
    }
}
