//! The server's half: which agent a token stands for, according to the cluster that issued it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use identity::spiffe_id::{SpiffeId, SpiffeIdError};
use identity::trust_domain::TrustDomain;
use serde::Deserialize;
use tracing::warn;

use super::NAME;
use super::api_server::{ApiError, ApiServer, Limits};
use super::connect::KubeConfig;
use super::error::VerifyError;
use super::facts::{Node, ObjectName, Pod, Review, ServiceAccount};
use super::payload::{Payload, ServiceAccountToken};
use super::selectors::{Found, Labels, selectors};
use crate::node::{Attested, Credential};

/// What an agent is named after.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AgentIdBy {
    /// The UID of its node: one agent for each node, as a DaemonSet has it.
    #[default]
    NodeUid,
    /// The UID of its pod: several agents may be on one node.
    PodUid,
}

/// A cluster whose pods may attest.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The service accounts that may attest.
    pub service_accounts: BTreeSet<ServiceAccount>,
    /// The audiences that a token may be for; without one, the API server's own.
    pub audiences: Vec<String>,
    /// How to reach its API server.
    pub kube_config: KubeConfig,
    /// The node labels that become selectors.
    pub node_label_keys: BTreeSet<String>,
    /// The pod labels that become selectors.
    pub pod_label_keys: BTreeSet<String>,
    /// What its agents are named after.
    pub agent_id_by: AgentIdBy,
    /// What it may cost.
    pub limits: Limits,
}

/// Verifies the tokens of all configured clusters.
#[derive(Debug)]
pub struct Verifier {
    trust_domain: TrustDomain,
    clusters: BTreeMap<String, Known>,
}

/// A cluster, ready to be asked.
#[derive(Debug)]
struct Known {
    name: String,
    service_accounts: BTreeSet<ServiceAccount>,
    audiences: Vec<String>,
    labels: Labels,
    agent_id_by: AgentIdBy,
    api_server: ApiServer,
    said_it_may_not_read: AtomicBool,
}

/// What a review must say of any token, and does.
struct Bound {
    account: ServiceAccount,
    pod_name: ObjectName,
    pod_uid: ObjectName,
    node_name: Option<ObjectName>,
    node_uid: Option<ObjectName>,
}

impl Verifier {
    /// Takes the clusters by their names, each of which becomes a segment of agent ids.
    pub fn new(
        trust_domain: TrustDomain,
        clusters: BTreeMap<String, Cluster>,
    ) -> Result<Self, SpiffeIdError> {
        let mut known = BTreeMap::new();
        for (name, cluster) in clusters {
            SpiffeId::from_segments(&trust_domain, ["spire", "agent", NAME, &name])?;
            known.insert(name.clone(), Known::new(name, cluster));
        }
        Ok(Self {
            trust_domain,
            clusters: known,
        })
    }

    /// Finds out whom a payload stands for.
    pub async fn verify(&self, payload: &[u8]) -> Result<Attested, VerifyError> {
        let payload = Payload::parse(payload)?;
        let cluster = self
            .clusters
            .get(payload.cluster())
            .ok_or_else(|| VerifyError::UnknownCluster(shortened(payload.cluster())))?;
        let review = cluster.review(payload.token()).await?;
        let bound = cluster.bound(&review)?;
        let (pod, node) = cluster.look_up(&bound).await?;
        let (node_name, node_uid) = cluster.agree(&bound, pod.as_ref(), node.as_ref())?;
        let found = Found {
            cluster: &cluster.name,
            service_account: &bound.account,
            pod_name: &bound.pod_name,
            pod_uid: &bound.pod_uid,
            node_name: &node_name,
            node_uid: &node_uid,
            pod: pod.as_ref(),
            node: node.as_ref(),
        };
        let selectors = selectors(&found, &cluster.labels)?;
        let mut segments = vec!["spire", "agent", NAME, cluster.name.as_str()];
        match cluster.agent_id_by {
            AgentIdBy::NodeUid => segments.push(node_uid.as_str()),
            AgentIdBy::PodUid => segments.extend(["pod", bound.pod_uid.as_str()]),
        }
        let agent_id = SpiffeId::from_segments(&self.trust_domain, segments)?;
        let credential = credential(&review, payload.token(), &bound);
        let domain = &self.trust_domain;
        Ok(Attested::new(
            NAME,
            domain,
            agent_id,
            selectors,
            Some(credential),
        )?)
    }
}

