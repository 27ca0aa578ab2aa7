//! What each fuzz target asserts: a library for the targets, which call these under libFuzzer; the test `corpora` replays
//! the stored inputs through them on the stable toolchain.
//!
//! A parser must not panic, and what it accepts must come back the same when it is written and read
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent::api::replay as replay_report;
use agent::sealed::Item;
use attestors::node::join_token::Token;
use attestors::node::k8s_psat::{Node, Payload, Pod, Review, kubeconfig};
use attestors::node::{http_challenge, sshpop, x509pop};
use attestors::workload::cgroup::pattern::Patterns;
use attestors::workload::cgroup::{ContainerId, Place, PodUid, Viewpoint};
use attestors::workload::docker::description::{Description, image_digest};
use attestors::workload::k8s::kubelet::list::PodList;
use attestors::workload::k8s::kubelet::watch;
use attestors::workload::k8s::pod::Pod as KubeletPod;
use attestors::workload::systemd::message::{Message, PREFIX};
use attestors::workload::unix::status::Status;
use aws_lc_rs::digest;
use identity::bundle::Bundle;
use identity::jwt::{JwtSvid, validate};
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::x509::{Certificate, Csr, Purpose, check_leaf, check_peer_leaf, verify_peer};
use k8s::csi::inputs;
use prost::Message as _;
use proto::csi::NodePublishVolumeRequest;
use proto::signet::node::ReportRequest;
use proto::signet::node::report_request::Change;
use runtime::authority::AuthorityFilter;
use server::federation::EndpointUrl;
use server::store::Backup;
use workload_api::client::Endpoint;
use workload_api::fake::{replay, replay_delta};
use workload_api::source::{Bundles, Update};

mod hpack;

/// Where a kubelet keeps its pods.
const PODS: &str = "/var/lib/kubelet/pods";

pub fn spiffe_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.as_str(), text);
        let parts = SpiffeId::from_path(id.trust_domain(), id.path());
        assert_eq!(parts.as_ref(), Ok(&id));
        assert!(text.len() <= 2048 && id.trust_domain().name().len() <= 255);
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    if let Ok(trust_domain) = TrustDomain::parse(text) {
        assert_eq!(
            TrustDomain::parse(trust_domain.name()).as_ref(),
            Ok(&trust_domain)
        );
    }
}

pub fn bundle_json(data: &[u8]) {
    let own = trust_domain();
    if let Ok(bundle) = Bundle::from_spiffe_json(own.clone(), data) {
        let written = bundle.to_spiffe_json();
        let again =
            Bundle::from_spiffe_json(own, written.as_bytes()).expect("our own text is read");
        assert_eq!(again.to_spiffe_json(), written);
    }
}

