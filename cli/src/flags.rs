//! Flags as Go's `flag` package reads them, because SPIRE's command lines are written for it.
//!
//! One dash or two, `-x v` or `-x=v`; a switch takes a value only after `=`; flags end at `--`, at a
//! lone dash or at the first word without a dash. What a command accepts is a static table, from which
//! the usage text is made too.

mod usage;
mod value;

pub(crate) use value::{Output, Values};

#[cfg(test)]
use value::{go_duration, go_int, go_span};

/// What a flag takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Any text; the last one given counts.
    Text,
    /// True when given, or what stands after `=`.
    Switch,
    /// An integer, in any base that Go writes.
    Int,
    /// A length of time such as `1m30s`.
    Duration,
    /// The same, where less than nothing can be said too.
    Span,
    /// Text that may be given more than once.
    List,
    /// Text separated by commas; the last one given counts.
    Commas,
    /// `true`, `false`, or anything else for both.
    Either,
    /// `pretty` or `json`. Several flags may set the one output format of a command.
    Output,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// The default in the flag's own syntax, empty for the kind's zero.
    pub(crate) default: &'static str,
    pub(crate) help: &'static str,
    /// Ours, not SPIRE's: accepted, but kept out of a usage text that is compared with SPIRE's.
    pub(crate) own: bool,
}

impl Flag {
    pub(crate) const fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self {
            name,
            kind,
            default: "",
            help,
            own: false,
        }
    }

    pub(crate) const fn text(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Text, help)
    }

    pub(crate) const fn switch(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Switch, help)
    }

    pub(crate) const fn int(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Int, help)
    }

    pub(crate) const fn list(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::List, help)
    }

    pub(crate) const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    pub(crate) const fn own(mut self) -> Self {
        self.own = true;
        self
    }
}

/// The flags of one command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlagSet {
    /// The name that heads the usage text. It is SPIRE's, and not always the command's.
    pub(crate) name: &'static str,
    /// In groups, so that commands share those they have in common.
    pub(crate) groups: &'static [&'static [Flag]],
}

/// Why a command line was not understood.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum FlagError {
    #[error("flag: help requested")]
    Help,
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    #[error("flag needs an argument: -{0}")]
    NoArgument(String),
    #[error("invalid boolean value {value:?} for -{name}: parse error")]
    Boolean { name: &'static str, value: String },
    #[error("invalid value {value:?} for flag -{name}: {why}")]
    Value {
        name: &'static str,
        value: String,
        why: String,
    },
}

impl FlagSet {
    /// Reads the arguments of a command.
    pub(crate) fn parse(&self, args: &[String]) -> Result<Values, FlagError> {
        let mut values = Values::with_defaults(self.flags());
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let Some(body) = flag_body(arg)? else { break };
            let (name, inline) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (body, None),
            };
            let Some(flag) = self.flags().find(|flag| flag.name == name) else {
                return Err(match name {
                    "h" | "help" => FlagError::Help,
                    _ => FlagError::Unknown(name.to_owned()),
                });
            };
            if flag.kind == Kind::Switch {
                values.set(flag, inline.unwrap_or("true"))?;
                continue;
            }
            match inline.or_else(|| args.next().map(String::as_str)) {
                Some(value) => values.set(flag, value)?,
                None => return Err(FlagError::NoArgument(flag.name.to_owned())),
            }
        }
        Ok(values)
    }

    pub(crate) fn flags(&self) -> impl Iterator<Item = &'static Flag> + use<> {
        let groups = self.groups;
        groups.iter().flat_map(|group| group.iter())
    }
}

/// The text of a flag after its dashes, or nothing where the flags end.
fn flag_body(arg: &str) -> Result<Option<&str>, FlagError> {
    let Some(one) = arg.strip_prefix('-') else {
        return Ok(None);
    };
    if one.is_empty() || one == "-" {
        return Ok(None);
    }
    let body = one.strip_prefix('-').unwrap_or(one);
    if body.starts_with(['-', '=']) {
        return Err(FlagError::Syntax(arg.to_owned()));
    }
    Ok(Some(body))
}

#[cfg(test)]
mod tests;
