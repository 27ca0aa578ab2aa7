//! From what a file says to what its reader wants.
//!
//! A key that is repeated keeps all its values: of single values the last one counts, lists are put
//! one behind the other, and blocks are merged. So does HCL's own decoder.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;

use super::tree::{Node, Value, encode_body};
use super::{ConfigError, UnknownKey};

/// The name by which [`Body`](super::Body) asks for the tree itself.
pub(super) const BODY: &str = "$signet::config::Body";

/// Decodes what stands at one path.
pub(super) fn decode<T: DeserializeOwned>(
    path: &str,
    nodes: Vec<&Node>,
) -> Result<(T, Vec<UnknownKey>), ConfigError> {
    let unknown = RefCell::default();
    let line = nodes.last().map_or(0, |node| node.0);
    let values = Values {
        path: path.to_owned(),
        line,
        nodes,
        unknown: &unknown,
    };
    let decoded = T::deserialize(values).map_err(|error| ConfigError::Value {
        path: error.path.unwrap_or_default(),
        line: Some(error.line).filter(|line| *line > 0),
        what: error.what,
    })?;
    let mut unknown = unknown.into_inner();
    unknown.sort();
    Ok((decoded, unknown))
}

/// The path of a key below another.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// Everything that stands at one key.
pub(super) struct Values<'a> {
    path: String,
    line: u32,
    nodes: Vec<&'a Node>,
    unknown: &'a RefCell<Vec<UnknownKey>>,
}

/// What is wrong, and where, once it is known.
#[derive(Debug)]
pub(super) struct DecodeError {
    path: Option<String>,
    line: u32,
    what: String,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for DecodeError {}

impl Error for DecodeError {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Self {
            path: None,
            line: 0,
            what: what.to_string(),
        }
    }
}

/// A key with its values, before it is known whether anybody wants it.
type Entry<'a> = (&'a str, Vec<&'a Node>);

impl<'a> Values<'a> {
    fn below(&self, key: &str, nodes: Vec<&'a Node>) -> Self {
        let line = nodes.last().map_or(0, |node| node.0);
        Self {
            path: join(&self.path, key),
            line,
            nodes,
            unknown: self.unknown,
        }
    }

    /// Runs a step of decoding at this place, so that its error says where it happened.
    fn at<T>(self, step: impl FnOnce(Self) -> Result<T, DecodeError>) -> Result<T, DecodeError> {
        let (path, line) = (self.path.clone(), self.line);
        step(self).map_err(|error| match error.path {
            Some(_) => error,
            None => DecodeError {
                path: Some(path),
                line,
                what: error.what,
            },
        })
    }

    fn last(&self) -> Result<&'a Value, DecodeError> {
        self.nodes
            .last()
            .map(|node| &node.1)
            .ok_or_else(|| DecodeError::custom("no value"))
    }

    fn integer(&self) -> Result<i64, DecodeError> {
        match self.last()? {
            Value::Integer(text) | Value::String(text) => parse_integer(text)
                .ok_or_else(|| DecodeError::custom(format!("`{text}` is not an integer"))),
            other => Err(wanted("an integer", other)),
        }
    }

    fn text(&self) -> Result<&'a str, DecodeError> {
        match self.last()? {
            Value::String(text) | Value::Integer(text) => Ok(text),
            other => Err(wanted("a string", other)),
        }
    }

    /// The entries of all blocks together, in the order of the file. Keys that `fold` makes equal
    /// are one.
    fn entries(&self, fold: fn(&str) -> String) -> Result<Vec<Entry<'a>>, DecodeError> {
        let mut entries: Vec<Entry<'a>> = Vec::new();
        let mut places = HashMap::new();
        for node in &self.nodes {
            let Value::Object(object) = &node.1 else {
                return Err(wanted("a block", &node.1));
            };
            for (key, node) in &object.0 {
                let place = *places.entry(fold(key)).or_insert(entries.len());
                match entries.get_mut(place) {
                    Some((_, nodes)) => nodes.push(node),
                    None => entries.push((key, vec![node])),
                }
            }
        }
        Ok(entries)
    }

    /// The entries that have a place in a struct with these fields.
    fn fields(&self, fields: &'static [&'static str]) -> Result<Vec<Entry<'a>>, DecodeError> {
        let mut known: Vec<Entry<'a>> = Vec::new();
        for (key, nodes) in self.entries(str::to_ascii_lowercase)? {
            match fields.iter().find(|field| field.eq_ignore_ascii_case(key)) {
                Some(field) => known.push((field, nodes)),
                None => {
                    let line = nodes.first().map(|node| node.0).filter(|line| *line > 0);
                    let path = join(&self.path, key);
                    self.unknown.borrow_mut().push(UnknownKey { path, line });
                }
            }
        }
        Ok(known)
    }

    fn elements(&self) -> Result<Vec<&'a Node>, DecodeError> {
        let mut elements = Vec::new();
        for node in &self.nodes {
            match &node.1 {
                Value::List(nodes) => elements.extend(nodes),
                Value::Object(_) => elements.push(node),
                other => return Err(wanted("a list", other)),
            }
        }
        Ok(elements)
    }

    fn map(self, entries: Vec<Entry<'a>>) -> Entries<'a> {
        Entries {
            values: self,
            entries: entries.into_iter(),
            value: None,
        }
    }
}