pub fn jwt(data: &[u8]) {
    let Ok(token) = std::str::from_utf8(data) else {
        return;
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    // Nobody can have signed a token for a trust domain without keys.
    assert!(validate(token, "aud", |_| Some(Bundle::new(trust_domain())), now).is_err());
    if let Ok(svid) = JwtSvid::parse_unverified(token) {
        assert_eq!(svid.token(), token);
        assert!(!svid.audience().is_empty());
        assert!(!format!("{svid:?}").contains(token), "a token shows itself");
    }
}

pub fn csr(data: &[u8]) {
    if let Ok(csr) = Csr::parse_and_verify(data) {
        assert!(data.len() <= identity::x509::MAX_CSR_BYTES);
        assert!(csr.public_key().check_for_issuance().is_ok());
        if let Ok(subject) = csr.subject() {
            assert!(subject.iter().all(|(_, value)| value.len() <= 256));
        }
    }
}

pub fn x509_leaf(data: &[u8]) {
    let Ok(certificate) = Certificate::parse(data) else {
        return;
    };
    assert_eq!(certificate.der().as_ref(), data);
    if let Ok(id) = check_leaf(&certificate) {
        assert_eq!(check_peer_leaf(&certificate).as_ref().ok(), Some(&id));
        assert!(id.has_path() && !certificate.is_ca());
    }
    let now = certificate.validity().not_before();
    let bundle = |trust_domain: &TrustDomain| Some(Bundle::new(trust_domain.clone()));
    assert!(verify_peer(&[certificate], Purpose::ServerAuth, bundle, now).is_err());
}

pub fn hcl(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(document) = runtime::config::parse(text) {
        // A decoder that asks for one key walks the whole tree for the unknown ones.
        let _ = document.body().decode::<BTreeMap<String, String>>();
    }
}

pub fn attestation_payload(data: &[u8]) {
    join_token(data);
    if let Ok(payload) = x509pop::Payload::parse(data, 4) {
        let again = x509pop::Payload::parse(&payload.encode(), 4);
        assert!(again.is_err() || again == Ok(payload));
    }
    let _ = (
        x509pop::Challenge::parse(data),
        x509pop::Response::parse(data),
    );
    if let Ok(text) = std::str::from_utf8(data) {
        let trust = x509pop::Trust::Roots(Vec::new());
        let _ = x509pop::template(Some(text), &trust);
        let _ = (
            sshpop::template(Some(text)),
            sshpop::Authorities::parse(text),
        );
    }
    if let Ok(payload) = http_challenge::Payload::parse(data) {
        assert_eq!(
            http_challenge::Payload::parse(&payload.encode()),
            Ok(payload)
        );
    }
    let _ = http_challenge::Challenge::parse(data);
    let _ = (
        sshpop::Payload::parse(data),
        sshpop::Challenge::parse(data),
        sshpop::Response::parse(data),
    );
    let now = SystemTime::UNIX_EPOCH;
    let nobody = sshpop::Authorities::default();
    assert!(sshpop::HostCertificate::verify(data, &nobody, now).is_err());
}

fn join_token(data: &[u8]) {
    if let Ok(token) = Token::parse(data) {
        assert_eq!(token.payload(), data);
        let id = attestors::node::join_token::agent_id(&trust_domain(), &token);
        assert!(id.is_ok_and(|id| id.is_agent()));
        // A short token may be part of the type's name.
        let shown = token.reveal().len() > 16 && format!("{token:?}").contains(token.reveal());
        assert!(!shown, "a token shows itself");
    }
}

/// What an agent sends, and what an API server answers. The token shows itself in neither.
pub fn k8s_psat(data: &[u8]) {
    if let Ok(payload) = Payload::parse(data) {
        let again = Payload::parse(&payload.encode());
        // Escapes may make the text longer than the limit.
        assert!(again.is_err() || again.as_ref() == Ok(&payload));
        let token = payload.token().reveal();
        let shown = token.len() > 32 && format!("{:?}", payload.token()).contains(token);
        assert!(!shown, "a token shows itself");
    }
    if let Ok(review) = Review::from_json(data) {
        let names = [review.pod_name(), review.pod_uid()];
        for name in names.into_iter().flatten() {
            assert!(!name.as_str().contains(['/', '%', '?', '#']));
        }
        let _ = (
            review.service_account(),
            review.node_name(),
            review.node_uid(),
        );
    }
    let _ = (Pod::from_json(data), Node::from_json(data));
}

/// What an operator gives a server to reach an API server by.
pub fn kubeconfig_file(data: &[u8]) {
    let _ = std::str::from_utf8(data).map(kubeconfig::parse);
}

/// The walk over a list never finds another pod than the decoder.
pub fn kubelet_list(data: &[u8]) {
    let Ok(list) = PodList::parse(data.to_vec().into()) else {
        return;
    };
    assert!(list.uids().count() + list.malformed() <= list.len());
    for uid in list.uids().filter_map(PodUid::parse) {
        if let Ok(Some(pod)) = list.pod(&uid) {
            assert!(pod.is_called(&uid));
        }
    }
    let _ = ContainerId::parse(&"0".repeat(64)).map(|id| list.by_container(&id).is_ok());
}

/// The stream finds a pod's uid where the whole decoder finds it.
pub fn kubelet_pod(data: &[u8]) {
    let _ = KubeletPod::from_json(data);
    if let Ok(pod) = KubeletPod::from_protobuf(data) {
        assert_eq!(watch::uid(data).unwrap_or_default(), pod.uid);
    }
}

pub fn proc_texts(data: &[u8]) {
    let _ = Status::parse(data);
    let _ = runtime::unix::start_time_in_stat(data);
}

/// The agent's own cgroups, a NUL byte, and the caller's.
pub fn cgroup(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == 0);
    let (agent, caller) = data.split_at(at.unwrap_or(0));
    let caller = caller.strip_prefix(b"\0").unwrap_or(caller);
    let viewpoint = Viewpoint::of_agent(agent).unwrap_or_default();
    let _ = viewpoint.locate(caller);
    let _ = viewpoint.container(caller);
    let patterns = Patterns::parse(&["/docker/<id>", "/*/*/<id>"]).expect("good patterns");
    let _ = patterns.container(caller);
    let victim = format!("/pod{}/{}", "5e".repeat(16), "5e".repeat(32));
    for line in caller.split(|byte| *byte == b'\n') {
        let place = viewpoint.locate(line);
        if matches!(place, Ok(Place::Pod { .. })) {
            // What a container makes below its own cgroup changes nothing.
            let below = [line, victim.as_bytes()].concat();
            assert_eq!(viewpoint.locate(&below), place);
        }
        if let Ok(Some(container)) = viewpoint.container(line) {
            let below = [line, victim.as_bytes()].concat();
            assert_eq!(viewpoint.container(&below), Ok(Some(container)));
        }
    }
}

