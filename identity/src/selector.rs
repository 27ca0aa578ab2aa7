//! Selectors: what an attestor found out about a caller, and what an entry asks of it.

use std::{fmt, str::FromStr, sync::Arc};

/// The longest selector kind, in bytes.
pub const MAX_KIND_BYTES: usize = 255;
/// The longest selector value, in bytes: a path of `PATH_MAX` and its label fit.
pub const MAX_VALUE_BYTES: usize = 8192;

/// One property, such as `unix:uid:1000`: its kind is `unix`, its value `uid:1000`.
///
/// Ordered by kind, then value. Cheap to clone.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Selector {
    kind: Arc<str>,  // INVARIANT: 1 to MAX_KIND_BYTES bytes, no colon.
    value: Arc<str>, // INVARIANT: 1 to MAX_VALUE_BYTES bytes.
}

impl Selector {
    /// Takes a kind without a colon, and a value; neither may be empty.
    pub fn new(kind: &str, value: &str) -> Result<Self, SelectorError> {
        if kind.is_empty() {
            return Err(SelectorError::MissingKind);
        }
        if kind.contains(':') {
            return Err(SelectorError::ColonInKind);
        }
        if value.is_empty() {
            return Err(SelectorError::MissingValue);
        }
        if kind.len() > MAX_KIND_BYTES || value.len() > MAX_VALUE_BYTES {
            return Err(SelectorError::TooLong);
        }
        Ok(Self {
            kind: kind.into(),
            value: value.into(),
        })
    }

    /// Parses `kind:value`. The kind ends at the first colon.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let (kind, value) = text.split_once(':').ok_or_else(|| SelectorError::NoColon {
            selector: text.chars().take(MAX_KIND_BYTES).collect(),
        })?;
        Self::new(kind, value)
    }

    /// What stands before the first colon: the attestor's name.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What stands after the first colon.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

/// A sorted set of selectors. Cheap to clone.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Selectors(Arc<[Selector]>); // INVARIANT: strictly ascending.

impl Selectors {
    /// The selectors in ascending order.
    pub fn iter(&self) -> std::slice::Iter<'_, Selector> {
        self.0.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether `selector` is one of them.
    pub fn contains(&self, selector: &Selector) -> bool {
        self.0.binary_search(selector).is_ok()
    }

    /// Whether every one of them is also in `other`. An entry matches a caller by this.
    pub fn is_subset_of(&self, other: &Self) -> bool {
        self.len() <= other.len() && self.iter().all(|selector| other.contains(selector))
    }
}

impl FromIterator<Selector> for Selectors {
    fn from_iter<I: IntoIterator<Item = Selector>>(selectors: I) -> Self {
        let mut sorted: Vec<_> = selectors.into_iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        Self(sorted.into())
    }
}

impl Extend<Selector> for Selectors {
    fn extend<I: IntoIterator<Item = Selector>>(&mut self, more: I) {
        *self = self.iter().cloned().chain(more).collect();
    }
}

impl<'a> IntoIterator for &'a Selectors {
    type Item = &'a Selector;
    type IntoIter = std::slice::Iter<'a, Selector>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Selectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, selector) in self.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{selector}")?;
        }
        Ok(())
    }
}

/// Why a text is not a selector. The messages are those that operators of SPIRE know.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// There is no colon.
    #[error("selector {selector:?} must be formatted as type:value")]
    NoColon {
        /// What was given, cut to [`MAX_KIND_BYTES`] characters.
        selector: String,
    },
    /// The kind is empty.
    #[error("missing selector type")]
    MissingKind,
    /// The kind has a colon, so the text form would read back differently.
    #[error("selector type contains ':'")]
    ColonInKind,
    /// The value is empty.
    #[error("missing selector value")]
    MissingValue,
    /// The kind is above [`MAX_KIND_BYTES`], or the value above [`MAX_VALUE_BYTES`].
    #[error(
        "selector is too long, max length is {MAX_KIND_BYTES} bytes of type and {MAX_VALUE_BYTES} of value"
    )]
    TooLong,
}

impl SelectorError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoColon { .. } => "selector_no_colon",
            Self::MissingKind => "selector_type_missing",
            Self::ColonInKind => "selector_type_colon",
            Self::MissingValue => "selector_value_missing",
            Self::TooLong => "selector_too_long",
        }
    }
}

#[cfg(test)]
mod tests;
