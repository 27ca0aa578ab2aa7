//! What an entry says of its identity, and what reaches the workload of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use identity::x509::{Certificate, parse_concatenated_der};
use runtime::clock::Clock;
use serde_json::Value;

use super::Pairing;
use crate::domain::{Agent, Domain};
use crate::process::eventually;
use crate::programs::Make;

/// A bundle of another trust domain.
const FEDERATED: &str = include_str!("../../../cli/src/admin/bundles/recorded.json");

/// Both servers date an X509-SVID back by this.
const BACKDATED: Duration = Duration::from_secs(10);

/// Hints, DNS names, lifetimes, federation, an administrator's and a server's below reach the workload as the
/// entries say; what is for a store does not; and an entry is served until it expires.
pub fn every_kind_of_entry_is_served(pairing: Pairing) {
    let (domain, agent) = pairing.start();
    let bundle = domain.folder().join("federated.json");
    std::fs::write(&bundle, FEDERATED).unwrap();
    let set = [
        "bundle", "set", "-id", "fed.org", "-format", "spiffe", "-path",
    ];
    let set = [&set[..], &[bundle.to_str().unwrap()]].concat();
    domain.cli(&set).success();
    let names = ["-dns", "one.example.org", "-dns", "two.example.org"];
    let ttls = ["-x509SVIDTTL", "600", "-jwtSVIDTTL", "120"];
    for (path, more) in [
        ("/hint", &["-hint", "internal"][..]),
        ("/names", &names),
        ("/ttls", &ttls),
        ("/federated", &["-federatesWith", "fed.org"]),
        ("/admin", &["-admin"]),
        ("/downstream", &["-downstream"]),
    ] {
        domain.entry(&agent, path, "unix:uid:0", more);
    }
    // Of the same selector; an agent that served it would serve it with the others.
    domain.entry(&agent, "/stored", "unix:uid:0", &["-storeSVID"]);
    let paths = [
        "/hint",
        "/names",
        "/ttls",
        "/federated",
        "/admin",
        "/downstream",
    ];
    let shown = wait_for(&agent, &paths);

    assert_eq!(shown["/hint"].hint, "internal");
    assert_eq!(shown["/admin"].hint, "");
    let leaf = &shown["/names"].leaf;
    assert_eq!(leaf.dns_names(), ["one.example.org", "two.example.org"]);
    assert_eq!(leaf.common_name().as_deref(), Some("one.example.org"));
    let lifetime = shown["/ttls"].leaf.validity().lifetime();
    assert_eq!(lifetime, Duration::from_secs(600) + BACKDATED);
    assert_eq!(jwt_lifetime(&agent, "/ttls"), 120);
    assert!(federated(&agent).contains("spiffe://fed.org"));
    if pairing.server == Make::Signet {
        an_entry_is_served_until_it_expires(&domain, &agent, &paths);
    }
}

/// SPIRE's server looks for entries that have expired every five minutes alone.
fn an_entry_is_served_until_it_expires(domain: &Domain, agent: &Agent, others: &[&str]) {
    let now = Clock::system().now().duration_since(UNIX_EPOCH).unwrap();
    // SPIRE's agent hears of it within five seconds.
    let end = (now.as_secs() + 12).to_string();
    domain.entry(agent, "/brief", "unix:uid:0", &["-entryExpiry", &end]);
    wait_for(agent, &[others, &["/brief"]].concat());
    wait_for(agent, others);
}

/// What a workload is shown of one of its identities.
#[derive(Debug)]
struct Identity {
    hint: String,
    leaf: Certificate,
}

/// Waits until the workload has these identities and no other.
fn wait_for(agent: &Agent, paths: &[&str]) -> BTreeMap<String, Identity> {
    let wanted: BTreeSet<&str> = paths.iter().copied().collect();
    let mut shown = BTreeMap::new();
    eventually(&format!("the identities are {paths:?}"), || {
        shown = identities(agent);
        shown.keys().map(String::as_str).collect::<BTreeSet<_>>() == wanted
    });
    shown
}