impl Known {
    fn new(name: String, cluster: Cluster) -> Self {
        Self {
            name,
            service_accounts: cluster.service_accounts,
            audiences: cluster.audiences,
            labels: Labels {
                of_node: cluster.node_label_keys,
                of_pod: cluster.pod_label_keys,
            },
            agent_id_by: cluster.agent_id_by,
            api_server: ApiServer::new(cluster.kube_config, cluster.limits),
            said_it_may_not_read: AtomicBool::new(false),
        }
    }

    /// Has the token reviewed. Nothing of a review is used that did not pass here.
    async fn review(&self, token: &ServiceAccountToken) -> Result<Review, VerifyError> {
        let cluster = || self.name.clone();
        let review = self.api_server.review(token, &self.audiences).await;
        let review = review.map_err(|source| VerifyError::Review {
            cluster: cluster(),
            source,
        })?;
        if let Some(error) = &review.error {
            return Err(VerifyError::ReviewFailed {
                cluster: cluster(),
                error: shortened(error),
            });
        }
        if !review.authenticated {
            return Err(VerifyError::NotAuthenticated(cluster()));
        }
        // An API server that knows nothing of audiences takes a token for any of them.
        let is_for = |audience| review.audiences.contains(audience);
        if !self.audiences.is_empty() && !self.audiences.iter().any(is_for) {
            return Err(VerifyError::Audience {
                cluster: cluster(),
                wanted: self.audiences.clone(),
                got: review.audiences,
            });
        }
        Ok(review)
    }

    fn bound(&self, review: &Review) -> Result<Bound, VerifyError> {
        let account = review
            .service_account()
            .map_err(|source| VerifyError::Username {
                cluster: self.name.clone(),
                source,
            })?;
        if !self.service_accounts.contains(&account) {
            return Err(VerifyError::NotAllowed {
                account,
                cluster: self.name.clone(),
            });
        }
        let unbound = |what| {
            move |source| VerifyError::Unbound {
                what,
                cluster: self.name.clone(),
                source,
            }
        };
        Ok(Bound {
            account,
            pod_name: review.pod_name().map_err(unbound("pod name"))?,
            pod_uid: review.pod_uid().map_err(unbound("pod UID"))?,
            node_name: review.node_name().map_err(unbound("node name"))?,
            node_uid: review.node_uid().map_err(unbound("node UID"))?,
        })
    }

    /// Reads the pod and its node, as far as this server may.
    async fn look_up(&self, bound: &Bound) -> Result<(Option<Pod>, Option<Node>), VerifyError> {
        let Some(node_name) = &bound.node_name else {
            let pod = self.pod(bound).await?;
            let node_name = pod.as_ref().and_then(|pod| pod.node_name.as_ref());
            let node_name = node_name.ok_or_else(|| VerifyError::NoNode(self.name.clone()))?;
            let node = self.node(bound, node_name).await?;
            return Ok((pod, node));
        };
        tokio::try_join!(self.pod(bound), self.node(bound, node_name))
    }

    async fn pod(&self, bound: &Bound) -> Result<Option<Pod>, VerifyError> {
        let namespace = &bound.account.namespace;
        let needed = bound.node_name.is_none() || !self.labels.of_pod.is_empty();
        let pod = self.api_server.pod(namespace, &bound.pod_name).await;
        self.unless_forbidden(pod, needed)
            .map_err(|source| VerifyError::Pod {
                cluster: self.name.clone(),
                source,
            })
    }

