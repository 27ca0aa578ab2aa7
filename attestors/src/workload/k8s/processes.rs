//! The processes of a pod, for those who know it by its name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::{K8s, K8sError};
use crate::workload::cgroup::{self, ContainerId, Place, PodUid, Viewpoint};

impl K8s {
    /// The first process of each container of a pod, as this machine shows them now. Nobody is held: a
    /// pid may mean another process by the time that it is used.
    pub async fn processes_of(&self, namespace: &str, name: &str) -> Result<Vec<u32>, K8sError> {
        let viewpoint = Arc::clone(&self.viewpoint);
        let found =
            tokio::task::spawn_blocking(move || first_processes(Path::new("/proc"), &viewpoint));
        let found = found.await.map_err(K8sError::Interrupted)?;
        let snapshot = self.kubelet.snapshot().await?;
        let (mut reported, mut others) = (Vec::new(), Vec::new());
        for ((uid, container), pid) in found.map_err(K8sError::Read)? {
            let pod = match &uid {
                Some(uid) => snapshot.pod(uid),
                None => snapshot.by_container(&container),
            };
            // One pod that cannot be read is no reason to know nothing of the others.
            let Ok(Some(pod)) = pod else { continue };
            if pod.namespace == namespace && pod.name == name {
                let list = if pod.has_container(&container) {
                    &mut reported
                } else {
                    &mut others
                };
                list.push(pid);
            }
        }
        // What is not reported is the sandbox, unless nothing is reported yet.
        Ok(if reported.is_empty() {
            others
        } else {
            reported
        })
    }
}

type Containers = BTreeMap<(Option<PodUid>, ContainerId), u32>;

fn first_processes(proc: &Path, viewpoint: &Viewpoint) -> std::io::Result<Containers> {
    let mut containers = Containers::new();
    for entry in fs::read_dir(proc)? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process may end at any time.
        let Ok(text) = fs::read(proc.join(format!("{pid}/cgroup"))) else {
            continue;
        };
        if text.len() <= cgroup::MAX_BYTES
            && let Ok(Place::Pod { pod, container }) = viewpoint.locate(&text)
        {
            let first = containers.entry((pod, container)).or_insert(pid);
            *first = pid.min(*first);
        }
    }
    Ok(containers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_container_is_found_by_its_lowest_pid_and_what_is_in_none_is_left_out() {
        let proc = tempfile::tempdir().unwrap();
        let pod = "b2a1f0de-7f4c-4c6e-9d51-0a2b3c4d5e6f";
        let container = |digit: &str| digit.repeat(64);
        let cgroup = |digit| format!("0::/kubepods/burstable/pod{pod}/{}\n", container(digit));
        for (name, text) in [
            ("300", cgroup("a")),
            ("20", cgroup("a")),
            ("7", cgroup("b")),
            ("1", "0::/init.scope\n".to_owned()),
            ("8", "no line of a kernel".to_owned()),
            ("self", cgroup("c")),
        ] {
            fs::create_dir(proc.path().join(name)).unwrap();
            fs::write(proc.path().join(name).join("cgroup"), text).unwrap();
        }
        // One that ended while it was looked at.
        fs::create_dir(proc.path().join("9")).unwrap();
        let found = first_processes(proc.path(), &Viewpoint::default()).unwrap();
        let key = |digit| {
            let container = ContainerId::parse(&container(digit)).unwrap();
            (PodUid::parse(pod), container)
        };
        let expected = Containers::from([(key("a"), 20), (key("b"), 7)]);
        assert_eq!(found, expected);
    }
}
