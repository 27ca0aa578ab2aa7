//! Which requests are served, and what the others are told.

use proto::csi::VolumeCapability;
use proto::csi::volume_capability::BlockVolume;

use super::*;

pub(crate) const UID: &str = "b2a1f0de-7f4c-4c6e-9d51-0a2b3c4d5e6f";

/// The request of a kubelet for a volume `v` of the pod `UID`.
pub(crate) fn request(pods: &Path, id: &str) -> NodePublishVolumeRequest {
    let target = Target::new(UID, "v").unwrap().path(pods);
    NodePublishVolumeRequest {
        volume_id: id.to_owned(),
        target_path: target.to_str().unwrap().to_owned(),
        volume_capability: Some(VolumeCapability {
            access_type: Some(AccessType::Mount(MountVolume::default())),
            access_mode: Some(AccessMode {
                mode: Mode::SingleNodeWriter as i32,
            }),
        }),
        readonly: true,
        volume_context: [
            (context::EPHEMERAL, "true"),
            (context::POD_NAME, "web-0"),
            (context::POD_UID, UID),
            (context::NAMESPACE, "shop"),
            (context::SERVICE_ACCOUNT, "web"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
        ..NodePublishVolumeRequest::default()
    }
}

fn pods() -> &'static Path {
    Path::new("/var/lib/kubelet/pods")
}

fn refusal(change: impl FnOnce(&mut NodePublishVolumeRequest)) -> String {
    let mut request = request(pods(), "csi-1");
    change(&mut request);
    publish(pods(), &request).unwrap_err().to_string()
}

fn capability(request: &mut NodePublishVolumeRequest) -> &mut VolumeCapability {
    request.volume_capability.as_mut().unwrap()
}

#[test]
fn the_volume_is_that_of_the_pod_the_kubelet_names() {
    let volume = publish(pods(), &request(pods(), "csi-1")).unwrap();
    assert_eq!(volume.target.pod_uid(), UID);
    assert_eq!(
        (
            volume.namespace.as_str(),
            volume.service_account.as_str(),
            volume.pod_name.as_str()
        ),
        ("shop", "web", "web-0")
    );
}

#[test]
fn what_spires_driver_refuses_is_refused_in_its_words() {
    type Change = fn(&mut NodePublishVolumeRequest);
    let cases: [(Change, &str); 11] = [
        (
            |r| r.volume_id.clear(),
            "request missing required volume id",
        ),
        (
            |r| r.target_path.clear(),
            "request missing required target path",
        ),
        (
            |r| r.volume_capability = None,
            "request missing required volume capability",
        ),
        (
            |r| capability(r).access_type = None,
            "request missing required volume capability access type",
        ),
        (
            |r| capability(r).access_type = Some(AccessType::Block(BlockVolume {})),
            "request volume capability access type must be a simple mount",
        ),
        (
            |r| {
                capability(r).access_type = Some(AccessType::Mount(MountVolume {
                    fs_type: "ext4".to_owned(),
                    ..MountVolume::default()
                }));
            },
            "request volume capability access type must be a simple mount",
        ),
        (
            |r| {
                capability(r).access_type = Some(AccessType::Mount(MountVolume {
                    mount_flags: vec!["suid".to_owned()],
                    ..MountVolume::default()
                }));
            },
            "request volume capability access type must be a simple mount",
        ),
        (
            |r| capability(r).access_mode = None,
            "request missing required volume capability access mode",
        ),
        (
            |r| {
                capability(r).access_mode = Some(AccessMode {
                    mode: Mode::SingleNodeReaderOnly as i32,
                });
            },
            "request volume capability access mode is not valid",
        ),
        (
            |r| r.readonly = false,
            "pod.spec.volumes[].csi.readOnly must be set to 'true'",
        ),
        (
            |r| r.volume_context.clear(),
            "only ephemeral volumes are supported",
        ),
    ];
    for (change, text) in cases {
        assert_eq!(refusal(change), text);
    }
}

#[test]
fn a_pod_is_not_given_the_folder_of_another() {
    let text = refusal(|request| {
        let other = "a".repeat(32);
        request
            .volume_context
            .insert(context::POD_UID.to_owned(), other);
    });
    assert!(text.contains("another pod"), "{text}");
}

#[test]
fn what_the_kubelet_must_say_is_asked_for_by_name() {
    for key in [
        context::POD_NAME,
        context::POD_UID,
        context::NAMESPACE,
        context::SERVICE_ACCOUNT,
    ] {
        for value in [None, Some(String::new()), Some("x".repeat(254))] {
            if key == context::SERVICE_ACCOUNT && value.as_deref() == Some("") {
                continue;
            }
            let text = refusal(|request| {
                request.volume_context.remove(key);
                if let Some(value) = value {
                    request.volume_context.insert(key.to_owned(), value);
                }
            });
            assert!(text.contains(key), "{text}");
        }
    }
}

#[test]
fn a_static_pod_has_no_service_account() {
    let mut request = request(pods(), "csi-1");
    let key = context::SERVICE_ACCOUNT.to_owned();
    request.volume_context.insert(key, String::new());
    let volume = publish(pods(), &request).unwrap();
    assert_eq!(volume.service_account, "");
}

#[test]
fn an_id_that_could_be_a_path_is_refused() {
    let long = "x".repeat(129);
    for id in ["../x", "a/b", ".hidden", "a\0b", "é", long.as_str()] {
        let text = refusal(|request| request.volume_id = id.to_owned());
        assert_eq!(text, "request volume id is not valid", "{id:?}");
    }
}

#[test]
fn hostile_target_paths_are_refused() {
    for path in ["/etc", "/var/lib/kubelet/pods/../../../etc", "relative"] {
        let text = refusal(|request| request.target_path = path.to_owned());
        assert!(text.starts_with("request target path is not"), "{text}");
    }
}
