//! One pass over everything that the old server has.

use std::collections::{BTreeMap, BTreeSet};
use std::time::UNIX_EPOCH;

use identity::bundle::X509Authority;
use identity::x509::Certificate;
use proto::signet::server::Outcome;
use proto::spire::server::agent::DeleteAgentRequest;
use proto::spire::server::agent::agent_client::AgentClient;
use proto::spire::server::bundle::bundle_client::BundleClient;
use proto::spire::server::bundle::{AppendBundleRequest, BatchSetFederatedBundleRequest};
use proto::spire::server::trustdomain::trust_domain_client::TrustDomainClient;
use proto::spire::server::trustdomain::{
    BatchCreateFederationRelationshipRequest, BatchUpdateFederationRelationshipRequest,
};
use proto::spire::types::{Agent, Bundle, Entry, JwtKey, Selector, Status, X509Certificate};
use runtime::clock::Clock;
use tonic::transport::Channel;

use super::ours;
use super::report::Report;
use super::state::{Authorities, State};
use super::tally::Tally;
use crate::failure::Failure;
use crate::rpc;

/// Whether a pass changes anything.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Doing {
    Plan,
    Apply,
}

/// The two servers of a move.
#[derive(Debug)]
pub(super) struct Move {
    pub(super) theirs: Channel,
    pub(super) ours: Channel,
    pub(super) clock: Clock,
    /// Whether entries and agents that are not there any more go here too.
    pub(super) prune: bool,
}

impl Move {
    /// Takes everything over in the order in which one rests on the other, and last lets our authorities
    /// join the old server's bundle, if nothing was refused.
    pub(super) async fn pass(&mut self, doing: Doing) -> Result<Report, Failure> {
        let mut there = State::read(&self.theirs)
            .await
            .map_err(|failure| failure.context("the server at -from"))?;
        let mut report = Report {
            trust_domain: there.bundle.trust_domain.clone(),
            versions: versions(&there.agents),
            ..Report::default()
        };
        report.expired_entries = self.leave_expired(&mut there.entries);
        // First of all, since it tells whether the two are of one trust domain.
        let bundle = &mut report.bundle;
        let own = ours::bundle(&self.ours, &there.bundle, doing, bundle).await?;
        let here = State::read(&self.ours)
            .await
            .map_err(|failure| failure.context("the server at -socketPath"))?;
        bundle.only_here = strangers(&own, &there.bundle, &here.authorities);
        self.bundles(&there, &here, doing, &mut report.bundles)
            .await?;
        self.prune_agents(&there, &here, doing, &mut report.agents)
            .await?;
        let gone = self.gone_entries(&there, &here, &mut report.entries);
        let entries = &there.entries;
        ours::entries(&self.ours, entries, &gone, doing, &mut report.entries).await?;
        let signing = &there.authorities.signing;
        ours::agents(
            &self.ours,
            &there.agents,
            signing,
            doing,
            &mut report.agents,
        )
        .await?;
        report.agents.renewed = renewed(&there.agents, &here.agents);
        self.relationships(&there, &here, doing, &mut report.relationships)
            .await?;
        let missing = missing(&own, &there.bundle, &here.authorities);
        report.appended = missing.names();
        if doing == Doing::Apply && report.check_refused().is_ok() && report.appends() {
            self.append(missing).await?;
        }
        Ok(report)
    }

    /// Leaves out the entries that are over, which either server prunes in its own time.
    fn leave_expired(&self, entries: &mut Vec<Entry>) -> usize {
        let since = self.clock.now().duration_since(UNIX_EPOCH);
        let now = since.map_or(0, |since| since.as_secs());
        let all = entries.len();
        entries
            .retain(|entry| u64::try_from(entry.expires_at).is_ok_and(|end| end == 0 || end > now));
        all - entries.len()
    }

