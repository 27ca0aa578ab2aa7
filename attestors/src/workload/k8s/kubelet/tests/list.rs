//! The walk over the list of pods.

use bytes::Bytes;
use proptest::prelude::*;

use super::super::fake::FakePod;
use super::super::list::{ListError, PodList};
use super::{id, uid};
use crate::workload::cgroup::PodUid;

fn parse(text: &str) -> Result<PodList, ListError> {
    PodList::parse(Bytes::copy_from_slice(text.as_bytes()))
}

fn list(pods: &[FakePod]) -> PodList {
    PodList::parse(FakePod::list(pods).into()).unwrap()
}

#[test]
fn finds_each_pod_by_uid_and_by_container() {
    let pods: Vec<_> = (0..50).map(FakePod::new).collect();
    let list = list(&pods);
    assert_eq!((list.len(), list.malformed()), (50, 0));
    for pod in &pods {
        assert!(list.pod(&uid(pod)).unwrap().unwrap().is_called(&uid(pod)));
        let found = list.by_container(&id(pod)).unwrap();
        assert!(found.unwrap().is_called(&uid(pod)));
    }
    assert!(list.pod(&uid(&FakePod::new(50))).unwrap().is_none());
    assert!(list.by_container(&id(&FakePod::new(50))).unwrap().is_none());
}

#[test]
fn a_node_without_pods_may_say_null() {
    for text in [
        r#"{"items":null}"#,
        r#" {"kind":"PodList", "items" : [ ] } "#,
    ] {
        assert!(parse(text).unwrap().is_empty(), "{text}");
    }
}

#[test]
fn a_list_whose_outer_structure_is_broken_is_refused_whole() {
    let cases = [
        "",
        "[]",
        "null",
        "{",
        "{}",
        r#"{"items":{}}"#,
        r#"{"items":7}"#,
        r#"{"items":[}"#,
        r#"{"items":[{}]"#,
        r#"{"items":[{}]}}"#,
        r#"{"items":[{}] "x":1}"#,
        r#"{"items":[],}"#,
        r#"{"items":[],"items":[]}"#,
        r#"{"items":["a]}"#,
        r#"{"items":[{},]}"#,
        r#"{"items" []}"#,
    ];
    for text in cases {
        assert!(parse(text).is_err(), "{text}");
    }
    let whole = FakePod::list(&[FakePod::new(1), FakePod::new(2)]);
    for length in 0..whole.len() {
        assert!(
            PodList::parse(Bytes::copy_from_slice(&whole[..length])).is_err(),
            "{length}"
        );
    }
}

#[test]
fn a_malformed_pod_spoils_only_itself() {
    let good = FakePod::new(1);
    let item = String::from_utf8(FakePod::list(std::slice::from_ref(&good))).unwrap();
    let item = item
        .split_once(r#""items":["#)
        .unwrap()
        .1
        .split_once("}],\"kind\"")
        .unwrap()
        .0;
    let bad = [
        "7",
        "{}",
        r#"{"metadata":{"uid":7}}"#,
        r#"{"metadata":{"uid":"a b"}}"#,
        r#"{"metadata":{"uid":"00000000000000000000000000000001"}, nonsense}"#,
        r#"{"metadata":{"uid":"00000000000000000000000000000002"}}"#,
        r#"{"metadata":{"uid":"00000000000000000000000000000002"}}"#,
    ];
    let text = format!(r#"{{"items":[{},{item}}}]}}"#, bad.join(","));
    let list = parse(&text).unwrap();
    assert_eq!((list.len(), list.malformed()), (8, 4));
    assert!(list.pod(&uid(&good)).unwrap().is_some());
    let reason = |uid: &str| {
        list.pod(&PodUid::parse(uid).unwrap())
            .map(|_| ())
            .map_err(|error| error.reason())
    };
    assert_eq!(
        reason("00000000000000000000000000000001"),
        Err("kubelet_pod_malformed")
    );
    assert_eq!(
        reason("00000000000000000000000000000002"),
        Err("kubelet_pod_ambiguous")
    );
    assert_eq!(reason("00000000000000000000000000000003"), Ok(()));
}

#[test]
fn a_container_that_is_only_spoken_of_is_not_found() {
    let (owner, mut liar) = (FakePod::new(1), FakePod::new(2));
    let id = id(&owner);
    liar.name = id.to_string();
    let found = list(&[liar.clone(), owner.clone()])
        .by_container(&id)
        .unwrap()
        .unwrap();
    assert!(found.is_called(&uid(&owner)));
    assert!(list(&[liar]).by_container(&id).unwrap().is_none());
}

#[test]
fn two_pods_with_one_container_are_a_contradiction() {
    let (one, mut two) = (FakePod::new(1), FakePod::new(2));
    two.container.clone_from(&one.container);
    let id = id(&one);
    assert!(list(&[one, two]).by_container(&id).is_err());
}

proptest! {
    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = PodList::parse(bytes.into());
    }

    #[test]
    fn never_panics_on_what_looks_like_a_list(text in r#"\{"items":\[[\[\]{}",:\\a0 ]{0,60}"#) {
        let _ = parse(&text);
    }

    /// Whatever stands in a pod, a well-formed list has as many pods as the full decoder finds.
    #[test]
    fn agrees_with_the_full_decoder(texts in prop::collection::vec(".*", 0..6)) {
        let items: Vec<_> = texts
            .iter()
            .enumerate()
            .map(|(at, text)| serde_json::json!({
                "spec": {text: [text, {text: null}]},
                "metadata": {"name": text, "uid": format!("uid-{at}")},
            }))
            .collect();
        let whole = serde_json::json!({"metadata": {"note": texts}, "items": items}).to_string();
        let list = parse(&whole).unwrap();
        prop_assert_eq!((list.len(), list.malformed()), (items.len(), 0));
    }
}

#[test]
fn the_memory_of_a_list_that_nobody_reads_is_that_of_the_next() {
    let text = FakePod::list(&[FakePod::new(1)]);
    let memory = text.as_ptr();
    let list = PodList::parse(text.into()).unwrap();
    let reused = list.into_memory().unwrap();
    assert_eq!(reused.as_ptr(), memory);

    let text = Bytes::from(FakePod::list(&[FakePod::new(1)]));
    let list = PodList::parse(text.clone()).unwrap();
    assert!(list.into_memory().is_none(), "somebody reads {text:?}");
}
