//! Envoy's requests, as far as they are looked at.
//!
//! An Envoy describes itself in its requests, with a thousand extensions by their names and types,
//! and by default in each acknowledgement again. Fields that are not named here are skipped, and not
//! kept: reading a request costs what it asks, and not what its Envoy is built of. Field numbers are
//! those of Envoy's proto; a test holds these messages against Envoy's own.

use std::collections::HashMap;

use envoy_types::pb::google::protobuf::Struct;

/// Every request of an Envoy describes its node: 60 KiB from version 1.40, more from each later one.
pub(crate) const MAX_REQUEST: usize = 1024 * 1024;

/// A request for the state of the world.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WorldRequest {
    #[prost(string, tag = "1")]
    pub(crate) version_info: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) node: Option<Node>,
    #[prost(string, repeated, tag = "3")]
    pub(crate) resource_names: Vec<String>,
    #[prost(string, tag = "4")]
    pub(crate) type_url: String,
    #[prost(string, tag = "5")]
    pub(crate) response_nonce: String,
    #[prost(message, optional, tag = "6")]
    pub(crate) error_detail: Option<ErrorDetail>,
}

/// A request for what has changed.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DeltaRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) node: Option<Node>,
    #[prost(string, tag = "2")]
    pub(crate) type_url: String,
    #[prost(string, repeated, tag = "3")]
    pub(crate) resource_names_subscribe: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub(crate) resource_names_unsubscribe: Vec<String>,
    #[prost(map = "string, string", tag = "5")]
    pub(crate) initial_resource_versions: HashMap<String, String>,
    #[prost(string, tag = "6")]
    pub(crate) response_nonce: String,
    #[prost(message, optional, tag = "7")]
    pub(crate) error_detail: Option<ErrorDetail>,
}

/// Who asks.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Node {
    #[prost(message, optional, tag = "3")]
    pub(crate) metadata: Option<Struct>,
    #[prost(message, optional, tag = "8")]
    pub(crate) build: Option<Build>,
}

/// Which Envoy it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub(crate) struct Build {
    #[prost(message, optional, tag = "1")]
    pub(crate) version: Option<BuildVersion>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub(crate) struct BuildVersion {
    #[prost(uint32, tag = "1")]
    pub(crate) major: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) minor: u32,
}

/// Why a response was rejected.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub(crate) struct ErrorDetail {
    #[prost(string, tag = "2")]
    pub(crate) message: String,
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3 as core;
    use envoy_types::pb::envoy::service::discovery::v3 as discovery;
    use envoy_types::pb::envoy::r#type::v3::SemanticVersion;
    use envoy_types::pb::google::protobuf::{Value, value::Kind};
    use envoy_types::pb::google::rpc::Status;
    use prost::Message as _;

    use super::*;

    fn metadata() -> Struct {
        let value = Value {
            kind: Some(Kind::BoolValue(true)),
        };
        Struct {
            fields: [("key".to_owned(), value)].into(),
        }
    }

    fn envoys_node() -> core::Node {
        let version = SemanticVersion {
            major_number: 1,
            minor_number: 40,
            patch: 3,
        };
        core::Node {
            id: "id".to_owned(),
            cluster: "cluster".to_owned(),
            metadata: Some(metadata()),
            user_agent_name: "envoy".to_owned(),
            extensions: vec![core::Extension {
                name: "many".to_owned(),
                ..core::Extension::default()
            }],
            user_agent_version_type: Some(core::node::UserAgentVersionType::UserAgentBuildVersion(
                core::BuildVersion {
                    version: Some(version),
                    metadata: Some(metadata()),
                },
            )),
            ..core::Node::default()
        }
    }

    fn our_node() -> Node {
        Node {
            metadata: Some(metadata()),
            build: Some(Build {
                version: Some(BuildVersion {
                    major: 1,
                    minor: 40,
                }),
            }),
        }
    }

    fn rejection() -> (Option<Status>, Option<ErrorDetail>) {
        let (code, message) = (3, "bad".to_owned());
        let status = Status {
            code,
            message: message.clone(),
            details: Vec::new(),
        };
        (Some(status), Some(ErrorDetail { message }))
    }

    #[test]
    fn envoys_own_messages_are_read() {
        let text = |text: &str| text.to_owned();
        let (status, error_detail) = rejection();
        let sent = discovery::DiscoveryRequest {
            version_info: text("1"),
            node: Some(envoys_node()),
            resource_names: vec![text("a"), text("b")],
            type_url: text("t"),
            response_nonce: text("n"),
            error_detail: status.clone(),
            ..discovery::DiscoveryRequest::default()
        };
        let read = WorldRequest {
            version_info: text("1"),
            node: Some(our_node()),
            resource_names: vec![text("a"), text("b")],
            type_url: text("t"),
            response_nonce: text("n"),
            error_detail: error_detail.clone(),
        };
        assert_eq!(WorldRequest::decode(&*sent.encode_to_vec()), Ok(read));

        let has: HashMap<_, _> = [(text("a"), text("v"))].into();
        let sent = discovery::DeltaDiscoveryRequest {
            node: Some(envoys_node()),
            type_url: text("t"),
            resource_names_subscribe: vec![text("a")],
            resource_names_unsubscribe: vec![text("b")],
            initial_resource_versions: has.clone(),
            response_nonce: text("n"),
            error_detail: status,
            ..discovery::DeltaDiscoveryRequest::default()
        };
        let read = DeltaRequest {
            node: Some(our_node()),
            type_url: text("t"),
            resource_names_subscribe: vec![text("a")],
            resource_names_unsubscribe: vec![text("b")],
            initial_resource_versions: has,
            response_nonce: text("n"),
            error_detail,
        };
        assert_eq!(DeltaRequest::decode(&*sent.encode_to_vec()), Ok(read));
    }
}
