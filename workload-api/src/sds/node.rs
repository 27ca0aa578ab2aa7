//! What an Envoy says about itself, as far as it changes the answer.

use envoy_types::pb::google::protobuf::value::Kind;

use super::request::Node;

/// The key in a node's metadata that overrules our setting.
const DISABLE_KEY: &str = "disable_spiffe_cert_validation";

/// How the authorities of a trust domain are sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Validator {
    /// A validator that checks each peer against the bundle of its own trust domain.
    Spiffe,
    /// Plain authorities, for an Envoy that has no such validator, or whose operator wants none.
    TrustedCa,
}

/// What a node wants and can do. The default is a node that says nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct NodeTraits {
    disable: Option<bool>,
    too_old: bool,
}

impl NodeTraits {
    pub(crate) fn of(node: &Node) -> Self {
        Self {
            disable: node
                .metadata
                .as_ref()
                .and_then(|metadata| metadata.fields.get(DISABLE_KEY))
                .and_then(|value| flag(value.kind.as_ref()?)),
            too_old: is_too_old(node),
        }
    }

    pub(crate) fn validator(self, disabled: bool) -> Validator {
        if self.disable.unwrap_or(disabled) || self.too_old {
            Validator::TrustedCa
        } else {
            Validator::Spiffe
        }
    }
}

/// A value that is neither true nor false counts as not there.
fn flag(kind: &Kind) -> Option<bool> {
    match kind {
        Kind::BoolValue(flag) => Some(*flag),
        Kind::StringValue(text) => match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Envoy has the SPIFFE validator since 1.18. A node that names no version is taken for a new one.
fn is_too_old(node: &Node) -> bool {
    let version = node.build.and_then(|build| build.version);
    version.is_some_and(|version| (version.major, version.minor) < (1, 18))
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::{Struct, Value};

    use super::*;
    use crate::sds::request::{Build, BuildVersion};

    fn node(version: Option<(u32, u32)>, disable: Option<Kind>) -> Node {
        let metadata = disable.map(|kind| Struct {
            fields: [(DISABLE_KEY.to_owned(), Value { kind: Some(kind) })].into(),
        });
        let version = version.map(|(major, minor)| BuildVersion { major, minor });
        Node {
            metadata,
            build: version.map(|version| Build {
                version: Some(version),
            }),
        }
    }

    #[test]
    fn the_version_and_the_metadata_choose_the_validator() {
        use Validator::{Spiffe, TrustedCa};
        let text = |text: &str| Some(Kind::StringValue(text.to_owned()));
        for (node, disabled, expected) in [
            (Node::default(), false, Spiffe),
            (Node::default(), true, TrustedCa),
            (node(Some((1, 17)), None), false, TrustedCa),
            (node(Some((1, 18)), None), false, Spiffe),
            (node(Some((2, 0)), None), false, Spiffe),
            (node(None, Some(Kind::BoolValue(true))), false, TrustedCa),
            (node(None, Some(Kind::BoolValue(false))), true, Spiffe),
            (node(None, text("true")), false, TrustedCa),
            (node(None, text("F")), true, Spiffe),
            (node(None, text("maybe")), true, TrustedCa),
            (node(None, Some(Kind::NumberValue(1.0))), false, Spiffe),
            (node(Some((1, 17)), text("false")), false, TrustedCa),
        ] {
            assert_eq!(
                NodeTraits::of(&node).validator(disabled),
                expected,
                "{node:?}"
            );
        }
    }
}
