//! The kubelet's list of pods, kept as the bytes that it sent.
//!
//! A node's list is about 4 KB a pod, and an attestation asks for one pod of it. So the list is only
//! walked, brackets and strings, to find where each pod begins and what its uid is; a pod is decoded
//! when it is asked for. What stands inside a pod is not looked at before, so a pod that cannot be
//! decoded spoils nothing but itself; a list whose outer structure is broken is refused whole.
//!
//! The walk is not the last word: a pod that it found counts only if the decoder finds the same uid.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use memchr::memmem;

use super::super::pod::{Pod, PodError};
use super::scan::{Scanner, Walk};
use crate::workload::cgroup::{ContainerId, PodUid};

/// The largest list that is taken. A node's 250 pods are about 1 MB.
pub const MAX_LIST_BYTES: usize = 64 << 20;
/// The longest uid: it is a name of the API server.
const MAX_UID_BYTES: usize = 128;

/// The pods of a node, as JSON.
pub struct PodList {
    bytes: Bytes,
    pods: Vec<Range<usize>>, // INVARIANT: ascending, disjoint, within `bytes`.
    by_uid: HashMap<Box<str>, Place>,
    malformed: usize,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    At(usize),
    /// Two pods claim the uid.
    Twice,
}

/// Why a list cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ListError {
    /// It ends before it is whole.
    #[error("the list breaks off")]
    Truncated,
    /// Something else stands where the structure needs `expected`.
    #[error("the list has something else at byte {at} where {expected} belongs")]
    Unexpected {
        /// Where.
        at: usize,
        /// What a list has there.
        expected: &'static str,
    },
    /// It is an object without a list of pods.
    #[error("the object has no `items`")]
    NoItems,
    /// It has more than one list of pods.
    #[error("the object has `items` twice")]
    ItemsTwice,
    /// It is larger than any node's list.
    #[error("the list is larger than {MAX_LIST_BYTES} bytes")]
    TooLarge,
}

/// Why a pod of a list cannot be told.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PodLookupError {
    /// What the kubelet says of the pod cannot be read.
    #[error("could not read what the kubelet says of the pod")]
    Malformed(#[source] std::sync::Arc<PodError>),
    /// The kubelet says two things.
    #[error("the kubelet lists more than one such pod")]
    Ambiguous,
    /// The kubelet could not be asked, and the pods that it last told of do not include this one.
    #[error("the pod is not among those that the kubelet last told of")]
    Stale(#[source] super::KubeletError),
}

impl PodLookupError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "kubelet_pod_malformed",
            Self::Ambiguous => "kubelet_pod_ambiguous",
            Self::Stale(error) => error.reason(),
        }
    }
}

impl PodList {
    /// Finds the pods of a list.
    pub fn parse(bytes: Bytes) -> Result<Self, ListError> {
        if bytes.len() > MAX_LIST_BYTES {
            return Err(ListError::TooLarge);
        }
        let pods = pods(&bytes)?;
        let mut by_uid = HashMap::with_capacity(pods.len());
        let mut malformed = 0;
        for (index, range) in pods.iter().enumerate() {
            match bytes.get(range.clone()).and_then(uid) {
                Some(uid) => {
                    by_uid
                        .entry(Box::from(uid))
                        .and_modify(|place| *place = Place::Twice)
                        .or_insert(Place::At(index));
                }
                None => malformed += 1,
            }
        }
        Ok(Self {
            bytes,
            pods,
            by_uid,
            malformed,
        })
    }

    /// The pod with this uid. That of a static pod is the hash of its configuration, here as in the
    /// name of its cgroup; the uid of its mirror at the API server is not known here.
    pub fn pod(&self, uid: &PodUid) -> Result<Option<Pod>, PodLookupError> {
        match self.by_uid.get(uid.as_str()) {
            Some(Place::Twice) => Err(PodLookupError::Ambiguous),
            Some(Place::At(index)) => {
                let pod = self.decode(*index)?;
                // The walk and the decoder must agree on what the pod is called.
                if pod.is_called(uid) {
                    Ok(Some(pod))
                } else {
                    Err(PodLookupError::Ambiguous)
                }
            }
            None => Ok(None),
        }
    }