    async fn node(&self, bound: &Bound, name: &ObjectName) -> Result<Option<Node>, VerifyError> {
        let needed = bound.node_uid.is_none() || !self.labels.of_node.is_empty();
        let node = self.api_server.node(name).await;
        self.unless_forbidden(node, needed)
            .map_err(|source| VerifyError::Node {
                cluster: self.name.clone(),
                source,
            })
    }

    /// Does without an object that this server may not read, unless it needs it. Says so once, whatever it is.
    fn unless_forbidden<T>(
        &self,
        read: Result<T, ApiError>,
        needed: bool,
    ) -> Result<Option<T>, ApiError> {
        match read {
            Err(error @ ApiError::Forbidden) if !needed => {
                if !self.said_it_may_not_read.swap(true, Ordering::Relaxed) {
                    warn!(
                        attestor = NAME,
                        k8s.cluster = %self.name,
                        error.reason = error.reason(),
                        "May not read pods or nodes, and attests without the selectors that need them"
                    );
                }
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    /// Where two sources say something, they must say the same.
    fn agree(
        &self,
        bound: &Bound,
        pod: Option<&Pod>,
        node: Option<&Node>,
    ) -> Result<(ObjectName, ObjectName), VerifyError> {
        let cluster = || self.name.clone();
        let scheduled = pod.map(|pod| pod.node_name.as_ref());
        if pod.is_some_and(|pod| pod.uid != bound.pod_uid.as_str()) {
            return Err(VerifyError::OtherPod {
                pod: bound.pod_name.clone(),
                uid: bound.pod_uid.clone(),
                cluster: cluster(),
            });
        }
        let node_name = match (&bound.node_name, scheduled) {
            (Some(name), Some(scheduled)) if scheduled != Some(name) => {
                return Err(VerifyError::OtherNode {
                    pod: bound.pod_name.clone(),
                    node: name.clone(),
                    cluster: cluster(),
                });
            }
            (Some(name), _) | (None, Some(Some(name))) => name.clone(),
            (None, _) => return Err(VerifyError::NoNode(cluster())),
        };
        let read = node.map(|node| ObjectName::parse(&node.uid));
        let read = read
            .transpose()
            .map_err(|_uid| VerifyError::NoNodeUid(cluster()))?;
        let node_uid = match (&bound.node_uid, read) {
            (Some(uid), Some(read)) if *uid != read => {
                return Err(VerifyError::RecreatedNode {
                    node: node_name,
                    uid: uid.clone(),
                    cluster: cluster(),
                });
            }
            (Some(uid), _) => uid.clone(),
            (None, Some(read)) => read,
            (None, None) => return Err(VerifyError::NoNodeUid(cluster())),
        };
        Ok((node_name, node_uid))
    }
}

/// What tells this token from others. The issuer's name for it comes first, since the bytes of a
/// token can be changed a little without its signature noticing.
fn credential(review: &Review, token: &ServiceAccountToken, bound: &Bound) -> Credential {
    let name = review.credential_id().unwrap_or_else(|| token.reveal());
    let mut fingerprint = [0; 32];
    let sum = digest::digest(&digest::SHA256, name.as_bytes());
    fingerprint.copy_from_slice(sum.as_ref());
    Credential {
        fingerprint,
        issued_at: issued_at(token.reveal()),
        holder: bound.pod_uid.to_string(),
    }
}

/// When the token says that it was issued. Only asked of a token that its issuer authenticated.
fn issued_at(token: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Claims {
        iat: Option<u64>,
    }
    let claims = token.split('.').nth(1)?;
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(claims.iat?))
}

/// Words of others, as much as a log line should have of them.
fn shortened(words: &str) -> String {
    words.chars().take(256).collect()
}

#[cfg(test)]
mod tests;
