//! What programs say, without what is another each time: ids, keys, times.
//!
//! Values that are another in each run get a number in the order in which an answer shows them, or the name
//! that the run gave them before, so that what should be the same is seen to be the same.

use std::collections::BTreeMap;

/// The names that a run has given to values.
#[derive(Debug)]
pub(crate) struct Mask {
    /// The folder of the run, which is `W` in a table.
    folder: String,
    names: BTreeMap<String, String>,
    /// The first value of the last answer.
    first: Option<String>,
}

impl Mask {
    pub(crate) fn new(folder: &str) -> Self {
        Self {
            folder: folder.to_owned(),
            names: BTreeMap::new(),
            first: None,
        }
    }

    /// Lets a table speak of a value by a name.
    pub(crate) fn name(&mut self, name: &str, value: &str) {
        self.names.insert(name.to_owned(), value.to_owned());
    }

    /// Gives a name to the first value of the last answer.
    pub(crate) fn name_first(&mut self, name: &str) {
        let value = self.first.take();
        let value = value.unwrap_or_else(|| panic!("nothing that could be `{name}`"));
        self.name(name, &value);
    }

    /// A word of a table as the program is to hear it.
    pub(crate) fn fill(&self, word: &str) -> String {
        let mut filled = match word.strip_prefix('W') {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                format!("{}{rest}", self.folder)
            }
            _ => word.to_owned(),
        };
        for (name, value) in &self.names {
            filled = filled.replace(&format!("<{name}>"), value);
        }
        filled
    }

    /// An answer, whose values have the names of the run, or numbers in the order in which they come.
    pub(crate) fn plain(&mut self, answer: &str) -> String {
        let text = answer.replace(&self.folder, "W");
        let mut seen: Vec<String> = Vec::new();
        let names = &self.names;
        let masked = lines(&text, &mut |value| {
            if let Some((name, _)) = names.iter().find(|(_, named)| *named == value) {
                return format!("<{name}>");
            }
            let known = seen.iter().position(|seen| seen == value);
            let at = known.unwrap_or_else(|| {
                seen.push(value.to_owned());
                seen.len() - 1
            });
            format!("<{at}>")
        });
        self.first = seen.into_iter().next();
        masked
    }

    /// A text whose lines come in an order of chance, sorted.
    pub(crate) fn sorted(&self, text: &str) -> String {
        let text = text.replace(&self.folder, "W");
        let masked = lines(&text, &mut |_value| "<>".to_owned());
        let mut lines: Vec<&str> = masked.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    }
}

/// Each line without the bodies of PEM blocks, and without how long something took.
fn lines(text: &str, number: &mut dyn FnMut(&str) -> String) -> String {
    let mut plain = String::new();
    let mut is_in_pem = false;
    for line in text.split_inclusive('\n') {
        is_in_pem &= !line.starts_with("-----END");
        let took = line
            .split_once(" after ")
            .filter(|_| line.starts_with("Received "));
        match took {
            _ if is_in_pem || line.trim_start().starts_with("Uptime:") => {}
            Some((received, _took)) => plain += &format!("{received} after TIME\n"),
            None => words(&mut plain, line, number),
        }
        is_in_pem |= line.starts_with("-----BEGIN");
    }
    match plain.split_once("\"uptime\":") {
        None => plain,
        Some((before, after)) => {
            let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{before}\"uptime\":N{rest}")
        }
    }
}

fn words(plain: &mut String, line: &str, number: &mut dyn FnMut(&str) -> String) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "+/=_-.:".contains(c);
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let end = match is_word(first) {
            true => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        let (word, after) = rest.split_at(end);
        let is_path = word.starts_with('/') || word.contains("://");
        match is_path {
            // Of a SPIFFE ID a part may be another, as the token of an agent.
            true => {
                let parts: Vec<String> = word.split('/').map(|part| stable(part, number)).collect();
                plain.push_str(&parts.join("/"));
            }
            false => plain.push_str(&stable(word, number)),
        }
        rest = after;
    }
}

/// The word itself, or what stands for words of its kind.
fn stable(word: &str, number: &mut dyn FnMut(&str) -> String) -> String {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    let letters = word.bytes().filter(u8::is_ascii_alphabetic).count();
    let is_mixed = digits > 0 && letters > 0 && digits + letters == word.len();
    let is_date = word.len() == 10 && word.matches('-').count() == 2;
    let is_clock = word.len() == 8 && word.matches(':').count() == 2;
    match word {
        // Ids of entries, and tokens.
        _ if word.len() == 36 && word.matches('-').count() == 4 => number(word),
        // Key ids of X.509 authorities, and of JWT authorities.
        _ if is_mixed && [40, 32].contains(&word.len()) => number(word),
        // Encoded keys, certificates and JWT-SVIDs; 43 letters are a coordinate.
        _ if word.len() >= 60 || word.len() == 43 => number(word),
        // Times, in seconds or spelled; serial numbers.
        _ if digits >= 9 => "NUMBER".to_owned(),
        _ if digits == 8 && is_date => "DATE".to_owned(),
        _ if digits == 6 && is_clock => "TIME".to_owned(),
        _ => word.to_owned(),
    }
}
