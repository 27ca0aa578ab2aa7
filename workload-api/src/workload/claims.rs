//! The claims of a validated token, as a caller is told of them.

use std::collections::BTreeSet;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::{Map, Value as Json};

/// Workload API 6.2.3: these are always told.
const ALWAYS: [&str; 3] = ["sub", "aud", "exp"];

/// Puts claims into a message. Of a foreign token only the `allowed` ones are told, beside those that
/// always are. `None` if a number does not fit.
pub(super) fn told(
    claims: Map<String, Json>,
    allowed: Option<&BTreeSet<String>>,
) -> Option<Struct> {
    let fields = claims
        .into_iter()
        .filter(|(name, _)| {
            allowed.is_none_or(|allowed| ALWAYS.contains(&name.as_str()) || allowed.contains(name))
        })
        .map(|(name, claim)| {
            // RFC 7519 4.1.3 lets a single audience stand alone; callers get a list either way.
            let claim = match claim {
                Json::String(audience) if name == "aud" => Json::Array(vec![audience.into()]),
                other => other,
            };
            Some((name, value(claim)?))
        })
        .collect::<Option<_>>()?;
    Some(Struct { fields })
}

/// The token was parsed with a limit to its depth, so this recursion has one too.
fn value(json: Json) -> Option<Value> {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(flag) => Kind::BoolValue(flag),
        Json::Number(number) => Kind::NumberValue(number.as_f64()?),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(items) => Kind::ListValue(ListValue {
            values: items.into_iter().map(value).collect::<Option<_>>()?,
        }),
        Json::Object(fields) => Kind::StructValue(Struct {
            fields: fields
                .into_iter()
                .map(|(name, json)| Some((name, value(json)?)))
                .collect::<Option<_>>()?,
        }),
    };
    Some(Value { kind: Some(kind) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(claims: &Json, allowed: Option<&[&str]>) -> Vec<String> {
        let allowed = allowed.map(|names| names.iter().map(ToString::to_string).collect());
        let claims = claims.as_object().unwrap().clone();
        told(claims, allowed.as_ref())
            .unwrap()
            .fields
            .into_keys()
            .collect()
    }

    #[test]
    fn a_foreign_token_tells_the_mandatory_and_the_allowed_claims() {
        let claims =
            json!({"sub": "s", "aud": "a", "exp": 1, "iat": 2, "role": "x", "secret": "y"});
        assert_eq!(
            names(&claims, Some(&["role"])),
            ["aud", "exp", "role", "sub"]
        );
        assert_eq!(names(&claims, None).len(), 6);
    }

    #[test]
    fn the_audience_is_always_a_list() {
        for aud in [json!("a"), json!(["a"])] {
            let claims = json!({"aud": aud}).as_object().unwrap().clone();
            let told = told(claims, None).unwrap();
            let Some(Kind::ListValue(list)) = &told.fields["aud"].kind else {
                panic!("not a list: {told:?}");
            };
            assert_eq!(list.values.len(), 1);
        }
    }
}
