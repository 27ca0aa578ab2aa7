//! `spire.api.server.localauthority.v1.LocalAuthority`: an operator replaces a signing key.
//!
//! Codes and sentences are SPIRE's; tools match on them.

use std::sync::Arc;

use proto::spire::server::localauthority as api;
use proto::spire::server::localauthority::AuthorityState;
use proto::spire::server::localauthority::local_authority_server::LocalAuthority;
use tonic::{Request, Response, Status};
use tracing::error;

use super::caller::Caller;
use super::{JwtSvids, Services};
use crate::audit::{Event, Turn};
use crate::authority::{Kind, Known, Refused, RotateError, States};
use crate::records::to_seconds;

#[derive(Debug)]
pub(super) struct Service {
    services: Arc<Services>,
}

/// What is asked of an authority.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Activate,
    Taint,
    Revoke,
}

impl Service {
    pub(super) fn new(services: Arc<Services>) -> Self {
        Self { services }
    }

    fn check_kind(&self, kind: Kind) -> Result<(), Status> {
        match (kind, self.services.jwt_svids) {
            (Kind::Jwt, JwtSvids::Disabled) => {
                Err(Status::unimplemented("JWT functionality is disabled"))
            }
            (Kind::X509 | Kind::Jwt, _) => Ok(()),
        }
    }

    async fn states(&self, kind: Kind) -> Result<States, Status> {
        self.check_kind(kind)?;
        let states = self.services.authorities.states(kind).await;
        if states.active.is_none() {
            return Err(Status::unavailable("server is initializing"));
        }
        Ok(states)
    }

    async fn prepare(&self, kind: Kind, caller: &Caller) -> Result<Option<AuthorityState>, Status> {
        self.states(kind).await?;
        let prepared = self.services.authorities.prepare(kind).await;
        let states = prepared.map_err(|cause| {
            internal(
                &format!("failed to prepare {} authority", name(kind)),
                &cause,
            )
        })?;
        if let Some(known) = &states.prepared {
            let event = Event::Authority(Turn::Prepared, kind, &known.authority_id);
            self.services.audit.record(caller, event);
        }
        Ok(shown(states.prepared))
    }

    async fn step(
        &self,
        step: Step,
        kind: Kind,
        id: &str,
        caller: &Caller,
    ) -> Result<States, Status> {
        self.check_kind(kind)?;
        if id.is_empty() {
            return Err(Status::invalid_argument(match step {
                Step::Activate | Step::Taint => "no authority ID provided",
                Step::Revoke => "invalid authority ID: no authority ID provided",
            }));
        }
        let authorities = &self.services.authorities;
        let (event, outcome) = match step {
            Step::Activate => (
                Event::Authority(Turn::Activated, kind, id),
                authorities.activate(kind, id).await,
            ),
            Step::Taint => (
                Event::Authority(Turn::Tainted, kind, id),
                authorities.taint(kind, id).await,
            ),
            Step::Revoke => (
                Event::Authority(Turn::Revoked, kind, id),
                authorities.revoke(kind, id).await,
            ),
        };
        let states = outcome.map_err(|cause| refused(step, kind, &cause))?;
        self.services.audit.record(caller, event);
        Ok(states)
    }

    /// Taints or revokes an upstream authority by the name that SPIRE's tools give it, in any case.
    async fn upstream(&self, step: Step, id: &str, caller: &Caller) -> Result<String, Status> {
        let id = id.to_ascii_lowercase();
        let authorities = &self.services.authorities;
        let (outcome, event) = match step {
            Step::Revoke => (
                authorities.revoke_upstream(&id).await,
                Event::UpstreamRevoked(&id),
            ),
            Step::Activate | Step::Taint => (
                authorities.taint_upstream(&id).await,
                Event::UpstreamTainted(&id),
            ),
        };
        outcome.map_err(|cause| refused_upstream(step, &cause))?;
        self.services.audit.record(caller, event);
        Ok(id)
    }
}

const fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::X509 => "X.509",
        Kind::Jwt => "JWT",
    }
}

fn shown(known: Option<Known>) -> Option<AuthorityState> {
    known.map(|known| AuthorityState {
        authority_id: known.authority_id,
        expires_at: to_seconds(known.not_after),
        upstream_authority_subject_key_id: known.upstream_id.unwrap_or_default(),
    })
}

/// An authority of which there is nothing but its name to be told.
fn named(authority_id: String) -> Option<AuthorityState> {
    Some(AuthorityState {
        authority_id,
        ..Default::default()
    })
}

