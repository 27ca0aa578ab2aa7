//! Several attestors beside each other.

use std::sync::atomic::{AtomicBool, Ordering};

use identity::selector::Selector;

use super::*;

/// An attestor that answers as it is told.
#[derive(Clone, Debug)]
#[expect(unnameable_types, reason = "it stands in a public enum, in tests only")]
pub enum Fake {
    Finds(&'static str),
    /// Finds it once, and then does as the other one.
    Then(&'static str, Arc<AtomicBool>, Box<Self>),
    Denies(Denial),
    Fails,
    Hangs,
}

impl Fake {
    fn then(selector: &'static str, other: Self) -> Self {
        Self::Then(selector, Arc::default(), Box::new(other))
    }

    pub(super) async fn attest(&self) -> Result<Verdict, AttestorError> {
        let now = match self {
            Self::Then(selector, asked, other) => {
                if asked.swap(true, Ordering::Relaxed) {
                    &**other
                } else {
                    &Self::Finds(selector)
                }
            }
            plain => plain,
        };
        match now {
            Self::Then(..) => Err(AttestorError::Fake),
            Self::Finds(selector) => Ok(Verdict::Attested(selectors(&[selector]))),
            Self::Denies(denial) => Ok(Verdict::Denied(*denial)),
            Self::Fails => Err(AttestorError::Fake),
            Self::Hangs => std::future::pending().await,
        }
    }
}

/// An agent without entries.
struct NoEntries;

impl Interest for NoEntries {
    fn may_match(&self, _: &Selectors) -> bool {
        false
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
    Ok(attestors
        .attest(&peer, &NoEntries, None)
        .await?
        .selectors()
        .clone())
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
async fn a_caller_that_is_not_to_be_attested_is_told_apart_from_one_that_changed() {
    for denial in [
        Denial::CgroupContradiction,
        Denial::ContainerOfAnotherPod,
        Denial::PodOnAnotherNode,
        Denial::PodContradiction,
        Denial::PodAmbiguous,
        Denial::EphemeralContainer,
    ] {
        assert!(matches!(
            attest(&[Fake::Finds("a:1"), Fake::Denies(denial)]).await,
            Err(AttestError::Denied(_))
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
    let _all = attestors.all[0]
        .permits
        .acquire_many(u32::try_from(AT_ONCE).unwrap())
        .await
        .unwrap();
    assert!(matches!(
        attestors.attest(&peer, &NoEntries, None).await,
        Err(AttestError::Overloaded)
    ));
}

/// Attests twice, as a stream that goes on.
async fn attest_twice(fakes: &[Fake]) -> Result<Selectors, AttestError> {
    let peer = Arc::new(Peer::for_test(std::process::id(), 0, 0).unwrap());
    let all = fakes.iter().cloned().map(WorkloadAttestor::Fake).collect();
    let attestors = Attestors::new(all, Vec::new(), Metrics::default());
    let before = attestors.attest(&peer, &NoEntries, None).await?;
    let after = attestors.attest(&peer, &NoEntries, Some(&before)).await?;
    Ok(after.selectors().clone())
}

#[tokio::test(start_paused = true)]
async fn an_attestor_that_cannot_be_asked_again_takes_nothing_back() {
    for other in [Fake::Fails, Fake::Hangs] {
        let fakes = [Fake::then("k:1", other.clone()), Fake::Finds("u:1")];
        let found = attest_twice(&fakes).await.unwrap();
        assert_eq!(found, selectors(&["k:1", "u:1"]));
        let alone = attest_twice(&[Fake::then("k:1", other)]).await.unwrap();
        assert_eq!(alone, selectors(&["k:1"]));
    }
}

#[tokio::test(start_paused = true)]
async fn an_attestor_that_answers_again_is_believed() {
    let found = attest_twice(&[Fake::then("k:1", Fake::Finds("k:2"))]).await;
    assert_eq!(found.unwrap(), selectors(&["k:2"]));
    let denied = Fake::Denies(Denial::EphemeralContainer);
    assert!(matches!(
        attest_twice(&[Fake::then("k:1", denied)]).await,
        Err(AttestError::Denied(_))
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
