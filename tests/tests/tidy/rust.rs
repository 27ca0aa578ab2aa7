//! The Rust files of the tree, and just enough of a lexer to read them without being fooled by a
//! comment, a string, or a test.

use std::fs;
use std::path::Path;

use crate::root;

/// A file of ours. Generated files are not among them.
pub(crate) struct Source {
    /// Relative to the root.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// All Rust files of ours, in the order of their paths.
pub(crate) fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    walk(&root(), "", &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 10, "the tree is not where it should be");
    found
}

fn walk(folder: &Path, path: &str, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}/{name}")
        };
        if entry.file_type().unwrap().is_dir() {
            let is_ours = !name.starts_with('.') && name != "target" && name != "generated";
            if is_ours {
                walk(&entry.path(), &path, found);
            }
        } else if Path::new(&name).extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(entry.path()).unwrap();
            found.push(Source { path, text });
        }
    }
}

/// The text with its comments and literals blanked out. Lines stay where they are.
pub(crate) fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let end = match c {
            '/' | '"' | '\'' | 'r' => literal_end(&chars, at),
            _ => None,
        };
        match end {
            Some(end) => {
                let end = end.min(chars.len());
                out.extend(
                    chars[at..end]
                        .iter()
                        .map(|&c| if c == '\n' { c } else { ' ' }),
                );
                at = end;
            }
            None => {
                out.push(c);
                at += 1;
            }
        }
    }
    out
}

/// Where the comment or literal that begins at `at` ends, if one begins there.
fn literal_end(chars: &[char], at: usize) -> Option<usize> {
    let next = chars.get(at + 1).copied();
    let find = |from: usize, wanted: char| {
        chars[from.min(chars.len())..]
            .iter()
            .position(|&c| c == wanted)
            .map_or(chars.len(), |offset| from + offset)
    };
    match (chars[at], next) {
        ('/', Some('/')) => Some(find(at, '\n')),
        ('/', Some('*')) => Some(block_comment_end(chars, at)),
        ('"', _) => Some(string_end(chars, at + 1)),
        ('r', Some('"' | '#')) if at == 0 || !is_word(chars[at - 1]) || chars[at - 1] == 'b' => {
            raw_string_end(chars, at + 1)
        }
        ('\'', Some('\\')) => Some(find(at + 3, '\'') + 1),
        // A lifetime has no closing quote.
        ('\'', Some(_)) if chars.get(at + 2) == Some(&'\'') => Some(at + 3),
        _ => None,
    }
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_end(chars: &[char], start: usize) -> usize {
    let mut at = start;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn raw_string_end(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start..].iter().take_while(|&&c| c == '#').count();
    // `r#name` is an identifier.
    if chars.get(start + hashes) != Some(&'"') {
        return None;
    }
    let body = start + hashes + 1;
    let closes = |at: &usize| {
        chars[*at] == '"'
            && chars[at + 1..]
                .iter()
                .take(hashes)
                .filter(|&&c| c == '#')
                .count()
                == hashes
    };
    Some(
        (body..chars.len())
            .find(closes)
            .map_or(chars.len(), |at| at + 1 + hashes),
    )
}

/// Blanks items under `#[cfg(test)]` and its like out of `code`, and names the modules among them that
/// lie in files of their own.
pub(crate) fn without_tests(code: &str) -> (String, Vec<String>) {
    let mut out = code.to_owned();
    let mut modules = Vec::new();
    let mut from = 0;
    while let Some(start) = out[from..].find("#[cfg(").map(|offset| from + offset) {
        let Some(attribute_end) = out[start..].find(']').map(|offset| start + offset + 1) else {
            break;
        };
        from = attribute_end;
        let attribute = &out[start..attribute_end];
        if !words(attribute, "test").any(|_| true) || words(attribute, "not").any(|_| true) {
            continue;
        }
        let item = &out[attribute_end..];
        let Some(opening) = item.find(['{', ';']) else {
            break;
        };
        let end = if item[opening..].starts_with('{') {
            opening + matching_brace(&item[opening..])
        } else {
            let mut parts = item[..opening].split_whitespace().rev();
            let name = parts.next().unwrap_or_default();
            if parts.next() == Some("mod") {
                modules.push(name.to_owned());
            }
            opening + 1
        };
        let blank: String = out[start..attribute_end + end]
            .chars()
            .map(|c| if c == '\n' { c } else { ' ' })
            .collect();
        out.replace_range(start..attribute_end + end, &blank);
        from = start;
    }
    (out, modules)
}

/// The length of the block that `text` begins with.
fn matching_brace(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    text.len()
}

/// Where `word` stands as a whole word.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |&at| {
            !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word)
        })
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The number of the line that `at` lies on.
pub(crate) fn line(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

#[test]
fn comments_and_literals_are_no_code() {
    let text =
        "a(\"x \\\" y\", 'z', '\\'', r#\"q\"# , br\"w\") /* b /* c */ d */ e<'f> // g\nr#type";
    let seen: Vec<String> = code(text).split_whitespace().map(str::to_owned).collect();
    assert_eq!(seen.join(" "), "a( , , , , b ) e<'f> r#type");
}

#[test]
fn items_for_tests_are_cut_out() {
    let text = "#[cfg(test)] mod fake; #[cfg(not(test))] fn a() {} #[cfg(any(test, feature))] mod b { fn c() {} } fn d() {}";
    let (rest, modules) = without_tests(text);
    let seen: Vec<&str> = rest.split_whitespace().collect();
    assert_eq!(seen.join(" "), "#[cfg(not(test))] fn a() {} fn d() {}");
    assert_eq!(modules, ["fake"]);
}
