//! `CredentialComposer "uniqueid"`: the subjects of our X509-SVIDs are SPIRE's, to the byte.

use std::collections::BTreeMap;

use identity::x509::parse_pem_certificates;
use nix::unistd::getuid;
use tests::domain::Plan;
use tests::programs::Make::{self, Signet, Spire};
use tests::workload::Workload;

#[test]
fn subjects_with_a_unique_id_are_spires_to_the_byte() {
    if tests::peers::folder("spire").is_none() {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ours = runtime.block_on(subjects(Signet));
    let spires = runtime.block_on(subjects(Spire));
    assert_eq!(ours, spires);
    let all = ours.values();
    let unique: Vec<_> = all.filter(|subject| contains(subject, UNIQUE_ID)).collect();
    assert_eq!(unique.len(), ours.len());
}

/// The object identifier 2.5.4.45.
const UNIQUE_ID: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x2d];

fn contains(subject: &[u8], part: &[u8]) -> bool {
    subject.windows(part.len()).any(|window| window == part)
}

/// Of two workloads, one of which has a DNS name, and of an SVID that an operator minted.
async fn subjects(server: Make) -> BTreeMap<&'static str, Vec<u8>> {
    let domain = Plan::new(server)
        .ids_alone()
        .plugin("CredentialComposer \"uniqueid\" { plugin_data {} }")
        .start();
    let agent = domain.agent(Signet);
    let selector = format!("unix:uid:{}", getuid().as_raw());
    let named: &[&str] = &["-dns", "named.example.org"];
    let mut subjects = BTreeMap::new();
    for (path, more) in [("/plain", &[][..]), ("/named", named)] {
        domain.entry(&agent, path, &selector, more);
        let id = format!("spiffe://example.org{path}");
        let workload = Workload::start(&agent.socket(), &id).await;
        subjects.insert(path, workload.newest().chain[0].subject_der().to_vec());
    }
    let words = ["x509", "mint", "-spiffeID", "spiffe://example.org/minted"];
    let minted = domain.cli(&words).success();
    let (chain, _) = minted.split_once("Private key:").unwrap();
    let (_, chain) = chain.split_once('\n').unwrap();
    let chain = parse_pem_certificates(chain.trim()).unwrap();
    subjects.insert("/minted", chain[0].subject_der().to_vec());
    subjects
}
