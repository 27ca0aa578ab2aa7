//! Servers of one trust domain below one another, ours and SPIRE's: what is signed at the bottom is verified by
//! what the top says.

use std::collections::BTreeSet;
use std::time::Duration;

use identity::bundle::Bundle;
use identity::trust_domain::TrustDomain;
use identity::x509::{Certificate, Purpose, parse_pem_certificates, verify_peer};
use nix::unistd::getuid;
use proto::spire::server::bundle::GetBundleRequest;
use proto::spire::server::bundle::bundle_client::BundleClient;
use runtime::clock::Clock;
use tests::api::admin_channel;
use tests::domain::{Agent, Domain, Plan};
use tests::process::eventually;
use tests::programs::Make::{self, Signet, Spire};
use tests::workload::Workload;
use tonic::transport::Channel;

/// How long the tower stands.
const TWO_MINUTES: Duration = Duration::from_secs(120);
/// How often the workload at its bottom is looked at.
const INTERVAL: Duration = Duration::from_millis(100);

/// A server with an agent, which makes the next server below known.
struct Layer {
    domain: Domain,
    agent: Agent,
}

impl Layer {
    fn root(make: Make, keys: &[&str]) -> Self {
        Self::start(plan(make, keys), make)
    }

    fn below(above: &Self, make: Make, keys: &[&str]) -> Self {
        above.entry("/below", &["-downstream"]);
        Self::start(plan(make, keys).plugin(&above.as_upstream()), make)
    }

    fn start(plan: Plan, make: Make) -> Self {
        let domain = plan.start();
        let agent = domain.agent(make);
        Self { domain, agent }
    }

    fn entry(&self, path: &str, more: &[&str]) {
        let selector = format!("unix:uid:{}", getuid().as_raw());
        self.domain.entry(&self.agent, path, &selector, more);
    }

    /// The plugin by which a server gets its authority from this one.
    fn as_upstream(&self) -> String {
        format!(
            "UpstreamAuthority \"spire\" {{ plugin_data {{\n\
             server_address = \"127.0.0.1\"\nserver_port = \"{}\"\n\
             workload_api_socket = \"{}\"\n}} }}",
            self.domain.port,
            self.agent.socket().display()
        )
    }

    fn roots(&self) -> String {
        self.domain.cli(&["bundle", "show"]).success()
    }

    fn bundle(&self) -> Bundle {
        let words = ["bundle", "show", "-format", "spiffe"];
        let json = self.domain.cli(&words).success();
        Bundle::from_spiffe_json(own(), json.as_bytes()).unwrap()
    }

    /// The chain of a new X509-SVID.
    fn mint(&self) -> Vec<Certificate> {
        let words = ["x509", "mint", "-spiffeID", "spiffe://example.org/nested"];
        let minted = self.domain.cli(&words).success();
        let (chain, _) = minted.split_once("Private key:").unwrap();
        let (_, chain) = chain.split_once('\n').unwrap();
        parse_pem_certificates(chain.trim()).unwrap()
    }

    /// Does a step with the X.509 authorities of the server.
    fn authority(&self, step: &str, id: &str) {
        let mut words = vec!["localauthority", "x509", step];
        if !id.is_empty() {
            words.extend(["-authorityID", id]);
        }
        self.domain.cli(&words).success();
    }
}

fn plan(make: Make, keys: &[&str]) -> Plan {
    keys.iter()
        .fold(Plan::new(make).ids_alone(), |plan, key| plan.key(key))
}

fn own() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn verifies(chain: &[Certificate], bundle: &Bundle) -> bool {
    let now = Clock::system().now();
    verify_peer(chain, Purpose::ClientAuth, |_| Some(bundle), now).is_ok()
}

fn has_spire() -> bool {
    tests::peers::folder("spire").is_some()
}

#[test]
fn a_spire_server_below_ours_gets_its_authority_and_publishes_its_keys() {
    if has_spire() {
        gets_its_authority_and_publishes_its_keys(Signet, Spire);
    }
}

#[test]
fn our_server_below_spires_gets_its_authority_and_publishes_its_keys() {
    if has_spire() {
        gets_its_authority_and_publishes_its_keys(Spire, Signet);
    }
}

