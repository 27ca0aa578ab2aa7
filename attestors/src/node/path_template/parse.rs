//! From the text of a template to its parts.

use super::{Function, Names, Part, TemplateError};

pub(super) fn parts(text: &str, names: Names<'_>) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, after) = after.split_once("}}").ok_or(TemplateError::Unclosed)?;
        // A dash beside the braces takes away the blanks beyond it.
        let (action, trims_before) = match action.strip_prefix("- ") {
            Some(action) => (action, true),
            None => (action, false),
        };
        let (action, trims_after) = match action.strip_suffix(" -") {
            Some(action) => (action, true),
            None => (action, false),
        };
        let before = if trims_before {
            before.trim_end()
        } else {
            before
        };
        push_text(&mut parts, before);
        parts.push(value(action.trim(), names)?);
        rest = if trims_after {
            after.trim_start()
        } else {
            after
        };
    }
    push_text(&mut parts, rest);
    Ok(parts)
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
}

/// One word of an action.
#[derive(Clone, Debug, PartialEq)]
enum Word {
    Bare(String),
    Quoted(String),
    Pipe,
}

/// Reads `.Field`, `index .List 0`, or `function ".." .Field`, and what it is piped into.
fn value(action: &str, names: Names<'_>) -> Result<Part, TemplateError> {
    let words = words(action)?;
    let mut commands = words.split(|word| *word == Word::Pipe);
    let first = commands.next().unwrap_or_default();
    let mut functions = Vec::new();
    let (name, item) = match first {
        [Word::Bare(field)] => (text(field, names)?, None),
        [Word::Bare(index), Word::Bare(field), Word::Bare(item)] if index == "index" => {
            let item = item.parse();
            let item = item.map_err(|_no_number| TemplateError::Arguments(index.clone()))?;
            (list(field, names)?, Some(item))
        }
        [Word::Bare(function), arguments @ .., Word::Bare(field)] => {
            let name = text(field, names)?;
            functions.push(call(function, arguments)?);
            (name, None)
        }
        _ => return Err(TemplateError::NotBuilt(action.to_owned())),
    };
    for command in commands {
        let [Word::Bare(function), arguments @ ..] = command else {
            return Err(TemplateError::NotBuilt(action.to_owned()));
        };
        functions.push(call(function, arguments)?);
    }
    Ok(Part::Value {
        name,
        item,
        functions,
    })
}

fn call(function: &str, arguments: &[Word]) -> Result<Function, TemplateError> {
    Ok(match (function, arguments) {
        ("lower", []) => Function::Lower,
        ("upper", []) => Function::Upper,
        ("trimPrefix", [Word::Quoted(prefix)]) => Function::TrimPrefix(prefix.clone()),
        ("trimSuffix", [Word::Quoted(suffix)]) => Function::TrimSuffix(suffix.clone()),
        ("replace", [Word::Quoted(from), Word::Quoted(to)]) => {
            Function::Replace(from.clone(), to.clone())
        }
        ("lower" | "upper" | "trimPrefix" | "trimSuffix" | "replace", _) => {
            return Err(TemplateError::Arguments(function.to_owned()));
        }
        _ => return Err(TemplateError::NotBuilt(function.to_owned())),
    })
}

fn field(word: &str) -> Result<&str, TemplateError> {
    let name = word.strip_prefix('.').filter(|name| {
        let is_name =
            |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_');
        name.split('.').all(is_name)
    });
    name.ok_or_else(|| TemplateError::NotBuilt(word.to_owned()))
}

fn text(word: &str, names: Names<'_>) -> Result<String, TemplateError> {
    let name = field(word)?;
    let is_below = |map: &&str| {
        let key = name
            .strip_prefix(map)
            .and_then(|rest| rest.strip_prefix('.'));
        key.is_some_and(|key| !key.contains('.'))
    };
    if names.texts.contains(&name) || names.maps.iter().any(is_below) {
        return Ok(name.to_owned());
    }
    Err(TemplateError::Unknown(name.to_owned()))
}

fn list(word: &str, names: Names<'_>) -> Result<String, TemplateError> {
    let name = field(word)?;
    if names.lists.contains(&name) {
        return Ok(name.to_owned());
    }
    Err(TemplateError::Unknown(name.to_owned()))
}

/// Takes an action apart at its blanks and pipes; a text in quotes is one word, and has no escapes.
fn words(action: &str) -> Result<Vec<Word>, TemplateError> {
    let mut words = Vec::new();
    let mut rest = action.trim_start();
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '|' => {
                words.push(Word::Pipe);
                rest.strip_prefix('|').unwrap_or_default()
            }
            '"' | '`' => {
                let after = rest.strip_prefix(first).unwrap_or_default();
                let (quoted, after) = after.split_once(first).ok_or(TemplateError::Unclosed)?;
                if first == '"' && quoted.contains('\\') {
                    return Err(TemplateError::NotBuilt(quoted.to_owned()));
                }
                words.push(Word::Quoted(quoted.to_owned()));
                after
            }
            _ => {
                let ends = |c: char| c.is_whitespace() || matches!(c, '|' | '"' | '`');
                let end = rest.find(ends).unwrap_or(rest.len());
                let (bare, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
                words.push(Word::Bare(bare.to_owned()));
                after
            }
        }
        .trim_start();
    }
    Ok(words)
}
