//! Several attestors beside each other.

use identity::selector::Selector;

use super::*;

/// An attestor that answers as it is told.
#[derive(Clone, Debug)]
#[expect(unnameable_types, reason = "it stands in a public enum, in tests only")]
pub enum Fake {
    Finds(&'static str),
    Denies(Denial),
    Fails,
    Hangs,
}

impl Fake {
    pub(super) async fn attest(&self) -> Result<Verdict, AttestorError> {
        match self {
            Self::Finds(selector) => Ok(Verdict::Attested(selectors(&[selector]))),
            Self::Denies(denial) => Ok(Verdict::Denied(*denial)),
            Self::Fails => Err(AttestorError::Fake),
            Self::Hangs => std::future::pending().await,
        }
    }
}

fn selectors(texts: &[&str]) -> Selectors {
    texts
        .iter()
        .map(|text| Selector::parse(text).unwrap())
        .collect()
}

async fn attest(fakes: &[Fake]) -> Result<Selectors, AttestError> {
    let peer = Arc::new(Peer::for_test(std::process::id(), 0, 0).unwrap());
    let all = fakes.iter().cloned().map(WorkloadAttestor::Fake).collect();
    let attestors = Attestors::new(all, Vec::new(), Metrics::default());
    Ok(attestors.attest(&peer).await?.selectors().clone())
}

#[tokio::test(start_paused = true)]
async fn the_selectors_of_all_attestors_count_together() {
    let found = attest(&[Fake::Finds("a:1"), Fake::Finds("b:2")])
        .await
        .unwrap();
    assert_eq!(found, selectors(&["a:1", "b:2"]));
}

#[tokio::test(start_paused = true)]
async fn an_attestor_that_fails_or_hangs_is_left_out() {
    let found = attest(&[Fake::Fails, Fake::Hangs, Fake::Finds("a:1")])
        .await
        .unwrap();
    assert_eq!(found, selectors(&["a:1"]));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_no_attestor_can_look_at_is_not_attested() {
    assert!(matches!(
        attest(&[Fake::Fails, Fake::Fails]).await,
        Err(AttestError::NoAttestor(_))
    ));
    assert!(matches!(
        attest(&[Fake::Hangs]).await,
        Err(AttestError::Deadline)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_contradiction_is_not_outvoted() {
    for denial in [
        Denial::Exited,
        Denial::CredentialsChanged,
        Denial::ExecutableChanged,
    ] {
        assert!(matches!(
            attest(&[Fake::Finds("a:1"), Fake::Denies(denial)]).await,
            Err(AttestError::PeerChanged)
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_any_property_is_attested_as_nobody() {
    assert!(attest(&[]).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_waits_too_long_for_its_turn_is_told_so() {
    let peer = Arc::new(Peer::for_test(std::process::id(), 0, 0).unwrap());
    let attestors = Attestors::new(
        vec![WorkloadAttestor::Fake(Fake::Finds("a:1"))],
        Vec::new(),
        Metrics::default(),
    );
    let _all = attestors
        .permits
        .acquire_many(u32::try_from(AT_ONCE).unwrap())
        .await
        .unwrap();
    assert!(matches!(
        attestors.attest(&peer).await,
        Err(AttestError::Overloaded)
    ));
}

#[test]
fn only_selectors_that_were_opted_in_are_logged() {
    let found = selectors(&["k8s:ns:a", "k8s:nsx:a", "unix:uid:0"]);
    assert_eq!(
        loggable(&found, &["k8s:ns".to_owned()]),
        selectors(&["k8s:ns:a"])
    );
    assert_eq!(loggable(&found, &[]), Selectors::default());
}
