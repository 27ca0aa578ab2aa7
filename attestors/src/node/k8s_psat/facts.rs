//! What the API server says: the review of a token, a pod, a node, a namespace.
//!
//! Pure parsers. Of the objects only what is used is read, so that another version of the API with
//! other fields is no trouble.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A larger answer is not read to its end. Objects are limited by etcd to about 1.5 MiB.
pub(super) const MAX_ANSWER_BYTES: usize = 4 << 20;

/// The longest name of an object.
const MAX_NAME_BYTES: usize = 253;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// The name of an object, or its UID: it can stand in a URL and in a SPIFFE ID as it is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ObjectName(String);

impl ObjectName {
    /// Takes a DNS subdomain, or a UUID.
    pub fn parse(name: &str) -> Result<Self, FactsError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        let is_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        let ends = is_end(name.bytes().next()) && is_end(name.bytes().next_back());
        if name.len() > MAX_NAME_BYTES || !ends || !name.bytes().all(allowed) {
            return Err(FactsError::Name(name.chars().take(64).collect()));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A service account, written `namespace:name`.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: ObjectName,
    /// Its name in the namespace.
    pub name: ObjectName,
}

impl ServiceAccount {
    /// Parses `namespace:name`.
    pub fn parse(text: &str) -> Result<Self, FactsError> {
        let (namespace, name) = text
            .split_once(':')
            .ok_or_else(|| FactsError::Name(text.chars().take(64).collect()))?;
        Ok(Self {
            namespace: ObjectName::parse(namespace)?,
            name: ObjectName::parse(name)?,
        })
    }
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.namespace, self.name)
    }
}

/// What the API server made of a token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Review {
    /// Whether it takes the token for one of its own that is valid now.
    pub authenticated: bool,
    /// What kept it from deciding, or what is wrong with the token.
    pub error: Option<String>,
    /// The audiences that the token was found to be for, among those asked about.
    pub audiences: Vec<String>,
    username: String,
    extra: BTreeMap<String, Vec<String>>,
}

impl Review {
    /// Parses a `TokenReview`.
    pub fn from_json(json: &[u8]) -> Result<Self, FactsError> {
        #[derive(Deserialize)]
        struct TokenReview {
            status: Option<Status>,
        }
        #[derive(Default, Deserialize)]
        struct Status {
            authenticated: Option<bool>,
            error: Option<String>,
            audiences: Option<Vec<String>>,
            user: Option<User>,
        }
        #[derive(Default, Deserialize)]
        struct User {
            username: Option<String>,
            extra: Option<BTreeMap<String, Option<Vec<String>>>>,
        }
        let review: TokenReview = parse(json)?;
        let status = review.status.unwrap_or_default();
        let user = status.user.unwrap_or_default();
        let extra = user.extra.unwrap_or_default();
        let kept = |(key, values): (String, Option<Vec<String>>)| Some((key, values?));
        Ok(Self {
            // What is not said is not granted.
            authenticated: status.authenticated.unwrap_or(false),
            error: status.error.filter(|error| !error.is_empty()),
            audiences: status.audiences.unwrap_or_default(),
            username: user.username.unwrap_or_default(),
            extra: extra.into_iter().filter_map(kept).collect(),
        })
    }

    /// The service account that the token is of.
    pub fn service_account(&self) -> Result<ServiceAccount, FactsError> {
        if self.username.is_empty() {
            return Err(FactsError::NoUsername);
        }
        // A user of another authenticator may well have three colons in its name.
        let named = self.username.strip_prefix("system:serviceaccount:");
        let named = named.filter(|named| named.matches(':').count() == 1);
        let named =
            named.ok_or_else(|| FactsError::Username(self.username.chars().take(64).collect()))?;
        ServiceAccount::parse(named)
    }

    /// The name of the pod that the token is bound to.
    pub fn pod_name(&self) -> Result<ObjectName, FactsError> {
        self.bound(POD_NAME, "pod name")
    }

    /// The UID of the pod that the token is bound to.
    pub fn pod_uid(&self) -> Result<ObjectName, FactsError> {
        self.bound(POD_UID, "pod UID")
    }

    /// The name of the pod's node. Clusters before Kubernetes 1.32 may not say it.
    pub fn node_name(&self) -> Result<Option<ObjectName>, FactsError> {
        self.maybe(NODE_NAME, "node name")
    }

