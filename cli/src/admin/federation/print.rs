//! Relationships and the outcomes of writing them, line by line as SPIRE prints them.

use proto::spire::types::federation_relationship::BundleEndpointProfile;
use proto::spire::types::{FederationRelationship, Status};

use crate::console::{Console, say, tell};
use crate::failure::Failure;
use crate::go;

/// The lines of a relationship.
pub(super) fn relationship(relationship: &FederationRelationship) -> String {
    let mut text = format!(
        "Trust domain              : {}\nBundle endpoint URL       : {}\n",
        relationship.trust_domain, relationship.bundle_endpoint_url
    );
    match &relationship.bundle_endpoint_profile {
        None => {}
        Some(BundleEndpointProfile::HttpsWeb(_)) => {
            text += "Bundle endpoint profile   : https_web\n";
        }
        Some(BundleEndpointProfile::HttpsSpiffe(profile)) => {
            text += "Bundle endpoint profile   : https_spiffe\n";
            text += &format!(
                "Endpoint SPIFFE ID        : {}\n",
                profile.endpoint_spiffe_id
            );
        }
    }
    text
}

/// What the server said, with what was asked for.
type Told = (
    (Option<Status>, Option<FederationRelationship>),
    FederationRelationship,
);

/// What became of each relationship: those that went well first. What failed is shown as it was asked
/// for, since the answer leaves it out.
pub(super) fn results(
    console: &mut Console,
    verb: &str,
    results: impl Iterator<Item = Told>,
) -> Result<(), Failure> {
    let mut failed = Vec::new();
    for ((status, made), asked) in results {
        match status.filter(|status| status.code != 0) {
            Some(status) => failed.push((status, asked)),
            None => {
                let made = made.unwrap_or_default();
                console.out(format_args!("\n{}", relationship(&made)));
            }
        }
    }
    for (status, asked) in &failed {
        say!(console);
        tell!(
            console,
            "Failed to {verb} the following federation relationship (code: {}, msg: {:?}):",
            go::code(status.code),
            status.message
        );
        console.err(format_args!("{}", relationship(asked)));
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "failed to {verb} one or more federation relationships"
    )))
}