    async fn bundles(
        &mut self,
        there: &State,
        here: &State,
        doing: Doing,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        let known: BTreeMap<&str, &Bundle> = by(&here.bundles, |bundle| &bundle.trust_domain);
        let mut client = BundleClient::new(self.ours.clone());
        for bundle in &there.bundles {
            let name = &bundle.trust_domain;
            let outcome = match known.get(name.as_str()) {
                None => Outcome::Created,
                Some(ours) if same_authorities(ours, bundle) => Outcome::Unchanged,
                Some(ours) if ours.sequence_number > bundle.sequence_number => Outcome::Kept,
                Some(_) => Outcome::Updated,
            };
            let mut status = None;
            if doing == Doing::Apply && is_written(outcome) {
                let request = BatchSetFederatedBundleRequest {
                    bundle: vec![bundle.clone()],
                    output_mask: None,
                };
                let answer = client.batch_set_federated_bundle(request).await;
                let answer = answer.map_err(|status| rpc::failed(&status).context(name))?;
                status = first(answer.into_inner().results, |result| result.status);
            }
            tally.done(outcome, name, status.as_ref());
        }
        Ok(())
    }

    async fn relationships(
        &mut self,
        there: &State,
        here: &State,
        doing: Doing,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        let known = by(&here.relationships, |relationship| {
            &relationship.trust_domain
        });
        let mut client = TrustDomainClient::new(self.ours.clone());
        for relationship in &there.relationships {
            let name = &relationship.trust_domain;
            let outcome = match known.get(name.as_str()) {
                None => Outcome::Created,
                Some(ours) if *ours == relationship => Outcome::Unchanged,
                Some(_) => Outcome::Updated,
            };
            let federation_relationships = vec![relationship.clone()];
            let status = match (doing, outcome) {
                (Doing::Apply, Outcome::Created) => {
                    let request = BatchCreateFederationRelationshipRequest {
                        federation_relationships,
                        output_mask: None,
                    };
                    let answer = client.batch_create_federation_relationship(request).await;
                    let answer = answer.map_err(|status| rpc::failed(&status).context(name))?;
                    first(answer.into_inner().results, |result| result.status)
                }
                (Doing::Apply, Outcome::Updated) => {
                    let request = BatchUpdateFederationRelationshipRequest {
                        federation_relationships,
                        ..BatchUpdateFederationRelationshipRequest::default()
                    };
                    let answer = client.batch_update_federation_relationship(request).await;
                    let answer = answer.map_err(|status| rpc::failed(&status).context(name))?;
                    first(answer.into_inner().results, |result| result.status)
                }
                _ => None,
            };
            tally.done(outcome, name, status.as_ref());
        }
        Ok(())
    }

    /// The ids of the entries that are to be deleted: those that are not there any more, where that is asked for.
    fn gone_entries(&self, there: &State, here: &State, tally: &mut Tally) -> Vec<String> {
        let known: BTreeSet<&str> = there
            .entries
            .iter()
            .map(|entry| entry.id.as_str())
            .collect();
        let is_gone = |entry: &&Entry| !known.contains(entry.id.as_str());
        let gone: Vec<&Entry> = here.entries.iter().filter(is_gone).collect();
        let names = gone.iter().copied().map(ours::entry_name).collect();
        if self.prune {
            tally.pruned = names;
            gone.into_iter().map(|entry| entry.id.clone()).collect()
        } else {
            tally.only_here = names;
            Vec::new()
        }
    }

    /// Evicts the agents that are not there any more, where that is asked for.
    async fn prune_agents(
        &mut self,
        there: &State,
        here: &State,
        doing: Doing,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        let known: BTreeSet<String> = there.agents.iter().map(ours::agent_name).collect();
        let gone = here.agents.iter();
        let gone: Vec<&Agent> = gone
            .filter(|agent| !known.contains(&ours::agent_name(agent)))
            .collect();
        let names = gone.iter().copied().map(ours::agent_name).collect();
        if !self.prune {
            tally.only_here = names;
            return Ok(());
        }
        tally.pruned = names;
        if doing == Doing::Plan {
            return Ok(());
        }
        let mut client = AgentClient::new(self.ours.clone());
        for agent in gone {
            let request = DeleteAgentRequest {
                id: agent.id.clone(),
            };
            let answer = client.delete_agent(request).await;
            answer.map_err(|status| rpc::failed(&status).context("agents"))?;
        }
        Ok(())
    }

