//! `BatchNewX509SVID`: the hot path. Each item has a status of its own; the batch is spread over the
//! cores.

use std::sync::Arc;
use std::time::SystemTime;

use identity::entry::EntryId;
use identity::x509::{Csr, CsrError};
use proto::spire::server::svid::{NewX509svidParams, batch_new_x509svid_response};
use proto::spire::types;
use tonic::Status;

use super::super::Services;
use super::super::caller::AgentCaller;
use super::super::convert::id_to_proto;
use super::super::status;
use crate::audit::Event;
use crate::authority::{Subject, X509SvidRequest};
use crate::index::entries::StoredEntry;
use crate::records::to_seconds;

/// The largest batch. SPIRE's agents send no more.
const MAX_BATCH: usize = 500;

/// The path of the RPC, for the audit trail.
const NEW: &str = "/spire.api.server.svid.v1.SVID/BatchNewX509SVID";

type Results = Vec<batch_new_x509svid_response::Result>;

/// One item: what was asked for, and the entry if the agent may have it.
struct Item {
    asked: String,
    entry: Result<StoredEntry, Status>,
    csr: bytes::Bytes,
}

pub(super) async fn issue(
    services: &Arc<Services>,
    agent: &AgentCaller,
    params: Vec<NewX509svidParams>,
) -> Result<Results, Status> {
    if params.is_empty() {
        return Err(Status::invalid_argument("missing parameters"));
    }
    if params.len() > MAX_BATCH {
        return Err(Status::invalid_argument(format!(
            "too many parameters, the maximum is {MAX_BATCH}"
        )));
    }
    let admitted = services.limits.sign(agent.id(), params.len());
    admitted.map_err(|exceeded| status::limited(&exceeded))?;
    let now = services.clock.now();
    let snapshot = services.index.snapshot();
    let items: Vec<Item> = params
        .into_iter()
        .map(|param| {
            let entry = EntryId::parse(&param.entry_id).ok();
            let entry =
                entry.and_then(|id| snapshot.entries.authorized_one(agent.asker(), &id, now));
            Item {
                entry: check(&param, entry),
                csr: param.csr,
                asked: param.entry_id,
            }
        })
        .collect();
    drop(snapshot);
    let (signing, agent) = (Arc::clone(services), agent.clone());
    let signed = services
        .authorities
        .sign_batch(items, move |_, item| one(&signing, &agent, &item, now))
        .await;
    signed.map_err(|error| status::sign("failed to sign X509-SVID", &error))
}

/// Looks for what is missing, in SPIRE's order.
fn check(param: &NewX509svidParams, entry: Option<StoredEntry>) -> Result<StoredEntry, Status> {
    if param.entry_id.is_empty() {
        return Err(Status::invalid_argument("missing entry ID"));
    }
    if param.csr.is_empty() {
        return Err(Status::invalid_argument("missing CSR"));
    }
    // Whether it exists is not told: an agent cannot learn which entries others have.
    entry.ok_or_else(|| Status::not_found("entry not found or not authorized"))
}

fn one(
    services: &Services,
    agent: &AgentCaller,
    item: &Item,
    now: SystemTime,
) -> batch_new_x509svid_response::Result {
    let signed = item
        .entry
        .clone()
        .and_then(|entry| sign(services, agent, &entry, &item.csr, now));
    let (status, svid) = match signed {
        Ok(svid) => (status::ok(), Some(svid)),
        Err(status) => {
            let what = (NEW, item.asked.as_str());
            (
                status::refused_item(services, agent.id(), what, &status),
                None,
            )
        }
    };
    batch_new_x509svid_response::Result {
        status: Some(status),
        svid,
    }
}

/// Signs one SVID. All of it comes from the entry; of the CSR only the public key is used.
fn sign(
    services: &Services,
    agent: &AgentCaller,
    entry: &StoredEntry,
    csr: &[u8],
    now: SystemTime,
) -> Result<types::X509svid, Status> {
    let csr = Csr::parse_and_verify(csr).map_err(|error| {
        let what = match error {
            CsrError::Signature(_) => "invalid CSR signature",
            _ => "malformed CSR",
        };
        status::invalid(what, &error)
    })?;
    let entry = &entry.value;
    let request = X509SvidRequest {
        id: &entry.spiffe_id,
        public_key: csr.public_key(),
        dns_names: &entry.dns_names,
        ttl: entry.x509_svid_ttl.unwrap_or(services.ttls.x509_svid),
        subject: Subject::Workload,
        name: None,
    };
    let issued = services
        .authorities
        .sign_x509_svid(&request, now)
        .map_err(|error| status::sign("failed to sign X509-SVID", &error))?;
    let serial = &issued.serial;
    let event = Event::X509SvidIssued {
        entry,
        serial,
        not_after: issued.not_after,
    };
    services.audit.record(agent.id(), event);
    Ok(types::X509svid {
        cert_chain: issued.chain.clone(),
        id: Some(id_to_proto(&entry.spiffe_id)),
        expires_at: to_seconds(issued.not_after),
        hint: entry
            .hint
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
    })
}