    /// The pod one of whose containers has this id. Its text alone proves nothing: anybody may write
    /// the id of another's container into an annotation.
    pub fn by_container(&self, id: &ContainerId) -> Result<Option<Pod>, PodLookupError> {
        let (mut found, mut spoiled) = (None, None);
        for index in self.mentioning(id.as_str()) {
            match self.decode(index) {
                Ok(pod) if !pod.has_container(id) => {}
                Ok(_) if found.is_some() => return Err(PodLookupError::Ambiguous),
                Ok(pod) => found = Some(pod),
                Err(error) => spoiled = Some(error),
            }
        }
        match (found, spoiled) {
            (Some(pod), _) => Ok(Some(pod)),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }

    /// What the pods are called whose uid could be read.
    pub fn uids(&self) -> impl Iterator<Item = &str> {
        self.by_uid.keys().map(AsRef::as_ref)
    }

    /// How many pods are listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether no pod is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// How many of them have no uid that can be read.
    #[must_use]
    pub fn malformed(&self) -> usize {
        self.malformed
    }

    /// Whether the kubelet said the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }

    /// What the list says of a pod, to be compared with what another one says; `None` if that is nothing,
    /// or two things.
    pub(super) fn text(&self, uid: &PodUid) -> Option<&[u8]> {
        match self.by_uid.get(uid.as_str()) {
            Some(Place::At(index)) => self.bytes.get(self.pods.get(*index)?.clone()),
            Some(Place::Twice) | None => None,
        }
    }

    /// The memory of the list, for another one; `None` if somebody else reads it.
    pub(super) fn into_memory(self) -> Option<Vec<u8>> {
        // Of what is shared this would make a copy.
        self.bytes.is_unique().then(|| self.bytes.into())
    }

    /// The indexes of the pods whose text has `needle` in it.
    fn mentioning<'a>(&'a self, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
        let finder = memmem::Finder::new(needle.as_bytes());
        (0..self.pods.len()).filter(move |&index| {
            let text = self
                .pods
                .get(index)
                .and_then(|range| self.bytes.get(range.clone()));
            text.is_some_and(|text| finder.find(text).is_some())
        })
    }

    fn decode(&self, index: usize) -> Result<Pod, PodLookupError> {
        let range = self.pods.get(index).cloned().unwrap_or_default();
        let text = self.bytes.get(range).unwrap_or_default();
        Pod::from_json(text).map_err(|error| PodLookupError::Malformed(error.into()))
    }
}

// What an operator writes into a pod's environment is nobody's business.
impl fmt::Debug for PodList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PodList({} pods)", self.pods.len())
    }
}

/// Where the pods of a list stand.
fn pods(bytes: &[u8]) -> Result<Vec<Range<usize>>, ListError> {
    let mut scanner = Scanner::new(bytes);
    let mut pods = None;
    scanner.object(|scanner, key| {
        if key != b"items" {
            scanner.skip()?;
        } else if pods.is_some() {
            return Err(ListError::ItemsTwice);
        } else {
            pods = Some(items(scanner)?);
        }
        Ok(Walk::On)
    })?;
    scanner.end()?;
    pods.ok_or(ListError::NoItems)
}

/// The list of a node without pods may be `null`.
fn items(scanner: &mut Scanner<'_>) -> Result<Vec<Range<usize>>, ListError> {
    let mut found = Vec::new();
    if scanner.null() {
        return Ok(found);
    }
    scanner.array(|scanner| {
        found.push(scanner.skip()?);
        Ok(())
    })?;
    Ok(found)
}

/// What the walk takes for a pod's `metadata.uid`: the first, if it can be one.
fn uid(pod: &[u8]) -> Option<&str> {
    let mut uid = None;
    let mut scanner = Scanner::new(pod);
    // A pod whose structure breaks off behind its uid is told by the decoder.
    let _ = scanner.object(|scanner, key| {
        if key != b"metadata" {
            scanner.skip()?;
            return Ok(Walk::On);
        }
        scanner.object(|scanner, key| {
            if key != b"uid" {
                scanner.skip()?;
                return Ok(Walk::On);
            }
            uid = Some(scanner.string()?);
            Ok(Walk::Stop)
        })?;
        Ok(Walk::Stop)
    });
    let uid = uid.filter(|uid| (1..=MAX_UID_BYTES).contains(&uid.len()))?;
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    uid.iter()
        .all(is_plain)
        .then(|| std::str::from_utf8(uid).ok())?
}
