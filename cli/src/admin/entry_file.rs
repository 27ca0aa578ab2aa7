//! The JSON files that `entry create`, `entry update` and `entry delete` read.
//!
//! The keys are SPIRE's own (`entryExpiry` stands beside `spiffe_id`), in any case, as Go reads them;
//! unknown keys are left alone.

use std::io::Read;

use identity::trust_domain::TrustDomain;
use proto::spire::types::entry::AdditionalAttributes;
use proto::spire::types::{Entry, Selector};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::spiffe_id;
use crate::failure::{Failure, os_error};

/// The largest file that is read.
const MAX_FILE: u64 = 64 << 20;

/// A `T` that stands as an object: serde would read it from an array too, by the order of its fields; Go does not.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let fields = Map::deserialize(source)?;
        T::deserialize(Value::Object(fields))
            .map(Object)
            .map_err(D::Error::custom)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    entries: Option<Vec<Option<Object<FileEntry>>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FileEntry {
    selectors: Option<Vec<Object<FileSelector>>>,
    parent_id: Option<String>,
    spiffe_id: Option<String>,
    x509_svid_ttl: Option<i32>,
    jwt_svid_ttl: Option<i32>,
    federates_with: Option<Vec<String>>,
    entry_id: Option<String>,
    admin: Option<bool>,
    downstream: Option<bool>,
    #[serde(rename = "entryexpiry")]
    entry_expiry: Option<i64>,
    dns_names: Option<Vec<String>>,
    revision_number: Option<i64>,
    store_svid: Option<bool>,
    hint: Option<String>,
    created_at: Option<i64>,
    additional_attributes: Option<Object<FileAttributes>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FileSelector {
    r#type: Option<String>,
    value: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FileAttributes {
    disable_x509_svid_prefetch: Option<bool>,
    jwt_svid_include_jti: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ids {
    ids: Option<Vec<String>>,
}

/// Reads the entries of a file, or of standard input for `-`.
pub(super) fn entries(path: &str) -> Result<Vec<Entry>, Failure> {
    let file: File = parse(&read(path)?)?;
    file.entries
        .unwrap_or_default()
        .into_iter()
        .map(entry)
        .collect()
}

/// Reads the entry ids of a file, or of standard input for `-`.
pub(super) fn ids(path: &str) -> Result<Vec<String>, Failure> {
    parse::<Ids>(&read(path)?).map(|file| file.ids.unwrap_or_default())
}

/// Reads all of a file, or of standard input for the name that stands for it.
pub(super) fn read_from(path: &str, standard_input: &str) -> Result<Vec<u8>, Failure> {
    let refuse = |error: std::io::Error| Failure::new(format!("open {path}: {}", os_error(&error)));
    let mut source: Box<dyn Read> = match path == standard_input {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(path).map_err(refuse)?),
    };
    let mut bytes = Vec::new();
    source
        .by_ref()
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::new(format!("read {path}: {}", os_error(&error))))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Failure::new(format!(
            "read {path}: larger than {MAX_FILE} bytes"
        )));
    }
    Ok(bytes)
}

fn read(path: &str) -> Result<Vec<u8>, Failure> {
    read_from(path, "-")
}

pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    let value = serde_json::from_slice(bytes)
        .and_then(|value: Value| serde_json::from_value::<Object<T>>(lower_keys(value)));
    value
        .map(|Object(value)| value)
        .map_err(|error| Failure::new(error.to_string()))
}

/// Go matches keys in any case. serde_json has a depth limit, so this recursion is bounded.
fn lower_keys(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(key, value)| (key.to_lowercase(), lower_keys(value)))
                .collect(),
        ),
        Value::Array(values) => values.into_iter().map(lower_keys).collect(),
        other => other,
    }
}

