//! From the wire to a JSON value, as a descriptor says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Buf;
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, Struct, value::Kind};
use serde_json::{Map, Number, Value};

use super::descriptors::Pool;

/// Messages nest less deeply than this; prost's own limit is the same.
const MAX_DEPTH: usize = 100;

/// Why a message could not be turned into JSON.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("could not read a message's own encoding")]
    Wire(#[from] prost::DecodeError),
    #[error("no descriptor of `{0}`")]
    Unknown(String),
    #[error("field {0} has an encoding that its descriptor does not allow")]
    Mismatch(u32),
    #[error("messages nest too deeply")]
    Depth,
}

/// Reads a message of the given full name.
pub(super) fn message(pool: &Pool, name: &str, bytes: &[u8]) -> Result<Value, DecodeError> {
    nested(pool, name, bytes, 0)
}

fn nested(pool: &Pool, name: &str, mut bytes: &[u8], depth: usize) -> Result<Value, DecodeError> {
    if depth > MAX_DEPTH {
        return Err(DecodeError::Depth);
    }
    if name == ".google.protobuf.Struct" {
        return Ok(claims(&Struct::decode(bytes)?));
    }
    let descriptor = pool.message(name)?;
    let mut object = unpopulated(pool, descriptor);
    while bytes.has_remaining() {
        let (number, wire) = decode_key(&mut bytes)?;
        let known = descriptor
            .field
            .iter()
            .find(|field| u32::try_from(field.number()) == Ok(number));
        let raw = Raw::read(wire, &mut bytes, number)?;
        let Some(field) = known else { continue };
        let context = Context {
            pool,
            field,
            number,
            depth,
        };
        context.put(&mut object, raw)?;
    }
    Ok(Value::Object(object))
}

/// The object of a message of which no field is set. An unset message is no key at all.
fn unpopulated(pool: &Pool, descriptor: &DescriptorProto) -> Map<String, Value> {
    let mut object = Map::new();
    for field in &descriptor.field {
        if field.oneof_index.is_some() {
            continue;
        }
        let value = if map_entry(pool, field).is_some() {
            Value::Object(Map::new())
        } else if field.label() == Label::Repeated {
            Value::Array(Vec::new())
        } else if let Some(value) = zero(pool, field) {
            value
        } else {
            continue;
        };
        object.insert(field.name().to_owned(), value);
    }
    object
}

fn zero(pool: &Pool, field: &FieldDescriptorProto) -> Option<Value> {
    Some(match field.r#type() {
        Type::Message | Type::Group => return None,
        Type::String | Type::Bytes => Value::from(""),
        Type::Bool => Value::from(false),
        Type::Int64 | Type::Uint64 | Type::Sint64 | Type::Fixed64 | Type::Sfixed64 => {
            Value::from("0")
        }
        Type::Enum => enum_value(pool, field, 0),
        _ => Value::from(0),
    })
}

fn enum_value(pool: &Pool, field: &FieldDescriptorProto, number: i32) -> Value {
    match pool.value_name(field.type_name(), number) {
        Some(name) => Value::from(name),
        None => Value::from(number),
    }
}

/// The generated message of a map's entries, where the field is a map.
fn map_entry<'p>(pool: &'p Pool, field: &FieldDescriptorProto) -> Option<&'p DescriptorProto> {
    if field.r#type() != Type::Message {
        return None;
    }
    pool.message(field.type_name())
        .ok()
        .filter(|message| message.options.as_ref().is_some_and(|o| o.map_entry()))
}

/// A field's bytes before they mean anything.
enum Raw<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

impl<'b> Raw<'b> {
    fn read(wire: WireType, bytes: &mut &'b [u8], number: u32) -> Result<Self, DecodeError> {
        let mismatch = || DecodeError::Mismatch(number);
        Ok(match wire {
            WireType::Varint => Self::Number(decode_varint(bytes)?),
            WireType::SixtyFourBit => {
                Self::Number(bytes.try_get_u64_le().ok().ok_or_else(mismatch)?)
            }
            WireType::ThirtyTwoBit => {
                Self::Number(u64::from(bytes.try_get_u32_le().ok().ok_or_else(mismatch)?))
            }
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(bytes)?)
                    .ok()
                    .ok_or_else(mismatch)?;
                let (taken, rest) = bytes.split_at_checked(length).ok_or_else(mismatch)?;
                *bytes = rest;
                Self::Bytes(taken)
            }
            WireType::StartGroup | WireType::EndGroup => return Err(mismatch()),
        })
    }
}

struct Context<'a> {
    pool: &'a Pool,
    field: &'a FieldDescriptorProto,
    number: u32,
    depth: usize,
}

