//! A real SPIRE server below ours: it signs with the authority that we sign for it.

use identity::bundle::Bundle;
use identity::trust_domain::TrustDomain;
use identity::x509::{Purpose, parse_pem_certificates, verify_peer};
use nix::unistd::getuid;
use runtime::clock::Clock;
use tests::domain::Plan;
use tests::process::eventually;
use tests::programs::Make::{Signet, Spire};

#[test]
fn a_spire_server_below_ours_gets_its_authority_and_publishes_its_keys() {
    if tests::peers::folder("spire").is_none() {
        return;
    }
    let above = Plan::new(Signet).start();
    let agent = above.agent(Signet);
    let selector = format!("unix:uid:{}", getuid().as_raw());
    above.entry(&agent, "/below", &selector, &["-downstream"]);
    let below = Plan::new(Spire)
        .plugin(&format!(
            "UpstreamAuthority \"spire\" {{ plugin_data {{\n\
             server_address = \"127.0.0.1\"\nserver_port = \"{}\"\n\
             workload_api_socket = \"{}\"\n}} }}",
            above.port,
            agent.socket().display()
        ))
        .start();

    let roots = |domain: &tests::domain::Domain| domain.cli(&["bundle", "show"]).success();
    assert_eq!(roots(&below), roots(&above), "one trust domain, one bundle");

    let minted = below
        .cli(&["x509", "mint", "-spiffeID", "spiffe://example.org/nested"])
        .success();
    let (chain, _) = minted.split_once("Private key:").unwrap();
    let (_, chain) = chain.split_once('\n').unwrap();
    let chain = parse_pem_certificates(chain.trim()).unwrap();
    assert_eq!(chain.len(), 2, "a leaf, and the authority below ours");
    let json = above
        .cli(&["bundle", "show", "-format", "spiffe"])
        .success();
    let own = TrustDomain::parse("example.org").unwrap();
    let bundle = Bundle::from_spiffe_json(own, json.as_bytes()).unwrap();
    let now = Clock::system().now();
    let verified = verify_peer(&chain, Purpose::ClientAuth, |_| Some(&bundle), now);
    assert_eq!(verified.unwrap().path(), "/nested");

    let token = below
        .cli(&[
            "jwt",
            "mint",
            "-spiffeID",
            "spiffe://example.org/nested",
            "-audience",
            "a",
        ])
        .success();
    // What is signed below is accepted above, by a workload of ours.
    eventually("the key below is known to our agent", || {
        let words = ["validate", "jwt", "-audience", "a", "-svid", token.trim()];
        agent.api(Signet, &words).code == 0
    });
}
