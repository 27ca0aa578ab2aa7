//! Names as texts.

use x509_parser::{prelude::FromDer, x509::X509Name};

/// The attributes that have a short name (RFC 4519), by their object identifiers.
const SHORT: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "SERIALNUMBER"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.17", "POSTALCODE"),
];

/// A name as RFC 2253 has it. Nothing, if it cannot be read.
pub(super) fn text(der: &[u8]) -> String {
    let Ok((_, name)) = X509Name::from_der(der) else {
        return String::new();
    };
    let mut parts: Vec<_> = (name.iter())
        .map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+"))
        .collect();
    // RFC 2253 2.1: the last element of the sequence comes first.
    parts.reverse();
    parts.join(",")
}

/// The common name; of several, the last one. Nothing, if there is none that can be read.
pub(super) fn common_name(der: &[u8]) -> Option<String> {
    let (_, name) = X509Name::from_der(der).ok()?;
    let last = name.iter_common_name().last()?;
    last.as_str().ok().map(str::to_owned)
}

fn attribute(attribute: &x509_parser::x509::AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let short = SHORT.iter().find(|(known, _)| *known == oid);
    let value = attribute.as_str().unwrap_or_default();
    format!(
        "{}={}",
        short.map_or(oid.as_str(), |(_, short)| short),
        escaped(value)
    )
}

/// RFC 2253 2.4.
fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (at, letter) in value.chars().enumerate() {
        let is_special = match letter {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => true,
            ' ' => at == 0 || at == last,
            '#' => at == 0,
            _ => false,
        };
        if is_special {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_an_attribute_is_escaped() {
        assert_eq!(escaped("a,b"), "a\\,b");
        assert_eq!(escaped(" # "), "\\ #\\ ");
        assert_eq!(escaped("#1"), "\\#1");
    }

    #[test]
    fn the_last_attribute_comes_first_and_what_is_no_name_is_nothing() {
        // C=US, O=SPIRE
        let der = hex::decode("301d310b3009060355040613025553310e300c060355040a13055350495245");
        assert_eq!(text(&der.unwrap()), "O=SPIRE,C=US");
        assert_eq!(text(b"no DER"), "");
        assert_eq!(common_name(b"no DER"), None);
    }
}
