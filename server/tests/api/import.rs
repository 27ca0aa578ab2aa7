//! Facts about what is taken over from another server of the trust domain.

use std::time::{Duration, UNIX_EPOCH};

use identity::x509::Certificate;
use proto::signet::server::import_client::ImportClient;
use proto::signet::server::{
    BatchImportAgentRequest, BatchImportEntryRequest, ImportBundleRequest, ImportResult, Outcome,
};
use proto::spire::server::agent::{BanAgentRequest, GetAgentRequest, ListAgentsRequest};
use proto::spire::server::bundle::GetBundleRequest;
use proto::spire::server::entry::entry_client::EntryClient;
use proto::spire::server::entry::{
    BatchUpdateEntryRequest, GetAuthorizedEntriesRequest, ListEntriesRequest,
};
use proto::spire::server::localauthority::GetX509AuthorityStateRequest;
use proto::spire::server::localauthority::local_authority_client::LocalAuthorityClient;
use proto::spire::types;
use proto::spire::types::permission_denied_details::Reason;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use tonic::{Code, Status};

use super::agents::renew;
use super::downstream;
use super::support::{Identity, Server, agent_id, csr, entry, own, reason, selector, start};

/// The server that is left, and the one that is moved to.
async fn pair() -> (Server, Server) {
    let (old, new) = (start().await, start().await);
    merge(&new, bundle(&old).await, false).await.unwrap();
    (old, new)
}

pub(crate) async fn bundle(server: &Server) -> types::Bundle {
    let mut client = server.bundles();
    let answer = client.get_bundle(GetBundleRequest::default()).await;
    answer.unwrap().into_inner()
}

pub(crate) async fn merge(
    server: &Server,
    bundle: types::Bundle,
    plan_only: bool,
) -> Result<(Outcome, types::Bundle), Status> {
    let request = ImportBundleRequest {
        plan_only,
        bundle: Some(bundle),
    };
    let mut client = ImportClient::new(server.admin.clone());
    let answer = client.import_bundle(request).await?.into_inner();
    Ok((answer.outcome(), answer.bundle.unwrap()))
}

pub(crate) async fn import_entries(
    server: &Server,
    entries: Vec<types::Entry>,
    plan_only: bool,
) -> Vec<ImportResult> {
    let request = BatchImportEntryRequest {
        plan_only,
        entries,
        gone_ids: Vec::new(),
    };
    let mut client = ImportClient::new(server.admin.clone());
    let answer = client.batch_import_entry(request).await.unwrap();
    answer.into_inner().results
}

pub(crate) async fn import_agents(
    server: &Server,
    agents: Vec<types::Agent>,
    from: &Server,
) -> Vec<ImportResult> {
    let request = BatchImportAgentRequest {
        plan_only: false,
        agents,
        authority_ids: signing(from).await,
    };
    let mut client = ImportClient::new(server.admin.clone());
    let answer = client.batch_import_agent(request).await.unwrap();
    answer.into_inner().results
}

/// The authorities that a server signs with.
async fn signing(server: &Server) -> Vec<String> {
    let mut client = LocalAuthorityClient::new(server.admin.clone());
    let states = client.get_x509_authority_state(GetX509AuthorityStateRequest {});
    let states = states.await.unwrap().into_inner();
    let known = [states.active, states.prepared, states.old];
    let known = known.into_iter().flatten();
    known.map(|state| state.authority_id).collect()
}

pub(crate) async fn listed(server: &Server) -> Vec<types::Entry> {
    let mut client = server.entries();
    let listed = client.list_entries(ListEntriesRequest::default()).await;
    listed.unwrap().into_inner().entries
}

pub(crate) async fn agents(server: &Server) -> Vec<types::Agent> {
    let mut client = server.agents();
    let listed = client.list_agents(ListAgentsRequest::default()).await;
    listed.unwrap().into_inner().agents
}

/// Whether an agent may call, with the reason if it may not.
async fn call(server: &Server, identity: &Identity) -> Result<(), i32> {
    let channel = server.connect(Some(identity)).await.unwrap();
    let mut client = EntryClient::new(channel);
    let called = client.get_authorized_entries(GetAuthorizedEntriesRequest::default());
    called.await.map(drop).map_err(|status| reason(&status))
}

fn outcomes(results: &[ImportResult]) -> Vec<Outcome> {
    let seen = |result: &ImportResult| {
        let status = result.status.as_ref().unwrap();
        assert_eq!(status.code, 0, "{}", status.message);
        result.outcome()
    };
    results.iter().map(seen).collect()
}

fn refusal(results: &[ImportResult]) -> (i32, &str) {
    let [result] = results else {
        panic!("{results:?}")
    };
    let status = result.status.as_ref().unwrap();
    (status.code, &status.message)
}

