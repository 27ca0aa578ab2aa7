//! The identity of the calling user, got through the agent's socket as any workload would, and
//! validated here.

use std::path::Path;
use std::time::Duration;

use identity::bundle::Bundle;
use identity::jwt::{self, ValidatedJwt};
use identity::spiffe_id::SpiffeId;
use identity::validity::Validity;
use identity::x509::{Purpose, X509Svid, verify_peer};
use runtime::backoff::Backoff;
use runtime::clock::Clock;
use tonic::Code;
use workload_api::client::{ClientError, Endpoint, WorkloadClient, X509Context};

use crate::failure::Failure;

/// Whom the shown token is for.
const AUDIENCE: &str = "signet-dev";

/// How long the agent may take to have the user's identity.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What the agent gave, after validation.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) x509: X509Svid,
    pub(super) bundle: Bundle,
    pub(super) jwt: ValidatedJwt,
    pub(super) jwt_validity: Option<Validity>,
}

/// Fetches and validates both kinds of SVID of the identity `id`.
pub(super) async fn identity(
    socket: &Path,
    id: &SpiffeId,
    clock: &Clock,
) -> Result<Fetched, Failure> {
    let failed = |error: ClientError| Failure::chain(&error);
    let endpoint = Endpoint::unix(socket).map_err(|error| Failure::chain(&error))?;
    let issued = tokio::time::timeout(PATIENCE, until_issued(&endpoint, id, clock)).await;
    let (client, context) = issued
        .map_err(|_elapsed| Failure::new(format!("the agent has no identity `{id}` yet")))??;
    let found = context
        .svids
        .into_iter()
        .find(|found| found.svid.id() == id);
    let Some(found) = found else {
        return Err(Failure::new(format!("the agent gave no identity `{id}`")));
    };
    let (x509, bundle) = (found.svid, found.bundle);
    verify_peer(
        x509.chain(),
        Purpose::ClientAuth,
        |_| Some(&bundle),
        clock.now(),
    )
    .map_err(|error| Failure::chain(&error).context("the X509-SVID is not valid"))?;

    let tokens = client
        .fetch_jwt(vec![AUDIENCE.to_owned()], Some(id))
        .await
        .map_err(failed)?;
    let Some(token) = tokens.first() else {
        return Err(Failure::new("the agent gave no JWT-SVID"));
    };
    let bundles = client.fetch_jwt_bundles().await.map_err(failed)?;
    let of = |trust_domain: &_| bundles.get(trust_domain);
    let jwt = jwt::validate(token.token(), AUDIENCE, of, clock.now())
        .map_err(|error| Failure::chain(&error).context("the JWT-SVID is not valid"))?;
    let (told, _claims) = client
        .validate_jwt(AUDIENCE, token.token())
        .await
        .map_err(|error| failed(error).context("the agent does not take its own JWT-SVID"))?;
    if told != jwt.id {
        return Err(Failure::new(format!(
            "the agent takes `{}` for `{told}`",
            jwt.id
        )));
    }
    Ok(Fetched {
        jwt_validity: token.validity(),
        x509,
        bundle,
        jwt,
    })
}

/// Waits for an answer with the identity: the socket opens once the agent is ready, and a new entry
/// takes it a moment to learn.
async fn until_issued(
    endpoint: &Endpoint,
    id: &SpiffeId,
    clock: &Clock,
) -> Result<(WorkloadClient, X509Context), Failure> {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    loop {
        match ask(endpoint).await {
            Ok((client, context)) if context.svids.iter().any(|found| found.svid.id() == id) => {
                return Ok((client, context));
            }
            Ok(_) | Err(ClientError::Connect(_)) => {}
            Err(error)
                if matches!(
                    error.code(),
                    Some(Code::PermissionDenied | Code::Unavailable)
                ) => {}
            Err(error) => return Err(Failure::chain(&error)),
        }
        clock.sleep(backoff.next_delay()).await;
    }
}

async fn ask(endpoint: &Endpoint) -> Result<(WorkloadClient, X509Context), ClientError> {
    let client = WorkloadClient::connect(endpoint).await?;
    let context = client.fetch_x509().await?;
    Ok((client, context))
}