impl Context<'_> {
    fn put(&self, object: &mut Map<String, Value>, raw: Raw<'_>) -> Result<(), DecodeError> {
        let name = self.field.name();
        if map_entry(self.pool, self.field).is_some()
            && let Raw::Bytes(entry) = raw
        {
            let entry = nested(self.pool, self.field.type_name(), entry, self.depth + 1)?;
            if let (Some(Value::Object(map)), Value::Object(mut entry)) =
                (object.get_mut(name), entry)
            {
                let key = match entry.remove("key") {
                    Some(Value::String(key)) => key,
                    Some(key) => key.to_string(),
                    None => String::new(),
                };
                map.insert(key, entry.remove("value").unwrap_or_default());
            }
            return Ok(());
        }
        if self.field.label() != Label::Repeated {
            object.insert(name.to_owned(), self.value(raw)?);
            return Ok(());
        }
        let mut values = match raw {
            Raw::Bytes(packed) if self.packable() => self.unpack(packed)?,
            raw => vec![self.value(raw)?],
        };
        if let Some(Value::Array(list)) = object.get_mut(name) {
            list.append(&mut values);
        }
        Ok(())
    }

    fn packable(&self) -> bool {
        !matches!(
            self.field.r#type(),
            Type::String | Type::Bytes | Type::Message | Type::Group
        )
    }

    fn unpack(&self, mut packed: &[u8]) -> Result<Vec<Value>, DecodeError> {
        let wire = match self.field.r#type() {
            Type::Fixed64 | Type::Sfixed64 | Type::Double => WireType::SixtyFourBit,
            Type::Fixed32 | Type::Sfixed32 | Type::Float => WireType::ThirtyTwoBit,
            _ => WireType::Varint,
        };
        let mut values = Vec::new();
        while packed.has_remaining() {
            values.push(self.value(Raw::read(wire, &mut packed, self.number)?)?);
        }
        Ok(values)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "protobuf defines its integers by exactly these casts"
    )]
    fn value(&self, raw: Raw<'_>) -> Result<Value, DecodeError> {
        Ok(match (self.field.r#type(), raw) {
            (Type::Message, Raw::Bytes(bytes)) => {
                nested(self.pool, self.field.type_name(), bytes, self.depth + 1)?
            }
            (Type::String, Raw::Bytes(bytes)) => Value::from(String::from_utf8_lossy(bytes)),
            (Type::Bytes, Raw::Bytes(bytes)) => Value::from(STANDARD.encode(bytes)),
            (Type::Bool, Raw::Number(n)) => Value::from(n != 0),
            (Type::Enum, Raw::Number(n)) => enum_value(self.pool, self.field, n as i32),
            (Type::Int32 | Type::Sfixed32, Raw::Number(n)) => Value::from(n as i32),
            (Type::Uint32 | Type::Fixed32, Raw::Number(n)) => Value::from(n as u32),
            (Type::Sint32, Raw::Number(n)) => {
                let n = n as u32;
                Value::from(((n >> 1) as i32) ^ -((n & 1) as i32))
            }
            (Type::Int64 | Type::Sfixed64, Raw::Number(n)) => Value::from((n as i64).to_string()),
            (Type::Uint64 | Type::Fixed64, Raw::Number(n)) => Value::from(n.to_string()),
            (Type::Sint64, Raw::Number(n)) => {
                Value::from((((n >> 1) as i64) ^ -((n & 1) as i64)).to_string())
            }
            (Type::Double, Raw::Number(n)) => number(f64::from_bits(n)),
            (Type::Float, Raw::Number(n)) => number(f64::from(f32::from_bits(n as u32))),
            _ => return Err(DecodeError::Mismatch(self.number)),
        })
    }
}

/// The claims of a token as JSON. A null claim is left out, as everywhere.
pub(crate) fn claims(object: &Struct) -> Value {
    let fields = object.fields.iter().filter_map(|(name, value)| {
        let value = json(value.kind.as_ref()?)?;
        Some((name.clone(), value))
    });
    Value::Object(fields.collect())
}

fn json(kind: &Kind) -> Option<Value> {
    Some(match kind {
        Kind::NullValue(_) => return None,
        Kind::NumberValue(n) => number(*n),
        Kind::StringValue(text) => Value::from(text.as_str()),
        Kind::BoolValue(truth) => Value::from(*truth),
        Kind::StructValue(object) => claims(object),
        Kind::ListValue(list) => list
            .values
            .iter()
            .filter_map(|value| json(value.kind.as_ref()?))
            .collect(),
    })
}

/// A number without a fraction stands without a point: `1795363726`, not `1795363726.0`.
fn number(n: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "checked by the comparison")]
    let whole = n as i64;
    #[expect(clippy::cast_precision_loss, reason = "this is the comparison")]
    let same = whole as f64;
    if same.to_bits() == n.to_bits() {
        return Value::from(whole);
    }
    Number::from_f64(n).map_or_else(|| Value::from(n.to_string()), Value::Number)
}
