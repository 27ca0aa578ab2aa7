//! Commands that ask a server over its API socket.

mod agents;
mod authorities;
mod bundles;
mod debug;
mod entries;
mod entry_file;
mod federation;
mod filter;
mod health;
mod logger;
mod mint;
mod purge;
mod tokens;
mod upstream;

use identity::spiffe_id::SpiffeId;
use proto::spire::types::Spiffeid;
use tonic::transport::Channel;

use crate::failure::Failure;
use crate::flags::Values;
use crate::rpc;
use crate::session::Session;
use crate::socket::SERVER;
use crate::table::ServerAction;

/// Runs a command that asks a server.
pub(crate) async fn run(
    action: ServerAction,
    session: &mut Session,
    values: &Values,
) -> Result<(), Failure> {
    match action {
        ServerAction::AgentBan => agents::ban(session, values).await,
        ServerAction::AgentCount => agents::count(session, values).await,
        ServerAction::AgentEvict => agents::evict(session, values).await,
        ServerAction::AgentList => agents::list(session, values).await,
        ServerAction::AgentPurge => purge::purge(session, values).await,
        ServerAction::AgentShow => agents::show(session, values).await,
        ServerAction::AuthorityShow(kind) => authorities::show(kind, session, values).await,
        ServerAction::AuthorityStep(step, kind) => {
            authorities::step(step, kind, session, values).await
        }
        ServerAction::BundleCount => bundles::count(session, values).await,
        ServerAction::BundleDelete => bundles::delete(session, values).await,
        ServerAction::BundleList => bundles::list(session, values).await,
        ServerAction::BundleSet => bundles::set(session, values).await,
        ServerAction::BundleShow => bundles::show(session, values).await,
        ServerAction::DebugGetInfo => debug::info(session, values).await,
        ServerAction::EntryCount => entries::count(session, values).await,
        ServerAction::EntryCreate => entries::create(session, values).await,
        ServerAction::EntryDelete => entries::delete(session, values).await,
        ServerAction::EntryShow => entries::show(session, values).await,
        ServerAction::EntryUpdate => entries::update(session, values).await,
        ServerAction::FederationCreate => federation::create(session, values).await,
        ServerAction::FederationDelete => federation::delete(session, values).await,
        ServerAction::FederationList => federation::list(session, values).await,
        ServerAction::FederationRefresh => federation::refresh(session, values).await,
        ServerAction::FederationShow => federation::show(session, values).await,
        ServerAction::FederationUpdate => federation::update(session, values).await,
        ServerAction::Healthcheck => health::check(session, values).await,
        ServerAction::UpstreamRevoke => upstream::revoke(session, values).await,
        ServerAction::UpstreamTaint => upstream::taint(session, values).await,
        ServerAction::LoggerGet => logger::get(session, values).await,
        ServerAction::LoggerReset => logger::reset(session, values).await,
        ServerAction::LoggerSet => logger::set(session, values).await,
        ServerAction::JwtMint => mint::jwt(session, values).await,
        ServerAction::X509Mint => mint::x509(session, values).await,
        ServerAction::TokenGenerate => tokens::generate(session, values).await,
        ServerAction::Backup
        | ServerAction::Restore
        | ServerAction::Run
        | ServerAction::Validate => Err(Failure::new("not a question to a server")),
    }
}

/// Connects to the server's socket. Done by each command only after it has checked its own flags.
pub(crate) async fn connect(session: &Session, values: &Values) -> Result<Channel, Failure> {
    let path = SERVER.path(values, &session.environment)?;
    rpc::connect(&path, &format!("//{}", path.display())).await
}

/// The same for a command that says what it `tried` of every failure of its call. SPIRE's connect only when
/// they call, so it is said of a server that is not there too.
async fn connect_to(session: &Session, values: &Values, tried: &str) -> Result<Channel, Failure> {
    // Which socket is meant is settled before the call.
    SERVER.path(values, &session.environment)?;
    let channel = connect(session, values).await;
    channel.map_err(|failure| failure.context(tried))
}

/// Parses a SPIFFE ID for a request.
fn spiffe_id(text: &str) -> Result<Spiffeid, Failure> {
    let id = SpiffeId::parse(text).map_err(|error| Failure::chain(&error))?;
    Ok(Spiffeid {
        trust_domain: id.trust_domain().name().to_owned(),
        path: id.path().to_owned(),
    })
}

/// Prints a SPIFFE ID of an answer. It is the server's word and only shown, so it is not parsed.
fn shown(id: Option<&Spiffeid>) -> String {
    id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path))
        .unwrap_or_default()
}

/// Narrows a number of a flag to what its message holds.
fn int32(number: i64, what: &str) -> Result<i32, Failure> {
    let narrow = i32::try_from(number).ok();
    narrow.ok_or_else(|| {
        Failure::new(format!(
            "invalid value for {what}: overflow converting int({number}) to int32"
        ))
    })
}

/// `one` or `many` after a count.
fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}
