//! Tables of command lines, and what came of each on a pair of programs.
//!
//! A line of a table is a command line as a shell takes it, with `W` for the folder of the run and a name
//! in angle brackets for a value that was named before. ` => NAME` at its end names the first value of its
//! answer. A mark before the line says how it is run:
//!
//! - `.` without the flag of the socket,
//! - `~` and its answer has its lines in an order of chance,
//! - `!` without the flag of the socket, and each program has words of its own: the exit code alone is the same.

use std::fmt;

use tests::process::Ended;

use super::mask::Mask;
use super::mended::Mended;

/// A command line of a table.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    text: String,
    words: Vec<String>,
    /// What the first value of its answer is called from here on.
    named: Option<String>,
    has_socket: bool,
    compared: Compared,
}

/// How much of an answer is compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Compared {
    AsSaid,
    /// As lines, in whatever order.
    Sorted,
    CodeAlone,
}

/// Reads a table.
pub(crate) fn read(table: &str) -> Vec<Line> {
    let lines = table.lines();
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(Line::read).collect()
}

impl Line {
    fn read(line: &str) -> Self {
        let (has_socket, compared, rest) = match line.split_once(' ') {
            Some(("~", rest)) => (true, Compared::Sorted, rest),
            Some((".", rest)) => (false, Compared::AsSaid, rest),
            Some(("!", rest)) => (false, Compared::CodeAlone, rest),
            _ if line == "." => (false, Compared::AsSaid, ""),
            _ => (true, Compared::AsSaid, line),
        };
        let (text, named) = match rest.split_once(" => ") {
            Some((text, name)) => (text, Some(name.to_owned())),
            None => (rest, None),
        };
        Self {
            text: text.to_owned(),
            words: words(text),
            named,
            has_socket,
            compared,
        }
    }

    /// A request for the help of a command.
    pub(crate) fn help(command: &str) -> Self {
        Self::read(&format!(". {command} -h"))
    }
}

/// Splits as a shell does, as far as tables need: a backslash keeps a space, and `''` is an empty word.
fn words(text: &str) -> Vec<String> {
    let kept = text.replace("\\ ", "\0");
    let words = kept.split(' ').filter(|word| !word.is_empty());
    words
        .map(|word| word.replace('\0', " ").replace("''", ""))
        .collect()
}

/// What a command came to, without what is another each time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: i32,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (mark, text) in [("O|", &self.out), ("E|", &self.err)] {
            for line in text.lines() {
                writeln!(f, "  {mark}{line}")?;
            }
        }
        writeln!(f, "  [exit {}]", self.code)
    }
}

/// What was said to each line.
pub(crate) type Transcript = Vec<(Line, Said)>;

/// Says all lines to a program. `ask` runs it with these words, with its socket or without.
pub(crate) fn run(
    lines: &[Line],
    mask: &mut Mask,
    ask: impl Fn(&[&str], bool) -> Ended,
) -> Transcript {
    let said = lines.iter().map(|line| {
        let words: Vec<String> = line.words.iter().map(|word| mask.fill(word)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ended = ask(&words, line.has_socket);
        (line.clone(), masked(line, &ended, mask))
    });
    said.collect()
}

fn masked(line: &Line, ended: &Ended, mask: &mut Mask) -> Said {
    let (out, err) = match line.compared {
        Compared::AsSaid => {
            let err = mask.plain(&ended.stderr);
            (mask.plain(&ended.stdout), err)
        }
        Compared::Sorted => (mask.sorted(&ended.stdout), mask.sorted(&ended.stderr)),
        Compared::CodeAlone => (String::new(), String::new()),
    };
    if let Some(name) = &line.named {
        mask.name_first(name);
    }
    Said {
        out,
        err,
        code: ended.code,
    }
}

/// What a pair said otherwise than SPIRE's own, line by line; nothing if they agree.
pub(crate) fn differences(
    pair: &str,
    right: &Transcript,
    other: &Transcript,
    mended: &[Mended],
) -> String {
    let mut told = String::new();
    for ((line, right), (_, other)) in right.iter().zip(other) {
        if common(line, right, mended) != common(line, other, mended) {
            told += &format!("{pair}: `{}`\n{other}instead of\n{right}\n", line.text);
        }
    }
    told
}

/// An answer without the words of either that the other has not.
fn common(line: &Line, said: &Said, mended: &[Mended]) -> Said {
    let words = mended.iter().filter(|words| line.text.contains(words.of));
    let common = |text: &str| {
        words.clone().fold(text.to_owned(), |text, words| {
            [words.theirs, words.ours]
                .into_iter()
                .filter(|words| !words.is_empty())
                .fold(text, |text, words| text.replace(words, ""))
        })
    };
    Said {
        out: common(&said.out),
        err: common(&said.err),
        code: said.code,
    }
}

/// The mended words that no transcript has: the list says more than is true.
pub(crate) fn unheard<'a>(mended: &'a [Mended], transcripts: &[Transcript]) -> Vec<&'a str> {
    let said: Vec<String> = transcripts
        .iter()
        .flatten()
        .map(|(_, said)| format!("{}{}", said.out, said.err))
        .collect();
    let is_heard = |words: &str| said.iter().any(|said| said.contains(words));
    let words = mended.iter().flat_map(|words| [words.theirs, words.ours]);
    words.filter(|words| !is_heard(words)).collect()
}

/// The lines that the program did not take.
pub(crate) fn refused(transcript: &Transcript) -> Vec<&str> {
    let refused = transcript.iter().filter(|(_, said)| said.code != 0);
    refused.map(|(line, _)| line.text.as_str()).collect()
}
