//! Messages and enums by name, out of a `FileDescriptorSet`.

use std::collections::HashMap;

use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

use super::DecodeError;

/// What is known of the messages of one set.
pub(super) struct Pool {
    messages: HashMap<String, DescriptorProto>,
    enums: HashMap<String, EnumDescriptorProto>,
}

impl Pool {
    pub(super) fn new(set: &[u8]) -> Result<Self, DecodeError> {
        let mut pool = Self {
            messages: HashMap::new(),
            enums: HashMap::new(),
        };
        for file in FileDescriptorSet::decode(set)?.file {
            let scope = match file.package() {
                "" => String::new(),
                package => format!(".{package}"),
            };
            for message in file.message_type {
                pool.add(&scope, message);
            }
            for each in file.enum_type {
                pool.enums.insert(format!("{scope}.{}", each.name()), each);
            }
        }
        Ok(pool)
    }

    fn add(&mut self, scope: &str, mut message: DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        for nested in std::mem::take(&mut message.nested_type) {
            self.add(&name, nested);
        }
        for each in std::mem::take(&mut message.enum_type) {
            self.enums.insert(format!("{name}.{}", each.name()), each);
        }
        self.messages.insert(name, message);
    }

    /// A message by its full name with a leading dot.
    pub(super) fn message(&self, name: &str) -> Result<&DescriptorProto, DecodeError> {
        self.messages
            .get(name)
            .ok_or_else(|| DecodeError::Unknown(name.to_owned()))
    }

    /// The name of an enum's value, or nothing for a number the descriptor does not know.
    pub(super) fn value_name(&self, name: &str, number: i32) -> Option<&str> {
        let value = self
            .enums
            .get(name)?
            .value
            .iter()
            .find(|v| v.number() == number)?;
        Some(value.name())
    }
}
