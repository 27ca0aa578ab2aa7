//! The server's half: whether what it drew is found where the agent says that it is.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use identity::selector::{Selector, Selectors};
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use regex_lite::{Regex, RegexBuilder};

use super::NAME;
use super::error::VerifyError;
use super::fetch::fetch;
use super::lookup::Lookups;
use super::messages::{Challenge, Payload};
use super::network::Network;
use super::places::Places;
use super::target::HostName;
use crate::node::{Attested, Lasting};

/// How many agents are asked at a time; each takes a connection for ten seconds at most.
const AT_A_TIME: usize = 64;
/// How many of them for one caller. It says where to go, and may say where nobody answers.
const OF_A_CALLER: usize = 4;
/// The largest program that a pattern may become.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// A pattern of host names: a regular expression that the whole name must match.
///
/// SPIRE's server looks for a match anywhere in the name, so that `a\.example\.org` lets in
/// `a.example.org.evil.test` too, against what its page says.
#[derive(Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Reads a regular expression.
    pub fn parse(text: &str) -> Result<Self, regex_lite::Error> {
        let whole = RegexBuilder::new(&format!("^(?:{text})$"))
            .size_limit(MAX_PATTERN_BYTES)
            .build();
        // It must be one by itself: a parenthesis may not end the one around it.
        Regex::new(text)?;
        Ok(Self(whole?))
    }

    fn matches(&self, name: &HostName) -> bool {
        self.0.is_match(name.as_str())
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.0.as_str())
    }
}

/// What an operator says of this attestor.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which hosts may attest; all, if there are none.
    pub allowed_dns_patterns: Vec<Pattern>,
    /// The one port that counts.
    pub required_port: Option<u16>,
    /// Whether ports count that any process can open.
    pub allow_non_root_ports: bool,
    /// Whether who comes first is trusted, and nobody after.
    pub tofu: bool,
    /// Internal networks that the server may be sent to.
    pub networks: Vec<Network>,
}

/// Challenges agents, and looks for the answer.
#[derive(Debug)]
pub struct Verifier {
    trust_domain: TrustDomain,
    options: Arc<Options>,
    turns: Places,
    lookups: Lookups,
}

/// An agent that was told what to serve. It is looked for once.
#[derive(Debug)]
pub struct Challenged {
    target: Payload,
    challenge: Challenge,
    outcome: Attested,
    options: Arc<Options>,
    turns: Places,
    lookups: Lookups,
}

impl Verifier {
    /// Makes the verifier of a server of this trust domain.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, options: Options) -> Self {
        Self {
            trust_domain,
            options: Arc::new(options),
            turns: Places::new(AT_A_TIME, OF_A_CALLER),
            lookups: Lookups::new(),
        }
    }

    /// Looks at what an agent says of itself, and draws a nonce for it to serve.
    pub fn begin(&self, payload: &[u8]) -> Result<Challenged, VerifyError> {
        let target = Payload::parse(payload)?;
        let options = &self.options;
        let port = target.port;
        if options
            .required_port
            .is_some_and(|required| required != port)
        {
            return Err(VerifyError::OtherPort(port));
        }
        if !options.allow_non_root_ports && port >= 1024 {
            return Err(VerifyError::HighPort(port));
        }
        let patterns = &options.allowed_dns_patterns;
        let host = &target.hostname;
        if !patterns.is_empty() && !patterns.iter().any(|pattern| pattern.matches(host)) {
            return Err(VerifyError::OtherHost);
        }
        Ok(Challenged {
            outcome: self.outcome(host)?,
            target,
            challenge: Challenge::draw(),
            options: Arc::clone(options),
            turns: self.turns.clone(),
            lookups: self.lookups.clone(),
        })
    }

    /// Who this is, once the nonce is found there.
    fn outcome(&self, host: &HostName) -> Result<Attested, VerifyError> {
        let segments = ["spire", "agent", NAME, host.as_str()];
        let agent_id = SpiffeId::from_segments(&self.trust_domain, segments)?;
        let selector = Selector::new(NAME, &format!("hostname:{}", host.as_str()))?;
        let selectors: Selectors = [selector].into_iter().collect();
        let attested = Attested::new(NAME, &self.trust_domain, agent_id, selectors, None)?;
        Ok(match self.options.tofu {
            true => attested.lasting_for(Lasting::FirstUse),
            false => attested,
        })
    }
}

impl Challenged {
    /// What the agent is to serve.
    #[must_use]
    pub fn challenge(&self) -> Vec<u8> {
        self.challenge.encode()
    }

    /// Fetches the nonce, and tells who it is if it is there. The agent has said that it is, which is
    /// all that its response says. The address is the one that it calls from.
    pub async fn conclude(self, from: Option<IpAddr>) -> Result<Attested, VerifyError> {
        let _turn = self.turns.take(from).ok_or(VerifyError::Busy)?;
        let found = fetch(&self.target, &self.options.networks, &self.lookups).await?;
        match found.trim_ascii() == self.challenge.nonce.as_bytes() {
            true => Ok(self.outcome),
            false => Err(VerifyError::OtherNonce),
        }
    }
}

#[cfg(test)]
mod tests;