/// What an engine says of a container, and of an image.
pub fn container_description(data: &[u8]) {
    let _ = image_digest(data);
    match Description::parse(data) {
        Ok(description) => {
            let (without, with) = (
                description.selectors(None),
                description.selectors(Some("x")),
            );
            assert!(without.is_subset_of(&with) && with.len() == without.len() + 1);
            assert!(without.iter().all(|selector| selector.kind() == "docker"));
        }
        // No error quotes what it could not read.
        Err(error) => assert!(error.to_string().len() < 100),
    }
}

/// A message of D-Bus comes back the same when it is written and read again, whatever its order.
pub fn dbus_message(data: &[u8]) {
    if let Some(prefix) = data.first_chunk::<PREFIX>() {
        let _ = Message::length(prefix);
    }
    let Ok(message) = Message::parse(data) else {
        return;
    };
    let body = &message.body;
    let _ = (body.text(), body.u32(), body.second_text());
    if data.first() == Some(&b'l') {
        let written = message.encode();
        assert_eq!(Message::parse(&written), Ok(message));
    }
}

/// Requests of one Envoy for the state of the world.
pub fn sds_requests(data: &[u8]) {
    if let Some(answers) = replay(&length_prefixed(data), &bundle_alone()) {
        let nonces: BTreeSet<_> = answers.iter().map(|a| &a.nonce).collect();
        assert_eq!(nonces.len(), answers.len());
        // Envoy rejects an answer without secrets.
        assert!(answers.iter().all(|answer| !answer.secrets.is_empty()));
        assert!(answers.iter().all(|answer| answer.removed.is_empty()));
    }
}

/// Requests of one Envoy for what has changed.
pub fn delta_requests(data: &[u8]) {
    let requests = length_prefixed(data);
    let Some(answers) = replay_delta(&requests, &bundle_alone()) else {
        return;
    };
    let nonces: BTreeSet<_> = answers.iter().map(|a| &a.nonce).collect();
    assert_eq!(nonces.len(), answers.len());
    // Nothing changes, so each request is answered once at most.
    assert!(answers.len() <= requests.len());
    for answer in &answers {
        let sent: BTreeSet<_> = answer.secrets.iter().map(|(name, _)| name).collect();
        assert_eq!(sent.len(), answer.secrets.len());
        assert!(answer.removed.iter().all(|name| !sent.contains(name)));
        // There is a bundle, and no identity.
        let bundle = |name: &str| ["ROOTCA", "ALL", "spiffe://example.org"].contains(&name);
        assert!(answer.secrets.iter().all(|(name, _)| bundle(name)));
        // An alias that is unsubscribed while everything is wanted is no part of everything.
        let known = |name: &str| name.is_empty() || name == "spiffe://example.org";
        assert!(answer.removed.iter().all(|name| !known(name)));
    }
}

/// Texts, each with its length in two bytes before it.
fn length_prefixed(data: &[u8]) -> Vec<&[u8]> {
    let mut rest = data;
    let texts = std::iter::from_fn(|| {
        let (length, next) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length)).min(next.len());
        let (text, next) = next.split_at(length);
        rest = next;
        Some(text)
    });
    texts.collect()
}

/// What a workload without identity sees.
fn bundle_alone() -> Arc<Update> {
    let authority = include_bytes!("corpus/x509_leaf/authority");
    let authority = Certificate::parse(authority).expect("a certificate");
    let own = Bundle::from_certificates(trust_domain(), [authority]);
    let bundles = Bundles::new(Arc::new(own), BTreeMap::new());
    Arc::new(Update::new(Vec::new(), Arc::new(bundles)))
}

