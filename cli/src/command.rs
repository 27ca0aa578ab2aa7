//! The command tree: which words name which command, and the help that stands around them.
//!
//! SPIRE's programs read their command lines with a small library of nested commands; scripts know its
//! exit codes. This is that reading: the longest run of leading words that names a command wins,
//! `-h` anywhere asks for help, and a word that names nothing ends with the list of commands and 127.

use std::fmt::Write as _;

use crate::flags::FlagSet;
use crate::table::{self, Action, GROUPS};

/// One command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command {
    /// The words that name it below `signet`.
    pub(crate) path: &'static str,
    pub(crate) synopsis: &'static str,
    pub(crate) flags: FlagSet,
    pub(crate) manners: Manners,
    pub(crate) action: Action,
}

/// How a family of commands speaks of failures; SPIRE's differ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    /// Before the text of a failure.
    pub(crate) failure: &'static str,
    /// Whether a command line that was not understood is reported once more below the usage text.
    pub(crate) repeats_flag_errors: bool,
    /// The last line of the help.
    pub(crate) help_end: &'static str,
}

/// What the words of a command line come to.
#[derive(Debug)]
pub(crate) enum Route<'a> {
    /// Run a command with these arguments.
    Run(&'static Command, &'a [String]),
    /// Print the version.
    Version,
    /// Print this to standard error, and end with this code.
    Help { text: String, code: u8 },
}

/// A program's view of the table: `signet` itself, or one of its halves under SPIRE's name.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// The name in help texts.
    pub(crate) name: String,
    /// The words that are already spoken, with a space behind them.
    prefix: &'static str,
}

