//! `spire.api.server.svid.v1.SVID`.

mod batch;
mod downstream;
mod mint;

use std::sync::Arc;

use identity::entry::EntryId;
use proto::spire::server::svid::svid_server::Svid;
use proto::spire::server::svid::{
    BatchNewWitsvidRequest, BatchNewWitsvidResponse, BatchNewX509svidRequest,
    BatchNewX509svidResponse, MintJwtsvidRequest, MintJwtsvidResponse, MintWitsvidRequest,
    MintWitsvidResponse, MintX509svidRequest, MintX509svidResponse, NewDownstreamX509caRequest,
    NewDownstreamX509caResponse, NewJwtsvidRequest, NewJwtsvidResponse,
};
use proto::spire::types;
use tonic::{Request, Response, Status};

use super::caller::{AgentCaller, Caller};
use super::convert::id_to_proto;
use super::status;
use super::{JwtSvids, Services};
use crate::audit::Event;
use crate::authority::JwtSvidRequest;
use crate::records::to_seconds;

/// More audiences than this are no honest request.
const MAX_AUDIENCES: usize = 64;
/// The longest audience.
const MAX_AUDIENCE_BYTES: usize = 2048;

#[derive(Debug)]
pub(super) struct Service {
    services: Arc<Services>,
}

impl Service {
    pub(super) fn new(services: Arc<Services>) -> Self {
        Self { services }
    }

    fn new_jwt_svid(
        &self,
        agent: &AgentCaller,
        request: &NewJwtsvidRequest,
    ) -> Result<types::Jwtsvid, Status> {
        let services = &self.services;
        if services.jwt_svids == JwtSvids::Disabled {
            return Err(Status::unimplemented("JWT functionality is disabled"));
        }
        let now = services.clock.now();
        let snapshot = services.index.snapshot();
        let entry = EntryId::parse(&request.entry_id)
            .ok()
            .and_then(|id| snapshot.entries.authorized_one(agent.asker(), &id, now))
            .ok_or_else(|| Status::not_found("entry not found or not authorized"))?;
        check_audience(&request.audience)?;
        let admitted = services.limits.sign(agent.id(), 1);
        admitted.map_err(|exceeded| status::limited(&exceeded))?;
        let entry = &entry.value;
        let wanted = JwtSvidRequest {
            id: &entry.spiffe_id,
            audience: &request.audience,
            ttl: entry.jwt_svid_ttl.unwrap_or(services.ttls.jwt_svid),
            include_jti: entry.jwt_svid_include_jti,
        };
        let issued = services
            .authorities
            .sign_jwt_svid(&wanted, now)
            .map_err(|error| status::sign("failed to sign JWT-SVID", &error))?;
        let event = Event::JwtSvidIssued {
            entry,
            expires_at: issued.expires_at,
        };
        services.audit.record(agent.id(), event);
        Ok(types::Jwtsvid {
            token: issued.token,
            id: Some(id_to_proto(&entry.spiffe_id)),
            expires_at: to_seconds(issued.expires_at),
            issued_at: to_seconds(issued.issued_at),
            hint: entry
                .hint
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
        })
    }
}

fn check_audience(audience: &[String]) -> Result<(), Status> {
    // JWT-SVID 3.2: an audience is a value that its validator knows itself by.
    if audience.iter().all(String::is_empty) {
        return Err(Status::invalid_argument(
            "at least one audience is required",
        ));
    }
    let too_long = |audience: &String| audience.len() > MAX_AUDIENCE_BYTES;
    if audience.len() > MAX_AUDIENCES || audience.iter().any(too_long) {
        return Err(Status::invalid_argument(format!(
            "audience is too long, the maximum is {MAX_AUDIENCES} of {MAX_AUDIENCE_BYTES} bytes"
        )));
    }
    Ok(())
}

#[tonic::async_trait]
impl Svid for Service {
    async fn batch_new_x509svid(
        &self,
        request: Request<BatchNewX509svidRequest>,
    ) -> Result<Response<BatchNewX509svidResponse>, Status> {
        let agent = Caller::agent_of(&request)?;
        let params = request.into_inner().params;
        let results = batch::issue(&self.services, &agent, params).await?;
        Ok(Response::new(BatchNewX509svidResponse { results }))
    }

    async fn new_jwtsvid(
        &self,
        request: Request<NewJwtsvidRequest>,
    ) -> Result<Response<NewJwtsvidResponse>, Status> {
        let agent = Caller::agent_of(&request)?;
        let svid = self.new_jwt_svid(&agent, &request.into_inner())?;
        Ok(Response::new(NewJwtsvidResponse { svid: Some(svid) }))
    }

    async fn batch_new_witsvid(
        &self,
        _request: Request<BatchNewWitsvidRequest>,
    ) -> Result<Response<BatchNewWitsvidResponse>, Status> {
        Err(Status::unimplemented("WIT functionality is disabled"))
    }

    async fn mint_x509svid(
        &self,
        request: Request<MintX509svidRequest>,
    ) -> Result<Response<MintX509svidResponse>, Status> {
        let caller = Caller::of(&request)?;
        let svid = mint::x509(&self.services, &caller, request.get_ref())?;
        Ok(Response::new(MintX509svidResponse { svid: Some(svid) }))
    }

    async fn mint_jwtsvid(
        &self,
        request: Request<MintJwtsvidRequest>,
    ) -> Result<Response<MintJwtsvidResponse>, Status> {
        let caller = Caller::of(&request)?;
        let svid = mint::jwt(&self.services, &caller, request.get_ref())?;
        Ok(Response::new(MintJwtsvidResponse { svid: Some(svid) }))
    }

    async fn mint_witsvid(
        &self,
        _request: Request<MintWitsvidRequest>,
    ) -> Result<Response<MintWitsvidResponse>, Status> {
        Err(Status::unimplemented("WIT functionality is disabled"))
    }

    async fn new_downstream_x509ca(
        &self,
        request: Request<NewDownstreamX509caRequest>,
    ) -> Result<Response<NewDownstreamX509caResponse>, Status> {
        let caller = Caller::of(&request)?;
        let answer = downstream::issue(&self.services, &caller, request.get_ref())?;
        Ok(Response::new(answer))
    }
}
