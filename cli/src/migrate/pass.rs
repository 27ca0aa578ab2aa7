//! One pass over everything that the old server has.

use std::collections::{BTreeMap, BTreeSet};
use std::time::UNIX_EPOCH;

use proto::spire::server::agent::DeleteAgentRequest;
use proto::spire::server::agent::agent_client::AgentClient;
use proto::spire::types::{Agent, Entry, Selector};
use runtime::clock::Clock;
use tonic::transport::Channel;

use super::authorities::{missing, strangers};
use super::report::Report;
use super::state::State;
use super::tally::Tally;
use super::{federation, ours};
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
        let bundles = &mut report.bundles;
        federation::bundles(&self.ours, &there.bundles, &here.bundles, doing, bundles).await?;
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
        let (theirs, known) = (&there.relationships, &here.relationships);
        let relationships = &mut report.relationships;
        federation::relationships(&self.ours, theirs, known, doing, relationships).await?;
        let missing = missing(&own, &there.bundle, &here.authorities);
        report.appended = missing.names();
        if doing == Doing::Apply && report.check_refused().is_ok() && report.appends() {
            missing.append_to(&self.theirs).await?;
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
        let banned = Agent {
            banned: true,
            ..later.clone()
        };
        let later = [later];
        assert_eq!(renewed(&later, &[agent()]), 1);
        assert_eq!(renewed(&[agent()], &[agent()]), 0);
        assert_eq!(renewed(&[agent()], &later), 0);
        assert_eq!(renewed(&[banned], &[agent()]), 0);
    }
}