/// An entry with all the facts that one can have.
fn rich(id: &str, path: &str) -> types::Entry {
    types::Entry {
        id: id.to_owned(),
        spiffe_id: own(path),
        parent_id: own("/spire/agent/x/1"),
        selectors: vec![selector("gid:7"), selector("uid:1000")],
        x509_svid_ttl: 600,
        jwt_svid_ttl: 60,
        admin: true,
        downstream: true,
        expires_at: 4_000_000_000,
        dns_names: vec!["b.example.org".to_owned(), "a.example.org".to_owned()],
        revision_number: 7,
        store_svid: true,
        hint: "hint".to_owned(),
        created_at: 1_700_000_000,
        additional_attributes: Some(types::entry::AdditionalAttributes {
            jwt_svid_include_jti: true,
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_is_taken_over_with_all_its_facts_and_again_nothing_happens() {
    let server = start().await;
    let entries = vec![rich("one", "/one"), rich("two", "/two")];
    let planned = import_entries(&server, entries.clone(), true).await;
    assert_eq!(outcomes(&planned), [Outcome::Created; 2]);
    assert!(listed(&server).await.is_empty(), "a plan was carried out");
    let done = import_entries(&server, entries.clone(), false).await;
    assert_eq!(outcomes(&done), [Outcome::Created; 2]);
    assert_eq!(listed(&server).await, entries);
    let again = import_entries(&server, entries.clone(), false).await;
    assert_eq!(outcomes(&again), [Outcome::Unchanged; 2]);
    assert_eq!(listed(&server).await, entries);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_follows_the_other_server_until_it_is_changed_here() {
    let server = start().await;
    import_entries(&server, vec![rich("one", "/one")], false).await;
    let mut there = rich("one", "/one");
    there.hint = "new".to_owned();
    there.revision_number = 8;
    let updated = import_entries(&server, vec![there.clone()], false).await;
    assert_eq!(outcomes(&updated), [Outcome::Updated]);
    assert_eq!(listed(&server).await, [there.clone()]);

    let mut here = there.clone();
    here.hint = "here".to_owned();
    let request = BatchUpdateEntryRequest {
        entries: vec![here],
        ..Default::default()
    };
    server.entries().batch_update_entry(request).await.unwrap();
    let kept = import_entries(&server, vec![there], false).await;
    assert_eq!(outcomes(&kept), [Outcome::Kept]);
    assert_eq!(listed(&server).await[0].hint, "here");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_cannot_be_taken_over_is_refused_alone_and_says_why() {
    let server = start().await;
    let mut nobody = rich("federates", "/federates");
    nobody.federates_with = vec!["other.org".to_owned()];
    let refused = import_entries(&server, vec![nobody.clone()], false).await;
    let (code, message) = refusal(&refused);
    assert_eq!(code, i32::from(Code::FailedPrecondition));
    assert!(message.contains("other.org"), "{message}");
    // The bundle comes before the entry when the plan is carried out.
    let planned = import_entries(&server, vec![nobody], true).await;
    assert_eq!(outcomes(&planned), [Outcome::Created]);

    import_entries(&server, vec![rich("first", "/same")], false).await;
    let mixed = vec![rich("second", "/same"), rich("third", "/third")];
    let results = import_entries(&server, mixed, false).await;
    let (code, message) = refusal(&results[..1]);
    assert_eq!(code, i32::from(Code::AlreadyExists));
    assert!(message.contains("entry first is here"), "{message}");
    assert_eq!(outcomes(&results[1..]), [Outcome::Created]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_was_made_anew_there_takes_the_place_of_the_one_that_is_gone() {
    let server = start().await;
    import_entries(&server, vec![rich("first", "/same")], false).await;
    let mut client = ImportClient::new(server.admin.clone());
    for plan_only in [true, false] {
        let request = BatchImportEntryRequest {
            plan_only,
            entries: vec![rich("second", "/same")],
            gone_ids: vec!["first".to_owned(), "never".to_owned()],
        };
        let answer = client.batch_import_entry(request).await.unwrap();
        assert_eq!(outcomes(&answer.into_inner().results), [Outcome::Created]);
        let id = if plan_only { "first" } else { "second" };
        assert_eq!(listed(&server).await, [rich(id, "/same")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_grows_by_the_other_one_with_its_taints_and_gets_no_older_number() {
    let (old, new) = (start().await, start().await);
    let ours = bundle(&new).await;
    let mut theirs = bundle(&old).await;
    theirs.sequence_number = 40;
    theirs.x509_authorities[0].tainted = true;
    theirs.jwt_authorities[0].tainted = true;
    let (planned, as_planned) = merge(&new, theirs.clone(), true).await.unwrap();
    assert_eq!(planned, Outcome::Updated);
    assert_eq!(bundle(&new).await, ours, "a plan was carried out");
    let (done, merged) = merge(&new, theirs.clone(), false).await.unwrap();
    assert_eq!((done, &merged), (Outcome::Updated, &as_planned));
    assert_eq!(bundle(&new).await, merged);
    assert_eq!(merged.sequence_number, 41);
    for authority in ours.x509_authorities.iter().chain(&theirs.x509_authorities) {
        assert!(merged.x509_authorities.contains(authority));
    }
    for key in ours.jwt_authorities.iter().chain(&theirs.jwt_authorities) {
        assert!(merged.jwt_authorities.contains(key));
    }
    let (again, after) = merge(&new, theirs.clone(), false).await.unwrap();
    assert_eq!((again, after), (Outcome::Unchanged, merged));

    let mut later = theirs;
    later.sequence_number = 50;
    let (later, after) = merge(&new, later, false).await.unwrap();
    assert_eq!((later, after.sequence_number), (Outcome::Updated, 50));
}

#[tokio::test(flavor = "multi_thread")]
async fn adv_the_bundle_of_another_trust_domain_does_not_join_ours() {
    let (old, new) = (start().await, start().await);
    let before = bundle(&new).await;
    let mut theirs = bundle(&old).await;
    theirs.trust_domain = "other.org".to_owned();
    let refused = merge(&new, theirs, false).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("other.org"), "{refused:?}");
    assert_eq!(bundle(&new).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_goes_on_with_the_svid_that_it_has() {
    let (old, new) = pair().await;
    let (_, identity, _) = old.agent().await;
    assert_eq!(
        call(&new, &identity).await,
        Err(Reason::AgentNotAttested as i32)
    );
    let there = agents(&old).await;
    let done = import_agents(&new, there.clone(), &old).await;
    assert_eq!(outcomes(&done), [Outcome::Created]);
    assert_eq!(agents(&new).await, there);
    let again = import_agents(&new, there.clone(), &old).await;
    assert_eq!(outcomes(&again), [Outcome::Unchanged]);
    assert_eq!(call(&new, &identity).await, Ok(()));

    // We sign for it from now on, and what the other server says of it is past.
    let channel = new.connect(Some(&identity)).await.unwrap();
    let renewed = renew(&channel).await.unwrap();
    assert_eq!(call(&new, &renewed).await, Ok(()));
    let late = import_agents(&new, there, &old).await;
    assert_eq!(outcomes(&late), [Outcome::Kept]);
    assert_eq!(call(&new, &renewed).await, Ok(()));
    assert_eq!(
        call(&new, &identity).await,
        Err(Reason::AgentNotActive as i32)
    );
}

/// Renews at a server until the SVID ends later than the one before; ends are whole seconds.
async fn renew_later(server: &Server, identity: &Identity) -> Identity {
    let end = |identity: &Identity| {
        let leaf = Certificate::parse(&identity.chain[0]).unwrap();
        leaf.validity().not_after()
    };
    let channel = server.connect(Some(identity)).await.unwrap();
    loop {
        let renewed = renew(&channel).await.unwrap();
        if end(&renewed) > end(identity) {
            call(server, &renewed).await.unwrap();
            return renewed;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_renewed_at_its_former_server_after_it_was_listed_is_known() {
    let (old, new) = pair().await;
    let (_, first, _) = old.agent().await;
    let second = renew_later(&old, &first).await;
    let third = renew_later(&old, &second).await;
    let mut there = agents(&old).await;
    // As it was listed before the third.
    let leaf = Certificate::parse(&second.chain[0]).unwrap();
    let end = leaf.validity().not_after();
    let end = end.duration_since(UNIX_EPOCH).unwrap();
    there[0].x509svid_serial_number = leaf.serial_decimal().to_owned();
    there[0].x509svid_expires_at = end.as_secs().try_into().unwrap();
    import_agents(&new, there.clone(), &old).await;

    // One from before the listed one was replaced at the other server.
    assert_eq!(call(&new, &first).await, Err(Reason::AgentNotActive as i32));
    assert_eq!(call(&new, &third).await, Ok(()));
    assert_eq!(
        call(&new, &second).await,
        Err(Reason::AgentNotActive as i32)
    );
    let late = import_agents(&new, there, &old).await;
    assert_eq!(outcomes(&late), [Outcome::Kept]);
    assert_eq!(call(&new, &third).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn adv_a_server_below_the_former_one_makes_no_svid_of_an_agent_that_moved() {
    let (old, new) = pair().await;
    let (victim, _, _) = old.agent().await;
    let there = agents(&old).await;
    import_agents(&new, there, &old).await;

    let below = downstream::workload(&old, true).await;
    let key = KeyPair::generate().unwrap();
    let asked = csr(&key, &CertificateParams::default());
    let ca = downstream::new_ca(&below, asked, 0).await.unwrap();
    let ca = rustls_pki_types::CertificateDer::from(ca.ca_cert_chain[0].to_vec());
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI(victim.as_str().try_into().unwrap())];
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let leaf_key = KeyPair::generate().unwrap();
    let issuer = Issuer::from_ca_cert_der(&ca, &key).unwrap();
    let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
    let forged = Identity {
        key: leaf_key,
        // The authority that signed is shown too, and so is the one that did not.
        chain: vec![leaf.der().clone(), ca],
    };
    assert_eq!(
        call(&new, &forged).await,
        Err(Reason::AgentNotActive as i32)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn adv_an_svid_of_another_authority_is_none_of_an_agent_that_moved() {
    let (old, new) = pair().await;
    let (_, first, _) = old.agent().await;
    let listed = agents(&old).await;
    let later = renew_later(&old, &first).await;
    let mut client = ImportClient::new(new.admin.clone());
    let request = BatchImportAgentRequest {
        plan_only: false,
        agents: listed,
        // Not what signed it.
        authority_ids: signing(&new).await,
    };
    client.batch_import_agent(request).await.unwrap();
    assert_eq!(call(&new, &first).await, Ok(()));
    assert_eq!(call(&new, &later).await, Err(Reason::AgentNotActive as i32));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_comes_over_and_nothing_makes_it_undone() {
    let (old, new) = pair().await;
    let token = old.token().await;
    let identity = old.attest(&token).await.unwrap();
    let id = || super::support::id(&agent_id(&token));
    let free = agents(&old).await;
    import_agents(&new, free.clone(), &old).await;
    old.agents()
        .ban_agent(BanAgentRequest { id: id() })
        .await
        .unwrap();
    let banned = import_agents(&new, agents(&old).await, &old).await;
    assert_eq!(outcomes(&banned), [Outcome::Updated]);
    assert_eq!(call(&new, &identity).await, Err(Reason::AgentBanned as i32));
    let again = import_agents(&new, agents(&old).await, &old).await;
    assert_eq!(outcomes(&again), [Outcome::Unchanged]);
    let undone = import_agents(&new, free, &old).await;
    assert_eq!(outcomes(&undone), [Outcome::Kept]);
    let request = GetAgentRequest {
        id: id(),
        output_mask: None,
    };
    let shown = new.agents().get_agent(request).await.unwrap().into_inner();
    assert!(shown.banned && shown.x509svid_serial_number.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_could_not_stay_is_refused_and_says_why() {
    let (old, new) = pair().await;
    old.agent().await;
    let fit = agents(&old).await.remove(0);
    let with = |change: fn(&mut types::Agent)| {
        let mut agent = fit.clone();
        change(&mut agent);
        agent
    };
    let cases: [(types::Agent, Code, &str); 5] = [
        (
            with(|agent| {
                agent.can_reattest = true;
                agent.attestation_type = "aws_iid".to_owned();
            }),
            Code::FailedPrecondition,
            "aws_iid",
        ),
        (
            with(|agent| agent.x509svid_serial_number.clear()),
            Code::InvalidArgument,
            "serial number",
        ),
        (
            with(|agent| agent.x509svid_serial_number = "0x1".to_owned()),
            Code::InvalidArgument,
            "serial number",
        ),
        (
            with(|agent| agent.id = own("/workload")),
            Code::InvalidArgument,
            "invalid agent ID",
        ),
        (
            with(|agent| agent.agent_version = "v".repeat(256)),
            Code::InvalidArgument,
            "agent version",
        ),
    ];
    for (agent, expected, words) in cases {
        let results = import_agents(&new, vec![agent], &old).await;
        let (code, message) = refusal(&results);
        assert_eq!(code, i32::from(expected), "{message}");
        assert!(message.contains(words), "{message}");
    }
    let twice = import_agents(&new, vec![fit.clone(), fit.clone()], &old).await;
    assert_eq!(outcomes(&twice[..1]), [Outcome::Created]);
    assert_eq!(refusal(&twice[1..]).0, i32::from(Code::InvalidArgument));

    let mut client = ImportClient::new(new.admin.clone());
    for authority_ids in [vec![], vec!["AB".to_owned()], vec!["ab".to_owned(); 17]] {
        let request = BatchImportAgentRequest {
            plan_only: false,
            agents: vec![fit.clone()],
            authority_ids,
        };
        let refused = client.batch_import_agent(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    let request = BatchImportEntryRequest {
        plan_only: true,
        entries: vec![entry(&agent_id("x"), "/x"); 1001],
        gone_ids: Vec::new(),
    };
    let refused = client.batch_import_entry(request).await.unwrap_err();
    assert!(refused.message().contains("1000"), "{refused:?}");
}