fn wanted(what: &str, found: &Value) -> DecodeError {
    DecodeError::custom(format!("expected {what}, found {}", found.kind()))
}

/// Reads an integer with the prefixes of Go: `0x`, `0o`, `0b`, and a bare `0` for octal.
fn parse_integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let prefixes = [("0x", 16), ("0o", 8), ("0b", 2), ("0", 8)];
    let based = prefixes
        .iter()
        .find_map(|(prefix, base)| Some((lower.strip_prefix(prefix)?, *base)));
    let (digits, base) = match based {
        Some((rest, base)) if !rest.is_empty() => (rest, base),
        _ => (lower.as_str(), 10),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = i128::from_str_radix(digits, base).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

macro_rules! deserialize_integers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            self.at(|values| visitor.visit_i64(values.integer()?))
        }
    )*};
}

impl<'de> Deserializer<'de> for Values<'de> {
    type Error = DecodeError;

    deserialize_integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.last()? {
            Value::Bool(_) => self.deserialize_bool(visitor),
            Value::Integer(_) => self.deserialize_i64(visitor),
            Value::Float(_) => self.deserialize_f64(visitor),
            Value::String(_) => self.deserialize_str(visitor),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Object(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.at(|values| match values.last()? {
            Value::Bool(value) => visitor.visit_bool(*value),
            other => Err(wanted("true or false", other)),
        })
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.at(|values| match values.last()? {
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Integer(_) => visitor.visit_i64(values.integer()?),
            other => Err(wanted("a number", other)),
        })
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.at(|values| visitor.visit_borrowed_str(values.text()?))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        if name != BODY {
            return self.at(|values| visitor.visit_newtype_struct(values));
        }
        let encoded = encode_body(&self.path, &self.nodes).map_err(DecodeError::custom)?;
        self.at(|_| visitor.visit_bytes(&encoded))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.at(|values| {
            let elements = values.elements()?.into_iter().enumerate();
            visitor.visit_seq(Elements { values, elements })
        })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.at(|values| {
            let entries = values.entries(str::to_owned)?;
            visitor.visit_map(values.map(entries))
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.at(|values| {
            let entries = values.fields(fields)?;
            visitor.visit_map(values.map(entries))
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.at(|values| match values.last()? {
            Value::Object(_) => {
                let entries = values.entries(str::to_owned)?;
                visitor.visit_enum(MapAccessDeserializer::new(values.map(entries)))
            }
            _ => {
                let variant: StrDeserializer<'de, DecodeError> = values.text()?.into_deserializer();
                visitor.visit_enum(variant)
            }
        })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! { bytes byte_buf unit unit_struct tuple tuple_struct identifier }
}

struct Entries<'a> {
    values: Values<'a>,
    entries: std::vec::IntoIter<Entry<'a>>,
    value: Option<Values<'a>>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, DecodeError> {
        let Some((key, nodes)) = self.entries.next() else {
            return Ok(None);
        };
        let value = self.value.insert(self.values.below(key, nodes));
        let (path, line) = (value.path.clone(), value.line);
        // A key may be of a type of its own, and refuse what it is given.
        let key = seed.deserialize(serde::de::value::BorrowedStrDeserializer::new(key));
        key.map(Some).map_err(|error: DecodeError| DecodeError {
            path: Some(path),
            line,
            ..error
        })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, DecodeError> {
        let value = self
            .value
            .take()
            .ok_or_else(|| DecodeError::custom("value without a key"))?;
        value.at(|value| seed.deserialize(value))
    }
}

struct Elements<'a> {
    values: Values<'a>,
    elements: std::iter::Enumerate<std::vec::IntoIter<&'a Node>>,
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some((index, node)) = self.elements.next() else {
            return Ok(None);
        };
        let path = format!("{}[{index}]", self.values.path);
        let element = Values {
            path,
            line: node.0,
            nodes: vec![node],
            unknown: self.values.unknown,
        };
        element.at(|element| seed.deserialize(element)).map(Some)
    }
}