fn entry(file: Option<Object<FileEntry>>) -> Result<Entry, Failure> {
    let Object(file) = file.ok_or_else(|| Failure::new("missing registration entry"))?;
    let parse_id = |text: Option<&str>, what: &str| {
        spiffe_id(text.unwrap_or_default())
            .map(Some)
            .map_err(|failure| failure.context(what))
    };
    let federates_with = file
        .federates_with
        .unwrap_or_default()
        .iter()
        .map(|text| match TrustDomain::parse(text) {
            Ok(trust_domain) => Ok(trust_domain.name().to_owned()),
            Err(error) => Err(Failure::chain(&error).context("invalid federated trust domain")),
        })
        .collect::<Result<_, _>>()?;
    Ok(Entry {
        spiffe_id: parse_id(file.spiffe_id.as_deref(), "invalid SPIFFE ID")?,
        parent_id: parse_id(file.parent_id.as_deref(), "invalid parent ID")?,
        id: file.entry_id.unwrap_or_default(),
        selectors: file
            .selectors
            .unwrap_or_default()
            .into_iter()
            .map(|Object(selector)| Selector {
                r#type: selector.r#type.unwrap_or_default(),
                value: selector.value.unwrap_or_default(),
            })
            .collect(),
        x509_svid_ttl: file.x509_svid_ttl.unwrap_or_default(),
        jwt_svid_ttl: file.jwt_svid_ttl.unwrap_or_default(),
        federates_with,
        admin: file.admin.unwrap_or_default(),
        downstream: file.downstream.unwrap_or_default(),
        expires_at: file.entry_expiry.unwrap_or_default(),
        dns_names: file.dns_names.unwrap_or_default(),
        revision_number: file.revision_number.unwrap_or_default(),
        store_svid: file.store_svid.unwrap_or_default(),
        hint: file.hint.unwrap_or_default(),
        created_at: file.created_at.unwrap_or_default(),
        additional_attributes: file.additional_attributes.map(|Object(attributes)| {
            AdditionalAttributes {
                disable_x509_svid_prefetch: attributes
                    .disable_x509_svid_prefetch
                    .unwrap_or_default(),
                jwt_svid_include_jti: attributes.jwt_svid_include_jti.unwrap_or_default(),
            }
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Entry>, String> {
        let file: File = parse(text.as_bytes()).map_err(|failure| failure.to_string())?;
        file.entries
            .unwrap_or_default()
            .into_iter()
            .map(|file| entry(file).map_err(|failure| failure.to_string()))
            .collect()
    }

    #[test]
    fn reads_spires_keys_in_any_case() {
        let entries = parsed(
            r#"{"Entries":[{"spiffe_id":"spiffe://example.org/file1","PARENT_ID":"spiffe://example.org/p",
            "selectors":[{"type":"unix","value":"uid:2000"}],"x509_svid_ttl":200,"entryExpiry":7,"admin":true,
            "federates_with":["spiffe://fed.org"],"additional_attributes":{"jwt_svid_include_jti":true},
            "hint":null,"other":1}]}"#,
        )
        .unwrap();
        let entry = &entries[0];
        assert_eq!(entry.spiffe_id.as_ref().unwrap().path, "/file1");
        assert_eq!(
            (entry.x509_svid_ttl, entry.expires_at, entry.admin),
            (200, 7, true)
        );
        assert_eq!(entry.federates_with, ["fed.org"]);
        assert!(entry.additional_attributes.unwrap().jwt_svid_include_jti);
    }

    #[test]
    fn refuses_what_spire_refuses_in_its_words() {
        for (text, words) in [
            (r#"{"entries":[{}]}"#, "invalid SPIFFE ID: cannot be empty"),
            (
                r#"{"entries":[{"spiffe_id":"spiffe://example.org/a","parent_id":"x"}]}"#,
                "invalid parent ID: scheme is missing or invalid",
            ),
            (r#"{"entries":[null]}"#, "missing registration entry"),
        ] {
            assert_eq!(parsed(text).unwrap_err(), words);
        }
        assert!(parsed("not json").is_err());
        assert!(parsed(r#"{"entries":[{"x509_svid_ttl":"1"}]}"#).is_err());
        assert!(parsed("{}").unwrap().is_empty());
    }

    #[test]
    fn an_array_is_never_read_as_the_object_that_should_stand_there() {
        for text in [
            r#"[[{"spiffe_id":"spiffe://example.org/a","parent_id":"spiffe://example.org/p"}]]"#,
            r#"{"entries":[[null,"spiffe://example.org/p","spiffe://example.org/a"]]}"#,
            r#"{"entries":[{"selectors":[["unix","uid:1"]],"spiffe_id":"spiffe://example.org/a","parent_id":"spiffe://example.org/p"}]}"#,
        ] {
            assert!(parsed(text).is_err(), "{text}");
        }
        assert!(parse::<Ids>(br#"[["a"]]"#).is_err());
    }
}
