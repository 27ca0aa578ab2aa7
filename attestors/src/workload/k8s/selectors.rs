//! The selectors of a pod and of one of its containers, which are exactly those of SPIRE.
//!
//! Some of them are known as soon as the kubelet knows the pod and never change with its containers;
//! those that are made of what the kubelet reports of containers come later. An answer that is given
//! before the caller's container is reported has only the first kind.

use identity::selector::{Selector, SelectorError};

use super::NAME;
use super::pod::{Container, ContainerKind, Pod};
use crate::node::k8s_psat::Namespace;

/// The names of selectors that are made of what is reported of containers.
const REPORTED: [&str; 7] = [
    "container-name",
    "container-image",
    "container-type",
    "pod-image",
    "pod-init-image",
    "pod-image-count",
    "pod-init-image-count",
];

/// Whether a caller may still come to have this selector once its container is reported.
#[must_use]
pub fn may_come(selector: &Selector) -> bool {
    let name = selector.value().split(':').next().unwrap_or_default();
    selector.kind() == NAME && REPORTED.contains(&name)
}

/// What is certain of a pod, whatever its containers do.
pub(super) fn settled(pod: &Pod) -> Result<Vec<Selector>, SelectorError> {
    let mut found = Vec::new();
    let mut add = |name: &str, value: &str| -> Result<(), SelectorError> {
        found.push(Selector::new(NAME, &format!("{name}:{value}"))?);
        Ok(())
    };
    add("sa", &pod.service_account)?;
    add("ns", &pod.namespace)?;
    add("node-name", &pod.node_name)?;
    add("pod-uid", &pod.uid)?;
    add("pod-name", &pod.name)?;
    for (key, value) in &pod.labels {
        add("pod-label", &format!("{key}:{value}"))?;
    }
    for owner in &pod.owners {
        add("pod-owner", &format!("{}:{}", owner.kind, owner.name))?;
        add("pod-owner-uid", &format!("{}:{}", owner.kind, owner.uid))?;
    }
    Ok(found)
}

/// What SPIRE says of a pod.
pub(super) fn of_pod(pod: &Pod) -> Result<Vec<Selector>, SelectorError> {
    let mut found = settled(pod)?;
    found.extend(reported("pod-image", pod, &[ContainerKind::Regular])?);
    let init = [ContainerKind::Init, ContainerKind::Sidecar];
    found.extend(reported("pod-init-image", pod, &init)?);
    Ok(found)
}

/// The images of the containers of these kinds that are reported, and how many containers those are.
fn reported(
    image: &str,
    pod: &Pod,
    kinds: &[ContainerKind],
) -> Result<Vec<Selector>, SelectorError> {
    let reported: Vec<_> = pod
        .containers
        .iter()
        .filter(|container| container.status.is_some() && kinds.contains(&container.kind))
        .collect();
    let count = format!("{image}-count:{}", reported.len());
    let mut found = vec![Selector::new(NAME, &count)?];
    for container in reported {
        found.extend(images(image, container)?);
    }
    Ok(found)
}

/// What SPIRE says of the caller's container; and of an ephemeral one, which SPIRE never attests, that
/// it is one.
pub(super) fn of_container(container: &Container) -> Result<Vec<Selector>, SelectorError> {
    let name = format!("container-name:{}", container.name);
    let mut found = vec![Selector::new(NAME, &name)?];
    found.extend(images("container-image", container)?);
    if container.kind == ContainerKind::Ephemeral {
        found.push(Selector::new(NAME, "container-type:ephemeral")?);
    }
    Ok(found)
}

/// What SPIRE says of a pod's namespace where it is asked to.
pub(super) fn of_namespace(namespace: &Namespace) -> Result<Vec<Selector>, SelectorError> {
    let labels = namespace.labels.iter();
    labels
        .map(|(key, value)| Selector::new(NAME, &format!("ns-label:{key}:{value}")))
        .collect()
}

