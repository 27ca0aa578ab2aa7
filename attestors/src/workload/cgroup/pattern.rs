//! Where an operator says that containers are: SPIRE's `container_id_cgroup_matchers`.
//!
//! A pattern is a whole path, so it is as anchored as our own rules. `*` stands for one component,
//! `<id>` for the one that is the container's id; everything else stands for itself.

use super::engine::{Container, Engine};
use super::lines;
use super::path::bare_id;
use super::{CgroupError, agree};

/// The most patterns that are taken.
const MAX_PATTERNS: usize = 64;

/// Patterns of which no two can match one path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Patterns(Vec<Pattern>);

#[derive(Clone, Debug, Eq, PartialEq)]
struct Pattern(Vec<Part>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Any,
    Id,
    Name(Box<str>),
}

impl Patterns {
    /// Reads patterns.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, PatternError> {
        if texts.len() > MAX_PATTERNS {
            return Err(PatternError::TooMany);
        }
        let mut known: Vec<(&str, Pattern)> = Vec::new();
        for text in texts.iter().map(AsRef::as_ref) {
            let pattern = Pattern::parse(text)?;
            if let Some((other, _)) = known.iter().find(|(_, other)| other.may_match_as(&pattern)) {
                return Err(PatternError::Ambiguous(
                    (*other).to_owned(),
                    text.to_owned(),
                ));
            }
            known.push((text, pattern));
        }
        Ok(Self(
            known.into_iter().map(|(_, pattern)| pattern).collect(),
        ))
    }

    /// Finds the container of the process that has this `/proc/PID/cgroup`. All hierarchies of which a
    /// pattern matches the path must name the same one.
    pub fn container(&self, text: &[u8]) -> Result<Option<Container>, CgroupError> {
        let mut found = None;
        for line in lines::parse(text)? {
            // What lies outside of the agent's cgroup namespace has no path that a pattern could mean.
            if line.path.up > 0 {
                continue;
            }
            let Some(id) = self.0.iter().find_map(|one| one.id(&line.path.components)) else {
                continue;
            };
            let id = bare_id(id).ok_or(CgroupError::Unrecognized)?;
            let engine = Engine::Docker;
            agree(&mut found, Some(Container { id, engine }))?;
        }
        Ok(found)
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, PatternError> {
        let inner = text
            .strip_prefix('/')
            .ok_or_else(|| PatternError::NotAPath(text.to_owned()))?;
        let parts: Vec<_> = inner.split('/').map(Part::of).collect();
        if parts.iter().filter(|part| **part == Part::Id).count() != 1 {
            return Err(PatternError::NotOneId(text.to_owned()));
        }
        Ok(Self(parts))
    }

    fn may_match_as(&self, other: &Self) -> bool {
        let may = |(a, b): (&Part, &Part)| match (a, b) {
            (Part::Name(a), Part::Name(b)) => a == b,
            _ => true,
        };
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(may)
    }

    fn id<'a>(&self, components: &[&'a [u8]]) -> Option<&'a [u8]> {
        let mut id = None;
        if self.0.len() != components.len() {
            return None;
        }
        for (part, component) in self.0.iter().zip(components) {
            match part {
                Part::Any => {}
                Part::Id => id = Some(*component),
                Part::Name(name) => (name.as_bytes() == *component).then_some(())?,
            }
        }
        id
    }
}

impl Part {
    fn of(text: &str) -> Self {
        match text {
            "*" => Self::Any,
            "<id>" => Self::Id,
            name => Self::Name(name.into()),
        }
    }
}

/// Why patterns are refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PatternError {
    /// It does not begin at the root.
    #[error("pattern `{0}` must begin with `/`")]
    NotAPath(String),
    /// It has no id, or several.
    #[error("pattern `{0}` must contain the container id token `<id>` exactly once")]
    NotOneId(String),
    /// One path could match both.
    #[error("patterns must not be ambiguous: `{0}` and `{1}`")]
    Ambiguous(String, String),
    /// Nobody has as many.
    #[error("there are more than {MAX_PATTERNS} patterns")]
    TooMany,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn found(patterns: &[&str], text: &str) -> Result<Option<String>, CgroupError> {
        let patterns = Patterns::parse(patterns).unwrap();
        let found = patterns.container(text.as_bytes())?;
        Ok(found.map(|container| container.id.to_string()))
    }

    #[test]
    fn a_pattern_is_a_whole_path() {
        let patterns = ["/my.slice/*/<id>/*", "/docker/<id>"];
        let (a, b) = (id('a'), id('b'));
        for (path, expected) in [
            (format!("/docker/{a}"), Some(&a)),
            (format!("/my.slice/x/{b}/y"), Some(&b)),
            (format!("/docker/{a}/docker/{b}"), None),
            (format!("/x/docker/{a}"), None),
            (format!("/../docker/{a}"), None),
            ("/".to_owned(), None),
        ] {
            let found = found(&patterns, &format!("0::{path}\n")).unwrap();
            assert_eq!(found.as_ref(), expected, "{path}");
        }
    }

    #[test]
    fn hierarchies_that_disagree_are_a_contradiction_and_what_is_no_id_is_an_error() {
        let text = format!("1:pids:/docker/{}\n0::/docker/{}\n", id('a'), id('b'));
        assert_eq!(
            found(&["/docker/<id>"], &text),
            Err(CgroupError::Contradiction)
        );
        assert_eq!(
            found(&["/docker/<id>"], "0::/docker/buildx\n"),
            Err(CgroupError::Unrecognized)
        );
    }

    #[test]
    fn refuses_what_spire_refuses() {
        for (patterns, error) in [
            (&["/docker/*"][..], "exactly once"),
            (&["/<id>/<id>"], "exactly once"),
            (&["/a/b/<id>", "/*/b/<id>"], "ambiguous"),
            (&["/a/<id>", "/a/<id>"], "ambiguous"),
            (&["docker/<id>"], "begin with"),
        ] {
            let refused = Patterns::parse(patterns).unwrap_err().to_string();
            assert!(refused.contains(error), "{refused}");
        }
        assert!(Patterns::parse(&["/a/<id>", "/b/<id>", "/b/c/<id>"]).is_ok());
    }
}