    /// The UID of the pod's node, with the same reservation.
    pub fn node_uid(&self) -> Result<Option<ObjectName>, FactsError> {
        self.maybe(NODE_UID, "node UID")
    }

    /// The name that the API server gave to this very token when it issued it.
    #[must_use]
    pub fn credential_id(&self) -> Option<&str> {
        match self.extra.get(CREDENTIAL_ID).map(Vec::as_slice) {
            Some([one]) if !one.is_empty() => Some(one),
            _ => None,
        }
    }

    fn maybe(&self, key: &str, what: &'static str) -> Result<Option<ObjectName>, FactsError> {
        match self.bound(key, what) {
            Err(FactsError::Missing(_)) => Ok(None),
            bound => bound.map(Some),
        }
    }

    fn bound(&self, key: &str, what: &'static str) -> Result<ObjectName, FactsError> {
        match self.extra.get(key).map(Vec::as_slice) {
            None => Err(FactsError::Missing(what)),
            Some([one]) if one.is_empty() => Err(FactsError::Empty(what)),
            Some([one]) => ObjectName::parse(one),
            Some(several) => Err(FactsError::Several {
                what,
                found: several.len(),
            }),
        }
    }
}

/// What is used of a pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pod {
    /// Its UID.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The node that it was put on.
    pub node_name: Option<ObjectName>,
    /// The address of that node.
    pub host_ip: String,
}

impl Pod {
    /// Parses a `Pod`.
    pub fn from_json(json: &[u8]) -> Result<Self, FactsError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Object {
            metadata: Metadata,
            spec: Option<Spec>,
            status: Option<Status>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Spec {
            node_name: Option<String>,
        }
        #[derive(Deserialize)]
        struct Status {
            #[serde(rename = "hostIP")]
            host_ip: Option<String>,
        }
        let object: Object = parse(json)?;
        let node_name = object.spec.and_then(|spec| spec.node_name);
        let node_name = node_name.filter(|name| !name.is_empty());
        let host_ip = object.status.and_then(|status| status.host_ip);
        Ok(Self {
            uid: object.metadata.uid.unwrap_or_default(),
            labels: object.metadata.labels.unwrap_or_default(),
            node_name: node_name.as_deref().map(ObjectName::parse).transpose()?,
            host_ip: host_ip.unwrap_or_default(),
        })
    }
}

/// What is used of a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node {
    /// Its UID.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Node {
    /// Parses a `Node`.
    pub fn from_json(json: &[u8]) -> Result<Self, FactsError> {
        #[derive(Deserialize)]
        struct Object {
            metadata: Metadata,
        }
        let object: Object = parse(json)?;
        Ok(Self {
            uid: object.metadata.uid.unwrap_or_default(),
            labels: object.metadata.labels.unwrap_or_default(),
        })
    }
}

/// What is used of a namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Namespace {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Namespace {
    /// Parses a `Namespace`.
    pub fn from_json(json: &[u8]) -> Result<Self, FactsError> {
        Ok(Self {
            labels: Node::from_json(json)?.labels,
        })
    }
}

