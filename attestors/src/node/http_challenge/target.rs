//! The names that an agent gives: of its host, and of itself there.

use std::fmt;
use std::net::Ipv4Addr;

/// The longest name of a host (RFC 1035 2.3.4).
const MAX_HOST_BYTES: usize = 253;
/// The longest name of an agent, as in SPIRE.
const MAX_AGENT_BYTES: usize = 32;

/// The name of a host, or an IPv4 address, in the one form that it has here. It becomes a part of the
/// agent's id, so two forms of one host would be two agents.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostName(String);

impl HostName {
    /// Takes a name in lower case (RFC 1123 2.1), without a dot at its end.
    pub fn parse(name: &str) -> Result<Self, TargetError> {
        let is_label = |label: &str| {
            let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
            let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            label.len() <= 63
                && ends(label.chars().next())
                && ends(label.chars().next_back())
                && label.chars().all(inner)
        };
        if name.len() > MAX_HOST_BYTES || !name.split('.').all(is_label) {
            return Err(TargetError::Host);
        }
        if name.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(TargetError::UpperCase);
        }
        if name == "localhost" || name.ends_with(".localhost") {
            return Err(TargetError::Localhost);
        }
        // Resolvers take `127.1` and `0x7f000001` for addresses: only the common form is one here.
        let last = name.rsplit('.').next().unwrap_or_default();
        let is_number = last.chars().all(|c| c.is_ascii_digit()) || last.starts_with("0x");
        if is_number && name.parse::<Ipv4Addr>().is_err() {
            return Err(TargetError::Host);
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What an agent is called on its host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AgentName(String);

impl AgentName {
    /// Takes letters, digits and dashes, a letter first: SPIRE's pattern.
    pub fn parse(name: &str) -> Result<Self, TargetError> {
        let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic());
        let all = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        match first && all && name.len() <= MAX_AGENT_BYTES {
            true => Ok(Self(name.to_owned())),
            false => Err(TargetError::Agent),
        }
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a name is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TargetError {
    /// It is no name of a host.
    #[error("the hostname is not a DNS name or an IPv4 address in its usual form")]
    Host,
    /// It has another form in lower case.
    #[error("the hostname must be in lower case")]
    UpperCase,
    /// It means whoever looks it up.
    #[error("you can not use localhost as a hostname")]
    Localhost,
    /// It is no name of an agent.
    #[error("agent name is not valid")]
    Agent,
}

impl TargetError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Host => "hostname_invalid",
            Self::UpperCase => "hostname_upper_case",
            Self::Localhost => "hostname_localhost",
            Self::Agent => "agent_name_invalid",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_host_has_one_form() {
        for name in ["p1.example.org", "10.0.0.1", "a", "x-1_y.z"] {
            assert_eq!(HostName::parse(name).unwrap().as_str(), name);
        }
        for (name, error) in [
            ("", TargetError::Host),
            ("a.", TargetError::Host),
            (".a", TargetError::Host),
            ("a..b", TargetError::Host),
            ("-a", TargetError::Host),
            ("a/b", TargetError::Host),
            ("a:80", TargetError::Host),
            ("a@b", TargetError::Host),
            ("[::1]", TargetError::Host),
            ("a b", TargetError::Host),
            ("h\u{e9}", TargetError::Host),
            ("127.1", TargetError::Host),
            ("2130706433", TargetError::Host),
            ("0x7f000001", TargetError::Host),
            ("127.0.0.01", TargetError::Host),
            ("A.example.org", TargetError::UpperCase),
            ("localhost", TargetError::Localhost),
            ("x.localhost", TargetError::Localhost),
            (&"a.".repeat(127), TargetError::Host),
            (&"a".repeat(64), TargetError::Host),
        ] {
            assert_eq!(HostName::parse(name), Err(error), "{name}");
        }
    }

    #[test]
    fn an_agents_name_is_one_segment_of_a_path() {
        for name in ["default", "a-1", "A"] {
            assert_eq!(AgentName::parse(name).unwrap().to_string(), name);
        }
        for name in ["", "1a", "-a", "a/b", "a.b", "a b", "..", &"a".repeat(33)] {
            assert_eq!(AgentName::parse(name), Err(TargetError::Agent), "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_a_name_has_nothing_that_a_url_gives_a_meaning(text in "\\PC{0,40}") {
            if let Ok(name) = HostName::parse(&text) {
                prop_assert!(!name.as_str().contains(['/', ':', '@', '?', '#', '%', '\\', '[']));
            }
            if let Ok(name) = AgentName::parse(&text) {
                prop_assert!(!name.to_string().contains(['/', '.', '?', '#', '%']));
            }
        }
    }
}
