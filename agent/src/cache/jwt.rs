//! JWT-SVIDs, by entry and audience.
//!
//! A token is handed out only for the very audience that it was asked for: one that also names
//! another service could be replayed there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use identity::entry::EntryId;
use identity::jwt::JwtSvid;
use identity::validity::{Renewal, Schedule};

/// What a cached JWT-SVID is good for.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct JwtKey {
    entry_id: EntryId,
    audience: Vec<String>, // INVARIANT: sorted.
}

impl JwtKey {
    /// The order of the audience does not count.
    pub fn new(entry_id: EntryId, mut audience: Vec<String>) -> Self {
        audience.sort_unstable();
        Self { entry_id, audience }
    }

    /// Whether a token is for exactly this audience.
    pub fn is_audience_of(&self, svid: &JwtSvid) -> bool {
        let mut named = svid.audience().to_vec();
        named.sort_unstable();
        named == self.audience
    }
}

/// What the cache has for a request.
#[derive(Clone, Debug)]
pub enum Found {
    /// A token in the first half of its life.
    Fresh(JwtSvid),
    /// A valid token to be renewed. Better than nothing when the server is gone.
    Stale(JwtSvid),
    Nothing,
}

/// The cached JWT-SVIDs, a bounded number of them.
#[derive(Debug)]
pub struct JwtSvids {
    capacity: usize,
    by_key: BTreeMap<JwtKey, Cached>,
    // Least recently used first.
    order: BTreeSet<(u64, JwtKey)>,
    uses: u64,
}

#[derive(Debug)]
struct Cached {
    svid: JwtSvid,
    schedule: Schedule,
    used: u64,
}