impl Program {
    /// Chooses the program by the name it was called by and its first words.
    pub(crate) fn choose<'a>(called: &str, args: &'a [String]) -> (Self, &'a [String]) {
        let named = |name: &str, prefix| Self {
            name: name.to_owned(),
            prefix,
        };
        match (called, args) {
            ("spire-server", _) => (named(called, "server "), args),
            ("spire-agent", _) => (named(called, "agent "), args),
            (_, [first, rest @ ..]) if first == "server" => {
                (named("signet server", "server "), rest)
            }
            (_, [first, rest @ ..]) if first == "agent" => (named("signet agent", "agent "), rest),
            _ => (named("signet", ""), args),
        }
    }

    /// Reads the words of the command line.
    pub(crate) fn route<'a>(&self, args: &'a [String]) -> Route<'a> {
        let line = self.read(args);
        if line.version {
            return Route::Version;
        }
        let help = |text, code| Route::Help { text, code };
        if line.help && line.words.is_empty() {
            return help(self.overview(), 0);
        }
        if let Some(command) = self.find(&line.words) {
            let text = || {
                command.flags.usage()
                    + &self.usages(&line.words)
                    + &self.command_help(&line.words, command.manners.help_end)
            };
            return match line.misplaced {
                _ if line.help => help(text(), 0),
                true => help(format!("{MISPLACED}{}", text()), 1),
                false => Route::Run(command, line.args),
            };
        }
        if !line.words.is_empty() && self.is_group(&line.words) {
            let text = self.usages(&line.words) + &self.command_help(&line.words, GROUP_HELP);
            return match line.misplaced {
                _ if line.help => help(text, 0),
                true => help(format!("{MISPLACED}{text}"), 1),
                false => help(text, 1),
            };
        }
        help(self.overview(), 127)
    }

    fn read<'a>(&self, args: &'a [String]) -> Line<'a> {
        let mut line = Line::default();
        for (at, arg) in args.iter().enumerate() {
            match arg.as_str() {
                "--" => break,
                "-h" | "-help" | "--help" => line.help = true,
                _ if !line.words.is_empty() => {}
                "-v" | "-version" | "--version" => line.version = true,
                flag if flag.starts_with('-') => line.misplaced = true,
                "" => {}
                // A first word with a space in it is no command.
                word if word.contains(' ') => return line,
                _ => {
                    let rest = args.get(at..).unwrap_or_default();
                    line.words = self.longest(rest);
                    let taken = line.words.split(' ').count();
                    line.args = rest.get(taken..).unwrap_or_default();
                }
            }
        }
        line
    }

    /// The longest run of leading words that names a command or a group; the first word at least.
    fn longest(&self, rest: &[String]) -> String {
        let words: Vec<&str> = rest
            .iter()
            .map(String::as_str)
            .take_while(|word| !word.is_empty() && !word.contains(' ') && !word.starts_with('-'))
            .collect();
        (1..=words.len())
            .rev()
            .filter_map(|count| words.get(..count))
            .map(|words| words.join(" "))
            .find(|path| self.find(path).is_some() || self.is_group(path))
            .unwrap_or_else(|| words.first().copied().unwrap_or_default().to_owned())
    }

    fn commands(&self) -> impl Iterator<Item = (&'static str, &'static Command)> + use<> {
        let prefix = self.prefix;
        table::commands()
            .filter_map(move |command| Some((command.path.strip_prefix(prefix)?, command)))
    }

    fn find(&self, path: &str) -> Option<&'static Command> {
        self.commands()
            .find(|(own, _)| *own == path)
            .map(|(_, command)| command)
    }

    fn is_group(&self, path: &str) -> bool {
        self.commands().any(|(own, _)| {
            own.strip_prefix(path)
                .is_some_and(|rest| rest.starts_with(' '))
        })
    }

    /// The commands and groups directly below `path`, by name, with their synopses.
    fn children(&self, path: &str) -> Vec<(&'static str, &'static str)> {
        let mut children: Vec<(&'static str, &'static str)> = self
            .commands()
            .filter_map(|(own, command)| {
                let below = match path {
                    "" => own,
                    _ => own.strip_prefix(path)?.strip_prefix(' ')?,
                };
                Some(match below.split_once(' ') {
                    None => (below, command.synopsis),
                    Some((group, _)) => (group, self.group_synopsis(group)),
                })
            })
            .collect();
        // A command that is a group too (`api fetch`) stands once, with its own synopsis.
        children.sort_by_key(|(name, synopsis)| (*name, synopsis.is_empty()));
        children.dedup_by_key(|(name, _)| *name);
        children
    }

    /// The usages of the commands directly below these words, which SPIRE's programs print before the help.
    fn usages(&self, words: &str) -> String {
        if !self.name.starts_with("spire-") {
            return String::new();
        }
        let children = self.children(words);
        let below = children.iter().map(|(name, _)| format!("{words} {name}"));
        below
            .filter_map(|path| self.find(&path))
            .map(|command| command.flags.usage())
            .collect()
    }

    fn group_synopsis(&self, group: &str) -> &'static str {
        // SPIRE's groups have none, so only `signet`'s own show theirs.
        match self.prefix {
            "" => GROUPS
                .iter()
                .find(|(name, _)| *name == group)
                .map(|(_, synopsis)| *synopsis)
                .unwrap_or_default(),
            _ => "",
        }
    }

    fn overview(&self) -> String {
        let mut text = format!(
            "Usage: {} [--version] [--help] <command> [<args>]\n\nAvailable commands are:\n",
            self.name
        );
        list(&mut text, &self.children(""));
        text + "\n"
    }

    fn command_help(&self, path: &str, end: &str) -> String {
        let mut text = end.to_owned();
        let children = self.children(path);
        if !children.is_empty() {
            text.push_str("\n\nSubcommands:\n");
            list(&mut text, &children);
            return text;
        }
        text + "\n"
    }
}

const GROUP_HELP: &str = "This command is accessed by using one of the subcommands below.";
const MISPLACED: &str = "Invalid flags before the subcommand. If these flags are for\nthe subcommand, please put them after the subcommand.\n\n";

#[derive(Default)]
struct Line<'a> {
    words: String,
    args: &'a [String],
    help: bool,
    version: bool,
    misplaced: bool,
}

fn list(text: &mut String, children: &[(&str, &str)]) {
    let longest = children.iter().map(|(name, _)| name.len()).max();
    let width = longest.unwrap_or_default();
    for (name, synopsis) in children {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    {name:width$}    {synopsis}");
    }
}

#[cfg(test)]
mod tests;
