//! Pods in both encodings.

use proptest::prelude::*;
use prost::Message;
use proto::pod;

use super::*;

const APP: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const SIDECAR: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// A pod as a kubelet lists it, with fields that nobody here needs.
const JSON: &str = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web-7d9c-abcde","namespace":"shop",
 "uid":"7f0c2f0e-3c61-4b7e-9a53-0c7d1f2e4a5b","labels":{"app":"web","tier":""},"generation":1,
 "annotations":{"kubernetes.io/config.source":"api","other":"x"},"managedFields":[{"manager":"m"}],
 "ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-7d9c",
 "uid":"1b2c3d4e-0000-4000-8000-000000000001","controller":true}]},
 "spec":{"nodeName":"n1","serviceAccountName":"web","restartPolicy":"Always",
 "initContainers":[{"name":"prepare","image":"p:1"},{"name":"mesh","image":"sc:1","restartPolicy":"Always"}],
 "containers":[{"name":"app","image":"web:1.2","env":[{"name":"X"}]},{"name":"late","image":"l:1"}],
 "ephemeralContainers":[{"name":"debug","image":"sh"}]},
 "status":{"phase":"Running","hostIP":"10.0.0.5","conditions":null,
 "initContainerStatuses":[{"name":"mesh","image":"docker.io/library/sc:1","imageID":"docker.io/library/sc@sha256:aa",
 "containerID":"containerd://bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","restartCount":0}],
 "containerStatuses":[{"name":"app","image":"docker.io/library/web:1.2","imageID":"docker.io/library/web@sha256:bb",
 "containerID":"containerd://aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","ready":true},
 {"name":"late","image":"l:1","imageID":"","state":{"waiting":{"reason":"ContainerCreating"}}}],
 "ephemeralContainerStatuses":null}}"#;