#[test]
fn our_server_below_ours_gets_its_authority_and_publishes_its_keys() {
    gets_its_authority_and_publishes_its_keys(Signet, Signet);
}

fn gets_its_authority_and_publishes_its_keys(above: Make, below: Make) {
    let above = Layer::root(above, &[]);
    let below = Layer::below(&above, below, &[]);
    assert_eq!(below.roots(), above.roots(), "one trust domain, one bundle");
    let chain = below.mint();
    assert_eq!(chain.len(), 2, "a leaf, and the authority below the root");
    assert!(verifies(&chain, &above.bundle()));
    let words = ["jwt", "mint", "-spiffeID", "spiffe://example.org/nested"];
    let words = [&words[..], &["-audience", "a"]].concat();
    let token = below.domain.cli(&words).success();
    // What is signed below is accepted above, by a workload there.
    eventually("the key below is known to the agent above", || {
        let words = ["validate", "jwt", "-audience", "a", "-svid", token.trim()];
        above.agent.api(above.agent.make, &words).code == 0
    });
}

#[test]
fn a_key_from_the_bottom_of_three_servers_is_known_at_the_top() {
    if !has_spire() {
        return;
    }
    let top = Layer::root(Spire, &[]);
    let middle = Layer::below(&top, Signet, &[]);
    let bottom = Layer::below(&middle, Spire, &[]);
    let keys = |layer: &Layer| {
        let keys = layer.bundle().jwt_authorities.into_iter();
        keys.map(|key| key.key_id).collect::<BTreeSet<_>>()
    };
    eventually("all have the keys of all", || {
        let all = keys(&top);
        all.len() == 3 && keys(&middle) == all && keys(&bottom) == all
    });
}

#[test]
fn what_happens_to_the_authorities_of_spires_server_above_happens_to_ours() {
    if has_spire() {
        follows_what_happens_above(Spire);
    }
}

#[test]
fn what_happens_to_the_authorities_of_our_server_above_happens_to_ours() {
    follows_what_happens_above(Signet);
}

/// A leaked root is replaced, tainted and revoked above; nothing is done by hand below.
fn follows_what_happens_above(above: Make) {
    let above = Layer::root(above, &[]);
    let below = Layer::below(&above, Signet, &[]);
    let first = ids(&above.bundle()).remove(0);
    let before = below.mint();

    above.authority("prepare", "");
    let all = ids(&above.bundle());
    let second = all.into_iter().find(|id| *id != first).unwrap();
    eventually("the new root is known below", || {
        ids(&below.bundle()).contains(&second)
    });
    above.authority("activate", &second);
    above.authority("taint", &first);
    eventually("what is signed below leads to the new root", || {
        root_of(&below.mint()) == second
    });
    let after = below.mint();
    assert!(verifies(&before, &above.bundle()), "until it is revoked");
    above.authority("revoke", &first);
    eventually("the old root is gone below", || {
        ids(&below.bundle()) == [second.clone()]
    });
    assert!(!verifies(&before, &below.bundle()));
    assert!(verifies(&after, &below.bundle()));
    assert!(verifies(&after, &above.bundle()));
}

fn ids(bundle: &Bundle) -> Vec<String> {
    let authorities = bundle.x509_authorities.iter();
    authorities
        .map(|authority| authority.authority_id())
        .collect()
}

/// The name of the root that a chain leads to.
fn root_of(chain: &[Certificate]) -> String {
    chain.last().unwrap().authority_key_id().unwrap()
}

#[test]
fn our_server_signs_on_while_spires_server_above_is_away_and_after_a_restart_without_it() {
    if !has_spire() {
        return;
    }
    let mut above = Layer::root(Spire, &[]);
    let mut below = Layer::below(&above, Signet, &[]);
    let bundle = above.bundle();
    let port = above.domain.port;
    above.domain.server.kill();
    let told = "Could not follow the upstream bundle";
    let line = below.domain.server.line(told);
    assert!(line.contains(&format!("127.0.0.1:{port}")), "{line}");
    assert!(verifies(&below.mint(), &bundle));
    below.domain.crash_and_restart_server();
    assert!(verifies(&below.mint(), &bundle));
    below.domain.server.line(told);
    above.domain.restart_server();
    below
        .domain
        .server
        .line("Following the upstream bundle works again");
}

