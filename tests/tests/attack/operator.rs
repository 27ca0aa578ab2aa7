//! An operator who replaces authorities, over the server's socket.

use proto::spire::server::localauthority::local_authority_client::LocalAuthorityClient;
use proto::spire::server::localauthority::{
    ActivateJwtAuthorityRequest, ActivateX509AuthorityRequest, AuthorityState,
    GetJwtAuthorityStateRequest, GetX509AuthorityStateRequest, PrepareJwtAuthorityRequest,
    PrepareX509AuthorityRequest, RevokeJwtAuthorityRequest, RevokeX509AuthorityRequest,
    RevokeX509UpstreamAuthorityRequest, TaintJwtAuthorityRequest, TaintX509AuthorityRequest,
    TaintX509UpstreamAuthorityRequest,
};
use tonic::Status;
use tonic::transport::Channel;

/// The kinds of authorities.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    X509,
    Jwt,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::X509, Self::Jwt];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
        }
    }
}

/// What is done with an authority, in this order.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Step {
    Prepare,
    Activate,
    Taint,
    Revoke,
}

impl Step {
    pub(crate) const ALL: [Self; 4] = [Self::Prepare, Self::Activate, Self::Taint, Self::Revoke];
}

/// The authorities of a kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct States {
    pub(crate) active: Option<AuthorityState>,
    pub(crate) prepared: Option<AuthorityState>,
    pub(crate) old: Option<AuthorityState>,
}

impl States {
    /// All that there are.
    pub(crate) fn live(&self) -> impl Iterator<Item = &AuthorityState> {
        [&self.active, &self.prepared, &self.old]
            .into_iter()
            .flatten()
    }
}

/// The name of an authority, or nothing.
pub(crate) fn name(state: Option<&AuthorityState>) -> String {
    state.map_or_else(String::new, |state| state.authority_id.clone())
}

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) struct Operator(LocalAuthorityClient<Channel>);

impl Operator {
    pub(crate) fn new(admin: Channel) -> Self {
        Self(LocalAuthorityClient::new(admin))
    }

    pub(crate) async fn states(&mut self, kind: Kind) -> Result<States, Status> {
        Ok(match kind {
            Kind::X509 => {
                let request = GetX509AuthorityStateRequest {};
                let states = self.0.get_x509_authority_state(request).await?.into_inner();
                States {
                    active: states.active,
                    prepared: states.prepared,
                    old: states.old,
                }
            }
            Kind::Jwt => {
                let request = GetJwtAuthorityStateRequest {};
                let states = self.0.get_jwt_authority_state(request).await?.into_inner();
                States {
                    active: states.active,
                    prepared: states.prepared,
                    old: states.old,
                }
            }
        })
    }

    /// Takes a step with the authority that it is for, which must be there.
    pub(crate) async fn take(&mut self, step: Step, kind: Kind) -> Result<(), Status> {
        let states = self.states(kind).await?;
        match step {
            Step::Prepare => self.prepare(kind).await,
            Step::Activate => self.activate(kind, name(states.prepared.as_ref())).await,
            Step::Taint | Step::Revoke => {
                let old = states.old.unwrap_or_default();
                let above = old.upstream_authority_subject_key_id;
                match above.as_str() {
                    "" => self.leave(step, kind, old.authority_id).await,
                    _ => self.leave_above(step, above).await,
                }
            }
        }
    }

    async fn prepare(&mut self, kind: Kind) -> Result<(), Status> {
        match kind {
            Kind::X509 => {
                let request = PrepareX509AuthorityRequest {};
                self.0.prepare_x509_authority(request).await.map(drop)
            }
            Kind::Jwt => {
                let request = PrepareJwtAuthorityRequest {};
                self.0.prepare_jwt_authority(request).await.map(drop)
            }
        }
    }

    async fn activate(&mut self, kind: Kind, authority_id: String) -> Result<(), Status> {
        match kind {
            Kind::X509 => {
                let request = ActivateX509AuthorityRequest { authority_id };
                self.0.activate_x509_authority(request).await.map(drop)
            }
            Kind::Jwt => {
                let request = ActivateJwtAuthorityRequest { authority_id };
                self.0.activate_jwt_authority(request).await.map(drop)
            }
        }
    }

    async fn leave(&mut self, step: Step, kind: Kind, authority_id: String) -> Result<(), Status> {
        match (step, kind) {
            (Step::Revoke, Kind::X509) => {
                let request = RevokeX509AuthorityRequest { authority_id };
                self.0.revoke_x509_authority(request).await.map(drop)
            }
            (Step::Revoke, Kind::Jwt) => {
                let request = RevokeJwtAuthorityRequest { authority_id };
                self.0.revoke_jwt_authority(request).await.map(drop)
            }
            (_, Kind::X509) => {
                let request = TaintX509AuthorityRequest { authority_id };
                self.0.taint_x509_authority(request).await.map(drop)
            }
            (_, Kind::Jwt) => {
                let request = TaintJwtAuthorityRequest { authority_id };
                self.0.taint_jwt_authority(request).await.map(drop)
            }
        }
    }

    async fn leave_above(&mut self, step: Step, subject_key_id: String) -> Result<(), Status> {
        if step == Step::Revoke {
            let request = RevokeX509UpstreamAuthorityRequest { subject_key_id };
            return self
                .0
                .revoke_x509_upstream_authority(request)
                .await
                .map(drop);
        }
        let request = TaintX509UpstreamAuthorityRequest { subject_key_id };
        self.0
            .taint_x509_upstream_authority(request)
            .await
            .map(drop)
    }
}
