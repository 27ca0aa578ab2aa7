//! What a file says, before anybody asks what it means.

use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::decode::{self, BODY};
use super::{ConfigError, UnknownKey};

/// How deep objects, lists and labels may nest. SPIRE's files need eight.
pub(super) const MAX_DEPTH: usize = 24;

/// A value, and where it stands. Line 0 is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Node(pub(super) u32, pub(super) Value);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Value {
    #[serde(rename = "b")]
    Bool(bool),
    /// As written: a string that wants it gets it as written.
    #[serde(rename = "n")]
    Integer(String),
    #[serde(rename = "f")]
    Float(f64),
    #[serde(rename = "s")]
    String(String),
    #[serde(rename = "l")]
    List(Vec<Node>),
    #[serde(rename = "o")]
    Object(Object),
}

/// Keys in the order of the file. A key may stand there more than once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Object(pub(super) Vec<(String, Node)>);

/// A part of a configuration file whose keys its reader does not know; a plugin's section, say.
///
/// As a field of a decoded struct it takes whatever stands at its key, and its owner decodes it
/// later.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Body {
    path: String,
    nodes: Vec<Node>,
}

impl Value {
    /// What to call it in an error.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a bool",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number with a fraction",
            Self::String(_) => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "a block",
        }
    }
}

impl Body {
    pub(super) fn root(object: Object) -> Self {
        Self {
            path: String::new(),
            nodes: vec![Node(0, Value::Object(object))],
        }
    }

    /// The path of the key at which this stands; empty for a whole document.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether nothing is said in it.
    pub fn is_empty(&self) -> bool {
        self.entries().next().is_none()
    }

    /// Its keys in the order of the file, each with what stands there. A key that is repeated comes
    /// once for each time; what stands behind labels (`NodeAttestor "join_token"`) is an entry of an
    /// entry.
    pub fn entries(&self) -> impl Iterator<Item = (&str, Self)> {
        let objects = self.nodes.iter().filter_map(|node| match &node.1 {
            Value::Object(object) => Some(object),
            _ => None,
        });
        objects.flat_map(|object| &object.0).map(|(key, node)| {
            let path = decode::join(&self.path, key);
            (
                key.as_str(),
                Self {
                    path,
                    nodes: vec![node.clone()],
                },
            )
        })
    }

    /// Decodes it, and tells which of its keys `T` has no place for.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<(T, Vec<UnknownKey>), ConfigError> {
        decode::decode(&self.path, self.nodes.iter().collect())
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(BODY, BodyVisitor)
    }
}

/// A body on its way through serde, which has no other way to pass a value unseen.
#[derive(Serialize, Deserialize)]
struct Passage(String, Vec<Node>);

pub(super) fn encode_body(path: &str, nodes: &[&Node]) -> Result<Vec<u8>, serde_json::Error> {
    let nodes = nodes.iter().map(|node| (*node).clone()).collect();
    serde_json::to_vec(&Passage(path.to_owned(), nodes))
}

struct BodyVisitor;

impl Visitor<'_> for BodyVisitor {
    type Value = Body;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a part of a configuration file")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Body, E> {
        let Passage(path, nodes) = serde_json::from_slice(bytes).map_err(E::custom)?;
        Ok(Body { path, nodes })
    }
}