#[test]
fn our_server_waits_for_its_first_authority_until_it_may_have_one() {
    if !has_spire() {
        return;
    }
    let above = Layer::root(Spire, &[]);
    let plan = plan(Signet, &[]).plugin(&above.as_upstream());
    let mut below = plan.launch();
    let line = below
        .server
        .line("Could not get a first authority from the upstream authority");
    assert!(
        line.contains("has given this server no X509-SVID yet"),
        "{line}"
    );
    // An entry that does not say that servers may stand below.
    above.entry("/below", &[]);
    below
        .server
        .line("Have an X509-SVID for the upstream server");
    let (line, _) = below.server.line_after(0, "upstream_refused");
    assert!(line.contains("PermissionDenied"), "{line}");
    above.entry("/below-too", &["-downstream"]);
    let shown = above
        .domain
        .cli(&["entry", "show", "-spiffeID", "spiffe://example.org/below"]);
    let shown = shown.success();
    let id = shown
        .lines()
        .find(|line| line.starts_with("Entry ID"))
        .unwrap();
    let id = id.split(':').nth(1).unwrap().trim();
    above
        .domain
        .cli(&["entry", "delete", "-entryID", id])
        .success();
    below.server.line("Started the server");
}

/// Three servers below one another, whose authorities live for a minute.
///
/// At every moment what the workload at the bottom goes by is verified by the bundle that the server at the top
/// has then.
#[test]
fn through_two_minutes_of_rotation_every_svid_at_the_bottom_leads_to_the_top() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    // A real SPIRE agent does not outlive an authority of a minute: it ends with its own SVID.
    runtime.block_on(stand_for_two_minutes([Signet; 3]));
}

async fn stand_for_two_minutes(makes: [Make; 3]) {
    let keys = [
        "ca_ttl = \"60s\"",
        "default_x509_svid_ttl = \"20s\"",
        "agent_ttl = \"40s\"",
    ];
    let [top, middle, bottom] = makes;
    let top = Layer::root(top, &keys);
    let middle = Layer::below(&top, middle, &keys);
    let bottom = Layer::below(&middle, bottom, &keys);
    bottom.entry("/workload", &[]);
    let workload = Workload::start(&bottom.agent.socket(), "spiffe://example.org/workload").await;
    let admin = admin_channel(&top.domain.server_socket()).await;

    let mut seen = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
    let stand = async {
        let mut ticks = tokio::time::interval(INTERVAL);
        loop {
            ticks.tick().await;
            let now = Clock::system().now();
            let chain = &workload.newest().chain;
            let bundle = bundle_of(admin.clone()).await;
            let verified = verify_peer(chain, Purpose::ClientAuth, |_| Some(&bundle), now);
            assert!(verified.is_ok(), "{makes:?}: {verified:?} of {chain:?}");
            assert_eq!(chain.len(), 3, "a leaf, and the authorities below the top");
            for (seen, certificate) in seen.iter_mut().zip(chain) {
                seen.insert(certificate.authority_key_id().unwrap());
            }
        }
    };
    let stood: Result<(), _> = tokio::time::timeout(TWO_MINUTES, stand).await;
    assert!(stood.is_err(), "it ends by itself");
    let counts = seen.map(|ids| ids.len());
    assert!(
        counts.iter().all(|count| *count > 1),
        "{makes:?}: {counts:?}"
    );
}

async fn bundle_of(admin: Channel) -> Bundle {
    let request = GetBundleRequest::default();
    let bundle = BundleClient::new(admin).get_bundle(request).await;
    let authorities = bundle.unwrap().into_inner().x509_authorities.into_iter();
    let der: Vec<u8> = authorities
        .flat_map(|authority| authority.asn1.to_vec())
        .collect();
    Bundle::from_x509_der(own(), &der).unwrap()
}
