//! Filters of list and count commands: selectors, match behaviors, dates.

use proto::spire::types::federates_with_match::MatchBehavior as FederatesWithBehavior;
use proto::spire::types::selector_match::MatchBehavior;
use proto::spire::types::{FederatesWithMatch, Selector, SelectorMatch};

use crate::failure::Failure;
use crate::flags::Values;

/// Reads `type:value`. What stands in the two parts is the server's to judge.
pub(super) fn selector(text: &str) -> Result<Selector, Failure> {
    let (kind, value) = text.split_once(':').ok_or_else(|| {
        Failure::new(format!(
            "selector \"{text}\" must be formatted as type:value"
        ))
    })?;
    Ok(Selector {
        r#type: kind.to_owned(),
        value: value.to_owned(),
    })
}

/// The selectors of a filter: nothing when none is given.
pub(super) fn selectors(
    values: &Values,
    unknown: impl FnOnce(&str) -> Failure,
    unparsable: impl Fn(&str, Failure) -> Failure,
) -> Result<Option<SelectorMatch>, Failure> {
    let given = values.list("selector");
    if given.is_empty() {
        return Ok(None);
    }
    let word = values.text("matchSelectorsOn");
    let behavior = named(word, MatchBehavior::from_str_name).ok_or_else(|| unknown(word))?;
    let selectors = given
        .iter()
        .map(|text| selector(text).map_err(|failure| unparsable(text, failure)))
        .collect::<Result<_, _>>()?;
    Ok(Some(SelectorMatch {
        selectors,
        r#match: behavior.into(),
    }))
}

/// The foreign trust domains of a filter: nothing when none is given.
pub(super) fn federates_with(
    values: &Values,
    unknown: impl FnOnce(&str) -> Failure,
) -> Result<Option<FederatesWithMatch>, Failure> {
    let given = values.list("federatesWith");
    if given.is_empty() {
        return Ok(None);
    }
    let word = values.text("matchFederatesWithOn");
    let behavior =
        named(word, FederatesWithBehavior::from_str_name).ok_or_else(|| unknown(word))?;
    Ok(Some(FederatesWithMatch {
        trust_domains: given.to_vec(),
        r#match: behavior.into(),
    }))
}

/// `exact`, `any`, `superset` or `subset`, as the enum's own names have it.
fn named<B>(word: &str, by_name: impl FnOnce(&str) -> Option<B>) -> Option<B> {
    if word.is_empty() || !word.chars().all(|c| c.is_ascii_lowercase()) {
        return None;
    }
    by_name(&format!("MATCH_{}", word.to_ascii_uppercase()))
}

/// Checks a date of the form `2006-01-02 15:04:05 -0700 -07`, with Go's complaint.
pub(super) fn date(text: &str) -> Result<(), Failure> {
    const LAYOUT: &str = "2006-01-02 15:04:05 -0700 -07";
    const PARTS: &[(&str, u32)] = &[
        ("2006", 9999),
        ("-", 0),
        ("01", 12),
        ("-", 0),
        ("02", 31),
        (" ", 0),
        ("15", 23),
        (":", 0),
        ("04", 59),
        (":", 0),
        ("05", 59),
        (" ", 0),
        ("-0700", 2400),
        (" ", 0),
        ("-07", 24),
    ];
    let refuse = |why: String| {
        Err(Failure::new(format!(
            "date is not valid: parsing time {text:?}{why}"
        )))
    };
    let mut rest = text;
    for (part, most) in PARTS {
        let Some((number, tail)) = part_of(part, rest) else {
            return refuse(format!(" as {LAYOUT:?}: cannot parse {rest:?} as {part:?}"));
        };
        if number > *most || (matches!(*part, "01" | "02") && number == 0) {
            return refuse(format!(": {} out of range", unit(part)));
        }
        rest = tail;
    }
    match rest {
        "" => Ok(()),
        extra => refuse(format!(": extra text: {extra:?}")),
    }
}

/// The number that stands for a part of the layout (0 for a separator), and what follows it.
fn part_of<'t>(part: &str, text: &'t str) -> Option<(u32, &'t str)> {
    match part {
        "-" | ":" => return text.strip_prefix(part).map(|rest| (0, rest)),
        // Go takes one space or more, and none at the end of the text.
        " " if text.is_empty() || text.starts_with(' ') => {
            return Some((0, text.trim_start_matches(' ')));
        }
        " " => return None,
        _ => {}
    }
    let (taken, rest) = text.split_at_checked(part.len())?;
    let digits = match part.starts_with('-') {
        true => taken.strip_prefix(['+', '-'])?,
        false => taken,
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(|number| (number, rest))
}

fn unit(part: &str) -> &'static str {
    match part {
        "01" => "month",
        "02" => "day",
        "15" => "hour",
        "04" => "minute",
        "05" => "second",
        _ => "time zone offset hour",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        date(text).unwrap_err().to_string()
    }

    #[test]
    fn a_date_is_refused_in_gos_words() {
        assert!(date("2099-01-01 00:00:00 +0000 +00").is_ok());
        assert!(date("2099-01-01 00:00:00 -0730 -07").is_ok());
        assert_eq!(
            complaint("2099-01-01 00:00:00 +0000 UTC"),
            "date is not valid: parsing time \"2099-01-01 00:00:00 +0000 UTC\" as \"2006-01-02 15:04:05 -0700 -07\": cannot parse \"UTC\" as \"-07\""
        );
        assert_eq!(
            complaint("bogus"),
            "date is not valid: parsing time \"bogus\" as \"2006-01-02 15:04:05 -0700 -07\": cannot parse \"bogus\" as \"2006\""
        );
        assert_eq!(
            complaint("2099-01-01"),
            "date is not valid: parsing time \"2099-01-01\" as \"2006-01-02 15:04:05 -0700 -07\": cannot parse \"\" as \"15\""
        );
        assert_eq!(
            complaint("2099-13-01 00:00:00 +0000 +00"),
            "date is not valid: parsing time \"2099-13-01 00:00:00 +0000 +00\": month out of range"
        );
        assert_eq!(
            complaint("2099-01-01 00:00:00 +0000 +00 x"),
            "date is not valid: parsing time \"2099-01-01 00:00:00 +0000 +00 x\": extra text: \" x\""
        );
    }

    #[test]
    fn a_selector_splits_at_its_first_colon() {
        let parsed = selector("unix:uid:1000").unwrap();
        assert_eq!(
            (parsed.r#type.as_str(), parsed.value.as_str()),
            ("unix", "uid:1000")
        );
        assert_eq!(
            selector("nocolon").unwrap_err().to_string(),
            "selector \"nocolon\" must be formatted as type:value"
        );
    }

    #[test]
    fn match_behaviors_are_spelled_in_lower_case() {
        for (word, behavior) in [
            ("exact", Some(MatchBehavior::MatchExact)),
            ("any", Some(MatchBehavior::MatchAny)),
            ("superset", Some(MatchBehavior::MatchSuperset)),
            ("subset", Some(MatchBehavior::MatchSubset)),
            ("EXACT", None),
            ("", None),
            ("bogus", None),
        ] {
            assert_eq!(
                named(word, MatchBehavior::from_str_name),
                behavior,
                "{word}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_a_panic_for_a_date(text in ".{0,40}") {
            let _ = date(&text);
        }
    }
}
