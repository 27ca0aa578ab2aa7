//! JSON as HCL's first version takes it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::ConfigError;
use super::tree::{MAX_DEPTH, Node, Object, Value};

pub(super) fn parse(text: &str) -> Result<Object, ConfigError> {
    let parsed: Json = serde_json::from_str(text).map_err(ConfigError::Json)?;
    match parsed {
        Json(Some(Node(_, Value::Object(object)))) if fits(&object, MAX_DEPTH) => Ok(object),
        _ => Err(ConfigError::Json(serde_json::Error::custom(
            "nests too deep",
        ))),
    }
}

/// Whether nothing nests deeper. The library has bounded the depth that this recurses over.
fn fits(object: &Object, depth: usize) -> bool {
    object.0.iter().all(|(_, node)| node_fits(node, depth))
}

fn node_fits(node: &Node, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else {
        return false;
    };
    match &node.1 {
        Value::Object(object) => fits(object, depth),
        Value::List(nodes) => nodes.iter().all(|node| node_fits(node, depth)),
        _ => true,
    }
}

/// A value, or null, which stands for a key that is not given.
struct Json(Option<Node>);

struct JsonVisitor;

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

fn found<E>(value: Value) -> Result<Json, E> {
    Ok(Json(Some(Node(0, value))))
}

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json(None))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        found(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        found(Value::Integer(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        found(Value::Integer(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        found(Value::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Json, E> {
        found(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut nodes = Vec::new();
        while let Some(Json(node)) = list.next_element()? {
            nodes.extend(node);
        }
        found(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some((key, Json(node))) = map.next_entry::<String, Json>()? {
            match node {
                None => {}
                // A list of objects is how JSON writes a block that is repeated.
                Some(Node(_, Value::List(nodes))) if is_repeated_block(&nodes) => {
                    items.extend(nodes.into_iter().map(|node| (key.clone(), node)));
                }
                Some(node) => items.push((key, node)),
            }
        }
        found(Value::Object(Object(items)))
    }
}

fn is_repeated_block(nodes: &[Node]) -> bool {
    !nodes.is_empty() && nodes.iter().all(|node| matches!(node.1, Value::Object(_)))
}