/// By name and by digest. SPIRE gives both also where one is still empty.
fn images(selector: &str, container: &Container) -> Result<Vec<Selector>, SelectorError> {
    let Some(status) = &container.status else {
        return Ok(Vec::new());
    };
    [&status.image, &status.image_id]
        .into_iter()
        .map(|image| Selector::new(NAME, &format!("{selector}:{image}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use identity::selector::Selectors;

    use super::*;

    const POD: &str = r#"{"metadata":{"name":"web-1","namespace":"shop","uid":"u-1","labels":{"app":"web","empty":""},
     "ownerReferences":[{"kind":"ReplicaSet","name":"web","uid":"o-1"}]},
     "spec":{"nodeName":"n1","serviceAccountName":"web","containers":[{"name":"app"},{"name":"late"}],
     "initContainers":[{"name":"mesh","restartPolicy":"Always"}],"ephemeralContainers":[{"name":"debug"}]},
     "status":{"containerStatuses":[{"name":"app","image":"web:1","imageID":"web@sha256:aa"},{"name":"late","image":"l:1"}],
     "initContainerStatuses":[{"name":"mesh","image":"mesh:1","imageID":"mesh@sha256:bb"}],
     "ephemeralContainerStatuses":[{"name":"debug","image":"sh","imageID":"sh@sha256:cc"}]}}"#;

    fn texts(found: Vec<Selector>) -> Vec<String> {
        let sorted: Selectors = found.into_iter().collect();
        sorted.iter().map(ToString::to_string).collect()
    }

    fn pod() -> Pod {
        Pod::from_json(POD.as_bytes()).unwrap()
    }

    fn container(name: &str) -> Container {
        let mut containers = pod().containers.into_iter();
        containers.find(|container| container.name == name).unwrap()
    }

    #[test]
    fn a_pod_has_the_selectors_that_spire_gives_it() {
        assert_eq!(
            texts(of_pod(&pod()).unwrap()),
            [
                "k8s:node-name:n1",
                "k8s:ns:shop",
                "k8s:pod-image-count:2",
                "k8s:pod-image:",
                "k8s:pod-image:l:1",
                "k8s:pod-image:web:1",
                "k8s:pod-image:web@sha256:aa",
                "k8s:pod-init-image-count:1",
                "k8s:pod-init-image:mesh:1",
                "k8s:pod-init-image:mesh@sha256:bb",
                "k8s:pod-label:app:web",
                "k8s:pod-label:empty:",
                "k8s:pod-name:web-1",
                "k8s:pod-owner-uid:ReplicaSet:o-1",
                "k8s:pod-owner:ReplicaSet:web",
                "k8s:pod-uid:u-1",
                "k8s:sa:web",
            ]
        );
    }

    #[test]
    fn a_container_has_its_name_and_its_images() {
        assert_eq!(
            texts(of_container(&container("mesh")).unwrap()),
            [
                "k8s:container-image:mesh:1",
                "k8s:container-image:mesh@sha256:bb",
                "k8s:container-name:mesh",
            ]
        );
        assert!(
            texts(of_container(&container("debug")).unwrap())
                .contains(&"k8s:container-type:ephemeral".to_owned())
        );
    }

    #[test]
    fn a_static_pod_has_an_empty_service_account_as_with_spire() {
        let pod = Pod::from_json(br#"{"metadata":{"name":"s","uid":"h"}}"#).unwrap();
        assert!(texts(of_pod(&pod).unwrap()).contains(&"k8s:sa:".to_owned()));
    }

    #[test]
    fn what_is_settled_is_all_that_does_not_come_with_containers() {
        let settled = texts(settled(&pod()).unwrap());
        for selector in of_pod(&pod()).unwrap() {
            assert_eq!(
                settled.contains(&selector.to_string()),
                !may_come(&selector),
                "{selector}"
            );
        }
        for selector in of_container(&container("debug")).unwrap() {
            assert!(may_come(&selector), "{selector}");
        }
        for other in [
            "unix:container-name:x",
            "k8s:image-signature:verified",
            "k8s:ns",
        ] {
            assert!(!may_come(&Selector::parse(other).unwrap()), "{other}");
        }
    }
}
