//! A server of our trust domain above this one, SPIRE's or one of ours, signs our authorities (SPIRE's
//! plugin `spire`).
//!
//! To it we are a workload with an entry that says `downstream`: an agent beside us gives us the identity
//! that we show. Whatever fails here ends nothing that is already issued; whoever asked asks again.

mod line;
mod source;
mod wire;

use std::time::{Duration, SystemTime};

use identity::bundle::{Bundle, JwtAuthority};
use identity::trust_domain::TrustDomain;
use identity::x509::find_root;
use proto::spire::server::bundle::bundle_client::BundleClient;
use proto::spire::server::bundle::{GetBundleRequest, PublishJwtAuthorityRequest};
use proto::spire::server::svid::NewDownstreamX509caRequest;
use proto::spire::server::svid::svid_client::SvidClient;
use runtime::clock::Clock;
use runtime::config::HostPort;
use runtime::tasks::TaskGroup;
use workload_api::client::Endpoint;

use self::line::Line;
use self::source::Source;
use super::{CaRequest, Minted};
use crate::api::convert::bundle::jwt_to_proto;
use crate::authority::x509::sign_request;

/// How long a call may take, connecting and the wait for an identity included.
const DEADLINE: Duration = Duration::from_secs(10);
/// A bundle with its 1,024 JWT authorities has less; gRPC's own limit.
const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Where the server above is, and who tells it who we are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SpireConfig {
    /// The port for agents of the server above.
    pub server: HostPort,
    /// The Workload API of an agent beside us.
    pub workload_api: Endpoint,
}

/// Why the server above did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum SpireError {
    #[error("the Workload API at `{endpoint}` has given this server no X509-SVID yet: {trouble}")]
    NoIdentity { endpoint: Endpoint, trouble: String },
    #[error("the upstream server `{server}` cannot be reached")]
    Away {
        server: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the upstream server `{server}` did not answer within {} s", DEADLINE.as_secs())]
    Silent { server: String },
    #[error("the upstream server `{server}` refused: {message} ({code})")]
    Refused {
        server: String,
        code: String,
        message: String,
    },
    #[error("the upstream server `{server}` gave an answer that cannot be used")]
    Answer {
        server: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("could not write the request for a certificate")]
    Request(#[from] rcgen::Error),
}

impl SpireError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoIdentity { .. } => "upstream_no_identity",
            Self::Away { .. } => "upstream_away",
            Self::Silent { .. } => "upstream_silent",
            Self::Refused { .. } => "upstream_refused",
            Self::Answer { .. } => "upstream_answer",
            Self::Request(_) => "upstream_request",
        }
    }
}

/// The server above. Its connection is made by the first call.
#[derive(Debug)]
pub(super) struct Spire {
    trust_domain: TrustDomain,
    line: Line,
}

impl Spire {
    /// Begins to follow the Workload API, in a task of `tasks`.
    pub(super) fn start(
        config: SpireConfig,
        trust_domain: TrustDomain,
        clock: Clock,
        tasks: &TaskGroup,
    ) -> Self {
        let source = Source::start(
            config.workload_api,
            trust_domain.clone(),
            clock.clone(),
            tasks,
        );
        Self {
            line: Line::new(config.server, source, clock),
            trust_domain,
        }
    }

    pub(super) async fn mint(
        &self,
        request: CaRequest<'_>,
        now: SystemTime,
    ) -> Result<Minted, SpireError> {
        let ask = NewDownstreamX509caRequest {
            csr: sign_request(&request)?.into(),
            preferred_ttl: i32::try_from(request.ttl.as_secs()).unwrap_or(i32::MAX),
        };
        let call = |channel| async move {
            let mut client = SvidClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
            client.new_downstream_x509ca(ask).await
        };
        let answer = self.line.call(call).await?;
        let unusable = |source: wire::Unusable| self.line.unusable(source);
        let mut chain = wire::certificates(&answer.ca_cert_chain).map_err(unusable)?;
        let roots = wire::certificates(&answer.x509_authorities).map_err(unusable)?;
        let root = find_root(&chain, &roots, now);
        let root = root.map_err(|error| self.line.unusable(error))?.clone();
        // A root is what peers have already.
        chain.retain(|certificate| !roots.contains(certificate));
        Ok(Minted { chain, roots, root })
    }

    /// Has a key counted in the whole trust domain.
    pub(super) async fn publish(&self, authority: &JwtAuthority) -> Result<(), SpireError> {
        let ask = PublishJwtAuthorityRequest {
            jwt_authority: Some(jwt_to_proto(authority)),
        };
        // What it answers is its whole list of keys, which comes with its bundle.
        let call = |channel| async move {
            let mut client =
                BundleClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
            client.publish_jwt_authority(ask).await
        };
        self.line.call(call).await?;
        Ok(())
    }

    /// The bundle of the trust domain, as the server above has it.
    pub(super) async fn bundle(&self) -> Result<Bundle, SpireError> {
        let call = |channel| async move {
            let mut client =
                BundleClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
            client.get_bundle(GetBundleRequest::default()).await
        };
        let answer = self.line.call(call).await?;
        wire::bundle(&answer, &self.trust_domain).map_err(|error| self.line.unusable(error))
    }
}