    async fn append(&mut self, missing: Missing) -> Result<(), Failure> {
        let request = AppendBundleRequest {
            x509_authorities: missing.x509.into_iter().map(|(_, x509)| x509).collect(),
            jwt_authorities: missing.jwt,
            ..AppendBundleRequest::default()
        };
        let mut client = BundleClient::new(self.theirs.clone());
        let answer = client.append_bundle(request).await;
        answer.map_err(|status| rpc::failed(&status).context("the old server's bundle"))?;
        Ok(())
    }
}

/// Authorities of ours that the old server's bundle lacks.
#[derive(Debug, Default)]
struct Missing {
    /// By name.
    x509: Vec<(String, X509Certificate)>,
    jwt: Vec<JwtKey>,
}

impl Missing {
    fn names(&self) -> Vec<String> {
        let x509 = self.x509.iter().map(|(name, _)| format!("X.509 {name}"));
        let jwt = self.jwt.iter().map(|key| format!("JWT {}", key.key_id));
        x509.chain(jwt).collect()
    }
}

/// What of our bundle the old server lacks and we sign with. What else is in ours came from there, and may
/// have been revoked there since.
fn missing(ours: &Bundle, theirs: &Bundle, signs: &Authorities) -> Missing {
    let (x509, jwt) = unknown(ours, theirs);
    Missing {
        x509: x509
            .filter(|(name, _)| signs.x509.contains(name))
            .map(|(name, authority)| (name, authority.clone()))
            .collect(),
        jwt: jwt
            .filter(|key| signs.jwt.contains(&key.key_id))
            .cloned()
            .collect(),
    }
}

/// The names of those that neither we sign with nor the old server has any more.
fn strangers(ours: &Bundle, theirs: &Bundle, signs: &Authorities) -> Vec<String> {
    let (x509, jwt) = unknown(ours, theirs);
    let x509 = x509.map(|(name, _)| name);
    let x509 = x509.filter(|name| !signs.x509.contains(name));
    let jwt = jwt.map(|key| key.key_id.clone());
    let jwt = jwt.filter(|id| !signs.jwt.contains(id));
    let x509 = x509.map(|name| format!("X.509 {name}"));
    x509.chain(jwt.map(|id| format!("JWT {id}"))).collect()
}

