//! The processes of a pod, for those who know it by its name.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use super::{K8s, K8sError};
use crate::workload::cgroup::{self, ContainerId, Place, PodUid, Viewpoint};

impl K8s {
    /// The first process of each container of a pod, as this machine shows them now. Nobody is held: a
    /// pid may mean another process by the time that it is used.
    pub async fn processes_of(&self, namespace: &str, name: &str) -> Result<Vec<u32>, K8sError> {
        let viewpoint = Arc::clone(&self.viewpoint);
        let found = tokio::task::spawn_blocking(move || first_processes(&viewpoint));
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

fn first_processes(viewpoint: &Viewpoint) -> std::io::Result<Containers> {
    let mut containers = Containers::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process may end at any time.
        let Ok(text) = fs::read(format!("/proc/{pid}/cgroup")) else {
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
