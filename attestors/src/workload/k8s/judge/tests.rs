//! Each row of the table, on lists of a few pods.

use super::super::volumes::Volume;
use super::*;

const UID: &str = "7f0c2f0e-3c61-4b7e-9a53-0c7d1f2e4a5b";
const OTHER: &str = "8f0c2f0e-3c61-4b7e-9a53-0c7d1f2e4a5b";

/// A list in memory.
struct List(Vec<Arc<Pod>>);

impl Pods for List {
    type Error = std::convert::Infallible;

    fn pod(&self, uid: &PodUid) -> Result<Option<Arc<Pod>>, Self::Error> {
        Ok(self.0.iter().find(|pod| pod.is_called(uid)).cloned())
    }

    fn by_container(&self, id: &ContainerId) -> Result<Option<Arc<Pod>>, Self::Error> {
        Ok(self.0.iter().find(|pod| pod.has_container(id)).cloned())
    }
}

fn uid() -> PodUid {
    PodUid::parse(UID).unwrap()
}

fn id(digit: &str) -> ContainerId {
    ContainerId::parse(&digit.repeat(64)).unwrap()
}

/// A pod with an init container 1, a sidecar 2, a regular container 3 and an ephemeral one 4, of which
/// those are reported that `reported` names.
fn pod(uid: &str, reported: &[&str]) -> Arc<Pod> {
    let status = |digit: &str| {
        let id = if reported.contains(&digit) {
            format!("containerd://{}", digit.repeat(64))
        } else {
            String::new()
        };
        format!(r#"[{{"name":"c{digit}","image":"i{digit}","containerID":"{id}"}}]"#)
    };
    let ephemeral = if reported.contains(&"4") || reported.contains(&"debug") {
        r#"[{"name":"c4"}]"#
    } else {
        "null"
    };
    let (init, sidecar) = (status("1"), status("2"));
    let init = format!(
        "{},{}",
        init.trim_end_matches(']'),
        sidecar.trim_start_matches('[')
    );
    let text = format!(
        r#"{{"metadata":{{"name":"p","namespace":"n","uid":"{uid}"}},
        "spec":{{"nodeName":"n1","serviceAccountName":"s","containers":[{{"name":"c3"}}],
        "initContainers":[{{"name":"c1"}},{{"name":"c2","restartPolicy":"Always"}}],"ephemeralContainers":{ephemeral}}},
        "status":{{"containerStatuses":{},"initContainerStatuses":{init},"ephemeralContainerStatuses":{}}}}}"#,
        status("3"),
        if reported.contains(&"4") {
            status("4")
        } else {
            "null".to_owned()
        },
    );
    Arc::new(Pod::from_json(text.as_bytes()).unwrap())
}

fn judged(pods: Vec<Arc<Pod>>, uid: Option<&PodUid>, id: &ContainerId, rules: &Rules) -> Judgement {
    judge(&List(pods), uid, id, rules).unwrap()
}

