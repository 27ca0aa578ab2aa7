//! The text of a key file: private keys by id, in the shape of SPIRE's disk key managers.
//!
//! Server and agent both keep such a file, so that either can take over the folder of a SPIRE program.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{KeyError, PrivateKey};

/// The largest key file that is read, in bytes; a hundred RSA-4096 keys fit.
pub const MAX_KEY_FILE_BYTES: u64 = 1 << 20;

/// Why the text of a key file is refused. Never says anything about a key's content.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The text is not the JSON object `{"keys": {ID: BASE64}}`.
    #[error("not a key file (line {line}, column {column})")]
    Syntax {
        /// The line of the fault, from 1.
        line: usize,
        /// The column of the fault, from 1.
        column: usize,
    },
    /// A key is not base64.
    #[error("key `{id}` is not base64")]
    Encoding {
        /// The id of the key.
        id: String,
    },
    /// A key is not PKCS#8, or not on the allow list.
    #[error("key `{id}` is unusable")]
    Key {
        /// The id of the key.
        id: String,
        /// Why.
        source: KeyError,
    },
}

#[derive(Deserialize)]
struct KeyFile {
    // Go writes null for a map that was never made. A file that names no keys at all is damaged: it must
    // not pass for an empty one.
    #[serde(deserialize_with = "Option::deserialize")]
    keys: Option<BTreeMap<String, String>>,
}

/// Parses the text of a key file.
pub fn parse_key_file(text: &[u8]) -> Result<BTreeMap<String, PrivateKey>, KeyFileError> {
    let file: KeyFile = serde_json::from_slice(text).map_err(|error| KeyFileError::Syntax {
        line: error.line(),
        column: error.column(),
    })?;
    let parse = |(id, encoded): (String, String)| {
        let encoded = Zeroizing::new(encoded);
        let Ok(der) = BASE64.decode(encoded.as_bytes()) else {
            return Err(KeyFileError::Encoding { id });
        };
        match PrivateKey::from_pkcs8_der(Zeroizing::new(der)) {
            Ok(key) => Ok((id, key)),
            Err(source) => Err(KeyFileError::Key { id, source }),
        }
    };
    file.keys
        .unwrap_or_default()
        .into_iter()
        .map(parse)
        .collect()
}

/// Writes the text of a key file, sorted by id.
///
/// This is one of the few places where the bytes of a private key leave it; the text is wiped when it
/// is dropped.
pub fn encode_key_file<'a>(
    keys: impl IntoIterator<Item = (&'a str, &'a PrivateKey)>,
) -> Zeroizing<String> {
    let keys: BTreeMap<&str, &PrivateKey> = keys.into_iter().collect();
    // The size is reserved beforehand, so that no copy of a key stays behind in a grown buffer.
    let size = keys
        .iter()
        .map(|(id, key)| 32 + 6 * id.len() + key.pkcs8_der().len() * 4 / 3)
        .sum::<usize>();
    let mut text = Zeroizing::new(String::with_capacity(size + 32));
    text.push_str("{\n\t\"keys\": {");
    for (position, (id, key)) in keys.into_iter().enumerate() {
        text.push_str(if position == 0 { "\n\t\t" } else { ",\n\t\t" });
        text.push_str(&serde_json::Value::from(id).to_string());
        text.push_str(": \"");
        BASE64.encode_string(key.pkcs8_der(), &mut text);
        text.push('"');
    }
    text.push_str("\n\t}\n}\n");
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::KeyPair;

    use super::*;

    fn key() -> PrivateKey {
        let der = KeyPair::generate().unwrap().serialize_der();
        PrivateKey::from_pkcs8_der(Zeroizing::new(der)).unwrap()
    }

    #[test]
    fn a_key_file_comes_back_as_it_was_written() {
        let (a, b) = (key(), key());
        let text = encode_key_file([("x509-CA-B", &b), ("x509-CA-A", &a)]);
        let read = parse_key_file(text.as_bytes()).unwrap();
        let ids: Vec<_> = read.keys().map(String::as_str).collect();
        assert_eq!(ids, ["x509-CA-A", "x509-CA-B"]);
        assert_eq!(read["x509-CA-A"].pkcs8_der(), a.pkcs8_der());
        assert_eq!(read["x509-CA-B"].pkcs8_der(), b.pkcs8_der());
    }

    #[test]
    fn no_keys_are_an_empty_file() {
        let text = encode_key_file([]);
        assert!(parse_key_file(text.as_bytes()).unwrap().is_empty());
        assert!(parse_key_file(br#"{"keys":null}"#).unwrap().is_empty());
    }

    #[test]
    fn a_file_that_does_not_speak_of_keys_is_not_an_empty_one() {
        for text in ["{}", r#"{"keyc":{"x509-CA-A":"AAAA"}}"#] {
            assert!(parse_key_file(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn an_error_names_the_key_and_shows_nothing_of_it() {
        let error = parse_key_file(br#"{"keys":{"agent-svid-A":"c2VjcmV0"}}"#).unwrap_err();
        assert_eq!(error.to_string(), "key `agent-svid-A` is unusable");
        let error = parse_key_file(br#"{"keys":{"agent-svid-A":"*secret*"}}"#).unwrap_err();
        assert_eq!(error.to_string(), "key `agent-svid-A` is not base64");
    }

    proptest! {
        #[test]
        fn never_panics(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_key_file(&text);
        }
    }
}