/// Why a step was not taken, in SPIRE's words.
fn refused(step: Step, kind: Kind, cause: &RotateError) -> Status {
    let name = name(kind);
    let what = match step {
        Step::Activate => format!("failed to activate {name} authority"),
        Step::Taint => format!("failed to taint {name} authority"),
        Step::Revoke => format!("failed to revoke {name} authority"),
    };
    let RotateError::Refused(refused) = cause else {
        return internal(&what, cause);
    };
    if *refused == Refused::HasUpstream {
        let done = match step {
            Step::Revoke => "revoked",
            Step::Activate | Step::Taint => "tainted",
        };
        return Status::failed_precondition(format!(
            "local authority can't be {done} if there is an upstream authority"
        ));
    }
    let status = "unsupported local authority status";
    match (step, refused) {
        (Step::Activate, Refused::NotPrepared) => Status::internal(format!(
            "only Prepared authorities can be activated: {status}: OLD"
        )),
        (Step::Activate, _) => Status::invalid_argument("unexpected authority ID"),
        (Step::Taint, Refused::Active) => {
            Status::invalid_argument("unable to taint current local authority")
        }
        (Step::Taint, Refused::Prepared) => Status::invalid_argument(format!(
            "only Old local authorities can be tainted: {status}: PREPARED"
        )),
        (Step::Taint, Refused::AlreadyTainted) => Status::internal(match kind {
            Kind::X509 => format!("{what}: root CA is already tainted"),
            Kind::Jwt => format!("{what}: key is already tainted"),
        }),
        (Step::Taint, Refused::NotInBundle) => Status::internal(match kind {
            Kind::X509 => format!("{what}: no ca found with provided subject key ID"),
            Kind::Jwt => format!("{what}: no JWT Key found with provided key ID"),
        }),
        (Step::Taint, _) => Status::invalid_argument("unexpected authority ID"),
        (Step::Revoke, Refused::NotTainted) => Status::internal(match kind {
            Kind::X509 => format!("{what}: it is not possible to revoke an untainted root CA"),
            Kind::Jwt => format!("{what}: it is not possible to revoke an untainted key"),
        }),
        (Step::Revoke, Refused::NotInBundle) => Status::internal(match kind {
            Kind::X509 => format!("{what}: no root CA found with provided subject key ID"),
            Kind::Jwt => format!("{what}: no JWT Key found with provided key ID"),
        }),
        (Step::Revoke, refused) => {
            let why = match (kind, refused) {
                (_, Refused::Active) => "unable to use current authority",
                (Kind::Jwt, Refused::Prepared) => "unable to use a prepared key",
                (Kind::X509, _) => "only Old local authority can be revoked",
                (Kind::Jwt, _) => "no JWT authority found with provided authority ID",
            };
            Status::invalid_argument(format!("invalid authority ID: {why}"))
        }
    }
}

fn internal(what: &str, cause: &RotateError) -> Status {
    error!(
        error = runtime::report::chain(cause),
        error.reason = cause.reason(),
        operation = what,
        "Could not change the authorities"
    );
    Status::internal(what.to_owned())
}

/// Why an upstream authority was not tainted or revoked, in SPIRE's words.
fn refused_upstream(step: Step, cause: &RotateError) -> Status {
    let (invalid, what) = match step {
        Step::Revoke => (
            "invalid subject key ID",
            "failed to revoke X.509 upstream authority",
        ),
        _ => (
            "provided subject key id is not valid",
            "failed to taint upstream authority",
        ),
    };
    let RotateError::Refused(refused) = cause else {
        return internal(what, cause);
    };
    let why = match (step, refused) {
        (_, Refused::NoUpstream) => {
            return Status::failed_precondition("upstream authority is not configured");
        }
        (Step::Revoke, Refused::NotInBundle) => {
            return Status::internal(format!(
                "{what}: no root CA found with provided subject key ID"
            ));
        }
        (_, Refused::NotInBundle) => {
            return Status::internal(format!("{what}: no ca found with provided subject key ID"));
        }
        (_, Refused::AlreadyTainted) => {
            return Status::internal(format!("{what}: root CA is already tainted"));
        }
        (_, Refused::NotTainted) => {
            return Status::internal(format!(
                "{what}: it is not possible to revoke an untainted root CA"
            ));
        }
        // SPIRE's word is `singing`.
        (_, Refused::UpstreamActive) => {
            "unable to use upstream authority singing current authority"
        }
        (_, Refused::UpstreamPrepared) => {
            "only upstream authorities signing an old authority can be used"
        }
        _ => "upstream authority didn't sign the old local authority",
    };
    Status::invalid_argument(format!("{invalid}: {why}"))
}