#[derive(Deserialize)]
struct Metadata {
    uid: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, FactsError> {
    if json.len() > MAX_ANSWER_BYTES {
        return Err(FactsError::TooLong);
    }
    serde_json::from_slice(json).map_err(|error| FactsError::Json {
        line: error.line(),
        column: error.column(),
    })
}

/// Why an answer of the API server says nothing. The token stands in a review, so no bytes are shown.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FactsError {
    /// It is longer than its limit.
    #[error("the answer is longer than {MAX_ANSWER_BYTES} bytes")]
    TooLong,
    /// It is not the JSON that it should be.
    #[error("the answer is no such JSON at line {line}, column {column}")]
    Json {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// The review names nobody.
    #[error("empty username")]
    NoUsername,
    /// The token is of somebody who is not a service account.
    #[error("unexpected username format: {0}")]
    Username(String),
    /// The token is not bound to what it has to be bound to.
    #[error("missing {0}")]
    Missing(&'static str),
    /// The review says that it is bound to nothing.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// The review does not say which one it is bound to.
    #[error("expected 1 {what} but got: {found}")]
    Several {
        /// What was looked for.
        what: &'static str,
        /// How many there are.
        found: usize,
    },
    /// What should be a name of Kubernetes is none.
    #[error("`{0}` is not a name of Kubernetes")]
    Name(String),
}

impl FactsError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong => "answer_too_long",
            Self::Json { .. } => "answer_malformed",
            Self::NoUsername => "username_empty",
            Self::Username(_) => "not_a_service_account",
            Self::Missing(_) => "token_not_bound",
            Self::Empty(_) => "token_bound_to_nothing",
            Self::Several { .. } => "token_bound_to_several",
            Self::Name(_) => "name_malformed",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn review(user: &str) -> Review {
        let json = format!(r#"{{"status":{{"authenticated":true,"user":{user}}}}}"#);
        Review::from_json(json.as_bytes()).unwrap()
    }

    #[test]
    fn what_a_review_does_not_say_is_not_granted() {
        for json in ["{}", r#"{"status":null}"#, r#"{"status":{}}"#] {
            assert!(!Review::from_json(json.as_bytes()).unwrap().authenticated);
        }
        let review = review("null");
        assert_eq!(review.service_account(), Err(FactsError::NoUsername));
        assert_eq!(review.pod_name(), Err(FactsError::Missing("pod name")));
        assert_eq!(review.node_uid(), Ok(None));
        assert_eq!(review.credential_id(), None);
    }

    #[test]
    fn only_a_service_account_is_one() {
        let of = |name: &str| review(&format!(r#"{{"username":"{name}"}}"#)).service_account();
        assert_eq!(
            of("system:serviceaccount:spire:agent").unwrap().to_string(),
            "spire:agent"
        );
        for other in [
            "system:node:spire:agent",
            "system:serviceaccount:spire",
            "system:serviceaccount:spire:",
            "system:serviceaccount::agent",
            "system:serviceaccount:spire:agent:more",
            "system:serviceaccount:spire:../x",
            "x:serviceaccount:spire:agent",
            "admin",
        ] {
            assert!(of(other).is_err(), "{other}");
        }
    }

    #[test]
    fn a_token_is_bound_to_exactly_one_pod() {
        let of =
            |values: &str| review(&format!(r#"{{"extra":{{"{POD_NAME}":{values}}}}}"#)).pod_name();
        assert_eq!(of(r#"["agent-x"]"#).unwrap().as_str(), "agent-x");
        assert_eq!(of("null"), Err(FactsError::Missing("pod name")));
        assert_eq!(of(r#"[""]"#), Err(FactsError::Empty("pod name")));
        for found in ["[]", r#"["a","b"]"#] {
            assert_eq!(of(found).unwrap_err().reason(), "token_bound_to_several");
        }
        for name in ["..", "a/b", "a?b", "-a", "a%2f", "../../nodes/x"] {
            let error = of(&format!(r#"["{name}"]"#)).unwrap_err();
            assert_eq!(error.reason(), "name_malformed", "{name}");
        }
    }

    #[test]
    fn reads_pods_and_nodes_with_fields_that_it_does_not_know() {
        let pod = Pod::from_json(
            br#"{"kind":"Pod","metadata":{"uid":"u","labels":{"a":"b"},"x":1},
                "spec":{"nodeName":"n1","containers":[]},"status":{"hostIP":"10.0.0.1"}}"#,
        );
        let pod = pod.unwrap();
        assert_eq!((pod.uid.as_str(), pod.host_ip.as_str()), ("u", "10.0.0.1"));
        assert_eq!(pod.node_name.unwrap().as_str(), "n1");
        assert_eq!(pod.labels["a"], "b");
        let pod = Pod::from_json(br#"{"metadata":{},"spec":{"nodeName":""}}"#).unwrap();
        assert_eq!(pod.node_name, None);
        let node = Node::from_json(br#"{"metadata":{"uid":"u","labels":null}}"#).unwrap();
        assert_eq!(node.uid, "u");
        assert!(Node::from_json(br#"{"status":{}}"#).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _outcome = Review::from_json(&bytes);
            let _outcome = Pod::from_json(&bytes);
            let _outcome = Node::from_json(&bytes);
        }

        #[test]
        fn a_name_can_stand_in_a_path(text in ".{0,80}") {
            if let Ok(name) = ObjectName::parse(&text) {
                prop_assert!(!name.as_str().contains(['/', '%', '?', '#', ':']));
                prop_assert!(!name.as_str().starts_with('.'));
            }
        }
    }
}
