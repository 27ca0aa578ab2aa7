//! The service `signet.node.v1.Explain`: why a process has no identity.

use std::sync::Arc;

use identity::entry::Entry;
use identity::selector::Selectors;
use proto::signet::node::explain_request::Subject;
use proto::signet::node::{self as wire, ExplainRequest, ExplainResponse, PodName, explain_server};
use runtime::report;
use runtime::unix::Peer;
use tonic::{Request, Response, Status};

use super::wire::seconds;
use super::{Services, authorize};
use crate::attest::{Seen, Sight};
use crate::cache::account::{Gone, Issued, Match, Missing, Near, Progress};
use crate::credentials::Credentials;
use crate::explain::{Explanation, Refusal};
use crate::source::Source;
use crate::upstream::Upstream;

/// How many processes of one pod are explained.
const MOST: usize = 16;

/// The service.
pub(super) struct Service<U> {
    source: Arc<Source<U>>,
    credentials: Arc<Credentials>,
}

impl<U: Upstream> Service<U> {
    pub(super) fn new(services: &Services<U>) -> Self {
        Self {
            source: Arc::clone(&services.source),
            credentials: Arc::clone(&services.credentials),
        }
    }

    async fn pids(&self, pod: &PodName) -> Result<Vec<u32>, Status> {
        let Some(k8s) = self.source.attestors().k8s() else {
            return Err(Status::failed_precondition(
                "the agent has no workload attestor `k8s`, so it knows no pods",
            ));
        };
        let found = k8s.processes_of(&pod.namespace, &pod.name).await;
        let mut pids = found.map_err(|error| Status::unavailable(report::chain(&error)))?;
        if pids.is_empty() {
            return Err(Status::not_found(format!(
                "the kubelet of this node reports no pod {}/{} that has a process here",
                pod.namespace, pod.name
            )));
        }
        pids.truncate(MOST);
        Ok(pids)
    }

    fn standing(&self) -> wire::Standing {
        let standing = self.source.standing();
        let failing = standing.status.failing;
        let own = self.credentials.own();
        let (denial, denied_at) = match standing.denial {
            Some((denial, at)) => (denial.reason().to_owned(), seconds(at)),
            None => (String::new(), 0),
        };
        wire::Standing {
            spiffe_id: own.svid.id().to_string(),
            svid_expires_at: seconds(own.svid.validity().not_after()),
            entries: i64::try_from(self.source.driver().census().entries).unwrap_or(i64::MAX),
            last_sync_success: standing.status.last_success.map_or(0, seconds),
            failing_since: failing.as_ref().map_or(0, |failing| seconds(failing.since)),
            failure_reason: (failing.as_ref())
                .map(|failing| failing.reason.to_owned())
                .unwrap_or_default(),
            failure: failing
                .map(|failing| failing.error.to_string())
                .unwrap_or_default(),
            denial,
            denied_at,
        }
    }
}

#[tonic::async_trait]
impl<U: Upstream> explain_server::Explain for Service<U> {
    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        authorize(&request)?;
        let pids = match request.into_inner().subject {
            Some(Subject::Pid(pid)) => vec![u32::try_from(pid).unwrap_or_default()],
            Some(Subject::Pod(pod)) => self.pids(&pod).await?,
            None => return Err(Status::invalid_argument("a process or a pod must be named")),
        };
        let is_one = pids.len() == 1;
        let mut processes = Vec::new();
        for pid in pids {
            match Peer::of_pid(pid) {
                Ok(peer) => {
                    let explained = self.source.explain(&Arc::new(peer)).await;
                    processes.push(encode(explained));
                }
                Err(error) if is_one => return Err(Status::not_found(report::chain(&error))),
                // It ended since it was found.
                Err(_) => {}
            }
        }
        Ok(Response::new(ExplainResponse {
            agent: Some(self.standing()),
            processes,
        }))
    }
}

fn encode(explained: Explanation) -> wire::Explanation {
    let number = |id: u32| i32::try_from(id).unwrap_or(-1);
    let (account, refusals) = (&explained.account, &explained.refusals);
    wire::Explanation {
        pid: number(explained.pid),
        uid: number(explained.uid),
        gid: number(explained.gid),
        has_identity: explained.has_identity,
        attestors: explained.sights.iter().map(sight).collect(),
        selectors: texts(&explained.selectors),
        matching: (account.matching.iter())
            .map(|found| matched(found, refusals))
            .collect(),
        nearest: account.nearest.iter().map(near).collect(),
        withdrawn: account.withdrawn.iter().map(gone).collect(),
        verdict: explained.verdict,
    }
}

fn sight(sight: &Sight) -> wire::Sight {
    let none = Selectors::default();
    let (outcome, reason, error, selectors) = match &sight.seen {
        Seen::Attested(selectors) => ("attested", "", "", selectors),
        Seen::Denied { reason, error } => ("denied", *reason, error.as_str(), &none),
        Seen::Failed { reason, error } => ("failed", *reason, error.as_str(), &none),
    };
    wire::Sight {
        attestor: sight.attestor.clone(),
        outcome: outcome.to_owned(),
        reason: reason.to_owned(),
        error: error.to_owned(),
        selectors: texts(selectors),
    }
}

fn matched(found: &Match, refusals: &[Refusal]) -> wire::Match {
    let refusal = (refusals.iter()).find(|refusal| refusal.entry_id == found.entry.id);
    let (state, retries_at) = match found.progress {
        Progress::Idle if found.issued.is_some() => ("issued", 0),
        Progress::Idle => ("idle", 0),
        Progress::Waiting => ("waiting", 0),
        Progress::Requested => ("requested", 0),
        Progress::Unverifiable => ("unverifiable", 0),
        Progress::Refused { retries_at } => ("refused", seconds(retries_at)),
        Progress::Unreachable { retries_at } => ("unreachable", seconds(retries_at)),
    };
    let time = |of: fn(&Issued) -> i64| found.issued.as_ref().map_or(0, of);
    wire::Match {
        entry: Some(named(&found.entry)),
        state: state.to_owned(),
        serial: (found.issued.as_ref())
            .map(|issued| issued.serial.clone())
            .unwrap_or_default(),
        issued_at: time(|issued| seconds(issued.validity.not_before())),
        expires_at: time(|issued| seconds(issued.validity.not_after())),
        renews_at: time(|issued| seconds(issued.renews_at)),
        retries_at,
        refusal: refusal
            .map(|refusal| refusal.text.to_string())
            .unwrap_or_default(),
        refused_at: refusal.map_or(0, |refusal| seconds(refusal.at)),
    }
}

fn near(near: &Near) -> wire::Near {
    wire::Near {
        entry: Some(named(&near.entry)),
        missing: near.missing.iter().map(missing).collect(),
    }
}

fn gone(gone: &Gone) -> wire::Gone {
    wire::Gone {
        entry: Some(named(&gone.entry)),
        withdrawn_at: seconds(gone.at),
        expired: gone.is_expired(),
        missing: gone.missing.iter().map(missing).collect(),
    }
}

fn missing(missing: &Missing) -> wire::Missing {
    wire::Missing {
        selector: missing.selector.to_string(),
        instead: missing.instead.iter().map(ToString::to_string).collect(),
    }
}

fn named(entry: &Entry) -> wire::EntryName {
    wire::EntryName {
        id: entry.id.to_string(),
        spiffe_id: entry.spiffe_id.to_string(),
        expires_at: entry.expires_at.map_or(0, seconds),
    }
}

fn texts(selectors: &Selectors) -> Vec<String> {
    selectors.iter().map(ToString::to_string).collect()
}
