//! The names of records. Nobody else puts a key together or takes one apart.

use std::{fmt, sync::Arc};

/// What a record is about; the first piece of its key.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Family {
    /// The registration entry of an entry id.
    Entry,
    /// The guard that keeps one entry for each parent, SPIFFE ID and selector set.
    EntryUnique,
    /// The attested agent of a SPIFFE ID.
    Agent,
    /// A join token, by its hash.
    Token,
    /// The bundle of a trust domain.
    Bundle,
    /// The guard between the entries that federate with a trust domain and the end of its bundle.
    Reference,
    /// The federation relationship with a trust domain.
    Relationship,
    /// The authorities of one server.
    Authority,
    /// Events kept for those who ask later.
    Log,
}

impl Family {
    pub(crate) const ALL: [Self; 9] = [
        Self::Entry,
        Self::EntryUnique,
        Self::Agent,
        Self::Token,
        Self::Bundle,
        Self::Reference,
        Self::Relationship,
        Self::Authority,
        Self::Log,
    ];

    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Entry => "entries",
            Self::EntryUnique => "entry-unique",
            Self::Agent => "agents",
            Self::Token => "tokens",
            Self::Bundle => "bundles",
            Self::Reference => "refs",
            Self::Relationship => "relationships",
            Self::Authority => "authorities",
            Self::Log => "log",
        }
    }
}

/// The name of a record. Keys sort by family, then by name.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key(Arc<str>);

impl Key {
    pub fn entry(id: impl fmt::Display) -> Self {
        Self::of(Family::Entry, id)
    }

    /// The guard of one (parent, SPIFFE ID, selectors); `hash` covers the three.
    pub fn entry_unique(hash: impl fmt::Display) -> Self {
        Self::of(Family::EntryUnique, hash)
    }

    pub fn agent(id: impl fmt::Display) -> Self {
        Self::of(Family::Agent, id)
    }

    /// A join token; its hash stands in the key, so that a copy of the store is no bag of tokens.
    pub fn token(hash: impl fmt::Display) -> Self {
        Self::of(Family::Token, hash)
    }

    pub fn bundle(trust_domain: impl fmt::Display) -> Self {
        Self::of(Family::Bundle, trust_domain)
    }

    /// Written with each entry that federates with the trust domain.
    pub fn reference(trust_domain: impl fmt::Display) -> Self {
        Self::of(Family::Reference, trust_domain)
    }

    pub fn relationship(trust_domain: impl fmt::Display) -> Self {
        Self::of(Family::Relationship, trust_domain)
    }

    /// The journal's record of one slot of one server.
    pub fn authority(server: impl fmt::Display, slot: impl fmt::Display) -> Self {
        Self::of(Family::Authority, format_args!("{server}/{slot}"))
    }

    /// Reads a key back from an engine.
    pub(super) fn stored(text: &str) -> Self {
        Self(Arc::from(text))
    }

    /// What the record is about; `None` for records of a later version, which are left alone.
    pub fn family(&self) -> Option<Family> {
        let (prefix, _) = self.0.split_once('/')?;
        Family::ALL
            .into_iter()
            .find(|family| family.prefix() == prefix)
    }

    /// What stands after the family.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(family: Family, name: impl fmt::Display) -> Self {
        Self(Arc::from(format!("{}/{name}", family.prefix())))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0)
    }
}
