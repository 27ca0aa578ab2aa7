//! How an operator has agents called: the part of Go's templates that a path needs.
//!
//! Texts, fields (`{{ .Subject.CommonName }}`), an item of a list (`{{ index .ValidPrincipals 0 }}`),
//! and five functions that change a text, piped or called. Anything else is refused by name when it is
//! read, so that no server starts whose agents would be called otherwise than under SPIRE.

mod parse;

use std::collections::BTreeMap;

use identity::spiffe_id::{SpiffeId, SpiffeIdError};
use identity::trust_domain::TrustDomain;

/// Longer templates are refused before they are read.
const MAX_TEMPLATE_BYTES: usize = 4096;
/// The longest text that comes of one; longer SPIFFE IDs there are none.
const MAX_PATH_BYTES: usize = 2048;

/// What a template can speak of: the values of one attestation, by their names without the first dot.
pub(super) type Values = BTreeMap<String, Value>;

/// A value that a template can name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Value {
    Text(String),
    List(Vec<String>),
}

/// A template that was read, of names that its attestor has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PathTemplate(Vec<Part>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Text(String),
    Value {
        name: String,
        item: Option<usize>,
        functions: Vec<Function>,
    },
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Function {
    Lower,
    Upper,
    TrimPrefix(String),
    TrimSuffix(String),
    Replace(String, String),
}

/// The names that an attestor gives values to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    pub(super) texts: &'a [&'a str],
    pub(super) lists: &'a [&'a str],
    /// The name below which any name may stand, and be missing in a single case.
    pub(super) maps: &'a [&'a str],
}

impl PathTemplate {
    /// Reads a template of these names.
    pub(super) fn parse(text: &str, names: Names<'_>) -> Result<Self, TemplateError> {
        if text.len() > MAX_TEMPLATE_BYTES {
            return Err(TemplateError::TooLong);
        }
        if !text.starts_with('/') {
            return Err(TemplateError::NoPath);
        }
        Ok(Self(parse::parts(text, names)?))
    }

    /// The SPIFFE ID of the agent that these values are of.
    pub(super) fn agent_id(
        &self,
        trust_domain: &TrustDomain,
        values: &Values,
    ) -> Result<SpiffeId, RenderError> {
        let mut path = "/spire/agent".to_owned();
        for part in &self.0 {
            match part {
                Part::Text(text) => path.push_str(text),
                Part::Value {
                    name,
                    item,
                    functions,
                } => path.push_str(&value(values, name, *item, functions)?),
            }
            if path.len() > MAX_PATH_BYTES {
                return Err(RenderError::TooLong);
            }
        }
        Ok(SpiffeId::from_path(trust_domain, &path)?)
    }
}

fn value(
    values: &Values,
    name: &str,
    item: Option<usize>,
    functions: &[Function],
) -> Result<String, RenderError> {
    let missing = || RenderError::Missing(name.to_owned());
    let text = match (values.get(name), item) {
        (Some(Value::Text(text)), None) => text,
        (Some(Value::List(list)), Some(item)) => list.get(item).ok_or_else(missing)?,
        _ => return Err(missing()),
    };
    let text = functions.iter().fold(text.clone(), |text, function| {
        let changed = match function {
            Function::Lower => text.to_lowercase(),
            Function::Upper => text.to_uppercase(),
            Function::TrimPrefix(prefix) => text.strip_prefix(prefix).unwrap_or(&text).to_owned(),
            Function::TrimSuffix(suffix) => text.strip_suffix(suffix).unwrap_or(&text).to_owned(),
            Function::Replace(from, to) => text.replace(from, to),
        };
        changed.chars().take(MAX_PATH_BYTES).collect()
    });
    Ok(text)
}

/// Why a template is refused when it is read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TemplateError {
    /// It is too long.
    #[error("the template is longer than {MAX_TEMPLATE_BYTES} bytes")]
    TooLong,
    /// It does not begin as a path.
    #[error("the template must begin with `/`")]
    NoPath,
    /// A `{{` has no `}}`.
    #[error("the template has an action that does not end")]
    Unclosed,
    /// It uses more than is built.
    #[error(
        "`{0}` is not built; use fields, `index`, and the functions lower, upper, trimPrefix, trimSuffix and replace"
    )]
    NotBuilt(String),
    /// A function has too few or too many arguments.
    #[error("`{0}` does not have the arguments that it takes")]
    Arguments(String),
    /// There is no such value.
    #[error("there is no value `.{0}` here")]
    Unknown(String),
}

/// Why a template gives no SPIFFE ID for one agent.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RenderError {
    /// The agent has no such value.
    #[error("the agent has no value `.{0}`")]
    Missing(String),
    /// The path became too long.
    #[error("the path of the agent is longer than {MAX_PATH_BYTES} bytes")]
    TooLong,
    /// What came of it is no SPIFFE ID.
    #[error("invalid agent path")]
    Id(#[from] SpiffeIdError),
}

impl RenderError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing(_) => "template_value_missing",
            Self::TooLong => "template_path_too_long",
            Self::Id(error) => error.reason(),
        }
    }
}

#[cfg(test)]
mod tests;