/// The authorities of our bundle that the other one has not; those for X.509 by name.
fn unknown<'a>(
    ours: &'a Bundle,
    theirs: &'a Bundle,
) -> (
    impl Iterator<Item = (String, &'a X509Certificate)>,
    impl Iterator<Item = &'a JwtKey>,
) {
    let has = |der: &[u8]| {
        theirs
            .x509_authorities
            .iter()
            .any(|known| known.asn1 == der)
    };
    let x509 = ours.x509_authorities.iter();
    let x509 = x509.filter(move |authority| !has(&authority.asn1));
    let has = |id: &str| {
        theirs
            .jwt_authorities
            .iter()
            .any(|known| known.key_id == id)
    };
    let jwt = ours.jwt_authorities.iter();
    (
        x509.map(|authority| (authority_name(authority), authority)),
        jwt.filter(move |key| !has(&key.key_id)),
    )
}

fn authority_name(authority: &X509Certificate) -> String {
    let certificate = Certificate::parse(&authority.asn1);
    // Our own server sends none that cannot be read.
    certificate.map_or_else(
        |_unreadable| String::new(),
        |certificate| X509Authority::new(certificate).authority_id(),
    )
}

/// How many agents differ by nothing but a later SVID.
fn renewed(there: &[Agent], here: &[Agent]) -> usize {
    let known: BTreeMap<String, &Agent> = here
        .iter()
        .map(|agent| (ours::agent_name(agent), agent))
        .collect();
    let is_renewed = |agent: &&Agent| {
        known.get(&ours::agent_name(agent)).is_some_and(|ours| {
            ours.x509svid_expires_at < agent.x509svid_expires_at && lasting(ours) == lasting(agent)
        })
    };
    there.iter().filter(is_renewed).count()
}

/// What of an agent stays when it renews.
fn lasting(agent: &Agent) -> Agent {
    let mut lasting = agent.clone();
    lasting.x509svid_serial_number.clear();
    lasting.x509svid_expires_at = 0;
    let order = |selector: &Selector| (selector.r#type.clone(), selector.value.clone());
    lasting.selectors.sort_by_key(order);
    lasting
}

fn versions(agents: &[Agent]) -> BTreeMap<String, usize> {
    let mut versions = BTreeMap::new();
    for agent in agents {
        *versions.entry(agent.agent_version.clone()).or_default() += 1;
    }
    versions
}

fn by<T>(items: &[T], name: fn(&T) -> &str) -> BTreeMap<&str, &T> {
    items.iter().map(|item| (name(item), item)).collect()
}

fn same_authorities(one: &Bundle, other: &Bundle) -> bool {
    let x509 = |bundle: &Bundle| -> BTreeSet<Vec<u8>> {
        let authorities = bundle.x509_authorities.iter();
        authorities
            .map(|authority| authority.asn1.to_vec())
            .collect()
    };
    let jwt = |bundle: &Bundle| -> BTreeSet<(String, Vec<u8>)> {
        let keys = bundle.jwt_authorities.iter();
        keys.map(|key| (key.key_id.clone(), key.public_key.to_vec()))
            .collect()
    };
    x509(one) == x509(other) && jwt(one) == jwt(other)
}

fn is_written(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Created | Outcome::Updated)
}

fn first<T>(results: Vec<T>, status: fn(T) -> Option<Status>) -> Option<Status> {
    results.into_iter().next().and_then(status)
}

#[cfg(test)]
mod tests {
    use proto::spire::types::Spiffeid;

    use super::*;

    fn agent() -> Agent {
        Agent {
            id: Some(Spiffeid {
                trust_domain: "example.org".to_owned(),
                path: "/spire/agent/x/1".to_owned(),
            }),
            x509svid_serial_number: "1".to_owned(),
            x509svid_expires_at: 100,
            ..Agent::default()
        }
    }

    #[test]
    fn an_agent_with_a_later_svid_and_nothing_else_has_renewed() {
        let later = Agent {
            x509svid_serial_number: "2".to_owned(),
            x509svid_expires_at: 200,
            ..agent()
        };
        assert_eq!(renewed(&[later.clone()], &[agent()]), 1);
        assert_eq!(renewed(&[agent()], &[agent()]), 0);
        assert_eq!(renewed(&[agent()], &[later.clone()]), 0);
        let banned = Agent {
            banned: true,
            ..later
        };
        assert_eq!(renewed(&[banned], &[agent()]), 0);
    }

    #[test]
    fn adv_what_was_revoked_there_is_not_given_back_to_the_old_server() {
        let key = |id: &str| JwtKey {
            key_id: id.to_owned(),
            ..JwtKey::default()
        };
        let ours = Bundle {
            jwt_authorities: vec![key("ours"), key("theirs"), key("revoked")],
            ..Bundle::default()
        };
        let theirs = Bundle {
            jwt_authorities: vec![key("theirs")],
            ..Bundle::default()
        };
        let signs = Authorities {
            x509: Vec::new(),
            jwt: vec!["ours".to_owned()],
            signing: Vec::new(),
        };
        assert_eq!(missing(&ours, &theirs, &signs).jwt, [key("ours")]);
        assert_eq!(strangers(&ours, &theirs, &signs), ["JWT revoked"]);
    }
}
