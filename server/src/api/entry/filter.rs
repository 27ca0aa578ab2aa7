//! The filters of entry lists and counts.

use std::collections::BTreeSet;

use identity::namespace::Role;
use identity::trust_domain::TrustDomain;
use proto::spire::server::entry::{count_entries_request, list_entries_request};
use proto::spire::types;
use tonic::Status;

use super::super::convert::{how, id_in_role, selectors};
use super::super::status::invalid;
use crate::index::listing::{EntryFilter, Match};

pub(super) fn of_list(
    own: &TrustDomain,
    filter: Option<list_entries_request::Filter>,
) -> Result<EntryFilter, Status> {
    filter.map_or_else(|| Ok(EntryFilter::default()), |filter| read(own, filter))
}

/// The two messages have the same fields.
pub(super) fn of_count(
    own: &TrustDomain,
    filter: Option<count_entries_request::Filter>,
) -> Result<EntryFilter, Status> {
    let same = |filter: count_entries_request::Filter| list_entries_request::Filter {
        by_spiffe_id: filter.by_spiffe_id,
        by_parent_id: filter.by_parent_id,
        by_selectors: filter.by_selectors,
        by_federates_with: filter.by_federates_with,
        by_hint: filter.by_hint,
        by_downstream: filter.by_downstream,
    };
    of_list(own, filter.map(same))
}

fn read(own: &TrustDomain, filter: list_entries_request::Filter) -> Result<EntryFilter, Status> {
    let mut read = EntryFilter {
        // An empty hint is no condition, as in SPIRE.
        hint: filter.by_hint.filter(|hint| !hint.is_empty()),
        // No is no condition, as in SPIRE: its command says it wherever it is not asked for these alone.
        downstream: filter.by_downstream == Some(true),
        ..EntryFilter::default()
    };
    if let Some(id) = &filter.by_parent_id {
        let id = id_in_role(Some(id), Role::Member, own);
        read.parent_id = Some(id.map_err(|error| invalid("malformed parent ID filter", &error))?);
    }
    if let Some(id) = &filter.by_spiffe_id {
        let id = id_in_role(Some(id), Role::Workload, own);
        read.spiffe_id = Some(id.map_err(|error| invalid("malformed SPIFFE ID filter", &error))?);
    }
    if let Some(by) = &filter.by_selectors {
        let what = "malformed selectors filter";
        let asked = selectors(&by.selectors).map_err(|error| invalid(what, &error))?;
        if asked.is_empty() {
            return Err(Status::invalid_argument(
                "malformed selectors filter: empty selector set",
            ));
        }
        let how = how(by.r#match).map_err(|error| invalid(what, &error))?;
        read.selectors = Some((how, asked));
    }
    if let Some(by) = &filter.by_federates_with {
        read.federates_with = Some(federates_with(by)?);
    }
    Ok(read)
}

fn federates_with(
    by: &types::FederatesWithMatch,
) -> Result<(Match, BTreeSet<TrustDomain>), Status> {
    let what = "malformed federates with filter";
    let names = by.trust_domains.iter().map(|name| TrustDomain::parse(name));
    let asked: BTreeSet<_> = names
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(what, &error))?;
    if asked.is_empty() {
        return Err(Status::invalid_argument(format!(
            "{what}: empty trust domain set"
        )));
    }
    // Both enums give the same numbers to the same words.
    let how = how(by.r#match).map_err(|error| invalid(what, &error))?;
    Ok((how, asked))
}