fn texts(judgement: Judgement) -> Vec<String> {
    match judgement {
        Judgement::Attested(found) => found.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

fn has(found: &[String], selector: &str) -> bool {
    found.iter().any(|text| text == selector)
}

#[test]
fn init_sidecar_and_regular_containers_have_the_pods_selectors_and_their_own() {
    let pods = vec![pod(UID, &["1", "2", "3", "4"])];
    for digit in ["1", "2", "3"] {
        let found = texts(judged(
            pods.clone(),
            Some(&uid()),
            &id(digit),
            &Rules::default(),
        ));
        assert!(has(&found, "k8s:sa:s") && has(&found, &format!("k8s:pod-uid:{UID}")));
        assert!(has(&found, &format!("k8s:container-name:c{digit}")));
        assert!(has(&found, &format!("k8s:container-image:i{digit}")));
        assert!(
            !found
                .iter()
                .any(|text| text.starts_with("k8s:container-type"))
        );
    }
}

#[test]
fn an_ephemeral_container_does_not_have_the_pods_identity_unless_an_operator_says_so() {
    let pods = vec![pod(UID, &["3", "4"])];
    assert_eq!(
        judged(pods.clone(), Some(&uid()), &id("4"), &Rules::default()),
        Judgement::Denied(Denial::EphemeralContainer)
    );
    for omits_container in [false, true] {
        let rules = Rules {
            allows_ephemeral: true,
            omits_container,
            ..Rules::default()
        };
        let found = texts(judged(pods.clone(), Some(&uid()), &id("4"), &rules));
        assert!(has(&found, "k8s:container-type:ephemeral") && has(&found, "k8s:sa:s"));
    }
}

#[test]
fn a_container_that_is_not_reported_is_awaited_with_what_is_settled() {
    // The sandbox's id is never reported; 3 is not reported yet.
    for (reported, caller) in [(&["1", "3"][..], "9"), (&["1"], "3")] {
        let judgement = judged(
            vec![pod(UID, reported)],
            Some(&uid()),
            &id(caller),
            &Rules::default(),
        );
        let Judgement::Awaited {
            settled: Some(settled),
        } = judgement
        else {
            panic!("{judgement:?}");
        };
        assert!(settled.contains(&Selector::parse("k8s:sa:s").unwrap()));
        assert!(!settled.iter().any(selectors::may_come));
    }
}

#[test]
fn nothing_is_settled_of_a_container_that_may_be_an_ephemeral_one() {
    let judgement = judged(
        vec![pod(UID, &["1", "2", "3", "debug"])],
        Some(&uid()),
        &id("4"),
        &Rules::default(),
    );
    assert_eq!(judgement, Judgement::Awaited { settled: None });
    let rules = Rules {
        omits_container: true,
        ..Rules::default()
    };
    let pods = vec![pod(UID, &["1", "2", "3", "debug"])];
    assert_eq!(
        judged(pods, Some(&uid()), &id("4"), &rules),
        Judgement::Awaited { settled: None }
    );
}

#[test]
fn nothing_is_settled_of_a_pod_that_is_not_listed() {
    assert_eq!(
        judged(
            vec![pod(OTHER, &["1"])],
            Some(&uid()),
            &id("3"),
            &Rules::default()
        ),
        Judgement::Awaited { settled: None }
    );
}

#[test]
fn without_container_selectors_the_pod_is_enough() {
    let rules = Rules {
        omits_container: true,
        ..Rules::default()
    };
    for reported in [&["3"][..], &[]] {
        let found = texts(judged(
            vec![pod(UID, reported)],
            Some(&uid()),
            &id("3"),
            &rules,
        ));
        assert!(has(&found, "k8s:sa:s") && has(&found, "k8s:pod-image-count:1"));
        assert!(!found.iter().any(|text| text.starts_with("k8s:container-")));
    }
}

#[test]
fn a_container_of_another_pod_than_the_cgroup_says_is_denied() {
    let denied = Judgement::Denied(Denial::ContainerOfAnotherPod);
    let pods = vec![pod(UID, &["1"]), pod(OTHER, &["3"])];
    for omits_container in [false, true] {
        let rules = Rules {
            omits_container,
            ..Rules::default()
        };
        assert_eq!(judged(pods.clone(), Some(&uid()), &id("3"), &rules), denied);
        // Its own pod is not listed at all.
        assert_eq!(
            judged(vec![pod(OTHER, &["3"])], Some(&uid()), &id("3"), &rules),
            denied
        );
    }
}

#[test]
fn a_container_whose_cgroup_names_no_pod_is_found_by_its_id() {
    let pods = vec![pod(OTHER, &["1"]), pod(UID, &["3"])];
    let found = texts(judged(pods.clone(), None, &id("3"), &Rules::default()));
    assert!(has(&found, &format!("k8s:pod-uid:{UID}")));
    assert_eq!(
        judged(pods, None, &id("9"), &Rules::default()),
        Judgement::Awaited { settled: None }
    );
}

#[test]
fn a_pod_of_another_node_is_denied() {
    let rules = |name: &str| Rules {
        node_name: Some(name.to_owned()),
        ..Rules::default()
    };
    for same in [
        "n1",
        "N1",
        "n1.example.org",
        "10.0.0.7",
        "[fd00::1]",
        "localhost",
    ] {
        assert!(
            has(
                &texts(judged(
                    vec![pod(UID, &["3"])],
                    Some(&uid()),
                    &id("3"),
                    &rules(same)
                )),
                "k8s:node-name:n1"
            ),
            "{same}"
        );
    }
    for other in ["n2", "n11", "n", "1.n1"] {
        assert_eq!(
            judged(
                vec![pod(UID, &["3"])],
                Some(&uid()),
                &id("3"),
                &rules(other)
            ),
            Judgement::Denied(Denial::PodOnAnotherNode),
            "{other}"
        );
    }
}

#[test]
fn a_pod_of_which_a_storage_driver_was_told_otherwise_is_denied() {
    let volume = |namespace: &str| Volume {
        id: "v".to_owned(),
        pod: uid(),
        pod_name: "p".to_owned(),
        namespace: namespace.to_owned(),
        service_account: "s".to_owned(),
    };
    for (namespace, agrees) in [("n", true), ("other", false)] {
        let volumes = Volumes::new();
        let mut report = volumes.report();
        report.published(volume(namespace)).unwrap();
        let rules = Rules {
            volumes,
            ..Rules::default()
        };
        for by in [Some(uid()), None] {
            let found = judged(vec![pod(UID, &["3"])], by.as_ref(), &id("3"), &rules);
            let is_denied = found == Judgement::Denied(Denial::PodContradiction);
            assert_eq!(is_denied, !agrees, "{namespace}: {found:?}");
        }
    }
}