macro_rules! kinds {
    (
        built {
            $( $kind:ident: $get:ident $get_q:ident $get_a:ident,
               $prepare:ident $prepare_q:ident $prepare_a:ident,
               $activate:ident $activate_q:ident $activate_a:ident,
               $taint:ident $taint_q:ident $taint_a:ident,
               $revoke:ident $revoke_q:ident $revoke_a:ident; )*
        }
        unbuilt { $( $wit:ident $wit_q:ident $wit_a:ident; )* }
    ) => {
        #[tonic::async_trait]
        impl LocalAuthority for Service {
            $(
                async fn $get(&self, _: Request<api::$get_q>) -> Result<Response<api::$get_a>, Status> {
                    let States { active, prepared, old } = self.states(Kind::$kind).await?;
                    Ok(Response::new(api::$get_a {
                        active: shown(active),
                        prepared: shown(prepared),
                        old: shown(old),
                    }))
                }

                async fn $prepare(&self, request: Request<api::$prepare_q>) -> Result<Response<api::$prepare_a>, Status> {
                    let prepared_authority = self.prepare(Kind::$kind, &Caller::of(&request)?).await?;
                    Ok(Response::new(api::$prepare_a { prepared_authority }))
                }

                async fn $activate(&self, request: Request<api::$activate_q>) -> Result<Response<api::$activate_a>, Status> {
                    let caller = Caller::of(&request)?;
                    let id = request.into_inner().authority_id;
                    let states = self.step(Step::Activate, Kind::$kind, &id, &caller).await?;
                    Ok(Response::new(api::$activate_a { activated_authority: shown(states.active) }))
                }

                async fn $taint(&self, request: Request<api::$taint_q>) -> Result<Response<api::$taint_a>, Status> {
                    let caller = Caller::of(&request)?;
                    let id = request.into_inner().authority_id;
                    let states = self.step(Step::Taint, Kind::$kind, &id, &caller).await?;
                    let tainted_authority = match Kind::$kind {
                        Kind::X509 => shown(states.old),
                        Kind::Jwt => named(id),
                    };
                    Ok(Response::new(api::$taint_a { tainted_authority }))
                }

                async fn $revoke(&self, request: Request<api::$revoke_q>) -> Result<Response<api::$revoke_a>, Status> {
                    let caller = Caller::of(&request)?;
                    let id = request.into_inner().authority_id;
                    self.step(Step::Revoke, Kind::$kind, &id, &caller).await?;
                    Ok(Response::new(api::$revoke_a { revoked_authority: named(id) }))
                }
            )*

            async fn taint_x509_upstream_authority(
                &self,
                request: Request<api::TaintX509UpstreamAuthorityRequest>,
            ) -> Result<Response<api::TaintX509UpstreamAuthorityResponse>, Status> {
                let caller = Caller::of(&request)?;
                let id = request.into_inner().subject_key_id;
                let upstream_authority_subject_key_id = self.upstream(Step::Taint, &id, &caller).await?;
                Ok(Response::new(api::TaintX509UpstreamAuthorityResponse { upstream_authority_subject_key_id }))
            }

            async fn revoke_x509_upstream_authority(
                &self,
                request: Request<api::RevokeX509UpstreamAuthorityRequest>,
            ) -> Result<Response<api::RevokeX509UpstreamAuthorityResponse>, Status> {
                let caller = Caller::of(&request)?;
                let id = request.into_inner().subject_key_id;
                let upstream_authority_subject_key_id = self.upstream(Step::Revoke, &id, &caller).await?;
                Ok(Response::new(api::RevokeX509UpstreamAuthorityResponse { upstream_authority_subject_key_id }))
            }

            $(
                async fn $wit(&self, _: Request<api::$wit_q>) -> Result<Response<api::$wit_a>, Status> {
                    Err(Status::unimplemented("WIT-SVID functionality is not yet implemented"))
                }
            )*
        }
    };
}

kinds! {
    built {
    X509:
        get_x509_authority_state GetX509AuthorityStateRequest GetX509AuthorityStateResponse,
        prepare_x509_authority PrepareX509AuthorityRequest PrepareX509AuthorityResponse,
        activate_x509_authority ActivateX509AuthorityRequest ActivateX509AuthorityResponse,
        taint_x509_authority TaintX509AuthorityRequest TaintX509AuthorityResponse,
        revoke_x509_authority RevokeX509AuthorityRequest RevokeX509AuthorityResponse;
    Jwt:
        get_jwt_authority_state GetJwtAuthorityStateRequest GetJwtAuthorityStateResponse,
        prepare_jwt_authority PrepareJwtAuthorityRequest PrepareJwtAuthorityResponse,
        activate_jwt_authority ActivateJwtAuthorityRequest ActivateJwtAuthorityResponse,
        taint_jwt_authority TaintJwtAuthorityRequest TaintJwtAuthorityResponse,
        revoke_jwt_authority RevokeJwtAuthorityRequest RevokeJwtAuthorityResponse;
    }
    unbuilt {
        get_wit_authority_state GetWitAuthorityStateRequest GetWitAuthorityStateResponse;
        prepare_wit_authority PrepareWitAuthorityRequest PrepareWitAuthorityResponse;
        activate_wit_authority ActivateWitAuthorityRequest ActivateWitAuthorityResponse;
        taint_wit_authority TaintWitAuthorityRequest TaintWitAuthorityResponse;
        revoke_wit_authority RevokeWitAuthorityRequest RevokeWitAuthorityResponse;
    }
}
