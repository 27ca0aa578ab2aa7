//! What an engine says of a container: `GET /containers/ID/json`.
//!
//! Variables may hold secrets. Nothing here shows them: no `Debug`, and no error that quotes the text.

use std::collections::BTreeMap;
use std::fmt;

use identity::selector::{Selector, Selectors};
use serde::Deserialize;

use super::NAME;

/// Larger answers are refused. The kernel takes no more than 2 MiB of arguments and variables.
pub const MAX_BYTES: usize = 4 << 20;

/// The part of a description that is used.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Description {
    id: String,
    /// What the container runs, whatever the name of its image stands for by now.
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    state: Option<State>,
    #[serde(default)]
    config: Option<Config>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    #[serde(default)]
    pid: i64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    image: Option<String>,
}

/// What an engine says of an image.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    #[serde(default)]
    id: String,
}

impl Description {
    /// Reads an answer.
    pub fn parse(text: &[u8]) -> Result<Self, MalformedDescription> {
        if text.len() > MAX_BYTES {
            return Err(MalformedDescription { line: 0, column: 0 });
        }
        Ok(serde_json::from_slice(text)?)
    }

    /// Which container is described.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The container's first process; 0 if it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        let pid = self.state.as_ref().map_or(0, |state| state.pid);
        u32::try_from(pid).unwrap_or(0)
    }

    /// The id of the image that the container runs, to ask for its digest by: SPIRE asks by the name
    /// of the image, which may have been given to another one since. `None` where SPIRE does not ask:
    /// the container was made from no image.
    #[must_use]
    pub fn image(&self) -> Option<&str> {
        let id = self.image.as_deref()?;
        let digits = id.strip_prefix("sha256:").unwrap_or(id);
        let is_hex = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_id = digits.len() == 64 && digits.bytes().all(is_hex);
        (is_id && self.image_name().is_some()).then_some(id)
    }

    fn image_name(&self) -> Option<&str> {
        let name = self.config.as_ref()?.image.as_deref();
        name.filter(|name| !name.is_empty())
    }

    /// SPIRE's selectors. A value that is too long to be one is left out, which can only take
    /// identities away.
    #[must_use]
    pub fn selectors(&self, digest: Option<&str>) -> Selectors {
        let config = self.config.as_ref();
        let labels = config.and_then(|config| config.labels.as_ref());
        let labels = labels.into_iter().flatten();
        let env = config.and_then(|config| config.env.as_ref());
        let values = labels
            .map(|(key, value)| format!("label:{key}:{value}"))
            .chain(env.into_iter().flatten().map(|text| format!("env:{text}")))
            .chain(self.image_name().map(|name| format!("image_id:{name}")))
            .chain(digest.map(|digest| format!("image_config_digest:{digest}")));
        values
            .filter_map(|value| Selector::new(NAME, &value).ok())
            .collect()
    }
}

/// Reads the digest of an image, if there is one.
pub fn image_digest(text: &[u8]) -> Result<Option<String>, MalformedDescription> {
    let Image { id } = serde_json::from_slice(text)?;
    Ok((!id.is_empty()).then_some(id))
}

impl fmt::Debug for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Description");
        shown.field("id", &self.id).finish_non_exhaustive()
    }
}

/// Where the text stops being a description. The parser's own words quote the text, so they are not
/// kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}, column {column} is not as an engine writes it")]
pub struct MalformedDescription {
    line: usize,
    column: usize,
}

