//! `$NAME` and `${NAME}`, as SPIRE's `-expandEnv` replaces them.

use super::Environment;

/// Replaces every name by what it stands for, an unknown one by nothing, and `$$` by `$`. None if
/// the result is longer than `max` bytes.
pub(super) fn expand(text: &str, environment: Environment<'_>, max: usize) -> Option<String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let (name, next) = name(after);
        match name {
            Name::Of("$") | Name::Missing => expanded.push('$'),
            Name::Of(name) => expanded.push_str(&environment(name).unwrap_or_default()),
            Name::Malformed => {}
        }
        rest = next;
        if expanded.len() > max {
            return None;
        }
    }
    expanded.push_str(rest);
    (expanded.len() <= max).then_some(expanded)
}

enum Name<'a> {
    Of(&'a str),
    /// No name follows: the dollar stays.
    Missing,
    /// `${}`, or a brace that never closes: it vanishes, as in Go.
    Malformed,
}

fn name(text: &str) -> (Name<'_>, &str) {
    if let Some(braced) = text.strip_prefix('{') {
        return match braced.split_once('}') {
            Some(("", next)) => (Name::Malformed, next),
            Some((name, next)) => (Name::Of(name), next),
            None => (Name::Malformed, braced),
        };
    }
    // The shell's one-letter variables; Go lets the function answer them too.
    let special = |first: &char| "*#$@!?-0123456789".contains(*first);
    let length = match text.chars().next() {
        Some(first) if special(&first) => 1,
        _ => text
            .bytes()
            .take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
            .count(),
    };
    match text.split_at_checked(length) {
        Some((name, next)) if length > 0 => (Name::Of(name), next),
        _ => (Name::Missing, text),
    }
}
