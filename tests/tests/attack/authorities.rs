//! A server that is killed at random moments while an operator replaces its authorities.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tests::api::admin_channel;
use tests::domain::{Domain, Plan};
use tests::programs::Make::Signet;
use tests::simulated::Site;
use tonic::Status;
use tonic::transport::Channel;

use super::operator::{Kind, Operator, Step};

/// The longest that a server lives, in milliseconds.
const LIFE: u64 = 300;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_while_its_authorities_are_replaced_signs_only_with_what_its_bundle_has() {
    let seed = SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(1, |now| now.subsec_nanos());
    println!("seed {seed}");
    let mut random = u64::from(seed) | 1;
    let mut domain = Plan::new(Signet).key(r#"log_level = "WARN""#).start();
    let mut replaced = 0;
    for round in 0..super::rounds(20).min(500) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let admin = admin_channel(&domain.server_socket()).await;
        let life = Duration::from_millis(random % LIFE);
        let work = tokio::time::timeout(life, replace_again_and_again(admin, &mut replaced)).await;
        // Calls are refused while something is unfinished; none fails for another reason.
        if let Ok(status) = work {
            panic!("round {round}: {status}");
        }
        domain.crash_and_restart_server();
        is_sound(&domain, round).await;
    }
    assert!(replaced > 0, "no authority was ever replaced");
    println!("{replaced} authorities replaced");
}

/// Never returns but with a failure.
async fn replace_again_and_again(admin: Channel, replaced: &mut usize) -> Status {
    let mut operator = Operator::new(admin);
    loop {
        for kind in Kind::ALL {
            for step in Step::ALL {
                if let Err(status) = operator.take(step, kind).await {
                    return status;
                }
            }
            *replaced += 1;
        }
    }
}

/// One authority of each kind signs and at most two live, the bundle has them, no other key is kept, and
/// what is signed now is signed by the one that signs.
async fn is_sound(domain: &Domain, round: u32) {
    let bundle = domain.cli(&["bundle", "show", "-output", "json"]).success();
    let bundle: Value = serde_json::from_str(&bundle).expect("a bundle");
    let keys: Value = serde_json::from_slice(
        &std::fs::read(domain.folder().join("server/keys.json")).expect("the keys"),
    )
    .expect("the keys");
    let mut live = 0;
    for kind in ["x509", "jwt"] {
        let shown = domain
            .cli(&["localauthority", kind, "show", "-output", "json"])
            .success();
        let shown: Value = serde_json::from_str(&shown).expect("the authorities");
        let shown = shown.as_object().expect("the authorities");
        assert!(shown.contains_key("active"), "round {round}: {shown:?}");
        assert!(shown.len() <= 2, "round {round}: {shown:?}");
        live += shown.len();
        for state in shown.values() {
            let id = state["authority_id"].as_str().expect("an id");
            assert!(
                has(&bundle, kind, id),
                "round {round}: {id} is not in {bundle}"
            );
        }
        if kind == "x509" {
            // A new agent attests: its chain verifies, and so does the server's.
            let agent = Site::open(&domain.server_socket(), domain.port)
                .await
                .agent()
                .await;
            let signer = agent.own().leaf().authority_key_id();
            assert_eq!(
                signer.as_deref(),
                shown["active"]["authority_id"].as_str(),
                "round {round}"
            );
        }
    }
    let kept: BTreeSet<_> = keys["keys"].as_object().expect("the keys").keys().collect();
    assert_eq!(kept.len(), live, "round {round}: {kept:?}");
}

fn has(bundle: &Value, kind: &str, id: &str) -> bool {
    use base64::Engine as _;
    let all = |name: &str| bundle[name].as_array().cloned().unwrap_or_default();
    match kind {
        "jwt" => all("jwt_authorities").iter().any(|key| key["key_id"] == id),
        _ => all("x509_authorities").iter().any(|authority| {
            let der = authority["asn1"].as_str().expect("a certificate");
            let der = base64::engine::general_purpose::STANDARD
                .decode(der)
                .expect("base64");
            let certificate = identity::x509::Certificate::parse(&der).expect("a certificate");
            certificate.subject_key_id().as_deref() == Some(id)
        }),
    }
}