/// A path that is taken is the one that is mounted, byte for byte, and leads nowhere else.
pub fn csi_target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for path in [text.to_owned(), format!("{PODS}/{text}")] {
        if let Some(target) = inputs::target(Path::new(PODS), &path) {
            assert_eq!(target.as_os_str(), path.as_str());
            assert!(
                !path.contains('\0') && path.split('/').all(|part| part != "." && part != "..")
            );
        }
    }
}

/// The file of a volume, and what a kubelet asks for.
pub fn csi_volume(data: &[u8]) {
    if let Some(written) = inputs::volume_file(data) {
        assert_eq!(inputs::volume_file(&written), Some(written));
    }
    let Ok(request) = NodePublishVolumeRequest::decode(data) else {
        return;
    };
    if let Some((file, target)) = inputs::publish(Path::new(PODS), &request) {
        assert_eq!(target.as_os_str(), request.target_path.as_str());
        assert_eq!(inputs::volume_file(&file), Some(file));
    }
}

/// What a storage driver tells the agent: nothing is known that was not told.
pub fn volume_report(data: &[u8]) {
    let changes = length_prefixed(data);
    let decoded = changes.iter().map_while(|m| ReportRequest::decode(*m).ok());
    let changes: Vec<_> = decoded.collect();
    let known = replay_report(changes.clone());
    let told: BTreeMap<_, _> = changes
        .iter()
        .filter_map(|request| match &request.change {
            Some(Change::Published(volume)) => Some((&volume.volume_id, &volume.pod_uid)),
            _ => None,
        })
        .collect();
    assert!(known.count() <= told.len());
    for uid in told.values().filter_map(|uid| PodUid::parse(uid)) {
        if let Some(volume) = known.of(&uid) {
            assert!(volume.pod == uid && told.contains_key(&volume.id));
            assert!((1..=253).contains(&volume.pod_name.len()));
        }
    }
}

pub fn endpoint(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(endpoint) = Endpoint::parse(text) {
        assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint));
    }
}

pub fn agent_state(data: &[u8]) {
    if let Some(state) = agent::state::parse_bytes(data) {
        assert_eq!(
            agent::state::parse_bytes(&agent::state::encode_bytes(&state)),
            Some(state)
        );
    }
}

/// The first byte says how long the name is; the rest is what was kept by it.
pub fn sealed_record(data: &[u8]) {
    let cut = data
        .split_first()
        .and_then(|(length, rest)| rest.split_at_checked(usize::from(*length)));
    let Some((name, value)) = cut else {
        return;
    };
    if let Ok(item) = Item::decode(name, value) {
        assert_eq!(item.name(), name);
        let again = Item::decode(name, &item.encode()).expect("our own bytes are read");
        assert!(again.is_same(&item));
    }
}

/// The URL of a bundle endpoint is read the same again, and names nobody.
pub fn endpoint_url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(url) = EndpointUrl::parse(text) {
        assert_eq!(EndpointUrl::parse(url.as_str()), Ok(url.clone()));
        let rest = url.as_str().strip_prefix("https://").expect("it is https");
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        assert!(!authority.is_empty() && !authority.contains('@'), "{url}");
    }
}

/// A backup with a sum that fits, which no fuzzer finds by itself, and the bytes as they are.
pub fn backup(data: &[u8]) {
    let _ = Backup::decode(&data.to_vec().into());
    let sum = digest::digest(&digest::SHA256, data);
    let summed = [data, sum.as_ref()].concat();
    if let Ok(backup) = Backup::decode(&summed.clone().into()) {
        assert_eq!(backup.encode(), summed);
    }
}

/// The first byte says how the rest is cut: what the filter does must not depend on it.
pub fn authority_filter(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else {
        return;
    };
    let (mut whole, mut pieces) = (bytes.to_vec(), bytes.to_vec());
    AuthorityFilter::new().apply(&mut whole);
    let mut filter = AuthorityFilter::new();
    for piece in pieces.chunks_mut(usize::from(*cut).max(1)) {
        filter.apply(piece);
    }
    assert_eq!(whole, pieces);
    hpack::requests_are_decoded_as_sent(usize::from(*cut).max(1), bytes);
    let changed = whole.iter().zip(bytes).filter(|(new, old)| new != old);
    for (new, old) in changed {
        // A value becomes `a`, and a length loses its Huffman bit; nothing else changes.
        assert!(*new == b'a' || *new == *old & 0x7f);
    }
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").expect("a valid name")
}
