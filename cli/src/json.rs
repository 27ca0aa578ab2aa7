//! The JSON of SPIRE's commands: protojson passed through a map.
//!
//! Proto field names, fields emitted though unset, 64-bit integers as strings, bytes in base64, unset
//! messages left out, keys sorted, HTML characters escaped, one line. Driven by the descriptors that
//! `proto` carries: a message is encoded and read back by what its descriptor says of it, so that one
//! printer serves every message.

mod decode;
mod descriptors;
mod write;

use prost::Message;

pub(crate) use decode::{DecodeError, claims};
pub(crate) use write::{compact, escaped};

/// Prints a message of SPIRE's server API, known by its full name.
pub(crate) fn spire(name: &str, message: &impl Message) -> Result<String, DecodeError> {
    let pool = descriptors::Pool::new(proto::DESCRIPTORS)?;
    Ok(escaped(&decode::message(
        &pool,
        name,
        &message.encode_to_vec(),
    )?))
}

/// Prints a message of an agent's admin socket, known by its full name.
pub(crate) fn agent(name: &str, message: &impl Message) -> Result<String, DecodeError> {
    let pool = descriptors::Pool::new(proto::AGENT_DESCRIPTORS)?;
    let bytes = message.encode_to_vec();
    Ok(escaped(&decode::message(&pool, name, &bytes)?))
}

/// Prints messages of the Workload API: one as itself, several as a list.
pub(crate) fn workload(messages: &[(&str, Vec<u8>)]) -> Result<String, DecodeError> {
    let pool = descriptors::Pool::new(proto::WORKLOAD_DESCRIPTORS)?;
    let mut values = messages
        .iter()
        .map(|(name, bytes)| decode::message(&pool, name, bytes))
        .collect::<Result<Vec<_>, _>>()?;
    let value = match values.len() {
        1 => values.swap_remove(0),
        _ => serde_json::Value::Array(values),
    };
    Ok(escaped(&value))
}

#[cfg(test)]
mod tests;
