//! Responses as bytes.
//!
//! Written field by field around what is encoded already: certificates and keys are copied once, from
//! where all streams share them, into a buffer that is wiped after use.

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use zeroize::Zeroizing;

use super::machine::Response;
use super::resources::{Resource, SECRET_TYPE};
use super::secret::Version;

impl Response {
    /// As Envoy's `DiscoveryResponse`.
    pub(crate) fn to_world(&self) -> Bytes {
        let resources: usize = (self.resources.iter())
            .map(|resource| field_len(2, any_len(resource)))
            .sum();
        let length = text_len(1, &self.version)
            + resources
            + text_len(4, &self.type_url)
            + text_len(5, &self.nonce);
        let mut message = Message::with_room(length);
        message.text(1, &self.version);
        for resource in &self.resources {
            message.open(2, any_len(resource));
            message.any(resource);
        }
        message.text(4, &self.type_url);
        message.text(5, &self.nonce);
        message.done()
    }

    /// As Envoy's `DeltaDiscoveryResponse`.
    pub(crate) fn to_delta(&self) -> Bytes {
        let resources: usize = (self.resources.iter())
            .map(|resource| field_len(2, versioned_len(resource)))
            .sum();
        let removed: usize = self
            .removed
            .iter()
            .map(|name| field_len(6, name.len()))
            .sum();
        let length = text_len(1, &self.version)
            + resources
            + text_len(4, &self.type_url)
            + text_len(5, &self.nonce)
            + removed;
        let mut message = Message::with_room(length);
        message.text(1, &self.version);
        for resource in &self.resources {
            message.open(2, versioned_len(resource));
            message.text(1, &resource.secret.version().to_string());
            message.open(2, any_len(resource));
            message.any(resource);
            message.text(3, &resource.name);
        }
        message.text(4, &self.type_url);
        message.text(5, &self.nonce);
        for name in &self.removed {
            message.open(6, name.len());
            message.0.extend_from_slice(name.as_bytes());
        }
        message.done()
    }
}

fn versioned_len(resource: &Resource) -> usize {
    field_len(1, Version::TEXT) + field_len(2, any_len(resource)) + text_len(3, &resource.name)
}

fn any_len(resource: &Resource) -> usize {
    text_len(1, SECRET_TYPE) + field_len(2, secret_len(resource))
}

fn secret_len(resource: &Resource) -> usize {
    text_len(1, &resource.name) + resource.secret.body().len()
}

/// A text that is empty is left out.
fn text_len(tag: u32, text: &str) -> usize {
    if text.is_empty() {
        0
    } else {
        field_len(tag, text.len())
    }
}

fn field_len(tag: u32, length: usize) -> usize {
    key_len(tag) + encoded_len_varint(length as u64) + length
}

/// A message that is being written. It never grows, so it leaves no copy of a key behind.
struct Message(Zeroizing<Vec<u8>>);

impl Message {
    fn with_room(length: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(length)))
    }

    /// Begins a field; that many bytes are to follow.
    fn open(&mut self, tag: u32, length: usize) {
        encode_key(tag, WireType::LengthDelimited, &mut *self.0);
        encode_varint(length as u64, &mut *self.0);
    }

    fn text(&mut self, tag: u32, text: &str) {
        if !text.is_empty() {
            self.open(tag, text.len());
            self.0.extend_from_slice(text.as_bytes());
        }
    }

    /// The fields of an `Any` with this secret.
    fn any(&mut self, resource: &Resource) {
        self.text(1, SECRET_TYPE);
        self.open(2, secret_len(resource));
        self.text(1, &resource.name);
        self.0.extend_from_slice(resource.secret.body());
    }

    fn done(self) -> Bytes {
        debug_assert_eq!(self.0.len(), self.0.capacity(), "the length is right");
        Bytes::from_owner(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
    use envoy_types::pb::envoy::service::discovery::v3 as discovery;
    use envoy_types::pb::google::protobuf::Any;
    use prost::Message as _;

    use super::*;
    use crate::options::SdsOptions;
    use crate::sds::fixture::{catalog, update};
    use crate::sds::resources::Names;

    fn response(names: &[&str]) -> Response {
        let (update, options) = (update(&[0, 1], true), SdsOptions::default());
        let names = Names::read(names.iter().map(ToString::to_string)).unwrap();
        let nonce = if names.is_empty() { "" } else { "12" };
        Response {
            version: nonce.to_owned(),
            nonce: nonce.to_owned(),
            type_url: Arc::from(SECRET_TYPE),
            resources: catalog(&update, &options).find(&names).resources,
            removed: vec!["x".to_owned(), "y".repeat(300)],
        }
    }

    fn any(resource: &Resource) -> Any {
        let mut secret = tls::Secret::decode(resource.secret.body()).unwrap();
        secret.name.clone_from(&resource.name);
        Any {
            type_url: SECRET_TYPE.to_owned(),
            value: secret.encode_to_vec(),
        }
    }

    #[test]
    fn the_bytes_are_those_of_envoys_own_messages() {
        for names in [&[][..], &["default", "ALL", "spiffe://example.org/b"][..]] {
            let response = response(names);
            let resources = response.resources.iter();
            let world = discovery::DiscoveryResponse {
                version_info: response.version.clone(),
                resources: resources.clone().map(any).collect(),
                type_url: response.type_url.to_string(),
                nonce: response.nonce.clone(),
                ..discovery::DiscoveryResponse::default()
            };
            assert_eq!(response.to_world(), world.encode_to_vec());
            let delta = discovery::DeltaDiscoveryResponse {
                system_version_info: response.version.clone(),
                resources: resources
                    .map(|it| discovery::Resource {
                        name: it.name.clone(),
                        version: it.secret.version().to_string(),
                        resource: Some(any(it)),
                        ..discovery::Resource::default()
                    })
                    .collect(),
                type_url: response.type_url.to_string(),
                nonce: response.nonce.clone(),
                removed_resources: response.removed.clone(),
                ..discovery::DeltaDiscoveryResponse::default()
            };
            assert_eq!(response.to_delta(), delta.encode_to_vec());
        }
    }
}