impl From<serde_json::Error> for MalformedDescription {
    fn from(error: serde_json::Error) -> Self {
        Self {
            line: error.line(),
            column: error.column(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(text: &serde_json::Value) -> Result<Description, MalformedDescription> {
        Description::parse(text.to_string().as_bytes())
    }

    fn selectors(description: &Description, digest: Option<&str>) -> Vec<String> {
        let selectors = description.selectors(digest);
        selectors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_selectors_are_spires() {
        let description = parse(&json!({
            "Id": "x",
            "Image": format!("sha256:{}", "a".repeat(64)),
            "State": { "Pid": 7 },
            "Config": {
                "Labels": { "com.example.name": "foo", "a:b": "c:d", "empty": "" },
                "Env": ["VAR=val", "SECRET=a=b"],
                "Image": "envoyproxy/envoy:contrib-v1.29.1",
                "Hostname": "h",
            },
        }))
        .unwrap();
        assert_eq!(description.pid(), 7);
        assert_eq!(
            selectors(&description, Some("sha256:00")),
            [
                "docker:env:SECRET=a=b",
                "docker:env:VAR=val",
                "docker:image_config_digest:sha256:00",
                "docker:image_id:envoyproxy/envoy:contrib-v1.29.1",
                "docker:label:a:b:c:d",
                "docker:label:com.example.name:foo",
                "docker:label:empty:",
            ]
        );
        assert_eq!(
            description.image(),
            Some(format!("sha256:{}", "a".repeat(64)).as_str())
        );
    }

    #[test]
    fn what_is_missing_or_null_has_no_selectors() {
        for text in [
            json!({ "Id": "x" }),
            json!({ "Id": "x", "Config": null, "State": null, "Image": null }),
            json!({ "Id": "x", "Config": { "Labels": null, "Env": null, "Image": "" }, "State": { "Pid": -1 } }),
        ] {
            let description = parse(&text).unwrap();
            assert!(selectors(&description, None).is_empty());
            assert_eq!((description.pid(), description.image()), (0, None));
        }
    }

    #[test]
    fn an_image_is_asked_for_by_an_id_that_is_one() {
        let hex = "a".repeat(64);
        for (id, is_one) in [
            (hex.clone(), true),
            (format!("sha256:{hex}"), true),
            (format!("sha512:{hex}"), false),
            ("../../containers/json".to_owned(), false),
            ("A".repeat(64), false),
            (String::new(), false),
        ] {
            let description = parse(&json!({ "Id": "x", "Image": id, "Config": { "Image": "n" } }));
            assert_eq!(description.unwrap().image().is_some(), is_one, "{id}");
        }
    }

    #[test]
    fn a_value_that_no_entry_can_ask_for_is_left_out() {
        let description = parse(&json!({
            "Id": "x",
            "Config": { "Env": [format!("LONG={}", "x".repeat(10_000)), "SHORT=1"] },
        }));
        assert_eq!(
            selectors(&description.unwrap(), None),
            ["docker:env:SHORT=1"]
        );
    }

    #[test]
    fn no_error_and_no_debug_text_quotes_a_variable() {
        let secret = "hush-hush";
        for text in [
            json!({ "Id": "x", "Config": { "Env": secret } }),
            json!({ "Id": "x", "Config": { "Env": [{ "a": secret }] } }),
            json!({ "Id": "x", "Config": { "Labels": { "a": [secret] } } }),
            json!({ "Id": [secret] }),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");
        }
        let description = parse(&json!({ "Id": "x", "Config": { "Env": [secret] } })).unwrap();
        assert!(!format!("{description:?}").contains(secret));
    }

    #[test]
    fn refuses_what_is_too_large_or_says_a_thing_twice() {
        assert!(Description::parse(&vec![b' '; MAX_BYTES + 1]).is_err());
        for text in [
            r#"{"Id":"x","Id":"y"}"#,
            r#"{"Id":"x","Config":{"Env":[],"Env":["A=1"]}}"#,
            r#"{"Config":{}}"#,
            "[]",
            "",
        ] {
            assert!(Description::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_label_and_variable_is_a_selector(
            labels in proptest::collection::btree_map(".{0,20}", ".{0,20}", 0..5),
            env in proptest::collection::vec(".{0,20}", 0..5),
        ) {
            let text = json!({ "Id": "x", "Config": { "Labels": labels, "Env": env } });
            let mut expected: Vec<_> = env.iter().map(|text| format!("docker:env:{text}")).collect();
            expected.extend(labels.iter().map(|(key, value)| format!("docker:label:{key}:{value}")));
            expected.sort();
            expected.dedup();
            prop_assert_eq!(selectors(&parse(&text).unwrap(), None), expected);
        }

        #[test]
        fn no_text_makes_it_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Description::parse(&text);
        }
    }
}