impl JwtSvids {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            by_key: BTreeMap::new(),
            order: BTreeSet::new(),
            uses: 0,
        }
    }

    /// Looks for a token. Never finds an expired one.
    pub fn find(&mut self, key: &JwtKey, now: SystemTime) -> Found {
        let renewal = self
            .by_key
            .get(key)
            .map(|cached| cached.schedule.renewal(now));
        match renewal {
            None => Found::Nothing,
            Some(Renewal::Expired) => {
                self.remove(key);
                Found::Nothing
            }
            Some(renewal) => {
                let Some(svid) = self.touch(key) else {
                    return Found::Nothing;
                };
                if matches!(renewal, Renewal::At(_)) {
                    Found::Fresh(svid)
                } else {
                    Found::Stale(svid)
                }
            }
        }
    }

    /// Keeps a token, in place of the least recently used one if there is no room.
    pub fn insert(&mut self, key: JwtKey, svid: JwtSvid, schedule: Schedule) {
        self.remove(&key);
        while self.by_key.len() >= self.capacity.max(1)
            && let Some((_, oldest)) = self.order.first().cloned()
        {
            self.remove(&oldest);
        }
        self.uses += 1;
        self.order.insert((self.uses, key.clone()));
        self.by_key.insert(
            key,
            Cached {
                svid,
                schedule,
                used: self.uses,
            },
        );
    }

    /// Drops the tokens of an entry that changed or is gone.
    pub fn forget(&mut self, entry_id: &EntryId) {
        let first = JwtKey {
            entry_id: entry_id.clone(),
            audience: Vec::new(),
        };
        let keys = self
            .by_key
            .range(first..)
            .map(|(key, _)| key)
            .take_while(|key| key.entry_id == *entry_id);
        for key in keys.cloned().collect::<Vec<_>>() {
            self.remove(&key);
        }
    }

    /// Drops the tokens that these authorities signed.
    pub(super) fn distrust(&mut self, such: impl Fn(&str) -> bool) {
        let signed = self
            .by_key
            .iter()
            .filter(|(_, cached)| such(cached.svid.key_id()));
        for key in signed.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.remove(&key);
        }
    }

    /// The tokens that are not over, each with its entry.
    pub(super) fn iter(&self, now: SystemTime) -> impl Iterator<Item = (&EntryId, &JwtSvid)> {
        let valid = move |cached: &&Cached| cached.schedule.renewal(now) != Renewal::Expired;
        self.by_key
            .iter()
            .filter(move |(_, cached)| valid(cached))
            .map(|(key, cached)| (&key.entry_id, &cached.svid))
    }

    pub(super) fn clear(&mut self) {
        self.by_key.clear();
        self.order.clear();
    }

    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    fn touch(&mut self, key: &JwtKey) -> Option<JwtSvid> {
        let cached = self.by_key.get_mut(key)?;
        self.order.remove(&(cached.used, key.clone()));
        self.uses += 1;
        cached.used = self.uses;
        self.order.insert((self.uses, key.clone()));
        Some(cached.svid.clone())
    }

    fn remove(&mut self, key: &JwtKey) {
        if let Some(cached) = self.by_key.remove(key) {
            self.order.remove(&(cached.used, key.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rotation::Strategy;
    use crate::upstream::fake::{entry, epoch, jwt};

    const TTL: Duration = Duration::from_secs(300);

    fn svid(audience: &[&str]) -> JwtSvid {
        let audience: Vec<_> = audience.iter().map(ToString::to_string).collect();
        jwt(&entry("e", &["a:1"]).spiffe_id, &audience, epoch(), TTL, 0)
    }

    fn key(name: &str, audience: &[&str]) -> JwtKey {
        let audience = audience.iter().map(ToString::to_string).collect();
        JwtKey::new(EntryId::parse(name).unwrap(), audience)
    }

    fn insert(svids: &mut JwtSvids, key: JwtKey) {
        let svid = svid(&["x"]);
        let schedule = Strategy::default().plan(svid.validity().unwrap(), |_| Duration::ZERO);
        svids.insert(key, svid, schedule);
    }

    #[test]
    fn is_fresh_until_half_life_stale_until_expiry_and_then_gone() {
        let mut svids = JwtSvids::new(10);
        insert(&mut svids, key("e", &["x"]));
        let mut find =
            |seconds| svids.find(&key("e", &["x"]), epoch() + Duration::from_secs(seconds));
        assert!(matches!(find(149), Found::Fresh(_)));
        assert!(matches!(find(150), Found::Stale(_)));
        assert!(matches!(find(299), Found::Stale(_)));
        assert!(matches!(find(300), Found::Nothing));
        assert!(svids.is_empty() && svids.order.is_empty());
    }

    #[test]
    fn is_found_for_its_very_audience_in_any_order_and_no_other() {
        let mut svids = JwtSvids::new(10);
        insert(&mut svids, key("e", &["x", "y"]));
        let mut finds =
            |audience| !matches!(svids.find(&key("e", audience), epoch()), Found::Nothing);
        assert!(finds(&["y", "x"]));
        assert!(!finds(&["x"]) && !finds(&["x", "y", "z"]) && !finds(&["xy"]));
    }

    #[test]
    fn a_token_that_names_more_than_was_asked_is_told_from_one_that_does_not() {
        assert!(key("e", &["x", "y"]).is_audience_of(&svid(&["y", "x"])));
        assert!(!key("e", &["x"]).is_audience_of(&svid(&["x", "y"])));
        assert!(!key("e", &["x", "y"]).is_audience_of(&svid(&["x"])));
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let mut svids = JwtSvids::new(2);
        insert(&mut svids, key("a", &["x"]));
        insert(&mut svids, key("b", &["x"]));
        svids.find(&key("a", &["x"]), epoch());
        insert(&mut svids, key("c", &["x"]));
        assert!(matches!(
            svids.find(&key("b", &["x"]), epoch()),
            Found::Nothing
        ));
        assert!(matches!(
            svids.find(&key("a", &["x"]), epoch()),
            Found::Fresh(_)
        ));
        assert_eq!((svids.len(), svids.order.len()), (2, 2));
    }

    #[test]
    fn what_an_entry_or_an_authority_lost_is_forgotten() {
        let mut svids = JwtSvids::new(10);
        for name in ["a", "b", "c"] {
            insert(&mut svids, key(name, &["x"]));
            insert(&mut svids, key(name, &["y"]));
        }
        svids.forget(&EntryId::parse("b").unwrap());
        assert_eq!(svids.len(), 4);
        svids.distrust(|key_id| key_id == "key-2");
        assert_eq!(svids.len(), 4);
        svids.distrust(|key_id| key_id == "key-1");
        assert!(svids.is_empty() && svids.order.is_empty());
    }
}