fn identities(agent: &Agent) -> BTreeMap<String, Identity> {
    let Some(answer) = fetched(agent, &["fetch", "x509"]) else {
        return BTreeMap::new();
    };
    let svids = answer["svids"].as_array().unwrap().iter();
    let identities = svids.map(|svid| {
        let chain = STANDARD
            .decode(svid["x509_svid"].as_str().unwrap())
            .unwrap();
        let leaf = parse_concatenated_der(&chain).unwrap().remove(0);
        let path = leaf.spiffe_id().unwrap().path().to_owned();
        let hint = svid["hint"].as_str().unwrap().to_owned();
        (path, Identity { hint, leaf })
    });
    identities.collect()
}

/// The trust domains of whom the workload has a bundle besides its own.
fn federated(agent: &Agent) -> BTreeSet<String> {
    let answer = fetched(agent, &["fetch", "x509"]).unwrap();
    let bundles = answer["federated_bundles"].as_object().unwrap();
    bundles.keys().cloned().collect()
}

/// How long a JWT-SVID of this identity lives, in seconds.
fn jwt_lifetime(agent: &Agent, path: &str) -> u64 {
    let id = format!("spiffe://example.org{path}");
    let words = ["fetch", "jwt", "-audience", "a", "-spiffeID", &id];
    let answer = fetched(agent, &words).unwrap();
    let token = answer[0]["svids"][0]["svid"].as_str().unwrap();
    let claims = URL_SAFE_NO_PAD
        .decode(token.split('.').nth(1).unwrap())
        .unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap()
}

/// What the agent's program says as JSON; nothing if it fails.
fn fetched(agent: &Agent, words: &[&str]) -> Option<Value> {
    let words = [words, &["-output", "json"]].concat();
    let ended = agent.api(agent.make, &words);
    (ended.code == 0).then(|| serde_json::from_str(&ended.stdout).unwrap())
}

/// How many entries an agent is told in one message: more are told page by page.
const PAGE: usize = 500;

/// Entries beyond one message, by their size and by their count, reach the agent, and so do changes among them.
pub fn an_agent_hears_of_more_entries_than_one_message_holds(pairing: Pairing) {
    let (domain, agent) = pairing.start();
    // Few and large: together above the 1 MiB of our server's messages.
    let hint = "h".repeat(1024);
    let large = (0..PAGE - 100).map(|at| entry(&agent, &format!("/large/{at}"), &hint));
    create(&domain, large);
    domain.entry(&agent, "/first", "unix:uid:0", &[]);
    wait_for(&agent, &["/first"]);
    // Many: 1,200 and more with those before.
    let many = (0..2 * PAGE - 200).map(|at| entry(&agent, &format!("/many/{at}"), ""));
    create(&domain, many);
    let last = domain.entry(&agent, "/last", "unix:uid:0", &[]);
    wait_for(&agent, &["/first", "/last"]);

    let changed = ["entry", "update", "-entryID", &last, "-parentID", &agent.id];
    let to = [
        "-spiffeID",
        "spiffe://example.org/changed",
        "-selector",
        "unix:uid:0",
    ];
    domain.cli(&[&changed[..], &to].concat()).success();
    wait_for(&agent, &["/first", "/changed"]);
    domain
        .cli(&["entry", "delete", "-entryID", &last])
        .success();
    wait_for(&agent, &["/first"]);
}

/// An entry below the agent that no process here matches.
fn entry(agent: &Agent, path: &str, hint: &str) -> Value {
    serde_json::json!({
        "parent_id": agent.id,
        "spiffe_id": format!("spiffe://example.org{path}"),
        "selectors": [
            { "type": "unix", "value": "uid:4000000000" },
            { "type": "unix", "value": format!("path:{hint}{hint}{path}") },
        ],
        "hint": hint,
    })
}

fn create(domain: &Domain, entries: impl Iterator<Item = Value>) {
    let entries: Vec<_> = entries.collect();
    let file = domain.folder().join("entries.json");
    let text = serde_json::json!({ "entries": entries }).to_string();
    std::fs::write(&file, text).unwrap();
    let created = domain.cli(&["entry", "create", "-data", file.to_str().unwrap()]);
    created.success();
}