fn wire() -> pod::Pod {
    let container = |name: &str, restart_policy: &str| pod::Container {
        name: name.to_owned(),
        restart_policy: restart_policy.to_owned(),
    };
    let status = |name: &str, image: &str, image_id: &str, id: &str| pod::ContainerStatus {
        name: name.to_owned(),
        image: image.to_owned(),
        image_id: image_id.to_owned(),
        container_id: id.to_owned(),
    };
    pod::Pod {
        metadata: Some(pod::Metadata {
            name: "web-7d9c-abcde".to_owned(),
            namespace: "shop".to_owned(),
            uid: "7f0c2f0e-3c61-4b7e-9a53-0c7d1f2e4a5b".to_owned(),
            labels: [("app", "web"), ("tier", "")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            annotations: BTreeMap::new(),
            owners: vec![pod::Owner {
                kind: "ReplicaSet".to_owned(),
                name: "web-7d9c".to_owned(),
                uid: "1b2c3d4e-0000-4000-8000-000000000001".to_owned(),
            }],
        }),
        spec: Some(pod::Spec {
            containers: vec![container("app", ""), container("late", "")],
            service_account_name: "web".to_owned(),
            node_name: "n1".to_owned(),
            init_containers: vec![container("prepare", ""), container("mesh", "Always")],
            ephemeral_containers: vec![pod::EphemeralContainer {
                common: Some(container("debug", "")),
            }],
        }),
        status: Some(pod::Status {
            containers: vec![
                status(
                    "app",
                    "docker.io/library/web:1.2",
                    "docker.io/library/web@sha256:bb",
                    &format!("containerd://{APP}"),
                ),
                status("late", "l:1", "", ""),
            ],
            init_containers: vec![status(
                "mesh",
                "docker.io/library/sc:1",
                "docker.io/library/sc@sha256:aa",
                &format!("containerd://{SIDECAR}"),
            )],
            ephemeral_containers: Vec::new(),
        }),
    }
}

fn id(text: &str) -> ContainerId {
    ContainerId::parse(text).unwrap()
}

#[test]
fn both_encodings_of_a_pod_are_read_alike() {
    let pod = Pod::from_json(JSON.as_bytes()).unwrap();
    assert_eq!(pod, Pod::from_protobuf(&wire().encode_to_vec()).unwrap());
    assert_eq!(
        (pod.name.as_str(), pod.namespace.as_str()),
        ("web-7d9c-abcde", "shop")
    );
    assert_eq!(
        (pod.service_account.as_str(), pod.node_name.as_str()),
        ("web", "n1")
    );
    assert_eq!(pod.owners[0].kind, "ReplicaSet");
    assert_eq!(pod.labels["tier"], "");
}

#[test]
fn containers_are_told_apart_by_kind_and_by_what_is_reported() {
    let pod = Pod::from_json(JSON.as_bytes()).unwrap();
    let found: Vec<_> = pod
        .containers
        .iter()
        .map(|container| {
            (
                container.name.as_str(),
                container.kind,
                container.status.is_some(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("app", ContainerKind::Regular, true),
            ("late", ContainerKind::Regular, true),
            ("mesh", ContainerKind::Sidecar, true),
            ("prepare", ContainerKind::Init, false),
            ("debug", ContainerKind::Ephemeral, false),
        ]
    );
    assert_eq!(pod.container(&id(APP)).unwrap().name, "app");
    assert_eq!(pod.container(&id(SIDECAR)).unwrap().name, "mesh");
    assert!(!pod.has_container(&id(&"c".repeat(64))));
    assert!(pod.awaits_ephemeral_container());
}

#[test]
fn a_pod_of_which_nothing_is_reported_yet_is_read() {
    let pod = Pod::from_json(br#"{"metadata":{"uid":"u"},"spec":null,"status":{}}"#).unwrap();
    assert_eq!(pod.uid, "u");
    assert!(pod.containers.is_empty());
    assert!(Pod::from_protobuf(&[]).unwrap().uid.is_empty());
}

#[test]
fn a_static_pod_is_called_by_the_digest_of_its_manifest() {
    let digest = PodUid::parse(&"5e".repeat(16)).unwrap();
    let other = PodUid::parse(&"6e".repeat(16)).unwrap();
    let uid = "7f0c2f0e-3c61-4b7e-9a53-0c7d1f2e4a5b";
    let itself = Pod::from_json(format!(r#"{{"metadata":{{"uid":"{digest}"}}}}"#).as_bytes());
    assert!(itself.unwrap().is_called(&digest));
    let mirror = format!(
        r#"{{"metadata":{{"uid":"{uid}","annotations":{{"kubernetes.io/config.hash":"{digest}"}}}}}}"#
    );
    let mirror = Pod::from_json(mirror.as_bytes()).unwrap();
    assert!(mirror.is_called(&digest) && !mirror.is_called(&other));
    assert!(mirror.is_called(&PodUid::parse(uid).unwrap()));
}

#[test]
fn the_annotation_of_a_static_pod_does_not_give_a_pod_the_name_of_another() {
    let uid = PodUid::parse("7f0c2f0e-3c61-4b7e-9a53-0c7d1f2e4a5b").unwrap();
    let text = format!(
        r#"{{"metadata":{{"uid":"x","annotations":{{"kubernetes.io/config.hash":"{uid}"}}}}}}"#
    );
    assert!(!Pod::from_json(text.as_bytes()).unwrap().is_called(&uid));
}

#[test]
fn a_pod_beyond_the_limit_is_not_read() {
    let long = vec![b' '; MAX_BYTES + 1];
    for error in [Pod::from_json(&long), Pod::from_protobuf(&long)] {
        assert_eq!(error.unwrap_err().reason(), "pod_too_long");
    }
    assert_eq!(Pod::from_json(b"[]").unwrap_err().reason(), "pod_json");
    assert_eq!(
        Pod::from_protobuf(b"x").unwrap_err().reason(),
        "pod_protobuf"
    );
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = Pod::from_json(&bytes);
        let _ = Pod::from_protobuf(&bytes);
    }

    #[test]
    fn a_pod_with_a_byte_changed_is_refused_or_read(at in any::<proptest::sample::Index>(), byte: u8) {
        let mut json = JSON.as_bytes().to_vec();
        *at.get_mut(&mut json) = byte;
        let _ = Pod::from_json(&json);
        let mut wire = wire().encode_to_vec();
        *at.get_mut(&mut wire) = byte;
        let _ = Pod::from_protobuf(&wire);
    }
}
