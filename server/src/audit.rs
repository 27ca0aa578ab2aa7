//! The audit trail: one typed event for each change, each issuance and each refusal.
//!
//! An event is a line of the log with the target `audit`, and a count in the metrics: who, what, of whom or
//! what, the serial number of what was signed, the decision, and the reason of a refusal. The line has the
//! level info; where `audit_log_enabled` says no, debug. Who is not let through is always seen.

use std::sync::Arc;
use std::time::SystemTime;

use identity::entry::{DnsName, Entry, EntryId};
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::x509::DistinguishedName;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use runtime::log::Level;

use crate::authority::Kind;
use crate::store::Revision;

/// What happened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event<'a> {
    EntryCreated(&'a Entry),
    EntryUpdated(&'a Entry),
    EntryDeleted(&'a Entry),
    EntryExpired(&'a Entry),
    /// Taken over from another server, with all its facts.
    EntryImported(&'a Entry),
    AgentAttested {
        id: &'a SpiffeId,
        attestor: &'a str,
        serial: &'a str,
    },
    AgentRenewed {
        id: &'a SpiffeId,
        serial: &'a str,
    },
    AgentPromoted {
        id: &'a SpiffeId,
        serial: &'a str,
    },
    /// A credential came from another address than the agent's.
    AgentDoubted(&'a SpiffeId, Doubt),
    /// An agent told which version it is of.
    AgentVersionReported {
        id: &'a SpiffeId,
        version: &'a str,
    },
    AgentBanned(&'a SpiffeId),
    AgentEvicted(&'a SpiffeId),
    /// Taken over from another server, with its SVID or its ban.
    AgentImported {
        id: &'a SpiffeId,
        serial: &'a str,
    },
    /// An agent that was taken over came with an SVID that its former server signed later.
    AgentFollowed {
        id: &'a SpiffeId,
        serial: &'a str,
    },
    JoinTokenCreated {
        expires_at: SystemTime,
        agent_id: Option<&'a SpiffeId>,
    },
    Bundle(BundleTurn, &'a TrustDomain),
    Relationship(Edit, &'a TrustDomain),
    /// What an operator did with the authority of this name.
    Authority(Turn, Kind, &'a str),
    UpstreamTainted(&'a str),
    UpstreamRevoked(&'a str),
    LogLevelSet(Level),
    /// The whole store was read.
    BackupTaken {
        revision: Revision,
    },
    X509SvidIssued {
        entry: &'a Entry,
        serial: &'a str,
        not_after: SystemTime,
    },
    JwtSvidIssued {
        entry: &'a Entry,
        expires_at: SystemTime,
    },
    /// Signed for an operator, without an entry.
    X509SvidMinted {
        id: &'a SpiffeId,
        serial: &'a str,
        not_after: SystemTime,
        dns_names: &'a [DnsName],
        /// Whom it names beside the SPIFFE ID.
        subject: Option<&'a DistinguishedName>,
    },
    JwtSvidMinted {
        id: &'a SpiffeId,
        expires_at: SystemTime,
    },
    /// A server below this one may sign.
    DownstreamCaIssued {
        serial: &'a str,
        not_after: SystemTime,
    },
    /// The key of a server below this one joined our bundle, by its ID.
    JwtAuthorityPublished(&'a str),
    /// A call, or an item of one, that was let through and is not done.
    Refused {
        method: &'a str,
        /// What the item asked for, in its own words.
        subject: Option<&'a str>,
        reason: &'static str,
        sentence: &'a str,
    },
}

/// What became of a bundle.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BundleTurn {
    Created,
    Updated,
    Set,
    Appended,
    /// The bundle of another server of our trust domain joined ours.
    Merged,
    Deleted,
    /// What was fetched took the place of what was stored.
    Refreshed,
    /// An operator had it fetched, whatever came of that.
    RefreshAsked,
}

/// What became of an authority.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Turn {
    Prepared,
    Activated,
    Tainted,
    Revoked,
}

/// What became of a federation relationship.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Edit {
    Created,
    Updated,
    Deleted,
}

/// What became of an attestation that is in doubt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Doubt {
    Admitted,
    Refused,
}

impl Event<'_> {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::EntryCreated(_) => "entry_created",
            Self::EntryUpdated(_) => "entry_updated",
            Self::EntryDeleted(_) => "entry_deleted",
            Self::EntryExpired(_) => "entry_expired",
            Self::EntryImported(_) => "entry_imported",
            Self::AgentAttested { .. } => "agent_attested",
            Self::AgentRenewed { .. } => "agent_renewed",
            Self::AgentPromoted { .. } => "agent_promoted",
            Self::AgentDoubted(_, Doubt::Admitted) => "agent_attestation_suspected",
            Self::AgentDoubted(_, Doubt::Refused) => "agent_attestation_replayed",
            Self::AgentVersionReported { .. } => "agent_version_reported",
            Self::AgentBanned(_) => "agent_banned",
            Self::AgentEvicted(_) => "agent_evicted",
            Self::AgentImported { .. } => "agent_imported",
            Self::AgentFollowed { .. } => "agent_followed",
            Self::JoinTokenCreated { .. } => "join_token_created",
            Self::Bundle(BundleTurn::Created, _) => "bundle_created",
            Self::Bundle(BundleTurn::Updated, _) => "bundle_updated",
            Self::Bundle(BundleTurn::Set, _) => "bundle_set",
            Self::Bundle(BundleTurn::Appended, _) => "bundle_appended",
            Self::Bundle(BundleTurn::Merged, _) => "bundle_merged",
            Self::Bundle(BundleTurn::Deleted, _) => "bundle_deleted",
            Self::Bundle(BundleTurn::Refreshed, _) => "bundle_refreshed",
            Self::Bundle(BundleTurn::RefreshAsked, _) => "bundle_refresh_asked",
            Self::Relationship(Edit::Created, _) => "federation_relationship_created",
            Self::Relationship(Edit::Updated, _) => "federation_relationship_updated",
            Self::Relationship(Edit::Deleted, _) => "federation_relationship_deleted",
            Self::Authority(Turn::Prepared, ..) => "authority_prepared",
            Self::Authority(Turn::Activated, ..) => "authority_activated",
            Self::Authority(Turn::Tainted, ..) => "authority_tainted",
            Self::Authority(Turn::Revoked, ..) => "authority_revoked",
            Self::UpstreamTainted(_) => "upstream_authority_tainted",
            Self::UpstreamRevoked(_) => "upstream_authority_revoked",
            Self::LogLevelSet(_) => "log_level_set",
            Self::BackupTaken { .. } => "backup_taken",
            Self::X509SvidIssued { .. } => "x509_svid_issued",
            Self::JwtSvidIssued { .. } => "jwt_svid_issued",
            Self::X509SvidMinted { .. } => "x509_svid_minted",
            Self::JwtSvidMinted { .. } => "jwt_svid_minted",
            Self::DownstreamCaIssued { .. } => "downstream_ca_issued",
            Self::JwtAuthorityPublished(_) => "jwt_authority_published",
            Self::Refused { .. } => "refused",
        }
    }

    fn decision(&self) -> &'static str {
        match self {
            Self::Refused { .. } | Self::AgentDoubted(_, Doubt::Refused) => REFUSED,
            _ => "allowed",
        }
    }
}

/// The decision about what is not done.
const REFUSED: &str = "refused";

impl<'a> Event<'a> {
    /// What was signed, if the event is that.
    fn issued(self) -> Option<Issued<'a>> {
        match self {
            Self::X509SvidIssued {
                entry,
                serial,
                not_after,
            } => Some(Issued::of(entry, Some(serial), not_after)),
            Self::JwtSvidIssued { entry, expires_at } => Some(Issued::of(entry, None, expires_at)),
            Self::X509SvidMinted {
                id,
                serial,
                not_after,
                dns_names,
                subject,
            } => Some(Issued {
                dns_names,
                subject,
                ..Issued::to(Some(id), Some(serial), not_after)
            }),
            Self::JwtSvidMinted { id, expires_at } => Some(Issued::to(Some(id), None, expires_at)),
            Self::DownstreamCaIssued { serial, not_after } => {
                Some(Issued::to(None, Some(serial), not_after))
            }
            _ => None,
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    event: &'static str,
}

/// What was signed, and for whom.
struct Issued<'a> {
    entry: Option<&'a EntryId>,
    id: Option<&'a SpiffeId>,
    serial: Option<&'a str>,
    end: SystemTime,
    /// What is in it by the word of who asked, and not of an entry.
    dns_names: &'a [DnsName],
    subject: Option<&'a DistinguishedName>,
}

impl<'a> Issued<'a> {
    fn of(entry: &'a Entry, serial: Option<&'a str>, end: SystemTime) -> Self {
        Self {
            entry: Some(&entry.id),
            ..Self::to(Some(&entry.spiffe_id), serial, end)
        }
    }

    fn to(id: Option<&'a SpiffeId>, serial: Option<&'a str>, end: SystemTime) -> Self {
        Self {
            entry: None,
            id,
            serial,
            end,
            dns_names: &[],
            subject: None,
        }
    }
}

/// Where events go.
#[derive(Clone, Debug)]
pub(crate) struct Audit {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    enabled: bool,
    events: Family<Labels, Counter>,
}

/// One line of the trail. A macro, because the level of an event is part of its static description.
macro_rules! line {
    ($audit:expr, $event:expr, $caller:expr, $($fields:tt)*) => {
        if $audit.inner.enabled {
            tracing::info!(target: "audit", event = $event.name(), audit.decision = $event.decision(), caller = %$caller, $($fields)*, "Audit event");
        } else {
            tracing::debug!(target: "audit", event = $event.name(), audit.decision = $event.decision(), caller = %$caller, $($fields)*, "Audit event");
        }
    };
}

impl Audit {
    pub(crate) fn new(enabled: bool, registry: &mut Registry) -> Self {
        let events = Family::default();
        registry.register(
            "audit_events",
            "Changes, issuances and refusals",
            events.clone(),
        );
        Self {
            inner: Arc::new(Inner { enabled, events }),
        }
    }

    /// Records what a caller did.
    pub(crate) fn record(&self, caller: &(dyn std::fmt::Display + Sync), event: Event<'_>) {
        self.count(event.name());
        match event {
            Event::EntryCreated(entry)
            | Event::EntryUpdated(entry)
            | Event::EntryDeleted(entry)
            | Event::EntryExpired(entry)
            | Event::EntryImported(entry) => line!(
                self, event, caller,
                entry.id = %entry.id,
                entry.revision = entry.revision,
                entry.parent_id = %entry.parent_id,
                spiffe.id = %entry.spiffe_id
            ),
            Event::AgentAttested { .. }
            | Event::AgentRenewed { .. }
            | Event::AgentPromoted { .. }
            | Event::AgentImported { .. }
            | Event::AgentFollowed { .. }
            | Event::AgentVersionReported { .. }
            | Event::AgentDoubted(..)
            | Event::AgentBanned(_)
            | Event::AgentEvicted(_) => self.of_agent(caller, event),
            Event::JoinTokenCreated {
                expires_at,
                agent_id,
            } => line!(
                self,
                event,
                caller,
                token.expires_at = crate::records::to_seconds(expires_at),
                spiffe.id = agent_id.map(SpiffeId::as_str)
            ),
            Event::Bundle(_, trust_domain) | Event::Relationship(_, trust_domain) => {
                line!(self, event, caller, %trust_domain);
            }
            Event::Authority(_, kind, id) => {
                let kind = kind.name();
                line!(
                    self,
                    event,
                    caller,
                    authority.kind = kind,
                    authority.id = id
                );
            }
            Event::UpstreamTainted(id)
            | Event::UpstreamRevoked(id)
            | Event::JwtAuthorityPublished(id) => {
                line!(self, event, caller, authority.id = id);
            }
            Event::LogLevelSet(level) => {
                line!(self, event, caller, log.level = level.name());
            }
            Event::BackupTaken { revision } => {
                line!(self, event, caller, store.revision = revision.number());
            }
            Event::Refused { .. } => self.not_done(caller, event),
            Event::X509SvidIssued { .. }
            | Event::JwtSvidIssued { .. }
            | Event::X509SvidMinted { .. }
            | Event::JwtSvidMinted { .. }
            | Event::DownstreamCaIssued { .. } => self.issued(caller, event),
        }
    }

    fn of_agent(&self, caller: &(dyn std::fmt::Display + Sync), event: Event<'_>) {
        match event {
            Event::AgentAttested {
                id,
                attestor,
                serial,
            } => {
                line!(self, event, caller, agent.id = %id, attestor, svid.serial = serial);
            }
            Event::AgentRenewed { id, serial }
            | Event::AgentPromoted { id, serial }
            | Event::AgentImported { id, serial }
            | Event::AgentFollowed { id, serial } => {
                line!(self, event, caller, agent.id = %id, svid.serial = serial);
            }
            Event::AgentVersionReported { id, version } => {
                line!(self, event, caller, agent.id = %id, version);
            }
            Event::AgentDoubted(id, _) | Event::AgentBanned(id) | Event::AgentEvicted(id) => {
                line!(self, event, caller, agent.id = %id);
            }
            _ => {}
        }
    }

    fn not_done(&self, caller: &(dyn std::fmt::Display + Sync), event: Event<'_>) {
        let Event::Refused {
            method,
            subject,
            reason,
            sentence,
        } = event
        else {
            return;
        };
        line!(
            self,
            event,
            caller,
            rpc.method = method,
            audit.subject = subject,
            error.reason = reason,
            error = sentence
        );
    }

    fn issued(&self, caller: &(dyn std::fmt::Display + Sync), event: Event<'_>) {
        let Some(issued) = event.issued() else { return };
        let dns_names = (!issued.dns_names.is_empty()).then(|| text(issued.dns_names));
        let subject = issued.subject.map(|subject| {
            let parts = subject
                .iter()
                .map(|(attribute, value)| format!("{attribute:?}={value}"));
            parts.collect::<Vec<_>>().join(", ")
        });
        line!(
            self,
            event,
            caller,
            entry.id = issued.entry.map(EntryId::as_str),
            spiffe.id = issued.id.map(SpiffeId::as_str),
            svid.serial = issued.serial,
            svid.not_after = crate::records::to_seconds(issued.end),
            svid.dns_names = dns_names,
            svid.subject = subject
        );
    }

    fn count(&self, event: &'static str) {
        self.inner.events.get_or_create(&Labels { event }).inc();
    }

    /// Records that a caller was not let through, which is seen whether the trail is enabled or not.
    pub(crate) fn refused(
        &self,
        caller: &(dyn std::fmt::Display + Sync),
        method: &str,
        reason: &'static str,
    ) {
        self.count(REFUSED);
        tracing::warn!(
            target: "audit",
            event = REFUSED,
            audit.decision = REFUSED,
            caller = %caller,
            rpc.method = method,
            error.reason = reason,
            "Refused a call"
        );
    }
}

fn text(names: &[DnsName]) -> String {
    let names: Vec<_> = names.iter().map(DnsName::as_str).collect();
    names.join(", ")
}

/// Stands for the server, in what it does unasked.
pub(crate) const SERVER: &str = "server";

/// Stands for a caller that is not to be made out.
pub(crate) const UNKNOWN_CALLER: &str = "unknown";
